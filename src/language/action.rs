//! What goes with an entry: `SREM user:{json:/UserId}:connections {id}`.

use std::time::Duration;

use super::pattern::Pattern;
use super::template::{Layout, Part, Ref, Scope, Template};
use super::{Mistake, duration, nearest, shown};

/// Keys under this prefix are the reaper's own: never an entry, never a companion.
pub const OWN_PREFIX: &[u8] = b"presence-reaper:";

/// A companion key begins with so many literal bytes, so that no value steers it across the database.
pub const MIN_LITERAL: usize = 3;

/// A key that is to live longer than this is not on its way out.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// One write that belongs to an eviction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// Which command.
    pub verb: Verb,
    /// The keys: one or more for `UNLINK`, one for the others.
    pub key: Vec<Template>,
    /// What stands behind the keys: members, a field, a field and its value, or milliseconds; nothing for `UNLINK`.
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
    /// `LREM key value`: all elements that equal it.
    Lrem,
    /// `HSET key field value`
    Hset,
    /// `EXPIRE key duration`
    Expire,
    /// `decr-ref key field`: a counter goes down by one, and away when it has come to nothing.
    DecrRef,
}

/// How many words stand behind a verb: of keys, and of the rest; none where as many as one likes.
type Takes = (Option<usize>, Option<usize>);

impl Verb {
    /// All there are.
    pub const ALL: [Self; 8] =
        [Self::Unlink, Self::Srem, Self::Zrem, Self::Hdel, Self::Lrem, Self::Hset, Self::Expire, Self::DecrRef];

    /// As it is written, and as the script knows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unlink => "UNLINK",
            Self::Srem => "SREM",
            Self::Zrem => "ZREM",
            Self::Hdel => "HDEL",
            Self::Lrem => "LREM",
            Self::Hset => "HSET",
            Self::Expire => "EXPIRE",
            Self::DecrRef => "decr-ref",
        }
    }

    /// The command with what it takes.
    const fn usage(self) -> &'static str {
        match self {
            Self::Unlink => "UNLINK KEY…",
            Self::Srem => "SREM KEY MEMBER…",
            Self::Zrem => "ZREM KEY MEMBER…",
            Self::Hdel => "HDEL KEY FIELD…",
            Self::Lrem => "LREM KEY VALUE",
            Self::Hset => "HSET KEY FIELD VALUE",
            Self::Expire => "EXPIRE KEY DURATION",
            Self::DecrRef => "decr-ref KEY FIELD",
        }
    }

    const fn takes(self) -> Takes {
        match self {
            Self::Unlink => (None, Some(0)),
            Self::Srem | Self::Zrem | Self::Hdel => (Some(1), None),
            Self::Lrem | Self::Expire | Self::DecrRef => (Some(1), Some(1)),
            Self::Hset => (Some(1), Some(2)),
        }
    }

    /// Whether the whole key goes, sooner or later, whoever else uses it.
    const fn takes_the_whole_key(self) -> bool {
        matches!(self, Self::Unlink | Self::Expire)
    }

    fn parse(word: &[u8]) -> Result<Self, Mistake> {
        let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        if let Some(verb) = Self::ALL.into_iter().find(|verb| is(verb.as_str())) {
            return Ok(verb);
        }
        let word = shown(word);
        let mistake = Mistake::new(format!("unknown verb `{word}` in a companion"));
        if is("DEL") {
            return Err(mistake.hint("write UNLINK: it frees the memory in the background, and nobody waits"));
        }
        if is("PEXPIRE") {
            return Err(mistake.hint("write EXPIRE with a duration, as in `EXPIRE user:{id} 90s`"));
        }
        Err(match nearest(&word, Self::ALL.map(Self::as_str)) {
            Some(near) => mistake.hint(format!("did you mean {near}? There are {}", Self::usages())),
            None => mistake.hint(format!("there are {}", Self::usages())),
        })
    }

    /// All of them with what they take.
    pub(super) fn usages() -> String {
        Self::ALL.map(Self::usage).join(", ")
    }
}

