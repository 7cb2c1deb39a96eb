//! The frame of a plot over time, as SVG that stands alone or in a page: axes, fault bands, legends.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::bands::Band;
use super::counts::seconds;
use super::page::{cut, escape};

/// The whole picture, pixels.
const SIZE: (f64, f64) = (960.0, 330.0);

/// The field in it: left, top, right, bottom.
const FIELD: (f64, f64, f64, f64) = (64.0, 34.0, 948.0, 270.0);

/// What stands alone brings its colours along, for light and for dark.
const STYLE: &str = "<style>\
.plot text{font:12px system-ui,'DejaVu Sans',sans-serif;fill:#444b55}.plot .title{font-weight:600;fill:#1d2126}\
.plot .paper{fill:#fff}.plot .grid{stroke:#8886;stroke-width:.6}.plot .band{fill-opacity:.55}\
.plot path{fill:none;stroke-linejoin:round}.plot .dots{stroke-linecap:round;stroke-width:2.4}.plot .step{stroke-width:1.5}\
.plot .ok{stroke:#3c93e8}.plot .info{stroke:#ffa400}.plot .fail{stroke:#ff1e90}.plot .seen{stroke:#9aa0aa}\
@media(prefers-color-scheme:dark){.plot text{fill:#a8b0bb}.plot .title{fill:#e4e6ea}.plot .paper{fill:#15181c}\
.plot .band{fill-opacity:.3}.plot .ok{stroke:#6db4fb}}</style>";

/// Steps of the axis of time, seconds.
const STEPS: [f64; 15] = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0];

/// Most marks on an axis of time.
const MARKS_MAX: f64 = 14.0;

/// One way in which operations end: its class, which is its colour, and what it is called.
pub(super) const OUTCOMES: [(&str, &str); 4] =
    [("ok", "ok"), ("fail", "did not happen"), ("info", "not known"), ("seen", "seen, not asked for")];

/// A plot that is being drawn.
pub(super) struct Plot {
    over: f64,
    body: String,
}

impl Plot {
    /// An empty field from 0 to `over` (nanoseconds), with its title and the faults behind.
    pub(super) fn new(title: &str, over: u64, bands: &[Band]) -> Self {
        let mut plot = Self { over: seconds(over).max(0.001), body: String::new() };
        let (left, top, right, bottom) = FIELD;
        plot.put(format_args!(
            "<svg class=\"plot\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\">{STYLE}\n\
             <rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n<text class=\"title\" x=\"{left}\" y=\"20\">{}</text>\n",
            SIZE.0,
            SIZE.1,
            escape(title)
        ));
        for band in bands {
            let (begin, end) = (plot.x(band.begin), plot.x(band.end));
            plot.put(format_args!(
                "<rect class=\"band\" x=\"{begin:.1}\" y=\"{top}\" width=\"{:.1}\" height=\"{}\" fill=\"{}\"><title>{}</title></rect>\n",
                (end - begin).max(1.0),
                bottom - top,
                escape(band.colour),
                escape(&told(band))
            ));
        }
        plot.axis(right, bottom);
        plot.faults(bands);
        plot
    }

    /// Where a time is, nanoseconds since the run began.
    pub(super) fn x(&self, time: u64) -> f64 {
        FIELD.0 + (FIELD.2 - FIELD.0) * seconds(time) / self.over
    }

    /// Where a part of the height is: 0 at the bottom, 1 at the top.
    pub(super) fn y(part: f64) -> f64 {
        FIELD.3 - (FIELD.3 - FIELD.1) * part.clamp(0.0, 1.0)
    }

    /// A mark of the upright axis.
    pub(super) fn level(&mut self, part: f64, label: &str) {
        let ((left, _, right, _), y) = (FIELD, Self::y(part));
        self.put(format_args!(
            "<path class=\"grid\" d=\"M{left} {y:.1}H{right}\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
            left - 6.0,
            y + 4.0,
            escape(label)
        ));
    }

    /// Dots or lines of one outcome.
    pub(super) fn path(&mut self, outcome: &str, kind: &str, path: &str) {
        self.put(format_args!("<path class=\"{outcome} {kind}\" d=\"{path}\"/>\n"));
    }

    /// The picture, with a legend of these outcomes.
    pub(super) fn done(mut self, outcomes: &[&str]) -> String {
        let mut x = FIELD.2;
        for (class, label) in OUTCOMES.iter().rev().filter(|(class, _)| outcomes.contains(class)) {
            x -= 7.0 * width(label);
            self.put(format_args!(
                "<path class=\"{class} dots\" style=\"stroke-width:8\" d=\"M{:.0} 16h0\"/><text x=\"{x:.0}\" y=\"20\">{label}</text>\n",
                x - 10.0
            ));
            x -= 30.0;
        }
        self.body.push_str("</svg>\n");
        self.body
    }

    fn axis(&mut self, right: f64, bottom: f64) {
        let step = STEPS.iter().copied().find(|step| self.over / step <= MARKS_MAX).unwrap_or(self.over / MARKS_MAX);
        let mut at = 0.0;
        while at <= self.over {
            let x = FIELD.0 + (right - FIELD.0) * at / self.over;
            self.put(format_args!(
                "<path class=\"grid\" d=\"M{x:.1} {}V{bottom}\"/><text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
                FIELD.1,
                bottom + 16.0,
                label(at)
            ));
            at += step;
        }
    }

    fn faults(&mut self, bands: &[Band]) {
        let mut x = FIELD.0;
        let colours: BTreeMap<&str, &str> = bands.iter().map(|band| (band.fault.as_str(), band.colour)).collect();
        for (fault, colour) in colours {
            self.put(format_args!(
                "<rect x=\"{x:.0}\" y=\"300\" width=\"12\" height=\"12\" rx=\"2\" fill=\"{colour}\"/><text x=\"{:.0}\" y=\"310\">{}</text>\n",
                x + 17.0,
                escape(fault)
            ));
            x += 40.0 + 7.0 * width(fault);
        }
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        self.body.write_fmt(text).expect("writing to a string can't fail");
    }
}

/// Characters; a plot has no fonts to measure with.
#[expect(clippy::cast_precision_loss, reason = "a label is short")]
fn width(label: &str) -> f64 {
    label.chars().count() as f64
}

fn label(at: f64) -> String {
    if at >= 60.0 && at % 60.0 < 1e-9 {
        format!("{:.0} min", at / 60.0)
    } else {
        format!("{} s", (at * 10.0).round() / 10.0)
    }
}

/// A fault in words.
pub(super) fn told(band: &Band) -> String {
    let what = if band.what.is_null() { String::new() } else { format!(" {}", cut(&band.what.to_string(), 200)) };
    format!("{}{what}, {:.1} s to {:.1} s", band.fault, seconds(band.begin), seconds(band.end))
}
