//! Where everything stands on a timeline: which operations are shown, in which column, from where to where.
//!
//! Time runs downwards, but not evenly: what is empty is cut short, and what is crowded is stretched until each operation can be
//! read. Order is always kept: of two events, the later one never stands higher.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{History, Operation, Process};

/// Most operations on a page; a browser still scrolls through so many.
pub(super) const SHOWN_MAX: usize = 10_000;

/// Lowest height of an operation, and of a note: a line of text, pixels.
const LINE: u64 = 15;

/// Most pixels for time in which nothing happens; below that a pixel is a millisecond.
const EMPTY_MAX: u64 = 40;

/// Pixels between two times on the margin.
const TIMES_APART: u64 = 60;

/// An operation and its place.
pub(super) struct Placed<'a> {
    pub(super) operation: Operation<'a>,
    pub(super) column: usize,
    pub(super) top: u64,
    pub(super) bottom: u64,
}

/// Everything and its place, pixels.
#[derive(Default)]
pub(super) struct Layout<'a> {
    /// Operations of clients.
    pub(super) placed: Vec<Placed<'a>>,
    /// Processes of each column; one follows the other, because a process ends when an outcome is not known.
    pub(super) columns: Vec<Vec<Process>>,
    /// What the nemesis did.
    pub(super) faults: Vec<(Operation<'a>, u64)>,
    /// Times on the margin, nanoseconds.
    pub(super) times: Vec<(u64, u64)>,
    /// Where operations are left out, and how many.
    pub(super) gaps: Vec<(usize, u64)>,
    /// Of the whole.
    pub(super) height: u64,
    /// Places of times, in order.
    known: Vec<(u64, u64)>,
}

/// A moment that has a place.
#[derive(Clone, Copy)]
enum Mark {
    Begin(usize),
    End(usize),
    Fault(usize),
    Edge,
}

/// Lays out a history; where it is too long, what is closest to these events is shown.
pub(super) fn layout<'a>(history: &'a History, centres: &BTreeSet<usize>) -> Layout<'a> {
    let all = history.operations();
    let shown = chosen(&all, centres);
    let mut page =
        Layout { faults: history.faults().into_iter().map(|fault| (fault, 0)).collect(), ..Layout::default() };
    let operations: Vec<Operation<'a>> = shown.iter().map(|nth| all[*nth]).collect();
    let (columns, of) = columns(&operations);
    page.columns = columns;
    page.placed = operations
        .into_iter()
        .map(|operation| Placed { column: of[&operation.invoked.process], operation, top: 0, bottom: 0 })
        .collect();
    page.place(&shown, all.len());
    page
}

impl Layout<'_> {
    /// Where a time is.
    pub(super) fn y(&self, time: u64) -> u64 {
        let after = self.known.partition_point(|(known, _)| *known <= time);
        after.checked_sub(1).map_or(0, |nth| self.known[nth].1)
    }

    /// One pass in the order of events; each place is the first that keeps the order and covers nothing.
    fn place(&mut self, shown: &[usize], all: usize) {
        let (mut y, mut before, mut margin, mut noted) = (0, 0, 0, 0);
        let mut free = vec![0; self.columns.len()];
        for (time, mark) in self.marks() {
            y += (time.saturating_sub(before) / 1_000_000).min(EMPTY_MAX);
            before = before.max(time);
            match mark {
                Mark::Begin(nth) => {
                    let hidden = shown[nth] - nth.checked_sub(1).map_or(0, |former| shown[former] + 1);
                    if hidden > 0 {
                        self.gaps.push((hidden, y));
                        y += LINE + 2;
                    }
                    let placed = &mut self.placed[nth];
                    y = y.max(free[placed.column]);
                    placed.top = y;
                }
                Mark::End(nth) => {
                    let placed = &mut self.placed[nth];
                    y = y.max(placed.top + LINE);
                    placed.bottom = y;
                    free[placed.column] = y + 2;
                }
                Mark::Fault(nth) => {
                    y = y.max(noted);
                    self.faults[nth].1 = y;
                    noted = y + LINE + 1;
                }
                Mark::Edge => {}
            }
            self.known.push((time, y));
            if self.times.is_empty() || y >= margin {
                self.times.push((time, y));
                margin = y + TIMES_APART;
            }
        }
        let hidden = all - shown.last().map_or(0, |last| last + 1);
        if hidden > 0 {
            self.gaps.push((hidden, y + 2));
        }
        self.height = y + 2 * LINE;
    }

    /// Every moment that has a place, in the order of the history; what never ended ends with it.
    fn marks(&self) -> Vec<(u64, Mark)> {
        let mut marks: Vec<(usize, u64, Mark)> = Vec::new();
        for (nth, Placed { operation, .. }) in self.placed.iter().enumerate() {
            marks.push((operation.invoked.index, operation.began(), Mark::Begin(nth)));
            let end = operation.ended.map_or((usize::MAX, operation.began()), |ended| (ended.index, ended.time));
            marks.push((end.0, end.1, Mark::End(nth)));
        }
        for (nth, (fault, _)) in self.faults.iter().enumerate() {
            marks.push((fault.invoked.index, fault.began(), Mark::Fault(nth)));
            marks.extend(fault.ended.map(|ended| (ended.index, ended.time, Mark::Edge)));
        }
        marks.sort_by_key(|(index, ..)| *index);
        marks.into_iter().map(|(_, time, mark)| (time, mark)).collect()
    }
}

/// Which operations are shown, by position, in order: all if there are not too many, else the closest to the centres.
fn chosen(all: &[Operation<'_>], centres: &BTreeSet<usize>) -> Vec<usize> {
    let central = |operation: &Operation<'_>| {
        centres.contains(&operation.invoked.index)
            || operation.ended.is_some_and(|ended| centres.contains(&ended.index))
    };
    let mut nearest = vec![usize::MAX; all.len()];
    let mut walk = |order: &mut dyn Iterator<Item = usize>| {
        let mut distance = usize::MAX;
        for nth in order {
            distance = if central(&all[nth]) { 0 } else { distance.saturating_add(1) };
            nearest[nth] = nearest[nth].min(distance);
        }
    };
    walk(&mut (0..all.len()));
    walk(&mut (0..all.len()).rev());
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by_key(|nth| nearest[*nth]);
    order.truncate(SHOWN_MAX);
    order.sort_unstable();
    order
}

/// A column for each process, where two that never overlap may share one.
fn columns(operations: &[Operation<'_>]) -> (Vec<Vec<Process>>, BTreeMap<Process, usize>) {
    let mut spans: BTreeMap<Process, (usize, usize)> = BTreeMap::new();
    for operation in operations {
        let end = operation.ended.map_or(usize::MAX, |ended| ended.index);
        let span = spans.entry(operation.invoked.process).or_insert((operation.invoked.index, end));
        span.1 = span.1.max(end);
    }
    let mut spans: Vec<(Process, (usize, usize))> = spans.into_iter().collect();
    spans.sort_by_key(|(_, span)| *span);
    let mut columns: Vec<(usize, Vec<Process>)> = Vec::new();
    let mut of = BTreeMap::new();
    for (process, (begin, end)) in spans {
        let free = columns.iter().position(|(busy_until, _)| *busy_until < begin);
        let column = free.unwrap_or_else(|| {
            columns.push((0, Vec::new()));
            columns.len() - 1
        });
        columns[column].0 = end;
        columns[column].1.push(process);
        of.insert(process, column);
    }
    (columns.into_iter().map(|(_, processes)| processes).collect(), of)
}
