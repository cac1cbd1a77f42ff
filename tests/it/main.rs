//! Everything that needs more than one room: the program, real servers, and the source tree itself.
//!
//! One binary, so that it links once. `harness` is the vocabulary; every other module is a set of tests. A test that
//! stands in `for_each_server!` runs once on each server at hand, and its name says on which.

// Clippy's leave for tests ends at the functions marked `#[test]`; here every function serves one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what broke by panicking")]

#[macro_use]
mod harness;

mod acl;
mod alerts;
mod audit;
mod cli;
mod companions;
mod connections;
mod dashboard;
mod demo;
mod edge;
mod endpoints;
mod faces;
mod forms;
mod harness_works;
mod inspect;
mod kubernetes;
mod language_page;
mod lookups;
mod main_job;
mod metrics_file;
mod notify;
mod operator;
mod reload;
mod reports;
mod rooms;
mod rule;
mod script;
mod simulation;
mod supervisor;
mod survey;
mod tidy;
mod units;
mod unless;
mod webhook;
mod world;
