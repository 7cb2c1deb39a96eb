//! Results: each with its target and, beside it, the floor or the peer of the same run.

use std::time::Duration;

/// What is printed at the end, as Markdown.
#[derive(Debug, Default)]
pub(crate) struct Table(Vec<[String; 5]>);

/// Better large or better small.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
    None,
}

impl Table {
    /// A line. `beside` is the name of the floor or peer and its value, in the unit of the measured one.
    pub(crate) fn line(&mut self, what: &str, unit: &str, target: Target, measured: f64, beside: Option<(&str, f64)>) {
        let shown = |value: f64| if value >= 100.0 { thousands(value) } else { format!("{value:.2}") };
        let met = |met: bool| if met { "" } else { " MISSED" };
        let (target, verdict) = match target {
            Target::AtLeast(least) => (format!(">= {}", shown(least)), met(measured >= least)),
            Target::AtMost(most) => (format!("<= {}", shown(most)), met(measured <= most)),
            Target::None => (String::new(), ""),
        };
        let (floor, ratio) = beside.map_or_else(Default::default, |(name, value)| {
            (format!("{name}: {}", shown(value)), format!("{:.2}", measured / value))
        });
        self.0.push([format!("{what}, {unit}"), target, format!("{}{verdict}", shown(measured)), floor, ratio]);
    }

    pub(crate) fn print(&self) {
        let head = ["what", "target", "measured", "floor or peer, same run", "ratio"].map(str::to_owned);
        let rule = ["---", "--:", "--:", "---", "--:"].map(str::to_owned);
        for line in [&head, &rule].into_iter().chain(&self.0) {
            println!("| {} |", line.join(" | "));
        }
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Times that were measured, in any order.
#[derive(Debug, Default, Clone)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub(crate) fn extend(&mut self, others: Times) {
        self.0.extend(others.0);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The time, in milliseconds, that this share of them does not exceed.
    pub(crate) fn percentile_ms(&mut self, share: f64) -> f64 {
        self.0.sort_unstable();
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.clamp(1, self.0.len().max(1)) - 1).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
    }
}

/// The middle one, and the lowest and highest.
pub(crate) fn median(values: &[f64]) -> (f64, f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    (sorted[sorted.len() / 2], sorted[0], sorted[sorted.len() - 1])
}
