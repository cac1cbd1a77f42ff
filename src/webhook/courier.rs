//! Who empties a webhook's queue or outbox: a batch at a time, until it was taken, or never will be.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::portion::Portion;
use super::post::{Failed, Failure, Sender};
use super::{Event, Hook, Loss, body};
use crate::policy::duration::in_words;
use crate::policy::schedule;
use crate::store::outbox::{Bounds, Outbox, Page, Waiting};

/// How often an outbox of ours is looked into although nobody said that it holds anything new.
const LOOKED_INTO_EVERY: Duration = Duration::from_secs(5);

/// How often we ask whether the outbox has become ours.
const LEASE_ASKED_EVERY: Duration = Duration::from_millis(500);

/// An outbox that holds more is told of: nobody cuts it, and it fills Redis.
const LARGE_OUTBOX: u64 = 10_000;

/// How long what was set aside is told again, how often, and how many events each time. Whoever runs the receiver has a
/// day to mend it, and nothing to do here afterwards.
const TRIED_AGAIN_FOR: Duration = Duration::from_secs(24 * 3_600);
const TRIED_AGAIN_EVERY: Duration = Duration::from_secs(300);
const TRIED_AGAIN_AT_ONCE: u32 = 100;
const TRIED_AGAIN_WITHIN: Duration = Duration::from_secs(10);

/// What goes wrong again and again is told so often.
const TOLD_EVERY: Duration = Duration::from_secs(60);

pub(super) struct Courier {
    hook: Arc<Hook>,
    portion: Portion,
    /// Events refused in a row, each for what it says.
    refused: u32,
    /// When what was set aside was last told again.
    tried_again: Option<Instant>,
    /// The last of them that was; the next time those behind it are.
    tried: Option<String>,
    refusals: Telling,
    losses: Telling,
    growth: Telling,
}

