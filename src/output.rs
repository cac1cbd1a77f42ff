//! stdout, where data goes, and the line of stderr that is written over while somebody waits.
//!
//! Whoever closes the pipe has seen enough: that is no failure.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc::Receiver;
use tokio::sync::mpsc::error::TryRecvError;

/// How writing to stdout ended.
#[derive(Debug)]
pub enum Written {
    /// All of it was taken.
    Whole,
    /// The reader left before the end.
    ReaderLeft,
    /// It could not be written.
    Failed(io::Error),
}

impl From<io::Result<()>> for Written {
    fn from(result: io::Result<()>) -> Self {
        match result {
            Ok(()) => Self::Whole,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Self::ReaderLeft,
            Err(error) => Self::Failed(error),
        }
    }
}

/// Writes to stdout in one go.
pub fn write_whole(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Written {
    let mut out = BufWriter::new(io::stdout().lock());
    write(&mut out).and_then(|()| out.flush()).into()
}

/// Writes to stdout what comes, until nothing more can come; `left` is called if that ends before. Blocks, so it wants
/// a thread of its own. What has come is never held back for what may come.
pub fn write_as_it_comes<T>(
    mut pages: Receiver<T>,
    mut write: impl FnMut(T, &mut dyn Write) -> io::Result<()>,
    left: impl FnOnce(),
) -> Written {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut write_all = || {
        // bound: until every sender is gone
        loop {
            let page = match pages.try_recv() {
                Ok(page) => Some(page),
                Err(TryRecvError::Disconnected) => None,
                Err(TryRecvError::Empty) => {
                    out.flush()?;
                    pages.blocking_recv()
                }
            };
            match page {
                Some(page) => write(page, &mut out)?,
                None => return out.flush(),
            }
        }
    };
    let written = write_all().into();
    if !matches!(written, Written::Whole) {
        left();
    }
    written
}

/// A line of stderr that is written over: only a terminal has one.
#[derive(Debug, Default)]
pub struct StatusLine {
    shown: AtomicBool,
}

impl StatusLine {
    /// Whether anybody would see it.
    pub fn is_seen() -> bool {
        io::stderr().is_terminal()
    }

    /// Writes it over.
    pub fn show(&self, text: &str) {
        if Self::is_seen() {
            self.shown.store(true, Ordering::Relaxed);
            let _ = write!(io::stderr(), "\r\x1b[K{text}");
        }
    }

    /// Takes it away, if it is there.
    pub fn clear(&self) {
        if self.shown.swap(false, Ordering::Relaxed) {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
