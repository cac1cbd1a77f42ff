//! Whom to tell of an eviction: `{ publish = "presence:offline", payload = { user = "{id}" } }`.
//!
//! A payload is one text, or named texts: the members of a JSON object, or the fields of a stream's entry. What only the
//! eviction script knows stands in them as a mark, which it fills; what an entry brings in is never read again.

use base64::prelude::{BASE64_STANDARD as BASE64, Engine};

use super::action::check_key;
use super::condition::Condition;
use super::pattern::Pattern;
use super::source::Container;
use super::template::{Layout, Part, Piece, Ref, Scope, Template, pieces};
use super::{Mistake, nearest, shown, words};
use crate::policy::outcome::Sink;

/// What `{reason}` says: the entry's last ping is older than the threshold.
const REASON: &str = "stale";

/// The names that exist here alone.
const NAMES: [&str; 7] = ["source", "group", "last_ping", "age_ms", "at", "reason", "remaining"];

const FILTERS: &str = "there are `|hex` and `|base64`; the values of a table are escaped as JSON needs it without";

/// One message that announces each eviction of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Where it goes.
    pub target: Target,
    /// What it says.
    pub payload: Payload,
    /// It is sent only where this holds once the entry is gone.
    pub when: Option<Condition>,
    /// Target as a command, for reports: `PUBLISH presence:offline`.
    pub text: String,
}

/// Where a notification goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `PUBLISH` on this channel, or `SPUBLISH`.
    Channel {
        /// Its name.
        name: Template,
        /// It is one of a shard, which Redis 6 does not know.
        sharded: bool,
    },
    /// `XADD` to this stream.
    Stream {
        /// Its key.
        key: Template,
        /// It is cut to about so many entries.
        maxlen: Option<u32>,
    },
    /// `POST` to a webhook.
    Webhook {
        /// Which of the source's webhooks, counted from 0.
        place: usize,
        /// The script keeps it until it is delivered.
        outbox: bool,
    },
}

/// What a notification says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// The message itself; in a stream, its one field `payload`.
    Text(Text),
    /// The members of a JSON object; in a stream, its fields.
    Table(Vec<(String, Text)>),
}

/// A template for a payload. Its literal bytes are UTF-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    spans: Vec<Span>,
}

/// A stretch of a payload's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Span {
    /// Bytes as they stand.
    Literal(Vec<u8>),
    /// A value of the entry.
    Own(Ref, Filter),
    /// The label of the entry's group.
    Group(Template, Filter),
    /// The entry's last ping.
    LastPing,
    /// What only the eviction script knows.
    Late(Late),
}

/// What is known only while an entry is evicted. All of it is plain ASCII.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// The server's time.
    At,
    /// The entry's age in milliseconds, by that time.
    AgeMs,
    /// How many members or fields are left in the container.
    Remaining,
}

/// What becomes of a value before it is put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Its bytes as they are.
    Plain,
    /// Two small hexadecimal digits a byte.
    Hex,
    /// Base64, padded.
    Base64,
}

/// Which names a notification may use.
#[derive(Clone, Copy, Debug)]
pub struct Names<'s> {
    /// Those that a companion may use too; what the key pattern captures stands over the names of notifications.
    pub scope: Scope<'s>,
    /// The source's own name.
    pub source: &'s str,
    /// What labels the group of an entry, where there are groups.
    pub group: Option<&'s Template>,
}

// === impl Notification ===

impl Notification {
    /// Whether it says how much is left in the container, which is counted for it.
    pub fn counts(&self) -> bool {
        self.payload.texts().flat_map(Text::spans).any(|span| *span == Span::Late(Late::Remaining))
    }

    /// The values of the entry that it names.
    pub fn refs(&self) -> impl Iterator<Item = &Ref> {
        let when = self.when.iter().flat_map(Condition::refs);
        let target = self.target.template().into_iter().flat_map(Template::refs);
        target.chain(self.payload.texts().flat_map(Text::refs)).chain(when)
    }
}

impl Target {
    /// Which way it is.
    pub const fn sink(&self) -> Sink {
        match self {
            Self::Channel { sharded: false, .. } => Sink::Pubsub,
            Self::Channel { sharded: true, .. } => Sink::Sharded,
            Self::Stream { .. } => Sink::Stream,
            Self::Webhook { .. } => Sink::Webhook,
        }
    }

