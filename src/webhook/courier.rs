//! Who empties a webhook's queue or outbox: a batch at a time, until it was taken, or never will be.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::post::{Failed, Failure, Sender};
use super::{Event, Hook, Loss, body};
use crate::policy::schedule;
use crate::store::outbox::{Outbox, Waiting};

/// How often an outbox of ours is looked into although nobody said that it holds anything new.
const LOOKED_INTO_EVERY: Duration = Duration::from_secs(5);

/// How often we ask whether the outbox has become ours.
const LEASE_ASKED_EVERY: Duration = Duration::from_millis(500);

/// An outbox that holds more is told of: nobody cuts it, and it fills Redis.
const LARGE_OUTBOX: u64 = 10_000;

/// What goes wrong again and again is told so often.
const TOLD_EVERY: Duration = Duration::from_secs(60);

pub(super) struct Courier {
    hook: Arc<Hook>,
    refusals: Telling,
    losses: Telling,
    growth: Telling,
}

impl Courier {
    pub(super) fn of(hook: Arc<Hook>) -> Self {
        Self { hook, refusals: Telling::default(), losses: Telling::default(), growth: Telling::default() }
    }

    /// Delivers until `stop` and what waits was delivered, or until patience is at its end.
    pub(super) async fn run(mut self, stop: CancellationToken, patience: Duration) {
        let hook = Arc::clone(&self.hook);
        let impatience = async {
            stop.cancelled().await;
            tokio::time::sleep(patience).await;
        };
        tokio::select! {
            () = self.work(&stop) => {}
            () = impatience => {}
        }
        close(&hook);
    }

    async fn work(&mut self, stop: &CancellationToken) {
        let hook = Arc::clone(&self.hook);
        let mut sender = Sender::to(&hook.settings);
        match &hook.outbox {
            None => self.empty_queue(&mut sender, stop).await,
            Some(outbox) => self.empty_outbox(outbox, &mut sender, stop).await,
        }
    }

    // === queue ===

    async fn empty_queue(&mut self, sender: &mut Sender<'_>, stop: &CancellationToken) {
        let hook = Arc::clone(&self.hook);
        // bound: until told to stop and nothing waits; every turn delivers a batch or waits for one
        loop {
            let Some(batch) = hook.take_batch() else {
                tokio::select! {
                    () = hook.news.notified() => continue,
                    () = stop.cancelled() => return,
                }
            };
            let taken = self.deliver(&batch, sender, None).await;
            hook.with(|state| {
                state.taken = 0;
                if !taken {
                    state.tally.lost[Loss::Refused.index()] += batch.len() as u64;
                }
            });
        }
    }

    // === outbox ===

