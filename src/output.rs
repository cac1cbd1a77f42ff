//! stdout, where data goes, a file that somebody else reads, and the line of stderr that is written over while somebody
//! waits.
//!
//! Whoever closes the pipe has seen enough: that is no failure.

use std::fs::{self, Permissions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::NamedTempFile;
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

/// A file that is written aside and then renamed: whoever reads it meets the old one or the new one, never half of it.
/// Everybody may read it, since those who do are others. Dropped before it is finished, it leaves nothing.
#[derive(Debug)]
pub struct Replacement {
    path: PathBuf,
    aside: NamedTempFile,
}

impl Replacement {
    /// Beside `path`, under a name that no collector reads.
    ///
    /// # Errors
    /// Nothing can be written there, or something else than a file is there: what were renamed over a link or a device
    /// would take its place.
    pub fn begin(path: &Path) -> io::Result<Self> {
        if fs::symlink_metadata(path).is_ok_and(|there| !there.is_file()) {
            return Err(io::Error::other("this is no regular file: name one, or one that does not exist yet"));
        }
        let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
        let aside = tempfile::Builder::new()
            .prefix(".presence-reaper-")
            .suffix(".tmp")
            .tempfile_in(directory.unwrap_or(Path::new(".")))?;
        aside.as_file().set_permissions(Permissions::from_mode(0o644))?;
        Ok(Self { path: path.to_owned(), aside })
    }

    /// Writes it, and puts it in its place.
    ///
    /// # Errors
    /// Whatever the system says; then the old file stands.
    pub fn finish(mut self, text: &str) -> io::Result<()> {
        self.aside.write_all(text.as_bytes())?;
        self.aside.persist(self.path)?;
        Ok(())
    }
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
