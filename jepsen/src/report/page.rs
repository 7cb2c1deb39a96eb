//! The frame of every page, and the one place that makes text safe to stand in it.

use std::fmt::Write;

use crate::verdict::Verdict;

/// One style for all pages; they are read without a network.
const STYLE: &str = include_str!("page.css");

/// Text as it stands in HTML and SVG, between tags or inside quotes. Control characters are shown as unknown ones: no
/// document may hold them.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\n' | '\t' => safe.push(c),
            c if c.is_control() => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

/// At most so many characters, and a mark where more were.
pub(super) fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A page; the body is HTML.
pub(super) fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n<body>\n{body}</body>\n</html>\n"
    )
}

/// A table; cells are HTML.
pub(super) fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let mut html = String::from("<table>\n<tr>");
    let mut put = |text: std::fmt::Arguments<'_>| html.write_fmt(text).expect("writing to a string can't fail");
    heads.iter().for_each(|head| put(format_args!("<th>{}</th>", escape(head))));
    for row in rows {
        put(format_args!("</tr>\n<tr>"));
        row.iter().for_each(|cell| put(format_args!("<td>{cell}</td>")));
    }
    put(format_args!("</tr>\n</table>\n"));
    html
}

/// The word for a verdict.
pub(super) fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Valid => "valid",
        Verdict::Unknown => "unknown",
        Verdict::Invalid => "invalid",
    }
}

/// The word in its colour, as HTML.
pub(super) fn badge(verdict: Verdict) -> String {
    let word = word(verdict);
    format!("<span class=\"badge {word}\">{word}</span>")
}

/// With commas between thousands.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_text_is_taken_for_markup() {
        assert_eq!(
            escape("<a href='x' title=\"&\">\u{1b}"),
            "&lt;a href=&#39;x&#39; title=&quot;&amp;&quot;&gt;\u{fffd}"
        );
        assert_eq!(cut("größe", 3), "grö…");
        assert_eq!(cut("größe", 5), "größe");
        assert_eq!([grouped(7), grouped(1_234), grouped(1_234_567)], ["7", "1,234", "1,234,567"]);
    }
}
