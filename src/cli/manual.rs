//! The texts that are made from the definition of the command line: completion scripts and the manual page.

use std::io::{self, Write};

use clap::{Arg, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use super::{AFTER_HELP, Args};

const NAME: &str = "presence-reaper";

const USAGE: &str = "\
presence-reaper [run] [--dry-run] [OPTIONS]
presence-reaper --dry-run [OPTIONS]
presence-reaper --once [OPTIONS]
presence-reaper COMMAND [OPTIONS]";

/// What the program is, as paragraphs.
const DESCRIPTION: [&str; 4] = [
    "Hubs write a record of each connected client into Redis, refresh its last ping while the client lives, and remove \
     it when the client leaves. When a hub crashes, the record stays. presence-reaper evicts such entries, atomically \
     and together with everything that belongs to them, and never those whose clients still ping.",
    "Without a command it is the daemon. --dry-run looks once, writes nothing to Redis and reports; --once looks twice, \
     evicts what did not ping in between and reports. A TOML file says where entries live and when one is stale; one \
     source can also be given by flags.",
    "Data goes to stdout, everything else to stderr. A reader that closes the pipe ends the output quietly, and an \
     audit with it; --once evicts all the same.",
    "Reports quote ids as redis-cli does. In JSON an id that is not UTF-8 stands beside its base64.",
];

/// What the environment says, beside the settings.
const ENVIRONMENT: [(&str, &str); 7] = [
    (
        "PRESENCE_REAPER_TABLE__KEY",
        "A setting of [redis], [server], [log], [audit], [guard] or [lease], as in PRESENCE_REAPER_REDIS__URL. It outranks the \
         file; a flag outranks it. An empty one counts as not set.",
    ),
    ("PRESENCE_REAPER_CONFIG", "The configuration, unless --config is given."),
    ("NO_COLOR", "If not empty: no colour, unless --color always is given."),
    ("JOURNAL_STREAM", "Set by systemd: tells whether stderr is the journal, for the log format auto."),
    ("NOTIFY_SOCKET", "Set by systemd: is told that the daemon is ready, how things stand, that it reloads or stops."),
    ("WATCHDOG_USEC", "Set by systemd: the daemon gives signs of life as long as its loops turn."),
    ("CREDENTIALS_DIRECTORY", "Set by systemd: the file redis-password in it is the password, where no other is set."),
];

const SIGNALS: [(&str, &str); 3] = [
    ("SIGTERM, SIGINT", "Ends when the batch in flight is finished; at once with a second one."),
    (
        "SIGHUP",
        "The daemon reads its configuration anew and connects anew. What decides as before goes on where it was; a file \
         with mistakes changes nothing.",
    ),
    (
        "SIGUSR1, SIGUSR2",
        "Stops this process from evicting, for an hour at most, and takes that back. Neither needs Redis.",
    ),
];

const FILES: [(&str, &str); 1] =
    [("/etc/presence-reaper/reaper.toml", "Read when no other configuration is named, if it exists.")];

/// A script that completes the command line in this shell.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), NAME, &mut script);
    script
}

/// The manual page, as roff.
///
/// # Errors
/// None that a growing text would not have.
pub fn manual() -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    let man = Man::new(Args::command().override_usage(USAGE));
    // An empty date, which only a quoted argument can be: when a page is printed says nothing about it.
    let version = env!("CARGO_PKG_VERSION");
    writeln!(page, ".TH PRESENCE-REAPER 8 \"\" \"{NAME} {version}\" \"System Administration\"")?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    description().to_writer(&mut page)?;
    man.render_options_section(&mut page)?;
    commands().to_writer(&mut page)?;
    pairs("SIGNALS", SIGNALS).to_writer(&mut page)?;
    pairs("ENVIRONMENT", ENVIRONMENT).to_writer(&mut page)?;
    pairs("FILES", FILES).to_writer(&mut page)?;
    after_help().to_writer(&mut page)?;
    Ok(page)
}

