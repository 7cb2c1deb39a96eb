//! Reading the project's files, and just enough of Rust to tell code from comments and texts.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

/// A Rust file. `code` is its text without comments, strings and characters, line by line the same.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) code: String,
    /// First and last line of what is compiled for tests only.
    tests: Vec<(usize, usize)>,
}

impl Source {
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.lines().enumerate().map(|(number, line)| (number + 1, line))
    }

    /// Whether this line is part of a test or a benchmark.
    pub(crate) fn is_test(&self, line: usize) -> bool {
        self.tests.iter().any(|(first, last)| (first..=last).contains(&&line))
    }
}

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn read(path: &str) -> String {
    let bytes = fs::read(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What people have written here.
pub(crate) fn is_ours(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    let written = ["rs", "md", "toml", "txt", "service", "py", "js", "sh", "yml"];
    path.starts_with(".ci/") || !name.contains('.') || written.iter().any(|end| name.ends_with(&format!(".{end}")))
}

/// Folders that git ignores: what is built, and what fuzzing finds.
const MADE_BY_TOOLS: [&str; 4] = ["target", "corpus", "artifacts", "coverage"];

/// Paths of the files that are wanted, relative to the root, in order.
pub(crate) fn files(wanted: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut folders = vec![String::new()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).expect("a folder can be read") {
            let entry = entry.expect("an entry can be read");
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
            if !entry.file_type().expect("an entry has a type").is_dir() {
                found.extend(wanted(&path).then_some(path));
            } else if name == ".ci" || !(name.starts_with('.') || MADE_BY_TOOLS.contains(&name.as_str())) {
                folders.push(path);
            }
        }
    }
    found.sort_unstable();
    found
}

/// Every Rust file, read once.
pub(crate) fn sources() -> &'static [Source] {
    static SOURCES: OnceLock<Vec<Source>> = OnceLock::new();
    SOURCES.get_or_init(|| {
        let mut sources: Vec<Source> = files(&|path| path.ends_with(".rs")).into_iter().map(source).collect();
        let of_tests: Vec<String> = sources.iter().flat_map(test_modules).collect();
        for source in &mut sources {
            let path = format!("/{}", source.path);
            let in_folder = path.contains("/tests/") || path.contains("/benches/");
            if in_folder || of_tests.iter().any(|module| is_of(&source.path, module)) {
                source.tests = vec![(0, usize::MAX)];
            }
        }
        sources
    })
}

const FOR_TESTS: &str = "#[cfg(test)]";

fn source(path: String) -> Source {
    let text = read(&path);
    let code = code_of(&text);
    let line_of = |at: usize| code[..at].matches('\n').count() + 1;
    let items = code.match_indices(FOR_TESTS).map(|(at, _)| (line_of(at), line_of(end_of_item(&code, at))));
    let tests = items.collect();
    Source { path, text, code, tests }
}

/// Paths, without their ends, of the modules of this file that are compiled for tests only.
fn test_modules(source: &Source) -> Vec<String> {
    let stem = source.path.trim_end_matches(".rs");
    let folder = ["/mod", "/lib", "/main"].iter().find_map(|end| stem.strip_suffix(end)).unwrap_or(stem);
    let declared = source.code.split(FOR_TESTS).skip(1).filter_map(|rest| rest.trim_start().strip_prefix("mod "));
    let names = declared.filter_map(|rest| rest.split_once(';')).map(|(name, _)| name);
    names.filter(|name| !name.contains('{')).map(|name| format!("{folder}/{name}")).collect()
}

fn is_of(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

/// Where the item, variant or arm ends that an attribute stands before.
fn end_of_item(code: &str, at: usize) -> usize {
    let (mut braces, mut others) = (0, 0);
    for (position, c) in code[at..].char_indices() {
        match c {
            '{' => braces += 1,
            '}' => braces -= 1,
            '(' | '[' => others += 1,
            ')' | ']' => others -= 1,
            _ => {}
        }
        if braces == 0 && (c == '}' || (others == 0 && (c == ';' || c == ','))) {
            return at + position;
        }
    }
    code.len()
}

/// The text with everything blanked that is no code.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = not_code(rest, code.chars().next_back());
        let taken = if skipped == 0 { first.len_utf8() } else { skipped };
        let (part, after) = rest.split_at(taken);
        code.extend(part.chars().map(|c| if skipped > 0 && c != '\n' { ' ' } else { c }));
        rest = after;
    }
    code
}

