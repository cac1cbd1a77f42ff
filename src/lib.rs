//! presence-reaper evicts stale presence entries from Redis, atomically and with everything that belongs to them.
//!
//! # The map
//!
//! A core decides, a shell reads and acts; every room has one job.
//!
//! | room | its job | may use |
//! |---|---|---|
//! | `main` | parses, builds, waits for a signal, exit code | everything |
//! | [`cli`] | what a person can type, and the texts made from it: completions, manual | `config`, the orders of `policy` |
//! | [`config`] | file, environment and flags → one checked configuration | `language`, `policy`, the parts' settings |
//! | [`language`] | the words, patterns, templates and conditions of a source: text → checked values | `policy` |
//! | [`check`] | what a checked configuration comes to, and the rights it needs | `config`, `policy`, settings of `store`, `text` |
//! | [`assemble`] | a checked configuration → the reapers of a process, or those that go on where others were; and where they are ordered | `config`, `reaper`, `store`, `webhook`, `audit`, `policy`, `clock`, `text` |
//! | [`service`] | the daemon with its faces: loops, metrics, endpoints, systemd; and how it takes over another configuration | all of these but `cli` |
//! | [`supervisor`] | what systemd is told | nothing |
//! | [`daemon`] | the loop: when to survey, when to strike, when to stop; health, and the latest of each source | `reaper`, `policy`, `store`, `clock` |
//! | [`inspect`] | a configuration tried on its server: rights, samples | `assemble`, `check`, `config`, `policy`, `store`, `clock`, `text` |
//! | [`oneshot`] | the audit and `--once`: survey and strike without the loop | `reaper`, `policy`, `clock`, an ask and the processes of `store`, couriers of `webhook` |
//! | [`operator`] | orders given from outside, and how things stand | orders and processes of `store`, `policy`, `text` |
//! | [`reaper`] | one source's survey and strike: the sweep | `policy`, `store`, queues of `webhook`, `audit`, `clock`, `text` |
//! | [`policy`] | the rule: plain values in, plain values out | nothing |
//! | [`store`] | the Redis edge: one database of one master | `policy`, `language`, `clock`, `text` |
//! | [`webhook`] | queues of what webhooks are to be told, and who delivers it | `policy`, the outbox, connections, CAs and secrets of `store`, `clock` |
//! | [`audit`] | the file of the audit record, and who writes it | `policy` |
//! | [`report`] | what a single run found, as tables, JSON or lines; a daemon's `/status` | `policy`, a finding and the turns of `reaper`, the naming of `store`, `text` |
//! | [`output`] | stdout, a file that is replaced as a whole, and the line of stderr that is written over | nothing |
//! | [`metrics`] | what Prometheus sees | `policy`, a report and a finding of `reaper`, a status of `store`, a tally of `webhook`, one of `audit` |
//! | [`http`] | the endpoints | nothing |
//! | [`logging`] | what is said on stderr | `clock` |
//! | [`demo`] | the program at work on a private server | `assemble`, `config`, `service`, `daemon`, `reaper`, `policy`, `clock` |
//! | [`clock`] | the process's clocks | `policy` |
//! | [`text`] | bytes as people read them, or with ids hidden; colour | nothing |
//!
//! Arrows point inwards: `main → cli, config, service → daemon → reaper → policy ← store`, `reaper → webhook → store`; `language` serves `config` and `store`.
//!
//! # What always holds
//!
//! 1. `policy` knows no clock, no Redis, no `async`.
//! 2. `Store::evict` has one call site, in `reaper`.
//! 3. A script compares and checks everything before its first write.
//! 4. Every loop over what Redis answers is bounded, and says by what.
//! 5. Label values come from enums.
//! 6. Only `main` prints errors and ends the process.
//!
//! `tests/it/tidy.rs` reads the source and fails where the map or one of these does not hold.

pub mod assemble;
pub mod audit;
pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod demo;
pub mod http;
pub mod inspect;
pub mod language;
pub mod logging;
pub mod metrics;
pub mod oneshot;
pub mod operator;
pub mod output;
pub mod policy;
pub mod reaper;
pub mod report;
pub mod service;
pub mod store;
pub mod supervisor;
pub mod text;
pub mod webhook;
