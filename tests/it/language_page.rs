//! The examples of the reference pages, read as configurations: each is accepted without a warning, or refused with the
//! very words that stand below it.

use std::fs;

use presence_reaper::config::{Config, File, Inputs, Problems, load};

const PAGES: [&str; 2] = ["docs/language.md", "docs/layouts.md"];

/// Constructs that are described and not built. A block says behind its fence which it needs (`toml needs set id`), and
/// is no example as long as one of them stands here. A name goes from here with the change that builds it.
const NOT_BUILT: [&str; 0] = [];

/// A fenced block of a page.
struct Block {
    page: &'static str,
    /// The line of its opening fence.
    line: usize,
    /// What stands behind the fence: `toml`, `toml refused`, `text`.
    info: Vec<String>,
    /// The constructs that it needs, behind `needs`.
    needs: Vec<String>,
    text: String,
}

impl Block {
    fn at(&self) -> String {
        format!("{}:{}", self.page, self.line)
    }

    fn is(&self, info: &[&str]) -> bool {
        self.info == info
    }

    fn is_built(&self) -> bool {
        self.needs.iter().all(|need| !NOT_BUILT.contains(&need.as_str()))
    }

    fn load(&self) -> Result<Config, Problems> {
        let file = File { name: "reaper.toml".to_owned(), text: self.text.clone() };
        load(Inputs { file: Some(file), ..Inputs::default() })
    }
}

fn blocks_of(page: &'static str, text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut inside = false;
    for (line, written) in text.lines().enumerate() {
        match written.strip_prefix("```") {
            Some(info) if !inside => {
                let mut info: Vec<String> = info.split_whitespace().map(str::to_owned).collect();
                let needs = info.iter().position(|word| word == "needs").map(|at| info.split_off(at).split_off(1));
                blocks.push(Block {
                    page,
                    line: line + 1,
                    info,
                    needs: needs.unwrap_or_default(),
                    text: String::new(),
                });
                inside = true;
            }
            Some(_) => inside = false,
            None if inside => blocks.last_mut().unwrap().text.extend([written, "\n"]),
            None => {}
        }
    }
    assert!(!inside, "{page}: a block is never closed");
    blocks
}

fn blocks() -> Vec<Block> {
    let read = |page: &str| fs::read_to_string(page).unwrap_or_else(|error| panic!("{page}: {error}"));
    PAGES.iter().flat_map(|page| blocks_of(page, &read(page))).collect()
}

#[test]
fn every_example_is_accepted_without_a_warning() {
    let (mut seen, mut wrong) = (0, Vec::new());
    for block in blocks().iter().filter(|block| block.is(&["toml"]) && block.is_built()) {
        match block.load() {
            Ok(config) => wrong.extend(config.warnings.iter().map(|warning| format!("{}: {warning}", block.at()))),
            Err(problems) => wrong.push(format!("{}: {problems}", block.at())),
        }
        seen += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 20, "only {seen} examples were found");
}

#[test]
fn every_refusal_is_the_one_that_stands_below() {
    let blocks = blocks();
    let mut seen = 0;
    for pair in blocks.windows(2) {
        let [block, below] = pair else { continue };
        if !block.is(&["toml", "refused"]) || !block.is_built() {
            continue;
        }
        assert!(below.is(&["text"]), "{}: what is said of it must follow in a block of text", block.at());
        let problems = block.load().map(|_| ()).expect_err(&block.at());
        assert_eq!(problems.to_string(), below.text.trim_end(), "{}", block.at());
        seen += 1;
    }
    assert_eq!(seen, blocks.iter().filter(|block| block.is(&["toml", "refused"]) && block.is_built()).count());
    assert!(seen > 3, "only {seen} refusals were found");
}

#[test]
fn no_block_is_passed_over() {
    for block in blocks() {
        let known = block.is(&["toml"]) || block.is(&["toml", "refused"]) || block.is(&["text"]) || block.is(&["ebnf"]);
        assert!(known, "{}: a block of `{}` is no test", block.at(), block.info.join(" "));
        // A configuration needs the rest of the parser whatever it does, so the TOML at least has to be right.
        if block.is(&["toml"]) {
            let parsed: Result<toml::Table, _> = block.text.parse();
            assert!(parsed.is_ok(), "{}: {}", block.at(), parsed.unwrap_err());
        }
    }
}

#[test]
fn what_is_built_is_no_longer_called_unbuilt() {
    let blocks = blocks();
    let examples: Vec<&Block> = blocks.iter().filter(|block| block.is(&["toml"])).collect();
    for name in NOT_BUILT {
        let mut needing = examples.iter().filter(|block| block.needs.iter().any(|need| need == name)).peekable();
        assert!(needing.peek().is_some(), "no example needs `{name}`: take it out of NOT_BUILT");
        assert!(needing.any(|block| block.load().is_err()), "`{name}` is built: take it out of NOT_BUILT");
    }
}
