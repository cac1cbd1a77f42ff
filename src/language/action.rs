//! What goes with an entry: `SREM user:{json:/UserId}:connections {id}`.

use super::pattern::Pattern;
use super::template::{Layout, Ref, Scope, Template};
use super::{Mistake, nearest, shown, words};

/// Keys under this prefix are the reaper's own: never an entry, never a companion.
pub const OWN_PREFIX: &[u8] = b"presence-reaper:";

/// A companion key begins with so many literal bytes, so that no value steers it across the database.
pub const MIN_LITERAL: usize = 3;

/// One write that belongs to an eviction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// Which command.
    pub verb: Verb,
    /// The keys: one or more for `UNLINK`, one for the others.
    pub key: Vec<Template>,
    /// Members or fields; none for `UNLINK`.
    pub args: Vec<Template>,
    /// As written, for reports.
    pub text: String,
}

/// The commands that a companion may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// `UNLINK key …`
    Unlink,
    /// `SREM key member …`
    Srem,
    /// `ZREM key member …`
    Zrem,
    /// `HDEL key field …`
    Hdel,
}

impl Verb {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Unlink, Self::Srem, Self::Zrem, Self::Hdel];

    /// The command's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unlink => "UNLINK",
            Self::Srem => "SREM",
            Self::Zrem => "ZREM",
            Self::Hdel => "HDEL",
        }
    }

    /// The command with what it takes.
    const fn usage(self) -> &'static str {
        match self {
            Self::Unlink => "UNLINK KEY…",
            Self::Srem => "SREM KEY MEMBER…",
            Self::Zrem => "ZREM KEY MEMBER…",
            Self::Hdel => "HDEL KEY FIELD…",
        }
    }

    fn parse(word: &[u8]) -> Result<Self, Mistake> {
        let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        if let Some(verb) = Self::ALL.into_iter().find(|verb| is(verb.as_str())) {
            return Ok(verb);
        }
        let word = shown(word);
        let mistake = Mistake::new(format!("unknown verb `{word}` in a companion"));
        if is("DEL") {
            return Err(mistake.hint("write UNLINK: it frees the memory aside, and nobody waits"));
        }
        let all = Self::ALL.map(Self::usage).join(", ");
        Err(match nearest(&word, Self::ALL.map(Self::as_str)) {
            Some(near) => mistake.hint(format!("did you mean {near}? There are {all}")),
            None => mistake.hint(format!("there are {all}")),
        })
    }
}

impl Action {
    /// Reads a companion. `trusted`: an `UNLINK` may be steered by what a client wrote.
    pub fn parse(text: &str, scope: &Scope<'_>, trusted: bool) -> Result<Self, Mistake> {
        let words = words::split(text)?;
        let Some((verb, rest)) = words.split_first() else {
            return Err(Mistake::new("the companion is empty")
                .hint(format!("there are {}", Verb::ALL.map(Verb::usage).join(", "))));
        };
        let verb = Verb::parse(verb)?;
        let enough = if verb == Verb::Unlink { 1 } else { 2 };
        if rest.len() < enough {
            return Err(Mistake::new(format!("wrong number of words in `{}`", shown(text.as_bytes())))
                .hint(format!("write {}", verb.usage())));
        }
        let templates: Result<Vec<Template>, Mistake> = rest.iter().map(|word| Template::parse(word, scope)).collect();
        let mut key = templates?;
        let args = key.split_off(if verb == Verb::Unlink { key.len() } else { 1 });
        for (template, word) in key.iter().zip(rest) {
            check_key("the companion key", template, word, scope)?;
            // An unknown layout resolves names to stand-ins, which say nothing.
            if verb == Verb::Unlink && !trusted && scope.layout.is_some() {
                check_unlink(template, word, scope)?;
            }
        }
        Ok(Self { verb, key, args, text: text.to_owned() })
    }

    /// The same, its keys with the `id` pattern in place of a member: a member that is none of an entry takes part in
    /// nothing.
    #[must_use]
    pub fn spelling_out(&self, id: Option<&Pattern>) -> Self {
        let Some(id) = id else { return self.clone() };
        Self { key: self.key.iter().map(|key| key.spelling_out(id)).collect(), ..self.clone() }
    }

    /// All templates, keys first.
    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        self.key.iter().chain(&self.args)
    }
}

/// What holds for every key that an eviction writes beside the entry's own; `of` names it in messages.
pub(super) fn check_key(of: &str, key: &Template, word: &[u8], scope: &Scope<'_>) -> Result<(), Mistake> {
    let word = shown(word);
    let prefix = key.literal_prefix();
    let open = key.refs().next().is_some();
    if prefix.is_empty() && !open {
        return Err(Mistake::new(format!("{of} is empty")));
    }
    if prefix.starts_with(OWN_PREFIX) || (open && OWN_PREFIX.starts_with(prefix) && prefix.len() >= MIN_LITERAL) {
        return Err(Mistake::new(format!("{of} `{word}` can stand under `presence-reaper:`, which is our own"))
            .hint("let the key's literal beginning lead elsewhere"));
    }
    if open && prefix.len() < MIN_LITERAL && !scope.anchored {
        let what = format!("{of} `{word}` has fewer than {MIN_LITERAL} literal bytes before its first variable");
        return Err(Mistake::new(what).hint("begin it with the text that all such keys share, as in `user:{id}`"));
    }
    Ok(())
}

