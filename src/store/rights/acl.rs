//! The ACL line that grants rights, as each generation of servers writes it.

use std::collections::BTreeSet;

use super::{ASKING, Command, Glob, Kind, On, PUBLISH, Right, SPUBLISH};
use crate::text::quoted;

/// What a server's ACL can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Generation {
    /// Redis 6.0: commands and keys.
    V6,
    /// Redis 6.2: channels too.
    V6_2,
    /// Redis 7 and Valkey: which command on which keys.
    V7,
}

impl Generation {
    /// The generation of a version such as `6.2.14`; none before Redis 6, which has no ACL, and for what is no version.
    pub fn of(version: &str) -> Option<Self> {
        let mut numbers = version.split('.').map(str::parse::<u32>);
        let major = numbers.next()?.ok()?;
        let minor = numbers.next().unwrap_or(Ok(0)).ok()?;
        match (major, minor) {
            (..6, _) => None,
            (6, ..2) => Some(Self::V6),
            (6, _) => Some(Self::V6_2),
            (7.., _) => Some(Self::V7),
        }
    }
}

/// Stands where the password belongs. Left as it is the server refuses the whole line: it asks to take away a password
/// that nobody has.
pub const PASSWORD: &str = "<PASSWORD>";

/// The line for redis-cli that gives `user` exactly these rights, whatever it had before; its passwords stay.
pub fn acl_line(user: &str, rights: &[Right], generation: Generation) -> String {
    let mut words: Vec<&[u8]> = vec![b"ACL", b"SETUSER", user.as_bytes(), b"on", PASSWORD.as_bytes(), b"resetkeys"];
    if generation >= Generation::V6_2 {
        words.push(b"resetchannels");
    }
    if generation >= Generation::V7 {
        words.push(b"clearselectors");
    }
    words.push(b"-@all");
    let rules = match generation {
        Generation::V7 => each_on_its_keys(rights),
        Generation::V6 | Generation::V6_2 => all_on_all_keys(rights, generation),
    };
    words.extend(rules.iter().map(Vec::as_slice));
    words.into_iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// Before Redis 7 a user may do all it may do on all its keys and, from 6.2 on, its channels.
fn all_on_all_keys(rights: &[Right], generation: Generation) -> Vec<Vec<u8>> {
    let asking = ASKING.into_iter().filter(|_| rights.iter().any(|right| right.command.kind == Kind::Writes));
    // They do not know it either, and would refuse the whole line.
    let known = rights.iter().filter(|right| right.command != SPUBLISH).map(Right::command);
    let mut words = rules("~", rights.iter().flat_map(Right::keys), known.chain(asking));
    if generation >= Generation::V6_2 {
        words.extend(rules("&", rights.iter().filter_map(Right::channel), []));
    }
    words
}

/// What has no keys, and scripts on all they touch; then selectors: for each set of commands the keys that they are
/// for. So nobody who steals the password can unlink the container, though a companion needs `UNLINK` somewhere else.
fn each_on_its_keys(rights: &[Right]) -> Vec<Vec<u8>> {
    let (at_large, on_keys): (Vec<&Right>, Vec<&Right>) = rights
        .iter()
        .filter(|right| right.channel().is_none())
        .partition(|right| right.on == On::Server || right.command.kind == Kind::Script);
    let mut words = rules("~", at_large.iter().flat_map(|right| right.keys()), at_large.iter().map(|r| r.command()));
    for (keys, commands) in selectors(&on_keys) {
        let sign = if commands.iter().all(|command| command.kind == Kind::Reads) { "%R~" } else { "~" };
        words.extend(selector(rules(sign, keys, commands.iter().map(|command| command.name))));
    }
    for command in [PUBLISH, SPUBLISH] {
        let channels = rights.iter().filter(|right| right.command == command).filter_map(Right::channel);
        let mut channels = rules("&", channels, [command.name]);
        if channels.len() > 1 {
            // Where `acl-pubsub-default` says so, a selector begins with every channel.
            channels.insert(0, b"resetchannels".to_vec());
            words.extend(selector(channels));
        }
    }
    words
}

/// Keys on which the same commands are allowed.
fn selectors<'r>(rights: &[&'r Right]) -> Vec<(Vec<&'r Glob>, Vec<Command>)> {
    let mut of_keys: Vec<(&[Glob], Vec<Command>)> = Vec::new();
    for right in rights {
        match of_keys.iter_mut().find(|(keys, _)| *keys == right.keys()) {
            Some((_, commands)) if commands.contains(&right.command) => {}
            Some((_, commands)) => commands.push(right.command),
            None => of_keys.push((right.keys(), vec![right.command])),
        }
    }
    let mut selectors: Vec<(Vec<&Glob>, Vec<Command>)> = Vec::new();
    for (keys, mut commands) in of_keys {
        commands.sort_unstable_by_key(|command| command.name);
        match selectors.iter_mut().find(|(_, known)| *known == commands) {
            Some((known, _)) => known.extend(keys),
            None => selectors.push((keys.iter().collect(), commands)),
        }
    }
    selectors
}

fn selector(mut rules: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    if let Some(first) = rules.first_mut() {
        first.insert(0, b'(');
    }
    if let Some(last) = rules.last_mut() {
        last.push(b')');
    }
    rules
}

fn rules<'r>(
    sign: &str,
    globs: impl IntoIterator<Item = &'r Glob>,
    commands: impl IntoIterator<Item = &'static str>,
) -> Vec<Vec<u8>> {
    let mut globs: BTreeSet<&Glob> = globs.into_iter().collect();
    // Beside all keys the server takes no other.
    if globs.iter().any(|glob| **glob == b"*") {
        globs.retain(|glob| **glob == b"*");
    }
    let commands: BTreeSet<&str> = commands.into_iter().collect();
    let globs = globs.into_iter().map(|glob| [sign.as_bytes(), &in_acl(glob)].concat());
    let commands = commands.into_iter().map(|name| format!("+{}", name.to_ascii_lowercase()).into_bytes());
    commands.chain(globs).collect()
}

/// The grammar of an ACL has no way to write a blank in a pattern, nor quotes and brackets inside a selector, and Valkey
/// loses a byte of 255 there: any one byte must stand for them.
fn in_acl(glob: &[u8]) -> Glob {
    let inexpressible = |byte: u8| matches!(byte, 0 | b'\t'..=b'\r' | b' ' | b'"' | b'\'' | b'(' | b')' | 255);
    glob.iter().map(|byte| if inexpressible(*byte) { b'?' } else { *byte }).collect()
}
