//! Who hears of a survey while it reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use super::naming::Naming;
use crate::policy::survey::{Named, Survey, Wanted};

/// Pages that may wait for a slow listener, before the survey waits for it too.
const PAGES: usize = 4;

/// What somebody asks of a survey beside its counts.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// Which entries it keeps, and which it names.
    pub wanted: Wanted,
    /// Who hears of it.
    pub audience: Audience,
}

/// Who hears of a survey while it reads: how much it has read so far, and the entries that it names as they are read.
#[derive(Clone, Debug, Default)]
pub struct Audience {
    read: Count,
    pages: Option<mpsc::Sender<Page>>,
}

/// A number that grows.
#[derive(Clone, Debug, Default)]
pub struct Count(Arc<AtomicU64>);

impl Count {
    /// How far it has come.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The entries named of one page.
#[derive(Clone, Debug)]
pub struct Page {
    /// The source, and how its entries are called.
    pub naming: Naming,
    /// Those entries, in the order they were read.
    pub entries: Vec<Named>,
}

impl Audience {
    /// Somebody who takes the pages. A survey waits while it has too many of them ahead; one who is gone is no loss.
    pub fn listening() -> (Self, mpsc::Receiver<Page>) {
        let (pages, listener) = mpsc::channel(PAGES);
        (Self { read: Count::default(), pages: Some(pages) }, listener)
    }

    /// How many entries all surveys of this audience have read so far.
    pub fn count(&self) -> Count {
        self.read.clone()
    }

    /// A page of `items` was read into `survey`.
    pub(super) async fn hears(&self, items: usize, survey: &mut Survey, naming: &Naming) {
        self.read.0.fetch_add(items as u64, Ordering::Relaxed);
        let entries = survey.take_as_read();
        if let (false, Some(pages)) = (entries.is_empty(), &self.pages) {
            let _ = pages.send(Page { naming: naming.clone(), entries }).await;
        }
    }
}
