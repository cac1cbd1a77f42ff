//! What the targets share: the language said a second time, as plainly as possible, so that the two can be held against
//! each other.

use presence_reaper::language::action::OWN_PREFIX;
use presence_reaper::language::notify::Target;
use presence_reaper::language::source::Source;
use presence_reaper::language::template::{Layout, Template};

/// Redis' own glob, as its manual has it: `*`, `?`, `[a-z]`, `[^a]` and `\` before a literal.
///
/// By a table of what each rest of the glob matches, since backtracking takes for ever on what a fuzzer thinks of.
pub fn glob_matches(glob: &[u8], text: &[u8]) -> bool {
    let Some((token, rest)) = token(glob) else { return text.is_empty() };
    // `reached[at]`: what came before can have taken the first `at` bytes.
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    let mut next = Some((token, rest));
    while let Some((token, rest)) = next {
        let mut after = vec![false; text.len() + 1];
        for at in 0..=text.len() {
            let before = at.checked_sub(1);
            after[at] = match &token {
                Token::Any => reached[at] || before.is_some_and(|before| after[before]),
                one => before.is_some_and(|before| reached[before] && one.takes(text[before])),
            };
        }
        reached = after;
        next = self::token(rest);
    }
    reached[text.len()]
}

enum Token<'g> {
    Any,
    One,
    Literal(u8),
    Class(&'g [u8]),
}

impl Token<'_> {
    fn takes(&self, byte: u8) -> bool {
        match self {
            Self::Any | Self::One => true,
            Self::Literal(literal) => *literal == byte,
            Self::Class(class) => {
                let (negated, mut class) = class.strip_prefix(b"^").map_or((false, *class), |class| (true, class));
                let mut found = false;
                while let [first, rest @ ..] = class {
                    (found, class) = match (first, rest) {
                        (b'\\', [literal, rest @ ..]) => (found || *literal == byte, rest),
                        (from, [b'-', to, rest @ ..]) => {
                            (found || (*from.min(to)..=*from.max(to)).contains(&byte), rest)
                        }
                        (literal, rest) => (found || *literal == byte, rest),
                    };
                }
                found != negated
            }
        }
    }
}

fn token(glob: &[u8]) -> Option<(Token<'_>, &[u8])> {
    Some(match glob {
        [] => return None,
        [b'*', rest @ ..] => (Token::Any, rest),
        [b'?', rest @ ..] => (Token::One, rest),
        [b'\\', literal, rest @ ..] => (Token::Literal(*literal), rest),
        [b'[', rest @ ..] => {
            let mut end = 0;
            while end < rest.len() && rest[end] != b']' {
                end += if rest[end] == b'\\' { 2 } else { 1 };
            }
            let end = end.min(rest.len());
            (Token::Class(&rest[..end]), rest.get(end + 1..).unwrap_or_default())
        }
        [literal, rest @ ..] => (Token::Literal(*literal), rest),
    })
}

/// Literal bytes, as templates and patterns write them.
pub fn doubled(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|byte| std::iter::repeat_n(*byte, if matches!(byte, b'{' | b'}') { 2 } else { 1 })).collect()
}

/// Every way that entries are stored.
pub fn layouts() -> [Layout; 6] {
    [Layout::Zset, Layout::Hash, Layout::Set, Layout::Strings, Layout::Hashes, Layout::Keys]
}

/// Nothing that a source writes, whatever its entries hold, stands under the prefix that is ours.
///
/// # Panics
/// Something can.
pub fn out_of_reach(source: &Source) {
    let companions = source.companions.iter().flat_map(|companion| &companion.action.key);
    let streams = source.notify.iter().filter_map(|notification| match &notification.target {
        Target::Stream { key, .. } => Some(key),
        Target::Channel { .. } | Target::Webhook { .. } => None,
    });
    for key in companions.chain(streams) {
        let spelt = source.id.as_ref().map(|id| key.spelling_out(id));
        let key = spelt.as_ref().unwrap_or(key);
        assert!(!can_begin_with(key, OWN_PREFIX), "{key:?} can stand under our own prefix");
    }
    for own in source.container.patterns().iter() {
        assert!(!own.literal_prefix().starts_with(OWN_PREFIX), "{own:?} holds our own keys");
    }
}

fn can_begin_with(key: &Template, prefix: &[u8]) -> bool {
    let literal = key.literal_prefix();
    literal.starts_with(prefix) || (prefix.starts_with(literal) && key.refs().next().is_some())
}

#[cfg(test)]
mod tests {
    use super::glob_matches;

    #[test]
    fn the_glob_is_the_one_of_redis() {
        for (glob, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("a*b*c", "a1b2bc", true),
            ("a*b*c", "a1b2", false),
            ("a?", "a", false),
            ("a?", "ab", true),
            (r"a\*", "a*", true),
            (r"a\*", "ab", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            (r"[\]]", "]", true),
            ("a]", "a]", true),
        ] {
            assert_eq!(glob_matches(glob.as_bytes(), text.as_bytes()), expected, "{glob} on {text}");
        }
    }
}
