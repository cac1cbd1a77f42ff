//! The vocabulary of the tests: servers, a hub, a witness, a bad network, and the program under test.
//!
//! What a test starts it owns: everything is killed by its handle when the value goes, stopped processes too, and all of
//! it stays on loopback.

#![allow(dead_code, unused_imports, reason = "a vocabulary is said in full; each test takes the words it needs")]

mod authority;
mod binary;
mod confined;
mod hub;
mod oracle;
mod proxy;
#[macro_use]
mod server;
mod wait;

pub(crate) use authority::{Authority, Leaf};
pub(crate) use binary::{Binary, Daemon, Finished, Metrics, Reply, get};
pub(crate) use confined::{User, generation, generation_named, user_on, wanted as confined};
pub(crate) use hub::{Hub, Layout, Pinging, Refresh};
pub(crate) use oracle::{Verdict, Write, judge};
pub(crate) use proxy::{AfterLoss, Direction, Mode, Proxy};
pub(crate) use server::{Builder, Given, Kind, Server, Tls, servers};
pub(crate) use wait::{eventually, free_port};
