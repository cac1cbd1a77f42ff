//! A little colour, where it is wanted.

/// Paints pieces of a text for a terminal, or leaves them as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paint {
    /// Whether there is any colour.
    pub on: bool,
}

impl Paint {
    /// What a section is called.
    pub fn heading(self, text: &str) -> String {
        self.with("1", text)
    }

    /// What ought to go.
    pub fn bad(self, text: &str) -> String {
        self.with("31", text)
    }

    /// What deserves a look.
    pub fn odd(self, text: &str) -> String {
        self.with("33", text)
    }

    /// What is only there to guide the eye.
    pub fn faint(self, text: &str) -> String {
        self.with("2", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.on && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_colour_a_text_is_what_it_was() {
        assert_eq!(Paint { on: false }.bad("7"), "7");
        assert_eq!(Paint { on: true }.bad("7"), "\x1b[31m7\x1b[0m");
        assert_eq!(Paint { on: true }.faint(""), "", "nothing needs no colour");
    }
}