impl Action {
    /// Reads the words of an action. `conditional`: it is done only where a condition holds, or clients can't choose the
    /// values; then an `UNLINK` or `EXPIRE` may be steered by what a client wrote.
    ///
    /// # Errors
    /// It is none, or one that may hit what is not the entry's own.
    pub(super) fn of(words: &[Vec<u8>], text: &str, scope: &Scope<'_>, conditional: bool) -> Result<Self, Mistake> {
        let Some((verb, rest)) = words.split_first() else {
            return Err(Mistake::new("the companion is empty").hint(format!("there are {}", Verb::usages())));
        };
        let verb = Verb::parse(verb)?;
        let (keys, more) = verb.takes();
        let keys = keys.unwrap_or(rest.len());
        let fits = keys >= 1 && more.map_or(rest.len() > keys, |more| rest.len() == keys + more);
        if !fits {
            return Err(Mistake::new(format!("wrong number of words in `{}`", shown(text.as_bytes())))
                .hint(format!("write {}", verb.usage())));
        }
        let (keys, behind) = rest.split_at(keys);
        let read =
            |words: &[Vec<u8>]| words.iter().map(|word| Template::parse(word, scope)).collect::<Result<Vec<_>, _>>();
        let key = read(keys)?;
        let args: Result<Vec<Template>, Mistake> = match verb {
            Verb::Expire => behind.iter().map(|word| milliseconds(word)).collect(),
            _ => read(behind),
        };
        let args = args?;
        for (template, word) in key.iter().zip(keys) {
            check_key("the companion key", template, word, scope)?;
            // An unknown layout resolves names to stand-ins, which say nothing.
            if verb.takes_the_whole_key() && !conditional && scope.layout.is_some() {
                check_own(verb, template, word, scope)?;
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

/// A duration, as Redis takes it.
fn milliseconds(word: &[u8]) -> Result<Template, Mistake> {
    let text = std::str::from_utf8(word).map_err(|_| Mistake::new(format!("`{}` is no duration", shown(word))))?;
    let duration = duration::parse(text)?;
    check_duration(duration, text)?;
    Ok(Template::of([Part::Literal(duration.as_millis().to_string().into_bytes())]))
}

/// What may be the time that a key has still to live.
///
/// # Errors
/// It is nothing, or longer than a threshold could ever be.
pub(super) fn check_duration(duration: Duration, text: &str) -> Result<(), Mistake> {
    if duration < Duration::from_millis(1) {
        return Err(Mistake::new(format!("`{text}` is no time at all")).hint("write UNLINK for what goes at once"));
    }
    if duration > LONGEST {
        let days = LONGEST.as_secs() / 86_400;
        return Err(Mistake::new(format!("`{text}` is too long")).hint(format!("at most \"{days}d\"")));
    }
    Ok(())
}

/// What holds for every key that an eviction writes beside the entry's own; `of` names it in messages.
pub(super) fn check_key(of: &str, key: &Template, word: &[u8], scope: &Scope<'_>) -> Result<(), Mistake> {
    let word = shown(word);
    // A member has the shape of `id`, and where that spells out anything no member names what it likes.
    let anchored = scope.id.is_some_and(|id| id.longest_literal() > 0)
        && matches!(key.parts().first(), Some(Part::Ref(Ref::Member)));
    let spelt = scope.id.map(|id| key.spelling_out(id));
    let key = spelt.as_ref().unwrap_or(key);
    let prefix = key.literal_prefix();
    let open = key.refs().next().is_some();
    if prefix.is_empty() && !open {
        return Err(Mistake::new(format!("{of} is empty")));
    }
    if prefix.starts_with(OWN_PREFIX) || (open && OWN_PREFIX.starts_with(prefix) && prefix.len() >= MIN_LITERAL) {
        return Err(Mistake::new(format!(
            "{of} `{word}` can stand under `presence-reaper:`, which is the reaper's own"
        ))
        .hint("let the key's literal beginning lead elsewhere"));
    }
    if open && prefix.len() < MIN_LITERAL && !anchored {
        let what = format!("{of} `{word}` has fewer than {MIN_LITERAL} literal bytes before its first variable");
        return Err(Mistake::new(what).hint("begin it with the text that all such keys share, as in `user:{id}`"));
    }
    Ok(())
}

/// What a client wrote must not steer an `UNLINK` or an `EXPIRE` to somebody else's key.
fn check_own(verb: Verb, key: &Template, word: &[u8], scope: &Scope<'_>) -> Result<(), Mistake> {
    // The key of a container is shared by its entries.
    let contained = !scope.layout.is_some_and(Layout::is_of_keys);
    let own = key.refs().any(|name| match name {
        Ref::Id | Ref::Member => true,
        Ref::Key => !contained,
        Ref::Capture(index) => scope.captures.get(*index).is_some_and(|name| name == "id"),
        Ref::Value | Ref::Score | Ref::Json(_) | Ref::Field(_) | Ref::Let(_) | Ref::Each(_) => false,
    });
    if own {
        return Ok(());
    }
    let names = if contained { "neither `{id}` nor `{member}`" } else { "neither `{id}` nor `{key}`" };
    let verb = verb.as_str();
    let what = format!("`{verb} {}` holds {names}: it can remove what others still use", shown(word));
    Err(Mistake::new(what).hint(format!(
        "{verb} only keys of this one entry, or put it behind `if CONDITION do`; \
         `trusted = true` allows it where clients cannot choose the value"
    )))
}

#[cfg(test)]
mod tests {
    use super::super::words;
    use super::*;

    fn read(text: &str, scope: &Scope<'_>, trusted: bool) -> Result<Action, Mistake> {
        Action::of(&words::split(text)?, text, scope, trusted)
    }

    fn parse(text: &str, trusted: bool) -> Result<Action, Mistake> {
        let captures = ["tenant".to_owned(), "id".to_owned()];
        read(text, &Scope { layout: Some(Layout::Strings), captures: &captures, ..Scope::default() }, trusted)
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
    fn each_verb_is_read_in_any_case() {
        check("lrem queue {id}", Verb::Lrem, 1, 1);
        check("HSet state:{tenant} {id} gone", Verb::Hset, 1, 2);
        check("expire user:{id} 90s", Verb::Expire, 1, 1);
        check("DECR-REF room:{tenant} conns", Verb::DecrRef, 1, 1);
        check("UNLINK user:{id} inbox:{key}", Verb::Unlink, 2, 0);
        check("srem users {id}", Verb::Srem, 1, 1);
        check("Zrem lobby:{tenant} {id} {value} x", Verb::Zrem, 1, 3);
        check(r#"HDEL "user names" "{id} x""#, Verb::Hdel, 1, 1);
    }

    #[test]
    fn what_is_no_companion_is_refused() {
        refused("", "the companion is empty");
        refused("DEL a", "unknown verb `DEL` in a companion");
        refused("PEXPIRE {id} 5", "unknown verb `PEXPIRE` in a companion");
        refused("LREM abc 0 x", "wrong number of words in `LREM abc 0 x`");
        refused("HSET abc f", "wrong number of words in `HSET abc f`");
        refused("HSET abc f v g w", "wrong number of words in `HSET abc f v g w`");
        refused("EXPIRE abc", "wrong number of words in `EXPIRE abc`");
        refused("EXPIRE abc:{id} 5", "`5` has no unit");
        refused("EXPIRE abc:{id} {value}", "`{value}` is no duration");
        refused("EXPIRE abc:{id} 0s", "`0s` is no time at all");
        refused("EXPIRE abc:{id} 500d", "`500d` is too long");
        refused("decr-ref abc", "wrong number of words in `decr-ref abc`");
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
        let own = |key: &str| {
            format!("the companion key `{key}` can stand under `presence-reaper:`, which is the reaper's own")
        };
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
        refused(
            "EXPIRE user:{value} 5m",
            "`EXPIRE user:{value}` holds neither `{id}` nor `{key}`: it can remove what others still use",
        );
        check("EXPIRE user:{value}:{id} 5m", Verb::Expire, 1, 1);
    }

    #[test]
    fn the_key_of_a_container_is_nobodys_own_name() {
        let captures = ["room".to_owned()];
        let scope = Scope { layout: Some(Layout::Zset), captures: &captures, ..Scope::default() };
        let what = |text| read(text, &scope, false).map(|_| ()).unwrap_err().what;
        for shared in ["UNLINK meta:{key}", "UNLINK meta:{room}"] {
            let said =
                format!("`{shared}` holds neither `{{id}}` nor `{{member}}`: it can remove what others still use");
            assert_eq!(what(shared), said);
        }
        assert!(read("UNLINK meta:{room}:{id} meta:{key}:{member}", &scope, false).is_ok());
    }
}
