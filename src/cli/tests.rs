//! What can be typed, and what can not.

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::parse(std::iter::once("presence-reaper").chain(line.split_whitespace()).map(Into::into))
}

#[track_caller]
fn check(line: &str, expected: Task) {
    assert_eq!(parse(line).unwrap().task, expected, "{line}");
}

#[track_caller]
fn refused(line: &str, sentence: &str) {
    let error = parse(line).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{line}");
    assert!(error.to_string().starts_with(&format!("error: {sentence}\n")), "{line}: {error}");
}

const TEXT: Report = Report { output: Output::Text, all: false, limit: None, redact: false, metrics_file: None };

const AUDIT: Task = Task::Audit { report: TEXT, fail_on_stale: None };

fn once(release: Release, max: Option<u64>) -> Task {
    Task::Once { release, max, report: TEXT, fail_on_stale: None }
}

#[test]
fn tasks_are_read() {
    check("", Task::Run { dry_run: false, redact: false });
    check("run", Task::Run { dry_run: false, redact: false });
    check("run --dry-run", Task::Run { dry_run: true, redact: false });
    for line in ["--redact", "--redact run", "run --redact"] {
        check(line, Task::Run { dry_run: false, redact: true });
    }
    check("--dry-run", AUDIT);
    let json = Report { output: Output::Json, ..TEXT };
    check("--dry-run -o json --fail-on-stale", Task::Audit { report: json, fail_on_stale: Some(0) });
    check("--dry-run --fail-on-stale=7", Task::Audit { report: TEXT, fail_on_stale: Some(7) });
    let report = Report { output: Output::Ndjson, all: true, limit: Some(0), redact: true, metrics_file: None };
    check("--dry-run -o ndjson --all --limit 0 --redact", Task::Audit { report, fail_on_stale: None });
    let report = Report { metrics_file: Some("/x/y.prom".into()), ..TEXT };
    check("--dry-run --metrics-file /x/y.prom", Task::Audit { report, fail_on_stale: None });
    check("--once", once(Release::default(), None));
    check("--once --release mass,silent --max 5", once(Release { silent: true, mass: true }, Some(5)));
    check("--once --release silent", once(Release { silent: true, mass: false }, None));
    check("check", Task::Check { output: Output::Text });
    check("check -o json", Task::Check { output: Output::Json });
    check("-o json check", Task::Check { output: Output::Json });
    let connect = |dry_run, sample_for, redact| Task::Connect { dry_run, sample_for, redact };
    check("check --connect", connect(false, None, false));
    check("check --connect --redact", connect(false, None, true));
    check("--redact check --connect", connect(false, None, true));
    let minute = Some(Duration::from_secs(60));
    check("check --connect --dry-run --sample-for 1m", connect(true, minute, false));
    let acl = |dry_run, version| Task::Acl { dry_run, server: AclServer::Since(version) };
    check("check --acl", acl(false, AclVersion::V7));
    check("check --acl=6.0", acl(false, AclVersion::V6));
    check("check --acl=6.2 --dry-run", acl(true, AclVersion::V6_2));
    check("check --acl --connect", Task::Acl { dry_run: false, server: AclServer::Ask });
    check("completions zsh", Task::Completions { shell: Shell::Zsh });
    check("man", Task::Man);
    check("demo", Task::Demo { clients: 1000, redis_server: None, serve: false });
    let chosen = Task::Demo { clients: 30, redis_server: Some("/x".into()), serve: true };
    check("demo --clients 30 --redis-server /x --serve", chosen);
}

