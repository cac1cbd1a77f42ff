//! Configurations, right and wrong.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::language::notify::{Payload, Target};
use crate::language::template::{Ref, Template};
use crate::language::value::Value as Stored;
use crate::store::connect::{Endpoint, Password};

const GOLDEN: &str = "src/config/wrong_configurations.txt";

fn inputs(text: &str) -> Inputs {
    Inputs { file: Some(File { name: "reaper.toml".to_owned(), text: text.to_owned() }), ..Inputs::default() }
}

/// A flag, the table and key it sets, and its value.
type Given<'g> = (&'static str, &'static str, &'static str, &'g str);

fn with(text: &str, environment: &[(&str, &str)], flags: &[Given<'_>]) -> Inputs {
    let environment = environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
    let mut settings = Vec::new();
    for (flag, table, key, value) in flags {
        settings.push(Setting { flag, table, key, value: value_of(flag, value) });
    }
    Inputs { environment, flags: Flags { settings, ..Flags::default() }, ..inputs(text) }
}

fn value_of(flag: &str, value: &str) -> FlagValue {
    let many = matches!(flag, "--companion" | "--last-ping");
    if many { FlagValue::Many(vec![value.to_owned()]) } else { FlagValue::One(value.to_owned()) }
}

#[track_caller]
fn accepted(inputs: Inputs) -> Config {
    load(inputs).unwrap_or_else(|problems| panic!("{problems}"))
}

fn refused(inputs: Inputs) -> String {
    load(inputs).map(|_| ()).unwrap_err().to_string()
}

const HUB: &str = "[[source]]\nname = \"hub\"\nzset = \"presence:online\"\n";

// === right ===

#[test]
fn the_smallest_file_gets_every_default() {
    let config = accepted(inputs(HUB));
    assert_eq!(config.redis.endpoint, Endpoint::Tcp { host: "127.0.0.1".to_owned(), port: 6379 });
    assert_eq!((config.redis.db, &config.redis.username, &config.redis.password), (0, &None, &Password::None));
    assert_eq!(config.redis.connect_timeout, Duration::from_secs(2));
    assert_eq!(config.redis.response_timeout, Duration::from_secs(1));
    assert_eq!(config.server.listen, ["127.0.0.1:19121".parse().unwrap()]);
    assert_eq!((config.log.format, config.log.level), (logging::Format::Auto, Level::INFO));
    let [hub] = config.sources.as_slice() else { panic!("one source") };
    assert_eq!(hub.timing.threshold, Duration::from_secs(300));
    assert_eq!(hub.timing.heartbeat_interval, Duration::from_secs(30));
    assert_eq!(hub.guard, policy::guard::Settings::default());
    assert_eq!(hub.source.last_ping, [Stored::Own(Ref::Score)]);
    assert_eq!(hub.source.container.describe(), "zset presence:online");
    assert!(!hub.dry_run && hub.source.deadline.is_zero() && config.warnings.is_empty());
}

#[test]
fn the_layouts_of_the_readme_are_accepted() {
    let config = accepted(inputs(
        r#"
[[source]]
name = "signalr"
hash = "signalr:clients"
last_ping = ["json /LatestPingTime", "json /EntranceTime"]
companions = ["srem user:{json:/UserId}:connections {id}"]
[[source]]
name = "conns"
keys = "conn:{tenant}:{id}"
last_ping = "field last_ping"
ignore = ["conn:{_}:meta"]
companions = ["SREM tenant:{tenant}:conns {id}", "UNLINK conn:{tenant}:{id}:meta inbox:{id}"]
[source.guard]
max_evict_rate = "unlimited"
silence_release = "never"
[[source]]
name = "rooms"
zset = "chat:{{lobby}}:seen"
format = "unix-ms"
threshold = "1s"
heartbeat_interval = "100ms"
companions = ["UNLINK chat:conn:{id}"]
[[source]]
name = "many-rooms"
zset = "room:{room}:seen"
companions = ["SREM room:{room}:conns {id}", "UNLINK room:{room}:conn:{id}"]
[[source]]
name = "tagged"
zset = "chats:{{{room}}}:seen"
companions = ["SREM chats:{{{room}}}:conns {id}", "UNLINK chats:conn:{id}"]
"#,
    ));
    assert_eq!(config.warnings, []);
    let [signalr, conns, rooms, _, tagged] = config.sources.as_slice() else { panic!("five sources") };
    assert_eq!(signalr.source.last_ping.len(), 2);
    assert_eq!(conns.source.companions[1].action.key.len(), 2);
    assert_eq!((conns.guard.max_evict_rate, conns.guard.silence_release), (None, None));
    assert_eq!(conns.guard.reconnect_grace, signalr.guard.reconnect_grace);
    assert_eq!(rooms.source.container.describe(), "zset chat:{lobby}:seen");
    assert_eq!(tagged.source.container.describe(), "zset chats:{*}:seen");
}

#[test]
fn a_source_guard_stands_over_the_common_one() {
    let text = format!("[guard]\nmax_evict_rate = 10\nreconnect_grace = \"1m\"\n{HUB}guard.max_evict_rate = 20\n");
    let config = accepted(inputs(&text));
    assert_eq!(config.sources[0].guard.max_evict_rate, Some(20));
    assert_eq!(config.sources[0].guard.reconnect_grace, Duration::from_secs(60));
}

#[test]
fn a_member_that_would_lead_a_companion_to_the_container_can_be_ignored() {
    let text = "[[source]]\nname = \"hub\"\nzset = \"user:online\"\nignore = [\"online\"]\ncompanions = [\"UNLINK user:{id}\"]\n";
    assert!(accepted(inputs(text)).sources[0].source.ignores(b"online"));
}

#[test]
fn what_protects_an_entry_is_read_and_wide_keys_are_warned_of() {
    let unless = |conditions: &str| accepted(inputs(&format!("{HUB}unless = [{conditions}]\n")));
    let config = unless(r#""exists job:{id}", "not sismember hubs:{key} {id}", 'get "state {id}" json /s ne "a b"'"#);
    assert_eq!(config.warnings, []);
    let texts: Vec<&str> = config.sources[0].source.unless.iter().map(|condition| condition.text.as_str()).collect();
    let written = ["exists job:{id}", "not sismember hubs:{key} {id}", "get \"state {id}\" json /s ne \"a b\""];
    assert_eq!(texts, written);
    let warnings = |conditions| unless(conditions).warnings.iter().map(ToString::to_string).collect::<Vec<_>>();
    let [warning] = &warnings(r#""exists {id}", "exists busy", "value eq x""#)[..] else { panic!("one warning") };
    assert!(warning.contains("`exists {id}` may lead to any key of the database"), "{warning}");
    assert_eq!(warnings(r#""disjoint abc:{id} ab{id}""#).len(), 1);
    let many = vec![r#""exists a""#; 17].join(", ");
    assert!(refused(inputs(&format!("{HUB}unless = [{many}]"))).contains("17 conditions are too many; at most 16"));
}

#[test]
fn what_does_nothing_and_what_may_lead_anywhere_is_warned_of() {
    let warnings = |text: &str| {
        let warnings = accepted(inputs(text)).warnings;
        warnings.iter().map(|warning| warning.to_string().lines().next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let conns = "[[source]]\nname = \"conns\"\nset = \"conns\"\nlast_ping = \"get seen:{id}\"\n";
    for (text, expected) in [
        ("max_fanout = 5", Some("`max_fanout` of [[source]] \"conns\": no companion here has a `for-each`")),
        ("max_fanout = 5\ncompanions = [\"for-each {e} in smembers all:{id} do SREM users:{e} {id}\"]", None),
        ("trusted = true", Some("`trusted` of [[source]] \"conns\": no UNLINK or EXPIRE here needs it")),
        ("trusted = true\ncompanions = [\"UNLINK conn:{id}\"]", Some("no UNLINK or EXPIRE here needs it")),
        ("trusted = true\nlet.u = \"get user:{id}\"\ncompanions = [\"UNLINK conn:{u}\"]", None),
        ("trusted = false", None),
        ("where = [\"exists {id}\"]", Some("`where` of [[source]] \"conns\": `exists {id}` may lead to any key")),
        ("let.u = \"get {id}\"", Some("`u` of `let` of [[source]] \"conns\": `get {id}` may lead to any key")),
        ("let.u = \"get users\"", None),
    ] {
        let found = warnings(&format!("{conns}{text}\n"));
        assert_eq!(found.len(), usize::from(expected.is_some()), "{text}: {found:?}");
        assert!(found.iter().all(|found| found.contains(expected.unwrap_or_default())), "{text}: {found:?}");
    }
    let of =
        |lookup: &str| warnings(&format!("{}let.u = \"get user:{{id}}\"\n", conns.replace("get seen:{id}", lookup)));
    assert_eq!((of("get {u}").len(), of("get {member}").len()), (1, 0), "who is a key's name is no wide key");
    let spelt = "id = \"conn:{id}\"\nwhere = [\"exists {member}\"]\n";
    assert_eq!(warnings(&format!("{conns}{spelt}")), Vec::<String>::new(), "`id` spells out what members begin with");
}

#[test]
fn notifications_are_read_inline_and_as_tables() {
    let text = format!(
        "{HUB}notify = [{{ publish = \"off:{{source}}\" }}, {{ xadd = \"left:{{key}}\", payload = \"{{id}}\", maxlen = 10 }}]\n\
         [[source]]\nname = \"rooms\"\nhash = \"rooms\"\n[[source.notify]]\nxadd = \"left\"\n\
         [source.notify.payload]\nid = \"{{id}}\"\nleft = \"{{remaining}}\"\n"
    );
    let config = accepted(inputs(&text));
    assert_eq!(config.warnings, []);
    let [hub, rooms] = config.sources.as_slice() else { panic!("two sources") };
    let [publish, xadd] = hub.source.notify.as_slice() else { panic!("two notifications") };
    assert_eq!((publish.text.as_str(), xadd.text.as_str()), ("PUBLISH off:{source}", "XADD left:{key}"));
    assert!(matches!(&publish.target, Target::Channel { name, sharded: false } if name.literal_prefix() == b"off:hub"));
    assert!(matches!(&publish.payload, Payload::Table(members) if members.len() == 7), "the usual one");
    assert!(matches!(xadd.target, Target::Stream { maxlen: Some(10), .. }));
    assert!(matches!(xadd.payload, Payload::Text(_)));
    assert!(matches!(&rooms.source.notify[0].payload, Payload::Table(members) if members.len() == 2));
}

#[test]
fn a_text_that_imitates_json_is_warned_about() {
    let text = format!("{HUB}notify = [{{ publish = \"off\", payload = '{{{{\"id\":\"{{id}}\"}}}}' }}]\n");
    let warnings: Vec<String> = accepted(inputs(&text)).warnings.iter().map(ToString::to_string).collect();
    let expected = "reaper.toml:4:40: `payload` of notification #1 of [[source]] \"hub\": the text looks like JSON, and \
                    what is put into a text is not escaped\n  hint: write a table, which is rendered as JSON: \
                    payload = { id = \"{id}\" }";
    assert_eq!(warnings, [expected]);
}

// === precedence ===

#[test]
fn a_flag_outranks_a_variable_and_a_variable_the_file() {
    let text = format!("[server]\nlisten = \"127.0.0.1:1\"\n[guard]\nmax_evict_rate = 1\n{HUB}");
    let port = |inputs| accepted(inputs).server.listen[0].port();
    let variable = [("PRESENCE_REAPER_SERVER__LISTEN", "127.0.0.1:2")];
    let flag = [("--listen", "server", "listen", "127.0.0.1:3")];
    assert_eq!(port(with(&text, &[], &[])), 1);
    assert_eq!(port(with(&text, &variable, &[])), 2);
    assert_eq!(port(with(&text, &variable, &flag)), 3);
    let config = accepted(with(&text, &[("PRESENCE_REAPER_GUARD__MAX_EVICT_RATE", "7")], &[]));
    assert_eq!(config.sources[0].guard.max_evict_rate, Some(7));
    let config = accepted(with(&text, &[("PRESENCE_REAPER_SERVER__LISTEN", "")], &[]));
    assert_eq!(config.server.listen[0].port(), 1, "an empty variable is not set");
}

#[test]
fn endpoints_may_have_several_addresses_or_none() {
    let file = |listen: &str| format!("[server]\nlisten = {listen}\n{HUB}");
    let listen = |inputs| accepted(inputs).server.describe();
    let (one, both) = ("127.0.0.1:1", "127.0.0.1:1, [::1]:2");
    assert_eq!(listen(inputs(&file(r#""127.0.0.1:1""#))), one);
    assert_eq!(listen(inputs(&file(r#"["127.0.0.1:1", "[::1]:2"]"#))), both);
    assert_eq!(listen(inputs(&file(r#"["127.0.0.1:0", "127.0.0.1:0"]"#))), "127.0.0.1:0, 127.0.0.1:0");
    assert_eq!(listen(inputs(&file("[]"))), "off");
    assert_eq!(listen(inputs(&file(r#"["off"]"#))), "off");
    assert_eq!(listen(with(HUB, &[("PRESENCE_REAPER_SERVER__LISTEN", "127.0.0.1:1,[::1]:2")], &[])), both);
    let cli = |words: &[&str]| {
        let line = ["presence-reaper"].iter().chain(words).map(Into::into);
        listen(crate::cli::Cli::parse(line).unwrap().inputs(inputs(HUB).file, Vec::new()))
    };
    assert_eq!(cli(&["--listen", "127.0.0.1:1", "--listen", "[::1]:2"]), both);
    assert_eq!(cli(&["--listen", "127.0.0.1:1, [::1]:2", "run"]), both);
    assert_eq!(cli(&["run", "--listen", "off"]), "off");
}

#[test]
fn a_wrong_value_that_is_outranked_does_no_harm() {
    let text = format!("[server]\nlisten = 5\n{HUB}");
    accepted(with(&text, &[("PRESENCE_REAPER_SERVER__LISTEN", "off")], &[]));
}

#[test]
fn a_source_by_flags_takes_the_place_of_those_in_the_file() {
    let flags = [
        ("--keys", "source", "keys", "conn:{id}"),
        ("--last-ping", "source", "last_ping", "field seen"),
        ("--companion", "source", "companions", "SREM users {id}"),
        ("--threshold", "source", "threshold", "1m"),
        ("--db", "redis", "db", "3"),
    ];
    let config = accepted(with("[server]\nlisten = \"off\"\n[[source]]\nnonsense = 1\n", &[], &flags));
    assert_eq!((config.server.listen, config.redis.db), (vec![], 3));
    let [cli] = config.sources.as_slice() else { panic!("one source") };
    assert_eq!((&*cli.source.name, cli.timing.threshold), ("cli", Duration::from_secs(60)));
    assert_eq!(cli.source.last_ping, [Stored::Own(Ref::Field(Template::literal(b"seen")))]);
}

#[test]
fn variables_of_others_are_passed_over_and_misspelt_ones_warned_about() {
    let environment = [
        ("PATH", "/bin"),
        ("PRESENCE_REAPER_REDIS_URL", "redis://:secret@h"),
        ("PRESENCE_REAPER_REDIS__PASSWROD", "secret"),
        ("PRESENCE_REAPER_SOURCE__ZSET", "a"),
    ];
    let warnings = accepted(with(HUB, &environment, &[])).warnings;
    let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "variable PRESENCE_REAPER_REDIS_URL: no setting has this name; it is ignored\n  hint: did you mean PRESENCE_REAPER_REDIS__URL?",
            "variable PRESENCE_REAPER_REDIS__PASSWROD: no setting has this name; it is ignored\n  hint: did you mean PRESENCE_REAPER_REDIS__PASSWORD?",
            "variable PRESENCE_REAPER_SOURCE__ZSET: no setting has this name; it is ignored\n  hint: PRESENCE_REAPER_REDIS__URL, for example, is `url` in [redis]; sources stand only in the file",
        ]
    );
}

/// What the kubelet puts into a Pod for a Service with two ports, the second of UDP.
fn service_links(service: &str) -> Vec<(String, &'static str)> {
    let links = [
        ("SERVICE_HOST", "10.96.0.17"),
        ("SERVICE_PORT", "19121"),
        ("SERVICE_PORT_METRICS", "19121"),
        ("SERVICE_PORT_METRICS_UDP", "53"),
        ("PORT", "tcp://10.96.0.17:19121"),
        ("PORT_19121_TCP", "tcp://10.96.0.17:19121"),
        ("PORT_19121_TCP_PROTO", "tcp"),
        ("PORT_19121_TCP_PORT", "19121"),
        ("PORT_19121_TCP_ADDR", "10.96.0.17"),
        ("PORT_53_UDP", "udp://10.96.0.17:53"),
        ("PORT_53_UDP_PROTO", "udp"),
        ("PORT_53_UDP_PORT", "53"),
        ("PORT_53_UDP_ADDR", "10.96.0.17"),
    ];
    links.map(|(link, value)| (format!("{service}_{link}"), value)).to_vec()
}

#[test]
fn variables_that_kubernetes_makes_of_services_are_passed_over() {
    let services = ["", "_HA", "_METRICS", "_REDIS", "_CONFIG", "_SERVER", "_LEASE", "_PORT", "_PORT_1", "_SERVICE"];
    let links: Vec<_> = services.iter().flat_map(|name| service_links(&format!("PRESENCE_REAPER{name}"))).collect();
    let links: Vec<(&str, &str)> = links.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    assert_eq!(accepted(with(HUB, &links, &[])).warnings, []);
}

#[test]
fn variables_that_only_look_like_those_of_kubernetes_are_warned_about() {
    let mistakes = [
        ("PRESENCE_REAPER_PORT", "19121"),
        ("PRESENCE_REAPER_REDIS_PORT", "6380"),
        ("PRESENCE_REAPER_REDIS__PORT", "6380"),
        ("PRESENCE_REAPER_SERVER__PORT", "tcp://10.0.0.1:19121"),
        ("PRESENCE_REAPER_SERVER__SERVICE_HOST", "10.0.0.1"),
        ("PRESENCE_REAPER_SERVICE_NAME", "reaper"),
        ("PRESENCE_REAPER_PORT_TCP", "19121"),
        ("PRESENCE_REAPER_PORT_19121", "19121"),
        ("PRESENCE_REAPER_PORT_19121_TCP_HOST", "10.0.0.1"),
        ("PRESENCE_REAPER_PORT_99999_TCP", "tcp://10.0.0.1:99999"),
    ];
    for (name, value) in mistakes {
        let warnings = accepted(with(HUB, &[(name, value)], &[])).warnings;
        let [warning] = warnings.as_slice() else { panic!("{name}: {warnings:?}") };
        assert_eq!(warning.place, Place::Variable(name.to_owned()));
    }
}

/// A good value of each scalar that a variable can set, other than its default.
const VARIABLES: [(&str, &str, &str); 12] = [
    ("redis", "url", "redis://elsewhere:7/3"),
    ("redis", "username", "bob"),
    ("redis", "password", "secret"),
    ("redis", "password_file", "/run/secret"),
    ("redis", "connect_timeout", "7s"),
    ("redis", "response_timeout", "7s"),
    ("server", "listen", "off"),
    ("log", "format", "journald"),
    ("log", "level", "debug"),
    ("guard", "reconnect_grace", "7m"),
    ("guard", "silence_release", "never"),
    ("guard", "max_evict_rate", "unlimited"),
];

#[test]
fn every_scalar_of_the_four_tables_is_set_by_its_variable() {
    let name = |table: &str, key: &str| format!("PRESENCE_REAPER_{}__{}", table.to_uppercase(), key.to_uppercase());
    let unset = format!("{:?}", accepted(inputs(HUB)));
    for (table, key, value) in VARIABLES {
        let mut environment = vec![(name(table, key), value)];
        if key == "username" {
            environment.push((name("redis", "password"), "x"));
        }
        let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let config = accepted(with(HUB, &environment, &[]));
        assert!(config.warnings.is_empty(), "{table}.{key}: {:?}", config.warnings);
        assert_ne!(format!("{config:?}"), unset, "{table}.{key} makes a difference");
    }
    for (table, key) in known_keys().into_iter().filter(|(table, _)| ENVIRONMENT_TABLES.contains(table)) {
        let name = name(table, key);
        let said = match load(with(HUB, &[(&name, "\u{1}")], &[])) {
            Ok(config) => config.warnings,
            Err(problems) => problems.0,
        };
        assert!(said.iter().all(|problem| !problem.what.contains("no setting")), "{name} is read: {said:?}");
        let looks_so = name.ends_with("_PORT") || name.contains("_PORT_") || name.contains("_SERVICE_");
        assert!(!looks_so, "{name} looks like a name that Kubernetes invents");
    }
}

#[test]
fn a_variable_may_name_the_file() {
    let environment = |value: &str| vec![("PATH".into(), "/bin".into()), (FILE_VARIABLE.into(), value.into())];
    assert_eq!(file_of(&environment("/x.toml")), Some("/x.toml".into()));
    assert_eq!(file_of(&environment("")), None, "an empty variable is not set");
    assert_eq!(accepted(with(HUB, &[(FILE_VARIABLE, "/x.toml")], &[])).warnings, [], "it is no unknown setting");
}

#[test]
fn sources_can_be_chosen_by_name() {
    let text = format!("{HUB}[[source]]\nname = \"conns\"\nkeys = \"conn:{{id}}\"\n");
    let chosen = |text: &str, names: &[&str]| {
        let sources = names.iter().map(|&name| name.to_owned()).collect();
        load(Inputs { flags: Flags { sources, ..Flags::default() }, ..inputs(text) })
    };
    let names = |config: Config| config.sources.iter().map(|one| one.source.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(chosen(&text, &[]).unwrap()), ["hub", "conns"]);
    assert_eq!(names(chosen(&text, &["conns"]).unwrap()), ["conns"]);
    assert_eq!(names(chosen(&text, &["conns", "hub", "hub"]).unwrap()), ["hub", "conns"], "in the file's order");
    assert_eq!(
        chosen(&text, &["hub", "cons\n"]).unwrap_err().to_string(),
        "flag --source: no source is called `cons\\n`\n  hint: the sources are `hub`, `conns`"
    );
    assert_eq!(
        chosen(HUB, &["x"]).unwrap_err().to_string(),
        "flag --source: no source is called `x`\n  hint: the only source is `hub`"
    );
    let wrong = chosen(&format!("{text}nonsense = 1\n"), &["x"]).unwrap_err();
    assert_eq!(wrong.0.len(), 1, "of a wrong file nothing is concluded: {wrong}");
}

// === warnings ===

#[test]
fn what_is_safe_and_unwise_is_warned_about() {
    let text = "[[source]]\nname = \"a\"\nkeys = \"{id}:seen\"\nthreshold = \"3m\"\nheartbeat_interval = \"30s\"\n";
    let warnings: Vec<String> = accepted(inputs(text)).warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "reaper.toml:3:8: `keys` of [[source]] \"a\": the pattern does not begin with a literal, so keys of others may match\n  hint: look with --dry-run at what it finds",
            "reaper.toml:4:13: `threshold` of [[source]] \"a\": a threshold of 3m is less than 8 heartbeats of 30s: a few late pings will hold the source\n  hint: threshold = \"4m\" leaves them room",
        ]
    );
}

#[test]
fn a_companion_that_is_an_entry_of_another_source_is_warned_about() {
    let text =
        format!("{HUB}companions = [\"UNLINK conn:{{id}}\"]\n[[source]]\nname = \"conns\"\nkeys = \"conn:{{id}}\"\n");
    let warnings: Vec<String> = accepted(inputs(&text)).warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "reaper.toml:2:8: the companion `UNLINK conn:{id}` of [[source]] \"hub\" can remove entries of [[source]] \"conns\" that were not judged there\n  hint: leave it out, unless both describe the same clients and age together"
        ]
    );
}

#[test]
fn two_sources_that_can_share_a_key_are_warned_about() {
    let sources = |texts: &[&str]| {
        let table = |(n, text): (usize, &&str)| format!("[[source]]\nname = \"s{n}\"\n{text}\n");
        let text: String = texts.iter().enumerate().map(table).collect();
        accepted(inputs(&text)).warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let rooms = "zset = \"room:{room}:seen\"";
    assert_eq!(
        sources(&[rooms, "zset = [\"hall:seen\", \"room:lobby:seen\"]"]),
        [
            "reaper.toml:5:8: `room:lobby:seen` of [[source]] \"s1\" and `room:*:seen` of [[source]] \"s0\" can be the same key: its entries belong to both, and go as soon as either allows it\n  hint: let each key belong to one source"
        ]
    );
    let apart = [
        [rooms, "zset = \"room:{room}:left\""],
        [rooms, "hash = \"room:{room}:seen\""],
        [rooms, "zset = \"room:lobby:seen\"\ndb = 1"],
        ["keys = \"conn:{id}\"", "keys = \"conn:{id}\"\nlast_ping = \"field at\""],
        [rooms, "zset = \"hall:seen\"\ncompanions = [\"SREM room:lobby:seen {id}\"]"],
    ];
    for texts in apart {
        assert_eq!(sources(&texts), [""; 0], "{texts:?}");
    }
    let steered = [rooms, "zset = \"hall:seen\"\ncompanions = [\"ZREM room:lobby:seen {id}\"]"];
    assert!(sources(&steered)[0].contains("can remove entries of [[source]] \"s0\""));
}

#[test]
fn a_list_of_patterns_is_checked_one_by_one() {
    let text = "[[source]]\nname = \"a\"\nzset = [\"room:{room}:seen\", \"{room}:seen\"]\nguard.max_keys = 7\n";
    let config = accepted(inputs(text));
    assert_eq!(config.sources[0].guard.max_keys, 7);
    assert_eq!(config.sources[0].source.container.describe(), "zset room:*:seen, *:seen");
    let warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "reaper.toml:3:29: `zset` of [[source]] \"a\": the pattern does not begin with a literal, so keys of others may match\n  hint: look with --dry-run at what it finds"
        ]
    );
}

// === URL ===

#[track_caller]
fn url(url: &str, endpoint: &str, username: Option<&str>, password: Option<&str>, db: u16) {
    let redis = accepted(inputs(&format!("[redis]\nurl = '{url}'\n{HUB}"))).redis;
    let expected = password.map_or(Password::None, |text| Password::Text(text.to_owned()));
    assert_eq!(redis.endpoint.to_string(), endpoint, "{url}");
    assert_eq!((redis.username.as_deref(), redis.password, redis.db), (username, expected, db), "{url}");
}

#[test]
fn urls_are_read() {
    url("redis://h", "h:6379", None, None, 0);
    url("VALKEY://h:1/", "h:1", None, None, 0);
    url("redis://h:1/65535", "h:1", None, None, 65535);
    url("redis://[::1]:7/2", "[::1]:7", None, None, 2);
    url("redis://[fe80::1]", "[fe80::1]:6379", None, None, 0);
    url("redis://bob:p%40ss%2f@my_redis.ns.svc:1/3", "my_redis.ns.svc:1", Some("bob"), Some("p@ss/"), 3);
    url("redis://:pw@h", "h:6379", None, Some("pw"), 0);
    url("redis://:p:w@h", "h:6379", None, Some("p:w"), 0);
    url("redis://@h", "h:6379", None, None, 0);
    url("rediss://h", "h:6379 over TLS", None, None, 0);
    url("valkeys://bob:pw@[::1]:7/2", "[::1]:7 over TLS", Some("bob"), Some("pw"), 2);
    url("unix:///run/redis.sock", "/run/redis.sock", None, None, 0);
    url("redis+unix://bob:pw@/a%20b?db=3&protocol=resp2", "/a b", Some("bob"), Some("pw"), 3);
    url("redis://h/1?protocol=resp3", "h:6379", None, None, 1);
}

#[test]
fn the_setting_from_the_higher_place_holds_over_the_url_and_its_neighbours() {
    let file = format!("[redis]\nurl = \"redis://bob:one@h/1\"\n{HUB}");
    let config = accepted(with(&file, &[("PRESENCE_REAPER_REDIS__PASSWORD", "two")], &[("--db", "redis", "db", "4")]));
    assert_eq!((config.redis.password, config.redis.db), (Password::Text("two".to_owned()), 4));
    let file = format!("[redis]\nusername = \"bob\"\npassword = \"one\"\n{HUB}");
    let config = accepted(with(&file, &[("PRESENCE_REAPER_REDIS__PASSWORD_FILE", "pw")], &[]));
    assert_eq!(config.redis.password, Password::File("pw".into()));
    let config = accepted(with(&file, &[("PRESENCE_REAPER_REDIS__URL", "redis://amy:two@h")], &[]));
    assert_eq!(config.redis.username.as_deref(), Some("amy"));
}

// === wrong ===

/// The golden file is a row of cases: a title behind `===`, variables and flags behind `$`, the file, and behind `---`
/// what is said about it. `UPDATE_GOLDEN=1 cargo test wrong_configurations` writes the answers anew.
#[test]
fn wrong_configurations_get_exactly_these_messages() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(GOLDEN);
    let golden = std::fs::read_to_string(&path).unwrap();
    let (preface, cases) = golden.split_once("=== ").unwrap();
    let mut now = preface.to_owned();
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut count = 0;
    for case in cases.split("\n=== ") {
        let (question, before) = case.split_once("\n---\n").unwrap();
        let (title, body) = question.split_once('\n').unwrap();
        let (settings, file): (Vec<&str>, Vec<&str>) = body.lines().partition(|line| line.starts_with("$ "));
        let answer = answer(&settings, &file.join("\n"));
        assert!(update || answer == before.trim_end(), "{title}: now it is\n{answer}");
        let separator = if count == 0 { "" } else { "\n" };
        write!(now, "{separator}=== {title}\n{body}\n---\n{answer}\n").unwrap();
        count += 1;
    }
    assert!(count >= 25, "{count} cases");
    if update {
        std::fs::write(&path, &now).unwrap();
    }
}

/// What is said about a file with these variables and flags.
fn answer(settings: &[&str], file: &str) -> String {
    let mut line = vec!["presence-reaper".into()];
    let mut environment = Vec::new();
    for setting in settings.iter().map(|setting| setting.trim_start_matches("$ ")) {
        match setting.split_once('=') {
            Some((name, value)) if name.starts_with("PRESENCE") => environment.push((name.into(), value.into())),
            _ => line.extend(setting.splitn(2, ' ').map(Into::into)),
        }
    }
    let cli = crate::cli::Cli::parse(line).unwrap();
    refused(cli.inputs(inputs(file).file, environment))
}

#[test]
fn all_mistakes_are_reported_at_once_in_the_order_of_the_file() {
    let text = "\
[redis]
url = \"http://h\"
timeout = \"1s\"

[[source]]
name = \"Hub\"
zset = \"online
threshold = 5m
[[source]]
hash = 5
companions = [\"DEL x\", \"SREM user:{id\"]
[log]
level = \"loud\"
";
    let found = refused(with(&text.replace("\"online", "\"online\""), &[("PRESENCE_REAPER_SERVER__LISTEN", "x")], &[]));
    let places: Vec<&str> =
        found.lines().filter(|l| !l.starts_with("  ")).map(|l| l.split(": ").next().unwrap()).collect();
    assert_eq!(
        places,
        [
            "reaper.toml:2:7",
            "reaper.toml:3:1",
            "reaper.toml:6:8",
            "reaper.toml:8:13",
            "reaper.toml:9:1",
            "reaper.toml:10:8",
            "reaper.toml:11:15",
            "reaper.toml:11:24",
            "reaper.toml:13:9",
            "variable PRESENCE_REAPER_SERVER__LISTEN",
        ],
        "{found}"
    );
    // Behind a quote that is never closed nothing can be believed but what the parser says, and what stood before.
    let found = refused(inputs(text));
    assert!(found.contains("reaper.toml:2:7") && found.contains("reaper.toml:7:"), "{found}");
}

#[test]
fn no_message_shows_a_password() {
    let secret = "hunter2";
    let urls = [
        "redis://u:{}@h:port",
        "redis://u:{}/x@h",
        "redis://u:{}",
        "{}",
        "{}://h",
        "redis://h?password={}",
        "redis://h?{}",
        "unix:///run/x?password={}",
        "unix://u:{}@h/run/x",
        "unix:///{}?x",
        "redis://u:%zz{}@h",
        "redis://h/{}",
        "redis://u:{}@h h",
        "redis://u:a#{}@h",
        "rediss://u:{}@h:port",
        "http://u:{}@h",
        "redis://[{}]:1",
    ];
    for template in urls {
        let url = template.replace("{}", secret);
        let found = refused(with(HUB, &[("PRESENCE_REAPER_REDIS__URL", &url)], &[]));
        assert!(!found.contains(secret), "{found}");
        let found = refused(with(HUB, &[], &[("--redis-url", "redis", "url", &url)]));
        assert!(!found.contains(secret), "{found}");
    }
    for file in [
        "[redis]\npassword = [\"hunter2\"]\n",
        "[redis]\npassword = \"hunter2\n",
        "[redis]\npassword = hunter2\n",
        "[redis]\npassword = \"hunter2\"\npassword_file = \"x\"\n",
        "[redis]\nurl = \"redis://:hunter2@h\"\npassword = \"hunter3\"\n",
    ] {
        let found = refused(inputs(&format!("{file}{HUB}")));
        assert!(!found.contains(secret), "{found}");
    }
}

#[test]
fn sixty_four_sources_are_enough() {
    let sources =
        |n: usize| (0..n).map(|i| format!("[[source]]\nname = \"s{i}\"\nzset = \"z{i}\"\n")).collect::<String>();
    assert_eq!(accepted(inputs(&sources(64))).sources.len(), 64);
    assert!(refused(inputs(&sources(65))).starts_with("reaper.toml:193:1: there are more than 64 sources"));
}

// === the example ===

#[test]
fn the_example_parses_equals_the_defaults_and_names_every_key() {
    let example = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("reaper.toml.example")).unwrap();
    assert!(
        refused(inputs(&example)).starts_with("configuration: no source is configured"),
        "as shipped it sets nothing"
    );
    let uncommented: String =
        example.lines().map(|line| line.strip_prefix("# ").unwrap_or(line)).flat_map(|l| [l, "\n"]).collect();
    let (said, unsaid) = (accepted(inputs(&uncommented)), accepted(inputs(HUB)));
    assert_eq!(said.warnings, []);
    assert_eq!((&said.redis, &said.server, &said.log), (&unsaid.redis, &unsaid.server, &unsaid.log));
    assert_eq!(format!("{:?}", said.sources[0]), format!("{:?}", unsaid.sources[0]));
    let tree = Parsed::file("example", &uncommented).entries;
    let mut named = BTreeSet::new();
    collect(&mut named, "", &tree);
    let known: BTreeSet<_> = known_keys().into_iter().map(|(table, key)| (table.to_owned(), key.to_owned())).collect();
    assert_eq!(known, named);
}

fn collect(named: &mut BTreeSet<(String, String)>, path: &str, entries: &[Entry]) {
    for entry in entries {
        named.insert((path.to_owned(), entry.key.clone()));
        let below = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
        match &entry.node.value {
            // The members of a payload are named by whoever reads it.
            Value::Table(_) if below == "source.notify.payload" || below == "source.let" => {}
            Value::Table(entries) => collect(named, &below, entries),
            Value::List(nodes) => nodes.iter().for_each(|node| {
                if let Value::Table(entries) = &node.value {
                    collect(named, &below, entries);
                }
            }),
            _ => {}
        }
    }
}

// === anything ===

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,200}", variable in ".{0,40}") {
        let _ = load(with(&text, &[("PRESENCE_REAPER_REDIS__URL", &variable)], &[]));
    }

    #[test]
    fn no_setting_makes_it_panic(key in "zset|hash|keys|name|threshold|last_ping|companions|notify|ignore|unless|format|time_zone|deadline|guard|x", value in r#"[^']{0,40}|[0-9]{1,30}"#, quoted in any::<bool>()) {
        let value = if quoted { format!("'{value}'") } else { value };
        let _ = load(inputs(&format!("[[source]]\nname = 'a'\nkeys = 'abc{{id}}'\n{key} = {value}\n[[source]]\n{key} = [{value}]\n")));
    }

    #[test]
    fn a_password_goes_through_the_url_as_it_is(password in "[ -~]{1,20}", user in "[a-z]{1,8}") {
        let encoded: String = password.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let url = format!("redis://{user}:{encoded}@h:1/2");
        let redis = accepted(with(HUB, &[("PRESENCE_REAPER_REDIS__URL", &url)], &[])).redis;
        prop_assert_eq!(redis.password, Password::Text(password));
        prop_assert_eq!(redis.username, Some(user));
    }
}