/// Length of the comment, string or character that `text` begins with; 0 if it begins with code.
fn not_code(text: &str, before: Option<char>) -> usize {
    let upto = |end: Option<usize>, length: usize| end.map_or(text.len(), |at| at + length);
    if text.starts_with("//") {
        return upto(text.find('\n'), 0);
    }
    if text.starts_with("/*") {
        return upto(text.find("*/"), 2);
    }
    if text.starts_with('"') {
        return upto(closing(text, '"'), 1);
    }
    let is_name = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let hashes = text.strip_prefix('r').map_or(0, |rest| rest.len() - rest.trim_start_matches('#').len());
    if !is_name && text.starts_with('r') && text[1 + hashes..].starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        return text[hashes + 2..].find(&end).map_or(text.len(), |at| hashes + 2 + at + end.len());
    }
    // A character, unless it is a lifetime.
    let mut next = text.chars().skip(1);
    match (text.starts_with('\''), next.next(), next.next()) {
        (true, Some('\\'), _) => upto(closing(text, '\''), 1),
        (true, Some(c), Some('\'')) => 2 + c.len_utf8(),
        _ => 0,
    }
}

/// Where the quote is that closes the one in the beginning.
fn closing(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    text.char_indices()
        .skip(1)
        .find(|(_, c)| {
            let closes = *c == quote && !escaped;
            escaped = *c == '\\' && !escaped;
            closes
        })
        .map(|(at, _)| at)
}

/// Line, name and number of lines of every function with a body.
pub(crate) fn functions(code: &str) -> Vec<(usize, &str, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let name = code[at + 3..].split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
        if name.is_empty() || code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        // A comma ends nothing here: those of a function are inside its brackets, or in front of its body.
        let end = body_end(code, at);
        let lines = code[at..end].matches('\n').count() + 1;
        found.push((code[..at].matches('\n').count() + 1, name, lines));
    }
    found
}

/// Where a function ends: with its body, or without one.
fn body_end(code: &str, at: usize) -> usize {
    let mut end = end_of_item(code, at);
    while code[end..].starts_with(',') {
        end = end_of_item(code, end + 1);
    }
    end
}

/// Line and name of every part of the service that is named by `crate::`.
pub(crate) fn imports(code: &str) -> Vec<(usize, &str)> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, mark) in code.match_indices("crate::") {
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + mark.len()..];
        let names = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or_default().split(',').map(str::trim).collect(),
            None => vec![rest],
        };
        let first = |name: &str| name.find(|c| !is_name(c)).unwrap_or(name.len());
        found.extend(names.into_iter().map(|name| (line, &name[..first(name)])).filter(|(_, name)| !name.is_empty()));
    }
    found
}

/// Line and number of steps of every path that climbs.
pub(crate) fn climbs(code: &str) -> Vec<(usize, usize)> {
    let climbing = code.lines().enumerate().filter(|(_, line)| line.contains("super::"));
    climbing
        .map(|(number, line)| {
            (number + 1, (1..9).rev().find(|steps| line.contains(&"super::".repeat(*steps))).unwrap_or(0))
        })
        .collect()
}

/// The part of the service that a file belongs to.
pub(crate) fn part_of(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("src/")?.split('/').next()?;
    Some(inside.trim_end_matches(".rs")).filter(|part| *part != "lib")
}

/// How many steps above a file the crate begins.
pub(crate) fn depth(path: &str) -> usize {
    path.matches('/').count() - usize::from(path.ends_with("/mod.rs"))
}

/// Whether the line has the word, not merely as the end of a longer one.
pub(crate) fn has(line: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let listed = word.strip_prefix("std::time::").is_some_and(|name| {
        // `use std::time::{Duration, Instant};`
        line.split_once("std::time::{")
            .is_some_and(|(_, names)| names.split([',', '}', ' ']).any(|listed| listed == name))
    });
    listed || line.match_indices(word).any(|(at, _)| !word.starts_with(is_name) || !line[..at].ends_with(is_name))
}

/// Every text that begins after `mark` and ends at the next quote.
pub(crate) fn quoted_after<'a>(text: &'a str, mark: &str) -> Vec<&'a str> {
    text.split(mark).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}
