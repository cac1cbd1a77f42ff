//! The Redis edge: a Store is one database of one master.

pub mod connect;