    /// Its name, where it has one that entries differ in.
    fn template(&self) -> Option<&Template> {
        match self {
            Self::Channel { name: template, .. } | Self::Stream { key: template, .. } => Some(template),
            Self::Webhook { .. } => None,
        }
    }

    /// Whether a table is told there as one JSON object.
    pub const fn takes_json(&self) -> bool {
        !matches!(self, Self::Stream { .. })
    }

    /// The same, a stream cut to about so many entries.
    #[must_use]
    pub fn cut_to(self, entries: u32) -> Self {
        match self {
            Self::Stream { key, .. } => Self::Stream { key, maxlen: Some(entries) },
            Self::Channel { .. } | Self::Webhook { .. } => self,
        }
    }

    /// Reads the name of a channel, or of a sharded one.
    pub fn channel(text: &str, sharded: bool, names: &Names<'_>) -> Result<Self, Mistake> {
        let name = names.template(&words::one(text, "the channel")?)?;
        if name.parts().is_empty() {
            return Err(Mistake::new("the channel is empty").hint("name it, as in publish = \"offline\""));
        }
        Ok(Self::Channel { name, sharded })
    }

    /// Reads the key of a stream, which must lead neither to the source's own keys nor to ours.
    pub fn stream(
        text: &str,
        names: &Names<'_>,
        container: Option<&Container>,
        ignore: &[Pattern],
    ) -> Result<Self, Mistake> {
        let word = words::one(text, "the stream key")?;
        let key = names.template(&word)?;
        check_key("the stream key", &key, &word, &names.scope)?;
        // Where names are in doubt, so is what the key can become.
        if let (Some(container), Some(_)) = (container, names.scope.layout) {
            check_beside(container, &key, &word, ignore)?;
        }
        Ok(Self::Stream { key, maxlen: None })
    }
}

fn check_beside(container: &Container, key: &Template, word: &[u8], ignore: &[Pattern]) -> Result<(), Mistake> {
    let word = shown(word);
    match container {
        _ if !container.can_be(key) => Ok(()),
        Container::Keys(_) if ignore.iter().any(|pattern| pattern.covers_template(key)) => Ok(()),
        Container::Keys(_) => Err(Mistake::new(format!("the stream `{word}` can be a key of the source itself"))
            .hint("name one that no entry can have, or say in `ignore` that it is none")),
        _ => Err(Mistake::new(format!("the stream `{word}` can be the source's own key"))
            .hint("only a key whose literal text differs from the source's is safe")),
    }
}

// === impl Payload ===

impl Payload {
    /// What is said where the configuration does not say: everything that is known of every entry.
    pub fn standard(names: &Names<'_>) -> Self {
        let literal = |text: &str| Span::Literal(text.as_bytes().to_vec());
        let members = [
            ("source", literal(names.source)),
            ("id", Span::Own(names.scope.id(), Filter::Plain)),
            ("key", Span::Own(Ref::Key, Filter::Plain)),
            ("last_ping", Span::LastPing),
            ("age_ms", Span::Late(Late::AgeMs)),
            ("at", Span::Late(Late::At)),
            ("reason", literal(REASON)),
        ];
        Self::Table(members.map(|(name, span)| (name.to_owned(), Text { spans: vec![span] })).into())
    }

    fn texts(&self) -> impl Iterator<Item = &Text> {
        let (one, many) = match self {
            Self::Text(text) => (Some(text), [].as_slice()),
            Self::Table(members) => (None, members.as_slice()),
        };
        one.into_iter().chain(many.iter().map(|(_, text)| text))
    }
}

// === impl Text ===

impl Text {
    /// Reads a payload, or the value of one of its members, blanks and line breaks included.
    pub fn parse(text: &str, names: &Names<'_>) -> Result<Self, Mistake> {
        if text.len() > words::MAX_LEN {
            let (len, most) = (text.len(), words::MAX_LEN);
            return Err(Mistake::new(format!("{len} bytes are too many for one text; at most {most}")));
        }
        let mut spans = Vec::new();
        pieces(text.as_bytes(), |piece| {
            spans.push(match piece {
                Piece::Literal(bytes) => Span::Literal(bytes),
                Piece::Braced(braced) => names.span(braced)?,
            });
            Ok(())
        })?;
        Ok(Self { spans })
    }

