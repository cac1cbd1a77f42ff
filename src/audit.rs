//! The file of the audit record: one writer for all sources of the process.
//!
//! The reapers hand over finished lines and never wait; a thread of its own writes them, one `write` a line, in the order
//! in which they came. While it can't, no line is dropped: evicting pauses instead ([`Audit::pause`]), since a ghost that
//! stays a little longer does no harm, and an eviction that nobody can account for does. The living notice neither.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{error, info, warn};

use crate::policy::load::{Pause, Throttle};

/// With so many lines, or bytes, waiting evicting pauses. What has been sent to Redis by then still finds room: it is no
/// more than a strike of each source.
const MOST_LINES: usize = 10_000;
const MOST_BYTES: usize = 32 << 20;

/// How long after a failure the writer tries again.
const RETRY: Duration = Duration::from_secs(1);

/// Lines that a process which ends tells the log, where the file did not take them.
const TOLD_AT_LEAST: usize = 1_000;

/// A new file is for its owner, and its group to read: it names clients.
const MODE: u32 = 0o640;

/// Why the file could not be written: the label values of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No space is left, for anybody or for us.
    Full,
    /// We may not.
    Permission,
    /// Anything else.
    Other,
}

impl Failure {
    /// Each, in the order of [`Self::index`].
    pub const ALL: [Self; 3] = [Self::Full, Self::Permission, Self::Other];

    /// The name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Permission => "permission",
            Self::Other => "other",
        }
    }

    /// The place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Self::Full,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Permission,
            _ => Self::Other,
        }
    }
}

/// What became of the lines so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Lines that were written.
    pub written: u64,
    /// Attempts that failed, by [`Failure::index`].
    pub failures: [u64; Failure::ALL.len()],
    /// Lines that wait.
    pub waiting: u64,
}

/// Who keeps the file; clones share it. The default keeps none.
#[derive(Clone, Debug, Default)]
pub struct Audit(Option<Arc<Desk>>);

/// What reapers and writer share.
#[derive(Debug)]
struct Desk {
    path: PathBuf,
    state: Mutex<State>,
    /// Something changed.
    news: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Those still to be written; the first may be under way.
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    tally: Tally,
    /// Why the last attempt failed, if it did.
    trouble: Option<String>,
    /// The file is to be opened anew.
    reopens: bool,
    /// No more lines come.
    closing: bool,
    /// The writer has ended.
    ended: bool,
}

impl Audit {
    /// Opens the file, to append to it, and starts the writer. A file that is not there is made; its directory is not.
    ///
    /// # Errors
    /// The file can't be opened, or no thread started.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        let desk = Desk { path: path.to_owned(), state: Mutex::default(), news: Condvar::new() };
        let desk = Arc::new(desk);
        let writer = Writer { desk: Arc::clone(&desk), file, begun: 0 };
        std::thread::Builder::new().name("audit".into()).spawn(move || writer.run())?;
        Ok(Self(Some(desk)))
    }

    /// Whether a file is kept.
    pub fn is_kept(&self) -> bool {
        self.0.is_some()
    }

    /// Takes lines, each with its line break. Never waits, and takes all of them: who evicts asks [`Self::pause`] first.
    pub fn write(&self, lines: Vec<Vec<u8>>) {
        let Some(desk) = self.0.as_ref().filter(|_| !lines.is_empty()) else { return };
        let mut state = desk.locked();
        state.bytes += lines.iter().map(Vec::len).sum::<usize>();
        state.lines.extend(lines);
        drop(state);
        desk.news.notify_all();
    }

    /// Opens the file anew by its name: what rotates logs has given the old one another. Returns at once; every line is in
    /// the one or the other.
    pub fn reopen(&self) {
        let Some(desk) = &self.0 else { return };
        desk.locked().reopens = true;
        desk.news.notify_all();
    }

    /// Why nothing should be evicted now: the file does not take what has been.
    pub fn pause(&self) -> Option<Pause> {
        let desk = self.0.as_ref()?;
        let state = desk.locked();
        let path = desk.path.display();
        let words = match &state.trouble {
            Some(trouble) => format!("the audit file {path} can't be written: {trouble}"),
            None if state.lines.len() >= MOST_LINES || state.bytes >= MOST_BYTES => {
                format!("{} lines wait for the audit file {path}", state.lines.len())
            }
            None => return None,
        };
        Some(Pause { why: Throttle::Audit, words })
    }

    /// What became of the lines so far.
    pub fn tally(&self) -> Tally {
        let Some(desk) = &self.0 else { return Tally::default() };
        let state = desk.locked();
        Tally { waiting: state.lines.len() as u64, ..state.tally }
    }

    /// Waits until every line is written and on the disk, unless that fails, but no longer than `patience`. Returns how
    /// many are not; unless ids are `hidden`, the log is told the first thousand of them. Blocks.
    pub fn close(&self, patience: Duration, hidden: bool) -> u64 {
        let Some(desk) = &self.0 else { return 0 };
        let mut state = desk.locked();
        state.closing = true;
        desk.news.notify_all();
        let ended = desk.news.wait_timeout_while(state, patience, |state| !state.ended);
        let (state, _) = ended.unwrap_or_else(PoisonError::into_inner);
        let (path, left) = (desk.path.display(), state.lines.len());
        if left > 0 {
            error!(%path, lines = left, "the audit record is not whole: these could not be written");
        }
        for line in state.lines.iter().take(TOLD_AT_LEAST).filter(|_| !hidden) {
            error!("audit record not written: {}", String::from_utf8_lossy(line).trim_end());
        }
        left as u64
    }
}