/// What a client wrote must not steer an `UNLINK` to somebody else's key.
fn check_unlink(key: &Template, word: &[u8], scope: &Scope<'_>) -> Result<(), Mistake> {
    // The key of a container is shared by its entries.
    let contained = !scope.layout.is_some_and(Layout::is_of_keys);
    let own = key.refs().any(|name| match name {
        Ref::Id | Ref::Member => true,
        Ref::Key => !contained,
        Ref::Capture(index) => scope.captures.get(*index).is_some_and(|name| name == "id"),
        Ref::Value | Ref::Score | Ref::Json(_) | Ref::Field(_) | Ref::Let(_) => false,
    });
    if own {
        return Ok(());
    }
    let names = if contained { "neither `{id}` nor `{member}`" } else { "neither `{id}` nor `{key}`" };
    let what = format!("`UNLINK {}` holds {names}: it can remove what others still use", shown(word));
    Err(Mistake::new(what)
        .hint("unlink only keys of this one entry; `trusted = true` allows it where clients cannot choose the value"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, trusted: bool) -> Result<Action, Mistake> {
        let captures = ["tenant".to_owned(), "id".to_owned()];
        Action::parse(text, &Scope { layout: Some(Layout::Strings), captures: &captures, ..Scope::default() }, trusted)
    }

    #[track_caller]
    fn check(text: &str, verb: Verb, keys: usize, args: usize) {
        let action = parse(text, false).unwrap();
        assert_eq!((action.verb, action.key.len(), action.args.len()), (verb, keys, args), "{text}");
        assert_eq!(action.text, text);
        assert_eq!(action.templates().count(), keys + args);
    }

    #[track_caller]
    fn refused(text: &str, what: &str) {
        assert_eq!(parse(text, false).unwrap_err().what, what, "{text}");
    }

    #[test]
    fn the_four_verbs_are_read_in_any_case() {
        check("UNLINK user:{id} inbox:{key}", Verb::Unlink, 2, 0);
        check("srem users {id}", Verb::Srem, 1, 1);
        check("Zrem lobby:{tenant} {id} {value} x", Verb::Zrem, 1, 3);
        check(r#"HDEL "user names" "{id} x""#, Verb::Hdel, 1, 1);
    }

    #[test]
    fn what_is_no_companion_is_refused() {
        refused("", "the companion is empty");
        refused("DEL a", "unknown verb `DEL` in a companion");
        refused("for-each {a} in smembers b do SREM c {a}", "unknown verb `for-each` in a companion");
        refused("EXPIRE a 5m", "unknown verb `EXPIRE` in a companion");
        refused("UNLINK", "wrong number of words in `UNLINK`");
        refused("HDEL a", "wrong number of words in `HDEL a`");
        refused(r#"SREM "" x"#, "the companion key is empty");
    }

    #[test]
    fn a_key_begins_with_three_literal_bytes() {
        let few =
            |key: &str| format!("the companion key `{key}` has fewer than 3 literal bytes before its first variable");
        refused("SREM ab{id} x", &few("ab{id}"));
        refused("SREM {{a{id} x", &few("{{a{id}"));
        check("SREM {{ab{id} x", Verb::Srem, 1, 1);
        check("SREM ab x", Verb::Srem, 1, 1);
        check("SREM users {id}", Verb::Srem, 1, 1);
    }

    #[test]
    fn our_own_keys_are_out_of_reach() {
        let own = |key: &str| format!("the companion key `{key}` can stand under `presence-reaper:`, which is our own");
        refused("SREM presence-reaper:state x", &own("presence-reaper:state"));
        refused("UNLINK presence-reaper:{id}", &own("presence-reaper:{id}"));
        refused("UNLINK presence{id}", &own("presence{id}"));
        check("UNLINK presence:{id}", Verb::Unlink, 1, 0);
    }

    #[test]
    fn an_unlink_is_steered_by_the_entrys_own_name_alone_unless_trusted() {
        check("UNLINK user:{id}", Verb::Unlink, 1, 0);
        check("UNLINK user:{key}:{value}", Verb::Unlink, 1, 0);
        let loose = |key: &str| {
            format!("`UNLINK {key}` holds neither `{{id}}` nor `{{key}}`: it can remove what others still use")
        };
        refused("UNLINK user:{tenant}", &loose("user:{tenant}"));
        refused("UNLINK user:{id} user:{value}", &loose("user:{value}"));
        refused("UNLINK everything", &loose("everything"));
        assert!(parse("UNLINK user:{value}", true).is_ok());
    }

    #[test]
    fn the_key_of_a_container_is_nobodys_own_name() {
        let captures = ["room".to_owned()];
        let scope = Scope { layout: Some(Layout::Zset), captures: &captures, ..Scope::default() };
        let what = |text| Action::parse(text, &scope, false).map(|_| ()).unwrap_err().what;
        for shared in ["UNLINK meta:{key}", "UNLINK meta:{room}"] {
            let said =
                format!("`{shared}` holds neither `{{id}}` nor `{{member}}`: it can remove what others still use");
            assert_eq!(what(shared), said);
        }
        assert!(Action::parse("UNLINK meta:{room}:{id} meta:{key}:{member}", &scope, false).is_ok());
    }
}