fn description() -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["DESCRIPTION"]);
    for (at, paragraph) in DESCRIPTION.into_iter().enumerate() {
        if at > 0 {
            roff.control("PP", []);
        }
        roff.text([roman(paragraph)]);
    }
    roff
}

/// Each command with the options that are its own; the others stand above.
fn commands() -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["COMMANDS"]);
    let program = Args::command();
    for command in program.get_subcommands() {
        let shared = |arg: &&Arg| program.get_arguments().any(|ours| ours.get_help() == arg.get_help());
        let own: Vec<&Arg> = command.get_arguments().filter(|arg| !shared(arg)).collect();
        let mut heading = vec![bold(command.get_name())];
        own.iter().filter(|arg| arg.is_positional()).for_each(|arg| heading.extend([roman(" "), value(arg)]));
        roff.control("TP", []).text(heading);
        roff.text([roman(command.get_about().map(ToString::to_string).unwrap_or_default())]);
        for arg in own.iter().filter(|arg| !arg.is_positional()) {
            let Some(long) = arg.get_long() else { continue };
            let mut heading = vec![bold(format!("--{long}"))];
            if arg.get_action().takes_values() {
                heading.extend([roman(" "), value(arg)]);
            }
            roff.control("RS", []).control("TP", []).text(heading);
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            let default: Vec<&str> = arg.get_default_values().iter().filter_map(|value| value.to_str()).collect();
            let default = if default.is_empty() { String::new() } else { format!(" [default: {}]", default.join(" ")) };
            roff.text([roman(help + &default)]).control("RE", []);
        }
    }
    roff
}

fn value(arg: &Arg) -> Inline {
    italic(arg.get_value_names().map(|names| names.join(" ")).unwrap_or_default())
}

fn pairs<const N: usize>(section: &str, pairs: [(&str, &str); N]) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", [section]);
    for (name, what) in pairs {
        roff.control("TP", []).text([bold(name)]).text([roman(what)]);
    }
    roff
}

/// The end of the help, in which a line that is not indented is a heading or a sentence.
fn after_help() -> Roff {
    let mut roff = Roff::new();
    for block in AFTER_HELP.split("\n\n") {
        match block.split_once(":\n").filter(|(_, lines)| lines.starts_with("  ")) {
            Some((heading, lines)) => {
                let (heading, remark) = heading.split_once(" (").unwrap_or((heading, ""));
                roff.control("SH", [heading.to_uppercase().as_str()]);
                if !remark.is_empty() {
                    roff.text([roman(remark.trim_end_matches(')'))]).control("PP", []);
                }
                roff.control("nf", []);
                lines.lines().for_each(|line| _ = roff.text([roman(line.strip_prefix("  ").unwrap_or(line))]));
                roff.control("fi", []);
            }
            None => _ = roff.control("SH", ["NOTES"]).text([roman(block.replace('\n', " "))]),
        }
    }
    roff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_completes_every_flag() {
        let program = Args::command();
        let flags: Vec<&str> = program.get_arguments().filter_map(Arg::get_long).collect();
        for shell in [Shell::Bash, Shell::Elvish, Shell::Fish, Shell::PowerShell, Shell::Zsh] {
            let script = String::from_utf8(completions(shell)).unwrap();
            for flag in &flags {
                assert!(script.contains(flag), "{shell}: {flag}");
            }
        }
    }

    #[test]
    fn the_manual_names_every_flag_and_command() {
        let text = String::from_utf8(manual().unwrap()).unwrap().replace("\\-", "-");
        let program = Args::command();
        for command in std::iter::once(&program).chain(program.get_subcommands()) {
            assert!(text.contains(command.get_name()), "{}", command.get_name());
            for flag in command.get_arguments().filter_map(Arg::get_long) {
                assert!(text.contains(&format!("--{flag}")), "{}: --{flag}", command.get_name());
            }
        }
        let headings: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
        assert_eq!(headings[headings.len() - 4..], ["FILES", "EXAMPLES", "\"EXIT CODES\"", "NOTES"]);
    }
}