#[test]
fn what_does_not_go_together_is_said_in_a_sentence() {
    refused("--dry-run --once", "--dry-run only looks and --once evicts: give one of them");
    refused("--release mass", "--release belongs to --once");
    refused("--dry-run --max 1", "--max belongs to --once");
    refused("--fail-on-stale", "--fail-on-stale belongs to --dry-run or --once");
    refused("--all", "--all belongs to --dry-run or --once");
    refused("--metrics-file x", "--metrics-file belongs to --dry-run or --once");
    refused("--metrics-file x run", "--metrics-file does not go with `run`: leave one of the two out");
    refused("--limit 3", "--limit belongs to --dry-run or --once");
    refused("--limit 3 run", "--limit does not go with `run`: leave one of the two out");
    refused("--redact check", "with check, --redact belongs to --connect: nothing else shows an id");
    refused("--redact man", "--redact does not go with `man`: leave one of the two out");
    refused("check -o ndjson", "check writes one answer: text or json");
    refused("-o ndjson check", "check writes one answer: text or json");
    refused("--zset a man", "man takes no settings: leave them out");
    refused("--all completions bash", "--all does not go with `completions`: leave one of the two out");
    refused("-o json", "the daemon writes no report: --output belongs to --dry-run, --once and check");
    refused("-o json run", "the daemon writes no report: --output belongs to --dry-run, --once and check");
    refused("--dry-run run", "write `run --dry-run` for the daemon in shadow, or `--dry-run` alone for one audit");
    refused("--once run", "--once does not go with `run`: leave one of the two out");
    refused("--max 3 check", "--max does not go with `check`: leave one of the two out");
    refused("check --dry-run", "--dry-run behind check belongs to --connect or --acl");
    refused("--dry-run check --acl", "--dry-run does not go with `check`: leave one of the two out");
    refused("check --sample-for 1m", "--sample-for belongs to check --connect");
    refused("check --redact", "with check, --redact belongs to --connect: nothing else shows an id");
    refused("check --acl --redact", "with check, --redact belongs to --connect: nothing else shows an id");
    refused("hold --source hub", "hold takes the names of sources as they are, as in `hold hub`: leave --source out");
    refused("check --connect -o json", "--connect and --acl write text alone: leave --output out");
    refused("-o text check --acl", "--connect and --acl write text alone: leave --output out");
    refused("check --acl=7.0 --connect", "with --connect the server is asked for its version: leave that of --acl out");
    refused("--config x demo", "demo runs on a private server and takes no settings but its own");
    refused("--config a run --config b", "--config is given before the command and behind it");
    refused("--companion a check --companion b", "--companion is given before the command and behind it");
    refused("-c x --zset a", "--zset describes a source, and with --config the sources stand in the file");
    refused("-c x --db 1", "--db describes a source, and with --config the sources stand in the file");
    refused(
        "--threshold 5m",
        "--threshold describes a source: say where its entries are with --zset, --hash, --set or --keys",
    );
    refused("--zset a --keys b", "--zset and --keys are two sources, and flags describe one: write a file");
    for line in [
        "--zset a --zset b",
        "demo --clients 29",
        "--once --max 0",
        "run --once",
        "check --acl=5.0",
        "check --connect --sample-for 1",
        "--release x",
        "--dry-run --limit -1",
        "--color blue",
        "completions tcsh",
        "nonsense",
    ] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
}

#[test]
fn flags_become_settings_wherever_they_stand() {
    let one = |flag, table, key, value: &str| Setting { flag, table, key, value: FlagValue::One(value.to_owned()) };
    let cli = parse("--zset a check --last-ping score --last-ping value --redis-url redis://h --db 2").unwrap();
    assert_eq!(cli.config, None);
    let last_ping = FlagValue::Many(vec!["score".to_owned(), "value".to_owned()]);
    assert_eq!(
        cli.flags.settings,
        [
            one("--zset", "source", "zset", "a"),
            one("--redis-url", "redis", "url", "redis://h"),
            one("--db", "redis", "db", "2"),
            Setting { flag: "--last-ping", table: "source", key: "last_ping", value: last_ping },
        ]
    );
    assert_eq!(parse("run -c x.toml").unwrap().config, Some("x.toml".into()));
    assert_eq!(parse("--source a check --source b").unwrap().flags.sources, ["a", "b"]);
}

#[test]
fn colour_is_for_terminals_and_a_flag_outranks_the_variable() {
    let wanted = |line: &str, terminal, no_color| parse(line).unwrap().color.is_wanted(terminal, no_color);
    assert!(wanted("", true, false) && !wanted("", true, true) && !wanted("", false, false));
    assert!(wanted("check --color always", false, true) && !wanted("--color never run", true, false));
}

#[test]
fn every_flag_sets_a_key_that_the_configuration_knows() {
    let line = "--redis-url rediss://h --redis-username u --redis-password-file f --redis-tls-ca-file a \
                --redis-tls-cert-file b --redis-tls-key-file c --redis-tls-server-name d --db 1 --listen off --log-level warn \
                 --log-format json --audit-file /f --audit-stream s --hash h --last-ping value --companion SREM~users~{id} \
                 --threshold 1m --heartbeat-interval 5s --format iso-8601 --time-zone Europe/Berlin --deadline 1m --missing skip";
    let words = line.split_whitespace().map(|word| word.replace('~', " ").into());
    let cli = Cli::parse(std::iter::once("presence-reaper".into()).chain(words)).unwrap();
    assert_eq!(cli.flags.settings.len(), 22);
    let config = config::load(cli.inputs(None, Vec::new())).unwrap();
    assert_eq!((config.redis.db, config.server.listen, config.sources.len()), (1, vec![], 1));
}

#[test]
fn the_help_names_variables_that_exist() {
    let help = Args::command().render_long_help().to_string();
    let names: Vec<&str> = help.split("[env: ").skip(1).filter_map(|rest| rest.split(']').next()).collect();
    assert_eq!(names.len(), 13, "{help}");
    for name in names {
        if name == config::FILE_VARIABLE {
            continue;
        }
        let environment = vec![(name.into(), "\u{1}".into())];
        let problems = config::load(config::Inputs { environment, ..Default::default() }).map(|_| ()).unwrap_err();
        let wrong = problems.0.iter().any(|problem| problem.place == config::Place::Variable(name.to_owned()));
        assert!(wrong || ["USERNAME", "FILE", "STREAM"].iter().any(|end| name.ends_with(end)), "{name} is read");
    }
}

#[test]
fn clap_finds_no_fault_with_the_definition() {
    Args::command().debug_assert();
}
