//! A source file as the tidy tests see it: its text, its code without comments and literals, its paths.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use regex::{Captures, Regex};

/// Comments and literals of Rust. A literal is one so that a message may say what code may not.
static COMMENT_OR_LITERAL: LazyLock<Regex> = LazyLock::new(|| {
    let comments = r"//[^\n]*|/\*.*?\*/";
    let raw_strings = r###"r##".*?"##|r#".*?"#|r"[^"]*""###;
    let strings = r#""(?:\\.|[^"\\])*"|'(?:\\.[^']*|[^'\\])'"#;
    Regex::new(&format!("(?s){comments}|{raw_strings}|{strings}")).unwrap()
});

/// The words and signs of code.
static TOKEN: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"[A-Za-z_]\w*|::|\S").unwrap());

/// One file.
pub(super) struct Source {
    /// Below the folder that was walked, such as `store/zset.rs`.
    pub(super) path: String,
    /// As it stands.
    pub(super) text: String,
}

impl Source {
    /// A file that a test makes up.
    pub(super) fn made_up(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// The top-level module that it belongs to.
    pub(super) fn room(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// Whether it is a Rust file of the program, and not one of tests alone.
    pub(super) fn is_code(&self) -> bool {
        self.path.ends_with(".rs") && !self.path.ends_with("tests.rs")
    }

    /// Its code, line by line as in the text: comments and the insides of literals are blank, and it ends where its
    /// tests begin.
    pub(super) fn code(&self) -> String {
        let text = self.text.split_once("\n#[cfg(test)]\nmod ").map_or(self.text.as_str(), |(code, _)| code);
        let blank = |found: &Captures<'_>| "\n".repeat(found[0].matches('\n').count());
        COMMENT_OR_LITERAL.replace_all(text, blank).into_owned()
    }

    /// Every path that its code writes out, from the crate's root where it is one of ours: `policy::entry::Mark`,
    /// `std::time::Duration`.
    pub(super) fn paths(&self) -> BTreeSet<String> {
        let code = self.code();
        let tokens = tokens(&code);
        let mut paths = BTreeSet::new();
        let mut at = 0;
        while at < tokens.len() {
            let starts_here = is_word(tokens[at]) && tokens.get(at + 1) == Some(&"::");
            at = if starts_here { read_path(&tokens, at, &[], &mut paths) } else { at + 1 };
        }
        paths.into_iter().filter_map(|path| self.resolved(&path)).collect()
    }

    /// `crate::…`, `presence_reaper::…` and `super::…` as seen from the root; others as they are.
    fn resolved(&self, path: &[&str]) -> Option<String> {
        let ups = path.iter().take_while(|&&segment| segment == "super").count();
        let rest = match path {
            ["crate" | "presence_reaper", rest @ ..] => rest,
            _ => &path[ups..],
        };
        let here = self.module();
        let base = if ups == 0 { &[] } else { here.get(..here.len().checked_sub(ups)?)? };
        Some([base, rest].concat().join("::"))
    }

    fn module(&self) -> Vec<&str> {
        let path = self.path.strip_suffix(".rs").unwrap_or(&self.path);
        path.strip_suffix("/mod").unwrap_or(path).split('/').collect()
    }
}

/// All files of a folder of the repository, in order.
pub(super) fn files_of(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut sources = Vec::new();
    walk(&root, &root, &mut sources);
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

fn walk(root: &Path, folder: &Path, sources: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(root, &path, sources);
        } else if let Ok(text) = fs::read_to_string(&path) {
            let path = path.strip_prefix(root).unwrap().display().to_string();
            sources.push(Source { path, text });
        }
    }
}

/// The words and signs of some code.
pub(super) fn tokens(code: &str) -> Vec<&str> {
    TOKEN.find_iter(code).map(|found| found.as_str()).collect()
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Reads `a::b::{c, d::e}` into its paths; where it ends.
fn read_path<'a>(tokens: &[&'a str], at: usize, before: &[&'a str], paths: &mut BTreeSet<Vec<&'a str>>) -> usize {
    if tokens.get(at) == Some(&"{") {
        return read_group(tokens, at + 1, before, paths);
    }
    let Some(&segment) = tokens.get(at) else { return at };
    let path = [before, &[segment]].concat();
    let goes_on = tokens.get(at + 2).is_some_and(|next| is_word(next) || ["{", "*"].contains(next));
    if tokens.get(at + 1) == Some(&"::") && goes_on {
        return read_path(tokens, at + 2, &path, paths);
    }
    paths.insert(path);
    at + 1
}

fn read_group<'a>(tokens: &[&'a str], mut at: usize, before: &[&'a str], paths: &mut BTreeSet<Vec<&'a str>>) -> usize {
    while at < tokens.len() && tokens[at] != "}" {
        // A comma, or the `as NAME` of the member before it.
        let between = tokens[at] == "," || tokens[at] == "as" || tokens[at - 1] == "as";
        at = if between { at + 1 } else { read_path(tokens, at, before, paths) };
    }
    at + 1
}

#[test]
fn paths_are_read_as_the_compiler_reads_them() {
    let text = r##"
        //! crate::comment
        use crate::{policy::{self, entry::Mark as M}, store::*};
        use super::sibling::Thing; /* crate::comment */
        use super::super::reaper::Report;
        use std::time::{Duration, Instant};
        pub(crate) fn f() { "crate::text"; r#"crate::"raw""#; ('"', '\''); crate::http::get::<u8>("crate::text") }
"##;
    let tests = "\n#[cfg(test)]\nmod tests { use crate::only_in_tests; }\n";
    let source = Source::made_up("store/zset.rs", &format!("{text}{tests}"));

    let expected = [
        "http::get",
        "policy::entry::Mark",
        "policy::self",
        "reaper::Report",
        "std::time::Duration",
        "std::time::Instant",
        "store::*",
        "store::sibling::Thing",
    ];
    assert_eq!(source.paths().into_iter().collect::<Vec<_>>(), expected);
}