impl Courier {
    pub(super) fn of(hook: Arc<Hook>) -> Self {
        Self {
            portion: Portion::of(hook.settings.batch),
            hook,
            refused: 0,
            tried_again: None,
            tried: None,
            refusals: Telling::default(),
            losses: Telling::default(),
            growth: Telling::default(),
        }
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
            Some(outbox) => self.empty_outbox(&Kept { outbox, stop }, &mut sender).await,
        }
    }

    // === queue ===

    async fn empty_queue(&mut self, sender: &mut Sender<'_>, stop: &CancellationToken) {
        let hook = Arc::clone(&self.hook);
        // bound: until told to stop and nothing waits; every turn delivers a batch or waits for one
        loop {
            match hook.take_batch() {
                Some(batch) => _ = self.work_through(&batch, sender, None).await,
                None => tokio::select! {
                    () = hook.news.notified() => {}
                    () = stop.cancelled() => return,
                },
            }
        }
    }

    // === outbox ===

    async fn empty_outbox(&mut self, kept: &Kept<'_>, sender: &mut Sender<'_>) {
        let hook = Arc::clone(&self.hook);
        // bound: until told to stop; every turn delivers a batch or waits
        while !kept.stop.is_cancelled() {
            self.try_again(kept, sender).await;
            let rest = match self.empty_some(kept, sender).await {
                Some(true) => continue,
                Some(false) => LOOKED_INTO_EVERY,
                None => LEASE_ASKED_EVERY,
            };
            tokio::select! {
                () = hook.news.notified(), if rest == LOOKED_INTO_EVERY => {}
                () = tokio::time::sleep(rest) => {}
                () = kept.stop.cancelled() => {}
            }
        }
    }

    /// Whether there was anything; none if we can't say or go on, for it is not ours or Redis is away.
    async fn empty_some(&mut self, kept: &Kept<'_>, sender: &mut Sender<'_>) -> Option<bool> {
        let (hook, outbox) = (Arc::clone(&self.hook), kept.outbox);
        if !outbox.is_ours() {
            hook.with(|state| (state.tally.outbox, state.tally.set_aside) = (0, 0));
            return None;
        }
        // What comes in from here on will be looked for again.
        hook.with(|state| (state.unread, state.looking) = (false, true));
        let bounds = Bounds { events: hook.settings.batch, bytes: body::MOST_BYTES };
        let Page { waiting, length } = match outbox.read(bounds).await {
            Ok(page) => page,
            Err(error) => {
                hook.with(|state| (state.unread, state.looking) = (true, false));
                self.complain("the outbox can't be read; tried again until it works", &error);
                return None;
            }
        };
        hook.with(|state| {
            state.taken = waiting.len();
            state.tally.outbox = length;
        });
        if length > LARGE_OUTBOX && self.growth.is_due() {
            let webhook = hook.settings.url.to_string();
            warn!(source = &*hook.source, webhook, waiting = length, "the outbox grows: nothing in it is ever dropped");
        }
        let batch: Vec<Event> = waiting.into_iter().map(|one| kept.event(one)).collect();
        let done = self.work_through(&batch, sender, Some(kept)).await;
        hook.with(|state| {
            (state.taken, state.looking) = (0, false);
            state.unread |= !batch.is_empty();
        });
        done.then_some(!batch.is_empty())
    }

    /// What was delivered may not be delivered again for ever, if Redis is away at just that moment. It is taken out even
    /// where the lease has gone to another meanwhile: an entry of a stream has an id of its own, and this one was delivered,
    /// whoever leads. At worst the other delivers it too, which it might have done anyway.
    async fn take_out(&mut self, kept: &Kept<'_>, delivered: &[Event]) -> bool {
        let ids: Vec<&str> = delivered.iter().filter_map(|event| event.entry.as_deref()).collect();
        let mut failures = 0;
        // bound: until it is out, not ours any more, or we are told to stop; every turn sleeps
        loop {
            let Err(error) = kept.outbox.remove(&ids).await else { return true };
            self.complain("delivered, but still in the outbox; tried again", &error);
            failures += 1;
            if !kept.waits(schedule::backoff(failures, fastrand::f64())).await {
                return false;
            }
        }
    }

    // === set aside ===

    async fn set_aside(&mut self, kept: &Kept<'_>, event: &Event, what: &str) -> bool {
        let hook = Arc::clone(&self.hook);
        let entry = event.entry.as_deref().unwrap_or_default();
        let [now, dropped] = match kept.outbox.set_aside(entry, &event.id).await {
            Ok(counts) => counts,
            Err(error) => {
                self.complain(
                    "the webhook refused an event, and it can't be set aside; tried again until it works",
                    &error,
                );
                return false;
            }
        };
        hook.with(|state| {
            state.tally.set_aside = now;
            state.tally.newly_set_aside += 1;
            state.tally.lost[Loss::Refused.index()] += dropped;
        });
        if self.losses.is_due() {
            let (webhook, aside) = (hook.settings.url.to_string(), kept.outbox.shown_aside());
            warn!(
                source = &*hook.source,
                webhook,
                event = event.id,
                aside,
                set_aside = now,
                "the webhook refused an event; it is set aside, tried again for {}, and then left there: {what}",
                in_words(TRIED_AGAIN_FOR)
            );
        }
        true
    }

    /// Tells what was set aside once more, each event by itself, the oldest first, and at most so many at once.
    async fn try_again(&mut self, kept: &Kept<'_>, sender: &mut Sender<'_>) {
        if !kept.outbox.is_ours() || self.tried_again.is_some_and(|last| last.elapsed() < TRIED_AGAIN_EVERY) {
            return;
        }
        self.tried_again = Some(Instant::now());
        let hook = Arc::clone(&self.hook);
        let bounds = Bounds { events: TRIED_AGAIN_AT_ONCE, bytes: body::MOST_BYTES };
        let page = kept.outbox.set_aside_within(TRIED_AGAIN_FOR, self.tried.as_deref(), bounds).await;
        let page = match page {
            Ok(page) => page,
            Err(error) => return self.complain("what was set aside can't be read; tried again until it works", &error),
        };
        hook.with(|state| state.tally.set_aside = page.length);
        if page.waiting.is_empty() {
            // From the head the next time.
            self.tried = None;
            return;
        }
        let began = Instant::now();
        for one in page.waiting {
            // New events wait meanwhile.
            if kept.stop.is_cancelled() || !kept.outbox.is_ours() || began.elapsed() > TRIED_AGAIN_WITHIN {
                return;
            }
            self.tried_again = Some(Instant::now());
            let entry = one.id.clone();
            let event = [kept.event(one)];
            let sent = sender.post(&body::render(&hook.source, &event), &body::delivery(&event)).await;
            self.note(&sent, 1);
            match sent {
                Ok(()) => {
                    // Those behind it need not wait, for the receiver seems to be mended.
                    self.tried_again = None;
                    match kept.outbox.remove_set_aside(&entry).await {
                        Ok(()) => hook.with(|state| state.tally.set_aside = state.tally.set_aside.saturating_sub(1)),
                        Err(error) => self.complain("delivered, but still set aside; tried again", &error),
                    }
                }
                Err(failed) if failed.why == Failure::Unacceptable => {}
                // It has other troubles now.
                Err(_) => return,
            }
            self.tried = Some(entry);
        }
    }

    // === delivery ===

    /// Delivers these, in their order and in portions; false if it had to leave some where they are. One that the
    /// receiver will not have is found by smaller portions, and set aside or lost; the others are not.
    async fn work_through(&mut self, batch: &[Event], sender: &mut Sender<'_>, kept: Option<&Kept<'_>>) -> bool {
        let hook = Arc::clone(&self.hook);
        let mut rest = batch;
        // bound: every turn takes from the rest, or halves what is sent
        while !rest.is_empty() {
            if kept.is_some_and(|kept| kept.stop.is_cancelled() || !kept.outbox.is_ours()) {
                return false;
            }
            let (now, later) = self.portion.of_these(rest);
            match self.deliver(now, sender, kept).await {
                Fate::Taken => {
                    self.portion.taken();
                    self.refused = 0;
                    if let Some(kept) = kept
                        && !self.take_out(kept, now).await
                    {
                        return false;
                    }
                }
                Fate::Unacceptable(what) => {
                    self.portion.refused(now.len());
                    let [event] = now else { continue };
                    match kept {
                        Some(kept) if !self.set_aside(kept, event, &what).await => {
                            self.refused += 1;
                            let _ = kept.waits(schedule::backoff(self.refused, fastrand::f64())).await;
                            return false;
                        }
                        Some(_) => {}
                        None => self.lose(1, &what),
                    }
                    // Who refuses one after the other may refuse everything, and shall not be sent all of it at once.
                    self.refused += 1;
                    let wait = schedule::backoff(self.refused, fastrand::f64());
                    match kept {
                        Some(kept) => _ = kept.waits(wait).await,
                        None => tokio::time::sleep(wait).await,
                    }
                }
                Fate::Refused(what) => {
                    self.lose(rest.len(), &what);
                    hook.with(|state| state.taken = 0);
                    return true;
                }
                Fate::Left => return false,
            }
            hook.with(|state| {
                state.taken -= now.len().min(state.taken);
                if kept.is_some() {
                    state.tally.outbox -= (now.len() as u64).min(state.tally.outbox);
                }
            });
            rest = later;
        }
        true
    }

    /// Sends them in one document until it was taken or refused for what it says. What a person may mend is waited for by
    /// what is in an outbox, as long as that is ours and nobody stops us.
    async fn deliver(&mut self, events: &[Event], sender: &mut Sender<'_>, kept: Option<&Kept<'_>>) -> Fate {
        let (document, delivery) = (body::render(&self.hook.source, events), body::delivery(events));
        let mut failures = 0;
        // bound: until it was taken or is given up; every turn sleeps
        loop {
            let sent = sender.post(&document, &delivery).await;
            self.note(&sent, events.len());
            let Err(failed) = sent else { return Fate::Taken };
            match failed.why {
                Failure::Unacceptable => return Fate::Unacceptable(failed.what),
                Failure::Refused if kept.is_none() => return Fate::Refused(failed.what),
                _ => {}
            }
            failures += 1;
            let wait = schedule::backoff(failures, fastrand::f64()).max(failed.retry_after.unwrap_or_default());
            match kept {
                None => tokio::time::sleep(wait).await,
                Some(kept) if !kept.waits(wait).await => return Fate::Left,
                Some(_) => {}
            }
        }
    }

    /// Counts an attempt, and complains of what is tried again.
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
            Err(failed) => {
                let waits = match failed.why {
                    Failure::Unacceptable => false,
                    Failure::Refused => hook.outbox.is_some(),
                    _ => true,
                };
                if waits && self.refusals.is_due() {
                    let waiting = hook.tally();
                    let waiting = waiting.waiting.max(waiting.outbox);
                    warn!(source, webhook, waiting, "not delivered; tried again until it is: {}", failed.what);
                }
            }
        }
    }

    /// Of a queue: they were refused.
    fn lose(&mut self, lost: usize, what: &str) {
        self.hook.with(|state| state.tally.lost[Loss::Refused.index()] += lost as u64);
        if self.losses.is_due() {
            let (source, webhook) = (&*self.hook.source, self.hook.settings.url.to_string());
            warn!(source, webhook, lost, "the webhook refused events, and they are lost: {what}");
        }
    }

    fn complain(&mut self, what: &str, error: &dyn std::fmt::Display) {
        if self.refusals.is_due() {
            warn!(source = &*self.hook.source, %error, "{what}");
        }
    }
}

