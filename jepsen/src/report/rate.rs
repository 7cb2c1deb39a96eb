//! How many operations ended in each moment, a line for each outcome; and how that was before, during and after faults.

use std::fmt::Write;

use super::bands::{self, Band, end_of};
use super::counts::{seconds, was_seen};
use super::latency::class;
use super::plot::{OUTCOMES, Plot};
use crate::history::{History, Kind};

/// Widths of a moment, milliseconds; the first that gives few enough moments is taken.
const WIDTHS_MS: [u64; 9] = [100, 250, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000];

/// Most moments in a picture.
const MOMENTS_MAX: u64 = 240;

/// The picture.
pub(super) fn svg(history: &History, bands: &[Band]) -> String {
    let over = end_of(history).max(1);
    let width = WIDTHS_MS.iter().map(|ms| ms * 1_000_000).find(|width| over / width < MOMENTS_MAX);
    let width = width.unwrap_or(over / MOMENTS_MAX);
    let moments = usize::try_from(over / width + 1).expect("there are few moments");
    let mut ended: [Vec<u32>; 4] = std::array::from_fn(|_| vec![0; moments]);
    for operation in history.operations() {
        let outcome = if was_seen(&operation) { "seen" } else { class(operation.kind()) };
        let nth = OUTCOMES.iter().position(|(class, _)| *class == outcome).expect("every outcome has a line");
        let moment = operation.ended.map_or(over, |ended| ended.time) / width;
        ended[nth][usize::try_from(moment).expect("there are few moments").min(moments - 1)] += 1;
    }
    let most = ended.iter().flatten().copied().max().unwrap_or_default();
    let (step, top) = scale(f64::from(most) / seconds(width));
    let mut plot = Plot::new("Operations that ended, each second", over, bands);
    let mut level = 0.0;
    while level <= top + step / 2.0 {
        plot.level(level / top, &format!("{level}"));
        level += step;
    }
    let mut shown = Vec::new();
    for ((outcome, _), counts) in OUTCOMES.iter().zip(&ended) {
        if counts.iter().all(|count| *count == 0) {
            continue;
        }
        let mut path = String::new();
        for (moment, count) in (0u64..).zip(counts) {
            let from = plot.x((moment * width).min(over));
            let to = plot.x(((moment + 1) * width).min(over));
            let y = Plot::y(f64::from(*count) / seconds(width) / top);
            let pen = if path.is_empty() { 'M' } else { 'L' };
            write!(path, "{pen}{from:.1} {y:.1}H{to:.1}").expect("writing to a string can't fail");
        }
        plot.path(outcome, "step", &path);
        shown.push(*outcome);
    }
    plot.done(&shown)
}

/// Marks and the upper end of an axis that shows `most`.
fn scale(most: f64) -> (f64, f64) {
    let most = most.max(5.0);
    let decade = 10f64.powf((most / 5.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|part| part * decade).into_iter().find(|step| most / step <= 5.0);
    let step = step.unwrap_or(decade * 10.0);
    (step, (most / step).ceil() * step)
}

/// A part of a run, and how many operations happened in it.
#[derive(Debug, PartialEq)]
pub(super) struct Part {
    /// What part.
    pub(super) name: &'static str,
    /// How long it is in all, seconds.
    pub(super) seconds: f64,
    /// Operations that happened, each second.
    pub(super) ok_per_second: f64,
}

/// Before the first fault, during faults, between them, and after the last.
pub(super) fn parts(history: &History, bands: &[Band]) -> Vec<Part> {
    let over = end_of(history);
    let faults = bands::joined(bands);
    let (first, last) = (faults.first().map_or(over, |f| f.0), faults.last().map_or(over, |f| f.1));
    let mut long = [first, 0, 0, over - last];
    faults.iter().for_each(|(begin, end)| long[1] += end - begin);
    faults.windows(2).for_each(|two| long[2] += two[1].0 - two[0].1);
    let mut counts = [0u32; 4];
    for operation in history.operations() {
        let Some(ended) = operation.ended.filter(|e| e.kind == Kind::Ok && !was_seen(&operation)) else { continue };
        let part = match ended.time {
            time if time < first => 0,
            time if time > last => 3,
            time if faults.iter().any(|(begin, end)| (*begin..=*end).contains(&time)) => 1,
            _ => 2,
        };
        counts[part] += 1;
    }
    let names = ["before the first fault", "during faults", "between faults", "after the last fault"];
    let parts = names.into_iter().zip(long).zip(counts).filter(|((_, long), _)| *long > 0);
    let part =
        |((name, long), count)| Part { name, seconds: seconds(long), ok_per_second: f64::from(count) / seconds(long) };
    parts.map(part).collect()
}