    async fn empty_outbox(&mut self, outbox: &Outbox, sender: &mut Sender<'_>, stop: &CancellationToken) {
        let hook = Arc::clone(&self.hook);
        // bound: until told to stop; every turn delivers a batch or waits
        while !stop.is_cancelled() {
            let rest = match self.empty_some(outbox, sender, stop).await {
                Some(true) => continue,
                Some(false) => LOOKED_INTO_EVERY,
                None => LEASE_ASKED_EVERY,
            };
            tokio::select! {
                () = hook.news.notified(), if rest == LOOKED_INTO_EVERY => {}
                () = tokio::time::sleep(rest) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Whether there was anything; none if we can't say, for it is not ours or not to be read.
    async fn empty_some(&mut self, outbox: &Outbox, sender: &mut Sender<'_>, stop: &CancellationToken) -> Option<bool> {
        let hook = Arc::clone(&self.hook);
        if !outbox.is_ours() {
            hook.with(|state| state.tally.outbox = 0);
            return None;
        }
        // What comes in from here on will be looked for again.
        hook.with(|state| state.unread = false);
        let read = outbox.read(hook.settings.batch).await;
        let (mut waiting, length) = match read {
            Ok(read) => read,
            Err(error) => {
                hook.with(|state| state.unread = true);
                if self.refusals.is_due() {
                    warn!(source = &*hook.source, %error, "the outbox can't be read; tried again until it works");
                }
                return None;
            }
        };
        waiting.truncate(body::fitting(waiting.iter().map(|one| one.text.len()), hook.settings.batch));
        hook.with(|state| {
            state.taken = waiting.len();
            state.tally.outbox = length;
        });
        if length > LARGE_OUTBOX && self.growth.is_due() {
            let webhook = hook.settings.url.to_string();
            warn!(source = &*hook.source, webhook, waiting = length, "the outbox grows: nothing in it is ever dropped");
        }
        let ids: Vec<String> = waiting.iter().map(|one| one.id.clone()).collect();
        let event = |Waiting { id, form, text }| Event { id: format!("{}:{id}", outbox.name()), form, text };
        let batch: Vec<Event> = waiting.into_iter().map(event).collect();
        if !batch.is_empty() && self.deliver(&batch, sender, Some((outbox, stop))).await {
            self.take_out(outbox, &ids, stop).await;
        }
        hook.with(|state| {
            state.taken = 0;
            state.unread |= !batch.is_empty();
        });
        Some(!batch.is_empty())
    }

    /// What was delivered may not be delivered again for ever, if Redis is away at just that moment.
    async fn take_out(&mut self, outbox: &Outbox, ids: &[String], stop: &CancellationToken) {
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let mut failures = 0;
        // bound: until it is out, not ours any more, or we are told to stop; every turn sleeps
        while outbox.is_ours() {
            match outbox.remove(&ids).await {
                Ok(()) => {
                    return self.hook.with(|state| state.tally.outbox -= (ids.len() as u64).min(state.tally.outbox));
                }
                Err(error) if self.refusals.is_due() => {
                    warn!(source = &*self.hook.source, %error, "delivered, but still in the outbox; tried again");
                }
                Err(_) => {}
            }
            failures += 1;
            let wait = tokio::time::sleep(schedule::backoff(failures, fastrand::f64()));
            if stop.run_until_cancelled(wait).await.is_none() {
                return;
            }
        }
    }

    // === delivery ===

    /// Sends the batch until it was taken; false if it never will be. What is in an outbox is not given up: it is sent again
    /// until it was taken, as long as the outbox is ours and nobody stops us.
    async fn deliver(
        &mut self,
        batch: &[Event],
        sender: &mut Sender<'_>,
        kept: Option<(&Outbox, &CancellationToken)>,
    ) -> bool {
        let (document, delivery) = (body::render(&self.hook.source, batch), body::delivery(batch));
        let mut failures = 0;
        // bound: until it was taken or is given up; every turn sleeps
        loop {
            let sent = sender.post(&document, &delivery).await;
            self.note(&sent, batch.len());
            let Err(failed) = sent else { return true };
            if failed.why == Failure::Refused && kept.is_none() {
                return false;
            }
            failures += 1;
            let wait = schedule::backoff(failures, fastrand::f64()).max(failed.retry_after.unwrap_or_default());
            let sleep = tokio::time::sleep(wait);
            match kept {
                None => sleep.await,
                Some((outbox, stop)) => {
                    if stop.run_until_cancelled(sleep).await.is_none() || !outbox.is_ours() {
                        return false;
                    }
                }
            }
        }
    }

    /// Counts an attempt, and complains.
    fn note(&mut self, sent: &Result<(), Failed>, events: usize) {
        let hook = &self.hook;
        hook.with(|state| {
            state.tally.posts += 1;
            match sent {
                Ok(()) => state.tally.delivered += events as u64,
                Err(failed) => state.tally.failures[failed.why.index()] += 1,
            }
        });
        let (source, webhook) = (&*hook.source, hook.settings.url.to_string());
        match sent {
            Ok(()) => {
                if std::mem::take(&mut self.refusals).has_told() {
                    info!(source, webhook, "delivered again");
                }
            }
            Err(failed) if failed.why == Failure::Refused && hook.outbox.is_none() => {
                if self.losses.is_due() {
                    warn!(
                        source,
                        webhook,
                        lost = events,
                        "the webhook refuses what it is told, and that is lost: {}",
                        failed.what
                    );
                }
            }
            Err(failed) => {
                if self.refusals.is_due() {
                    let waiting = hook.tally();
                    let waiting = waiting.waiting.max(waiting.outbox);
                    warn!(source, webhook, waiting, "not delivered, tried again until it is: {}", failed.what);
                }
            }
        }
    }
}

/// What still waits is lost with us, or for the next process to deliver.
fn close(hook: &Hook) {
    let (source, webhook) = (&*hook.source, hook.settings.url.to_string());
    let left = hook.with(|state| {
        let left = (state.queue.len() + state.taken) as u64;
        state.queue.clear();
        (state.bytes, state.taken, state.unread) = (0, 0, false);
        if hook.outbox.is_some() {
            return state.tally.outbox;
        }
        state.tally.lost[Loss::Stopped.index()] += left;
        left
    });
    match &hook.outbox {
        None if left > 0 => warn!(source, webhook, lost = left, "stopped before everything was delivered"),
        Some(_) if left > 0 => {
            info!(source, webhook, left, "what is left in the outbox is delivered by the next process")
        }
        _ => {}
    }
}

/// Tells something at once, and then not again for a while.
#[derive(Default)]
struct Telling {
    last: Option<Instant>,
}

impl Telling {
    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let due = self.last.is_none_or(|last| now.duration_since(last) >= TOLD_EVERY);
        if due {
            self.last = Some(now);
        }
        due
    }

    fn has_told(&self) -> bool {
        self.last.is_some()
    }
}