    /// Its stretches, in order.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Whether it is a count and nothing else, which JSON writes as a number.
    pub fn is_number(&self) -> bool {
        matches!(self.spans[..], [Span::Late(Late::AgeMs | Late::Remaining)])
    }

    /// The value of a JSON member. One that turns out not to be UTF-8 is told a second time in base64, and that takes
    /// all of its bytes before the script runs.
    pub fn as_json_member(self) -> Result<Self, Mistake> {
        let late = self.spans.iter().find_map(|span| match span {
            Span::Late(late) => Some(late.as_str()),
            _ => None,
        });
        match late {
            Some(late) if self.may_be_no_utf8() => Err(Mistake::new(format!(
                "`{{{late}}}` stands beside a value of the entry, whose bytes JSON can not always hold"
            ))
            .hint(format!("give `{{{late}}}` a member of its own, or pass the value through `|hex`"))),
            _ => Ok(self),
        }
    }

    /// Whether it is a text made to look like JSON, in which nothing that is put in would be escaped.
    pub fn looks_like_json(&self) -> bool {
        let opens = match self.spans.first() {
            Some(Span::Literal(bytes)) => matches!(bytes.trim_ascii_start().first(), Some(b'{' | b'[')),
            _ => false,
        };
        opens && self.spans.iter().any(|span| matches!(span, Span::Own(_, Filter::Plain)))
    }

    fn may_be_no_utf8(&self) -> bool {
        self.spans.iter().any(|span| match span {
            // What was read as JSON is text, and a score is digits.
            Span::Own(Ref::Json(_) | Ref::Score, _) | Span::Own(_, Filter::Hex | Filter::Base64) => false,
            Span::Group(_, filter) => *filter == Filter::Plain,
            Span::Own(_, Filter::Plain) => true,
            Span::Literal(_) | Span::LastPing | Span::Late(_) => false,
        })
    }

    fn refs(&self) -> impl Iterator<Item = &Ref> {
        self.spans.iter().flat_map(|span| {
            let (one, more) = match span {
                Span::Own(name, _) => (Some(name), None),
                Span::Group(label, _) => (None, Some(label.refs())),
                Span::Literal(_) | Span::LastPing | Span::Late(_) => (None, None),
            };
            one.into_iter().chain(more.into_iter().flatten())
        })
    }
}

impl Late {
    /// The name in a template.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::At => "at",
            Self::AgeMs => "age_ms",
            Self::Remaining => "remaining",
        }
    }
}

impl Filter {
    /// The value as it is put in.
    pub fn apply(self, value: &[u8]) -> Vec<u8> {
        match self {
            Self::Plain => value.to_vec(),
            Self::Hex => value.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect(),
            Self::Base64 => BASE64.encode(value).into_bytes(),
        }
    }

    fn parse(word: &[u8]) -> Result<Self, Mistake> {
        match word {
            b"hex" => Ok(Self::Hex),
            b"base64" => Ok(Self::Base64),
            _ => Err(Mistake::new(format!("unknown filter `|{}`", shown(word))).hint(FILTERS)),
        }
    }
}

// === impl Names ===

