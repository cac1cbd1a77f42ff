//! The language of a source: text → checked values.
//!
//! Every string is read in three steps, always in this order: TOML gives a string, [`words`] splits it, each word
//! becomes a [`template::Template`] or a [`pattern::Pattern`]. What a template brings in is never split or read again,
//! so ids may hold spaces, quotes, braces or any byte.
