//! How entries are called where people or programs read of them.

use std::borrow::Cow;
use std::sync::Arc;

use crate::language::source::Source;
use crate::policy::entry::EntryId;
use crate::text::Redaction;

/// How the entries of one source are called in reports and logs: by their bytes, or with every byte hidden that the
/// configuration does not spell out.
#[derive(Clone, Debug)]
pub struct Naming {
    source: Arc<Source>,
    redaction: Option<Arc<Redaction>>,
}

impl Naming {
    pub(super) fn new(source: Arc<Source>, redaction: Option<Arc<Redaction>>) -> Self {
        Self { source, redaction }
    }

    /// The source's name.
    pub fn source(&self) -> &str {
        &self.source.name
    }

    /// Whether ids are hidden.
    pub fn is_redacted(&self) -> bool {
        self.redaction.is_some()
    }

    /// The member or field, else the key.
    pub fn id<'i>(&self, id: &'i EntryId) -> Cow<'i, [u8]> {
        match (&id.member, &self.redaction) {
            (Some(member), Some(redaction)) => redaction.hidden(member).into_bytes().into(),
            (Some(member), None) => Cow::Borrowed(member),
            (None, _) => self.key(id),
        }
    }

    /// The key: of what is hidden in it, each part that a pattern leaves open by itself.
    pub fn key<'i>(&self, id: &'i EntryId) -> Cow<'i, [u8]> {
        match &self.redaction {
            Some(redaction) => redaction.hidden_within(&id.key, &self.source.container.blanks(&id.key)).into(),
            None => Cow::Borrowed(&id.key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::pattern::Pattern;
    use crate::language::source::{Container, Kind};

    fn naming(kind: Kind, text: &str) -> (Naming, Arc<Redaction>) {
        let redaction = Arc::new(Redaction::keyed(&[3; 16]));
        let patterns = vec![Pattern::parse(text, "the key").unwrap()];
        let source = Source::plain(Container::new(kind, patterns).unwrap());
        (Naming::new(Arc::new(source), Some(Arc::clone(&redaction))), redaction)
    }

    #[track_caller]
    fn check(naming: &Naming, id: &EntryId, (name, key): (String, String)) {
        assert_eq!(String::from_utf8(naming.id(id).into_owned()).unwrap(), name);
        assert_eq!(String::from_utf8(naming.key(id).into_owned()).unwrap(), key);
    }

    #[test]
    fn what_the_configuration_spells_out_stays() {
        let (members, redaction) = naming(Kind::Zset, "presence:online");
        let alice = redaction.hidden(b"alice");
        let id = |key: &[u8]| EntryId::member(key.into(), b"alice".as_slice());
        check(&members, &id(b"presence:online"), (alice.clone(), "presence:online".to_owned()));
        check(&members, &id(b"another"), (alice.clone(), redaction.hidden(b"another")));
        let (keys, _) = naming(Kind::Keys, "conn:{tenant}:{_}:x");
        let key = format!("conn:{}:{alice}:x", redaction.hidden(b"acme"));
        check(&keys, &EntryId::key(b"conn:acme:alice:x".as_slice()), (key.clone(), key));
        let whole = redaction.hidden(b"conn:acme");
        check(&keys, &EntryId::key(b"conn:acme".as_slice()), (whole.clone(), whole));
    }
}