impl Desk {
    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(MODE).open(path)
}

/// Who writes.
struct Writer {
    desk: Arc<Desk>,
    file: File,
    /// Bytes of the first line that the file has already, where a write took only some.
    begun: usize,
}

/// What there is to do.
enum Task {
    Reopen,
    Write(Vec<u8>),
    End,
}

impl Writer {
    fn run(mut self) {
        loop {
            let (done, last) = match self.next() {
                Task::Reopen => (self.reopen(), false),
                Task::Write(line) => (self.write(&line), true),
                Task::End => break,
            };
            match done {
                Ok(()) => self.succeeded(),
                Err(error) if self.failed(&error) && last => break,
                Err(_) => {}
            }
        }
        let synced = self.file.sync_data();
        if let Err(error) = synced.as_ref().map_err(|error| error.kind())
            && !matches!(error, io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
        {
            warn!(path = %self.desk.path.display(), %error, "the audit file may not be on the disk");
        }
        self.desk.locked().ended = true;
        self.desk.news.notify_all();
    }

    /// Waits for something to do. The line stays where it is until it is written.
    fn next(&self) -> Task {
        let state = self.desk.locked();
        let idle = |state: &mut State| state.lines.is_empty() && !state.reopens && !state.closing;
        let state = self.desk.news.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner);
        match state.lines.front() {
            // At the end the file that is open will do.
            _ if state.reopens && !state.closing => Task::Reopen,
            Some(line) => Task::Write(line.clone()),
            None => Task::End,
        }
    }

    /// The old file keeps the lines that it has. Of one that it has in part, the new one gets all.
    fn reopen(&mut self) -> io::Result<()> {
        // Whoever asks from now on asks for another time.
        self.desk.locked().reopens = false;
        let file = open(&self.desk.path).inspect_err(|_| self.desk.locked().reopens = true)?;
        let _ = std::mem::replace(&mut self.file, file).sync_data();
        self.begun = 0;
        info!(path = %self.desk.path.display(), "opened the audit file anew");
        Ok(())
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        while let Some(rest) = line.get(self.begun..).filter(|rest| !rest.is_empty()) {
            match self.file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.begun += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.begun = 0;
        let mut state = self.desk.locked();
        state.lines.pop_front();
        state.bytes = state.bytes.saturating_sub(line.len());
        state.tally.written += 1;
        Ok(())
    }

    fn succeeded(&self) {
        if self.desk.locked().trouble.take().is_some() {
            info!(path = %self.desk.path.display(), "the audit file can be written again");
        }
    }

    /// Counts it, tells it where it is news, and waits until it is time to try again; says whether there is no more time.
    fn failed(&self, error: &io::Error) -> bool {
        let mut state = self.desk.locked();
        state.tally.failures[Failure::of(error).index()] += 1;
        let known = state.trouble.replace(error.to_string()).is_some();
        if !known {
            warn!(
                path = %self.desk.path.display(),
                %error,
                "the audit file can't be written; evicting pauses until it can, and no record is lost meanwhile"
            );
        }
        let reopens = state.reopens;
        let waits = |state: &mut State| !state.closing && state.reopens == reopens;
        let waited = self.desk.news.wait_timeout_while(state, RETRY, waits);
        waited.unwrap_or_else(PoisonError::into_inner).0.closing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn lines(numbers: std::ops::Range<usize>) -> Vec<Vec<u8>> {
        numbers.map(|number| format!("line {number}\n").into_bytes()).collect()
    }

    #[track_caller]
    fn wait_until(holds: impl Fn() -> bool) {
        let tries = (0..2_000).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            holds()
        });
        assert!(tries, "not within twenty seconds");
    }

