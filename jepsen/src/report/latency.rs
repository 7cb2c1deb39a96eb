//! How long operations took, each a dot, on a logarithmic axis.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::bands::{Band, end_of};
use super::counts::{seconds, was_seen};
use super::plot::Plot;
use crate::history::{History, Kind, Operation};

/// Shortest time that is told from none, seconds.
const FLOOR: f64 = 1e-4;

/// The picture. Dots that would cover each other are drawn once, so that its size does not follow that of the run.
pub(super) fn svg(history: &History, bands: &[Band]) -> String {
    let over = end_of(history);
    let operations = history.operations();
    let timed: Vec<(&Operation<'_>, f64)> =
        operations.iter().filter(|operation| !was_seen(operation)).filter_map(|o| Some((o, took(o)?))).collect();
    let longest = timed.iter().map(|(_, took)| *took).fold(FLOOR * 10.0, f64::max);
    let decades = (longest / FLOOR).log10().ceil();
    let mut plot = Plot::new("Time from a question to its answer", over, bands);
    let mut level = 0.0;
    while level <= decades {
        plot.level(level / decades, &unit(FLOOR * 10f64.powf(level)));
        level += 1.0;
    }
    let mut dots: BTreeMap<&str, BTreeSet<(i64, i64)>> = BTreeMap::new();
    for (operation, took) in timed {
        let part = (took / FLOOR).log10() / decades;
        dots.entry(class(operation.kind())).or_default().insert((near(plot.x(operation.began())), near(Plot::y(part))));
    }
    // What went wrong is drawn last, on top.
    let order = ["ok", "fail", "info"].map(|outcome| (outcome, dots.remove(outcome).unwrap_or_default()));
    for (outcome, dots) in &order {
        let mut path = String::new();
        for (x, y) in dots {
            write!(path, "M{}.{} {}.{}h0", x / 2, x % 2 * 5, y / 2, y % 2 * 5).expect("writing to a string can't fail");
        }
        if !dots.is_empty() {
            plot.path(outcome, "dots", &path);
        }
    }
    let shown: Vec<&str> = order.iter().filter(|(_, dots)| !dots.is_empty()).map(|(outcome, _)| *outcome).collect();
    plot.done(&shown)
}

/// The class of an outcome.
pub(super) fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Ok => "ok",
        Kind::Fail => "fail",
        Kind::Info | Kind::Invoke => "info",
    }
}

/// Seconds until the end; none for what never ended.
pub(super) fn took(operation: &Operation<'_>) -> Option<f64> {
    Some(seconds(operation.ended?.time.saturating_sub(operation.began())))
}

/// To half a pixel, counted in halves.
#[expect(clippy::cast_possible_truncation, reason = "a place in a picture")]
fn near(pixels: f64) -> i64 {
    (pixels * 2.0).round() as i64
}

/// A time as people write it.
pub(super) fn unit(seconds: f64) -> String {
    let rounded =
        |value: f64| if value >= 10.0 { format!("{value:.0}") } else { format!("{}", (value * 10.0).round() / 10.0) };
    if seconds >= 0.9995 { format!("{} s", rounded(seconds)) } else { format!("{} ms", rounded(seconds * 1e3)) }
}