impl Names<'_> {
    /// A channel or a key: it may name what a companion may, and the source.
    fn template(&self, word: &[u8]) -> Result<Template, Mistake> {
        let mut parts = Vec::new();
        pieces(word, |piece| {
            parts.push(match piece {
                Piece::Literal(bytes) => Part::Literal(bytes),
                Piece::Braced(braced) => match self.special(braced) {
                    Some("source") => Part::Literal(self.source.as_bytes().to_vec()),
                    Some("group") => {
                        parts.extend(self.label()?.parts().iter().cloned());
                        return Ok(());
                    }
                    Some(name) => {
                        let what = format!("`{{{name}}}` belongs in a payload, not in the name of a channel or stream");
                        return Err(Mistake::new(what).hint("write it into `payload`"));
                    }
                    None => Part::Ref(self.scope.resolve(braced).map_err(|mistake| guess(braced, mistake))?),
                },
            });
            Ok(())
        })?;
        Ok(Template::of(parts))
    }

    /// What stands between two braces of a payload.
    fn span(&self, braced: &[u8]) -> Result<Span, Mistake> {
        // A `|` that belongs to a name is written `%7C`.
        let bar = braced.iter().position(|byte| *byte == b'|');
        let (name, filter) = match bar {
            Some(bar) => (&braced[..bar], Filter::parse(&braced[bar + 1..])?),
            None => (braced, Filter::Plain),
        };
        let Some(special) = self.special(name) else {
            let own = self.scope.resolve(name).map_err(|mistake| guess(name, mistake))?;
            return Ok(Span::Own(own, filter));
        };
        if special == "group" {
            return Ok(Span::Group(self.label()?.clone(), filter));
        }
        if filter != Filter::Plain {
            return Err(Mistake::new(format!("`{{{special}}}` is plain text and takes no filter"))
                .hint(format!("write `{{{special}}}`")));
        }
        let literal = |text: &str| Span::Literal(text.as_bytes().to_vec());
        Ok(match special {
            "source" => literal(self.source),
            "reason" => literal(REASON),
            "last_ping" => Span::LastPing,
            "at" => Span::Late(Late::At),
            "age_ms" => Span::Late(Late::AgeMs),
            _ if self.scope.layout.is_some_and(Layout::is_of_keys) => {
                return Err(Mistake::new(
                    "`{remaining}` counts what is left in the container, and here each entry is a key of its own",
                )
                .hint("leave it out"));
            }
            _ => Span::Late(Late::Remaining),
        })
    }

    fn label(&self) -> Result<&Template, Mistake> {
        self.group.ok_or_else(|| {
            Mistake::new("`{group}` is the label of an entry's group, and this source tells none apart")
                .hint("write group = \"{json:/Hub}\", for example")
        })
    }

    /// The name, where it exists in notifications alone.
    fn special(&self, name: &[u8]) -> Option<&'static str> {
        let special = NAMES.into_iter().find(|known| known.as_bytes() == name)?;
        self.scope.captured(name).is_none().then_some(special)
    }
}