    #[test]
    fn lines_are_appended_in_order_and_whole_at_the_close() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("audit");
        std::fs::write(&path, "earlier\n").unwrap();
        let audit = Audit::open(&path).unwrap();
        for batch in 0..100 {
            audit.write(lines(batch * 100..batch * 100 + 100));
        }
        assert_eq!(audit.close(LONG, false), 0);
        let expected = [b"earlier\n".to_vec(), lines(0..10_000).concat()].concat();
        assert_eq!(std::fs::read(&path).unwrap(), expected);
        assert_eq!(audit.tally(), Tally { written: 10_000, ..Tally::default() });
    }

    #[test]
    fn what_is_rotated_away_and_opened_anew_loses_no_line() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("audit");
        let audit = Audit::open(&path).unwrap();
        for round in 0..20 {
            audit.write(lines(round * 100..round * 100 + 100));
            std::fs::rename(&path, dir.path().join(format!("audit.{round:02}"))).unwrap();
            audit.reopen();
            wait_until(|| path.exists());
        }
        assert_eq!(audit.close(LONG, false), 0);
        let mut files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        // The newest has no number.
        files.rotate_left(1);
        let all: Vec<u8> = files.iter().flat_map(|file| std::fs::read(file).unwrap()).collect();
        assert_eq!(all, lines(0..2_000).concat());
    }

    #[test]
    fn a_full_disk_pauses_evictions_and_drops_nothing() {
        let audit = Audit::open(Path::new("/dev/full")).unwrap();
        assert_eq!(audit.pause(), None, "nothing was tried yet");
        audit.write(lines(0..3));
        wait_until(|| audit.pause().is_some());
        let pause = audit.pause().unwrap();
        assert_eq!(pause.why, Throttle::Audit);
        assert!(pause.words.starts_with("the audit file /dev/full can't be written: "), "{}", pause.words);
        let tally = audit.tally();
        assert!(tally.failures[Failure::Full.index()] >= 1 && (tally.waiting, tally.written) == (3, 0), "{tally:?}");
        assert_eq!(audit.close(LONG, true), 3);
    }

    /// A name that leads nowhere for a while: the lines wait for it, and evicting pauses.
    #[test]
    fn what_can_not_be_opened_anew_is_tried_again() {
        let dir = tempfile::TempDir::new().unwrap();
        let (sub, moved) = (dir.path().join("log"), dir.path().join("moved"));
        std::fs::create_dir(&sub).unwrap();
        let path = sub.join("audit");
        let audit = Audit::open(&path).unwrap();
        std::fs::rename(&sub, &moved).unwrap();
        audit.reopen();
        wait_until(|| audit.pause().is_some());
        audit.write(lines(0..2));
        std::fs::create_dir(&sub).unwrap();
        wait_until(|| audit.pause().is_none());
        assert_eq!(audit.close(LONG, false), 0);
        let all = [std::fs::read(moved.join("audit")).unwrap(), std::fs::read(&path).unwrap()].concat();
        assert_eq!(all, lines(0..2).concat());
    }

    #[test]
    fn at_the_end_the_file_that_is_open_will_do() {
        let dir = tempfile::TempDir::new().unwrap();
        let (sub, moved) = (dir.path().join("log"), dir.path().join("moved"));
        std::fs::create_dir(&sub).unwrap();
        let audit = Audit::open(&sub.join("audit")).unwrap();
        std::fs::rename(&sub, &moved).unwrap();
        audit.reopen();
        wait_until(|| audit.pause().is_some());
        audit.write(lines(0..2));
        assert_eq!(audit.close(LONG, false), 0);
        assert_eq!(std::fs::read(moved.join("audit")).unwrap(), lines(0..2).concat());
    }

    #[test]
    fn more_than_a_bound_of_lines_pauses_evictions() {
        let audit = Audit::open(Path::new("/dev/full")).unwrap();
        audit.write(lines(0..MOST_LINES));
        assert!(audit.pause().is_some(), "whether or not the first was tried by now");
        audit.close(LONG, true);
    }

    #[test]
    fn a_file_that_can_not_be_opened_is_refused() {
        let dir = tempfile::TempDir::new().unwrap();
        assert!(Audit::open(&dir.path().join("none/audit")).is_err());
        assert!(Audit::open(dir.path()).is_err());
        assert!(!Audit::default().is_kept() && Audit::default().pause().is_none());
    }
}