/// What became of a document.
enum Fate {
    Taken,
    /// The receiver will not have what it says.
    Unacceptable(String),
    /// The receiver will not have any, as things are.
    Refused(String),
    /// It stays in the outbox for whoever comes next.
    Left,
}

/// What waits in Redis until it was delivered.
struct Kept<'k> {
    outbox: &'k Outbox,
    stop: &'k CancellationToken,
}

impl Kept<'_> {
    /// Waits; whether to go on afterwards.
    async fn waits(&self, time: Duration) -> bool {
        self.stop.run_until_cancelled(tokio::time::sleep(time)).await.is_some() && self.outbox.is_ours()
    }

    fn event(&self, waiting: Waiting) -> Event {
        let Waiting { id, form, text, event } = waiting;
        Event { id: event.unwrap_or_else(|| format!("{}:{id}", self.outbox.name())), form, text, entry: Some(id) }
    }
}

/// Says so, once and as its leader, where events wait in an outbox that no webhook of the source empties any more.
pub(super) async fn look_for_leftovers(source: Arc<str>, outbox: Outbox, stop: CancellationToken) {
    // bound: until it is ours to look, or told to stop; every turn sleeps
    while !outbox.is_ours() {
        if stop.run_until_cancelled(tokio::time::sleep(LEASE_ASKED_EVERY)).await.is_none() {
            return;
        }
    }
    match outbox.lengths().await {
        Ok([0, 0]) => {}
        Ok([waiting, set_aside]) => warn!(
            source = &*source,
            outbox = outbox.shown(),
            waiting,
            set_aside,
            "events are left in an outbox that no webhook of this source empties any more: nobody is told of them \
             (docs/language.md shows under `webhook` how to tell or drop them)"
        ),
        Err(error) => debug!(source = &*source, %error, "not known whether an outbox of earlier is empty"),
    }
}

/// What still waits is lost with us, or for the next process to deliver.
fn close(hook: &Hook) {
    let (source, webhook) = (&*hook.source, hook.settings.url.to_string());
    let left = hook.with(|state| {
        let left = (state.queue.len() + state.taken) as u64;
        state.queue.clear();
        (state.bytes, state.taken, state.unread, state.looking) = (0, 0, false, false);
        if hook.outbox.is_some() {
            return state.tally.outbox;
        }
        state.tally.lost[Loss::Stopped.index()] += left;
        left
    });
    match &hook.outbox {
        None if left > 0 => {
            warn!(source, webhook, lost = left, "stopped before everything was delivered: the rest is lost")
        }
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