/// The same mistake, with the names that exist here alone.
fn guess(braced: &[u8], mistake: Mistake) -> Mistake {
    match (nearest(&shown(braced), NAMES), &mistake.hint) {
        (Some(near), _) if mistake.what.starts_with("unknown name") => {
            mistake.hint(format!("did you mean `{{{near}}}`?"))
        }
        (_, Some(hint)) if hint.starts_with("there are") => {
            let more = NAMES.map(|name| format!("`{{{name}}}`")).join(", ");
            let hint = format!("{hint}; payloads also have {more}");
            mistake.hint(hint)
        }
        _ => mistake,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::source::Kind;
    use super::*;

    const CAPTURES: [&str; 2] = ["tenant", "id"];

    fn names_of<R>(layout: Option<Layout>, captures: &[&str], with: impl FnOnce(&Names<'_>) -> R) -> R {
        let captures: Vec<String> = captures.iter().map(|name| (*name).to_owned()).collect();
        with(&Names { scope: Scope { layout, captures: &captures, ..Scope::default() }, source: "hub", group: None })
    }

    fn parse(layout: Layout, text: &str) -> Result<Text, Mistake> {
        let captures: &[&str] = if matches!(layout, Layout::Strings | Layout::Hashes) { &CAPTURES } else { &[] };
        names_of(Some(layout), captures, |names| Text::parse(text, names))
    }

    /// A payload, each of its stretches shown in angle brackets but for literal bytes.
    #[track_caller]
    fn check(layout: Layout, text: &str, expected: &str) {
        let shown = |span: &Span| match span {
            Span::Literal(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Span::Own(name, Filter::Plain) => format!("<{name:?}>"),
            Span::Own(name, filter) => format!("<{name:?} {filter:?}>"),
            other => format!("<{other:?}>"),
        };
        let found: String = parse(layout, text).unwrap().spans().iter().map(shown).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[track_caller]
    fn refused(layout: Layout, text: &str, what: &str) {
        assert_eq!(parse(layout, text).unwrap_err().what, what, "{text}");
    }

    #[test]
    fn a_payload_is_read_whole_with_its_names_and_filters() {
        check(Layout::Zset, " {id} left\n\"{{\" ", " <Id> left\n\"{\" ");
        check(Layout::Strings, "{tenant|hex}{id|base64}", "<Capture(0) Hex><Capture(1) Base64>");
        check(Layout::Zset, "{source}/{reason}", "hub/stale");
        check(
            Layout::Hash,
            "{last_ping} {at} {age_ms} {remaining}",
            "<LastPing> <Late(At)> <Late(AgeMs)> <Late(Remaining)>",
        );
        check(Layout::Hash, "{json:/a%7Cb|hex}", "<Json(Pointer { tokens: [\"a|b\"] }) Hex>");
        check(Layout::Zset, "", "");
    }

    #[test]
    fn a_capture_stands_over_a_name_of_notifications() {
        let text = names_of(Some(Layout::Strings), &["at", "source"], |names| Text::parse("{at} {source|hex}", names));
        let spans = [Span::Own(Ref::Capture(0), Filter::Plain), Span::Own(Ref::Capture(1), Filter::Hex)];
        let text = text.unwrap();
        assert_eq!(
            text.spans().iter().filter(|span| !matches!(span, Span::Literal(_))).cloned().collect::<Vec<_>>(),
            spans
        );
    }

    #[test]
    fn what_names_nothing_is_refused() {
        let label = "`{group}` is the label of an entry's group, and this source tells none apart";
        refused(Layout::Zset, "{group}", label);
        refused(Layout::Zset, "{remainin}", "unknown name `{remainin}`");
        refused(Layout::Zset, "{id|json}", "unknown filter `|json`");
        refused(Layout::Zset, "{id|hex|base64}", "unknown filter `|hex|base64`");
        refused(Layout::Zset, "{at|hex}", "`{at}` is plain text and takes no filter");
        refused(Layout::Zset, "{id", "the `{` before `id` is never closed");
        let what = "`{remaining}` counts what is left in the container, and here each entry is a key of its own";
        refused(Layout::Strings, "{remaining}", what);
        refused(Layout::Hashes, "{remaining}", what);
        refused(Layout::Zset, &"x".repeat(4097), "4097 bytes are too many for one text; at most 4096");
        assert_eq!(parse(Layout::Zset, "{remainin}").unwrap_err().hint.unwrap(), "did you mean `{remaining}`?");
    }

    #[test]
    fn a_json_member_can_be_told_in_base64_before_the_script_runs() {
        let member = |text: &str| parse(Layout::Hash, text).unwrap().as_json_member();
        for fine in ["{id}", "{at}", "{id|hex} {at}", "{json:/u} {age_ms}", "{source} {last_ping} {at}"] {
            assert!(member(fine).is_ok(), "{fine}");
        }
        let what = "`{age_ms}` stands beside a value of the entry, whose bytes JSON can not always hold";
        assert_eq!(member("{id} after {age_ms}").unwrap_err().what, what);
    }

    #[test]
    fn a_count_alone_is_a_number() {
        for (text, number) in
            [("{age_ms}", true), ("{remaining}", true), ("{at}", false), ("{age_ms} ", false), ("", false)]
        {
            assert_eq!(parse(Layout::Zset, text).unwrap().is_number(), number, "{text}");
        }
    }

    #[test]
    fn a_text_that_imitates_json_is_seen() {
        for (text, looks) in
            [(r#"{{"id":"{id}"}}"#, true), ("[{id}", true), (r#"{{"id":"{id|hex}"}}"#, false), ("{id}", false)]
        {
            assert_eq!(parse(Layout::Zset, text).unwrap().looks_like_json(), looks, "{text}");
        }
    }

    #[track_caller]
    fn check_stream(kind: Kind, container: &str, ignore: &[&str], key: &str, expected: Result<&[u8], &str>) {
        let container = Container::new(kind, vec![Pattern::parse(container, "the key").unwrap()]).unwrap();
        let ignore: Vec<Pattern> = ignore.iter().map(|text| Pattern::parse(text, "the pattern").unwrap()).collect();
        let layout = if kind == Kind::Keys { Layout::Strings } else { Layout::Zset };
        let scope = Scope { layout: Some(layout), captures: container.captures(), ..Scope::default() };
        let found = Target::stream(key, &Names { scope, source: "hub", group: None }, Some(&container), &ignore);
        let found = found.map(|target| match target {
            Target::Stream { key, .. } => key.literal_prefix().to_vec(),
            _ => panic!("a stream"),
        });
        assert_eq!(found.map_err(|mistake| mistake.what), expected.map(<[u8]>::to_vec).map_err(str::to_owned), "{key}");
    }

    #[test]
    fn a_stream_leads_neither_to_entries_nor_to_our_own_keys() {
        let zset =
            |key: &str, expected: Result<&[u8], &str>| check_stream(Kind::Zset, "hubs:online", &[], key, expected);
        zset("left:{key}", Ok(b"left:"));
        zset("{source}:left", Ok(b"hub:left"));
        zset("left", Ok(b"left"));
        zset("hubs:{id}", Err("the stream `hubs:{id}` can be the source's own key"));
        zset("hubs:online", Err("the stream `hubs:online` can be the source's own key"));
        zset("ab{id}", Err("the stream key `ab{id}` has fewer than 3 literal bytes before its first variable"));
        zset(
            "presence-reaper:x",
            Err("the stream key `presence-reaper:x` can stand under `presence-reaper:`, which is the reaper's own"),
        );
        zset("pre{id}", Err("the stream key `pre{id}` can stand under `presence-reaper:`, which is the reaper's own"));
        zset("a b", Err("the stream key is one word, and `a b` are 2"));
        zset("left:{at}", Err("`{at}` belongs in a payload, not in the name of a channel or stream"));
        zset("left:{id|hex}", Err("`|hex` is a filter, and filters are not supported here"));
        let keys = |ignore: &[&str], key: &str, expected| {
            check_stream(Kind::Keys, "conn:{tenant}:{id}", ignore, key, expected)
        };
        keys(&[], "left:{tenant}", Ok(b"left:"));
        keys(&[], "conn:{tenant}:left", Err("the stream `conn:{tenant}:left` can be a key of the source itself"));
        keys(&["conn:{_}:left"], "conn:{tenant}:left", Ok(b"conn:"));
    }

    #[test]
    fn a_channel_is_one_word() {
        let channel = |text: &str| names_of(Some(Layout::Zset), &[], |names| Target::channel(text, false, names));
        for (text, what) in [
            ("", "the channel is empty"),
            (r#""""#, "the channel is empty"),
            ("a b", "the channel is one word, and `a b` are 2"),
            ("off:{remaining}", "`{remaining}` belongs in a payload, not in the name of a channel or stream"),
            ("off:{grop}", "unknown name `{grop}`"),
        ] {
            assert_eq!(channel(text).unwrap_err().what, what, "{text}");
        }
        let Target::Channel { name: template, .. } = channel("off:{source}:{id}").unwrap() else { panic!("a channel") };
        assert_eq!(template.fill(|_| Some(b"{at}".as_slice().into())).unwrap(), b"off:hub:{at}");
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in any::<String>(), braces in "[{}a-z_:/%|.]{0,40}") {
            for layout in [None, Some(Layout::Zset), Some(Layout::Hashes)] {
                names_of(layout, &CAPTURES, |names| for text in [&text, &braces] {
                    let _ = Text::parse(text, names).map(Text::as_json_member);
                    let _ = Target::channel(text, false, names);
                    let _ = Target::stream(text, names, None, &[]);
                });
            }
        }

        #[test]
        fn filters_lose_nothing(value: Vec<u8>) {
            let hex = Filter::Hex.apply(&value);
            let pairs = hex.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
            prop_assert_eq!(pairs.collect::<Vec<u8>>(), value.clone());
            prop_assert_eq!(BASE64.decode(Filter::Base64.apply(&value)).unwrap(), value.clone());
            prop_assert_eq!(Filter::Plain.apply(&value), value);
        }
    }
}
