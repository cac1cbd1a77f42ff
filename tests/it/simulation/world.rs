//! A Redis, the hubs that write into it, and their clients: what happens, and who is really alive.
//!
//! Time is true time in milliseconds; every clock in the world is this and an offset. Nothing is done at a ping: what a
//! client's entry holds is worked out when somebody looks, from the conditions since the last look, which change only
//! with a fault. So an hour of 3,000 clients takes milliseconds, and is the same every time.

use std::collections::VecDeque;

use presence_reaper::policy::continuity::Identity;
use presence_reaper::policy::entry::{EntryId, Mark, Monotonic, Now, Timestamp};
use presence_reaper::policy::ping::Unit;
use presence_reaper::policy::staleness::Timing;
use presence_reaper::policy::survey::{Judged, Survey};

/// Milliseconds of true time since the world began.
pub(super) type Ms = u64;

pub(super) const SECOND: Ms = 1_000;
pub(super) const MINUTE: Ms = 60 * SECOND;

/// How often a client pings.
pub(super) const HEARTBEAT: Ms = 30 * SECOND;

/// A command of a strike does nothing later than this after its own re-read, by the server's clock.
const WINDOW: i64 = 2_000;

/// How many pages a survey reads, one after the other.
const PAGES: usize = 4;

/// What happens to the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Redis is out of reach for everybody: killed, stopped, or behind a broken network.
    Down,
    /// It answers again: the same process with the same data.
    Up,
    /// It answers again as a new process, with what of its data survived.
    Restart(Data),
    /// A replica took its place, and has what was copied at the last [`Fault::Copy`].
    Failover,
    /// What a restart or a failover brings back later.
    Copy,
    /// Writes are refused from now on, or no longer; everything can be read.
    RefuseWrites(bool),
    /// Its clock jumps by so many milliseconds.
    RedisClock(i64),
    /// This hub can't reach Redis, or can again. A hub that stalls looks no different.
    Cut(usize, bool),
    /// This hub's clock is off by so many milliseconds.
    HubClock(usize, i64),
    /// This hub dies, and its clients with it.
    Crash(usize),
    /// So many clients of this hub vanish without goodbye.
    Vanish(usize, usize),
    /// So many new clients come to this hub, spread over a minute.
    Join(usize, usize),
    /// Only the reaper can't reach Redis, or can again.
    ReaperCut(bool),
    /// One reply to the reaper stalls: its next look fails after a second.
    ReplyStalls,
    /// The reaper's process stands still for so long; its monotonic clock runs on.
    ReaperStops(Ms),
    /// The reaper's machine sleeps for so long, its monotonic clock too.
    ReaperSleeps(Ms),
    /// The reaper dies and starts anew, knowing nothing.
    ReaperRestarts,
    /// Replies to evictions get lost from now on, or no longer.
    LoseReplies(bool),
}

impl Fault {
    /// The same with so many times the clients.
    pub(super) fn times(self, scale: usize) -> Self {
        match self {
            Self::Vanish(hub, count) => Self::Vanish(hub, count * scale),
            Self::Join(hub, count) => Self::Join(hub, count * scale),
            other => other,
        }
    }
}

/// What a restart brings back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    /// Everything.
    All,
    /// What the last [`Fault::Copy`] holds.
    Copied,
    /// Nothing.
    Nothing,
}

/// What decides whether a ping lands, and with which time. Constant between two faults.
#[derive(Clone, Debug)]
struct Conditions {
    since: Ms,
    up: bool,
    refuses_writes: bool,
    hubs: Vec<Hub>,
}

#[derive(Clone, Copy, Debug)]
struct Hub {
    cut: bool,
    clock: i64,
}

impl Conditions {
    fn lands(&self, hub: usize) -> bool {
        self.misses(hub).is_none()
    }

    fn misses(&self, hub: usize) -> Option<Miss> {
        if self.hubs[hub].cut {
            Some(Miss::Cut)
        } else if self.refuses_writes {
            Some(Miss::Refused)
        } else {
            (!self.up).then_some(Miss::Down)
        }
    }
}

/// One client, and its entry in Redis.
#[derive(Clone, Debug)]
struct Client {
    hub: usize,
    /// When it connected and first pinged.
    born: Ms,
    /// When it vanished without goodbye.
    gone: Option<Ms>,
    /// Its entry, if there is one: the time that its hub wrote.
    stored: Option<i64>,
    /// When a ping of it last landed, and the time it wrote.
    landed: Option<(Ms, i64)>,
    /// Up to when `stored` is worked out.
    settled: Ms,
}

/// A living client whose entry was evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Loss {
    /// When.
    pub(super) at: Ms,
    /// Its hub.
    pub(super) hub: usize,
    /// When a ping of it had last landed, or it connected.
    pub(super) landed: Ms,
    /// By how much that ping's time was behind Redis' clock.
    pub(super) lag: Ms,
}

/// Why a ping did not land.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Miss {
    /// Redis was out of reach for everybody.
    Down,
    /// Redis refused it.
    Refused,
    /// Its hub was cut off, or stalled.
    Cut,
}

/// What a look at some entries found: each with the time it holds.
pub(super) struct Looked {
    pub(super) identity: Identity,
    pub(super) now: Now,
    pub(super) found: Vec<(EntryId, Option<i64>)>,
}

/// A complete survey.
pub(super) struct Surveyed {
    pub(super) identity: Identity,
    pub(super) began: Now,
    pub(super) ended: Now,
    pub(super) survey: Survey,
}

/// What a script answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Evicted,
    Spared,
    Gone,
    TooLate,
    /// Redis refuses writes.
    Refused,
    /// No answer: it ran or it did not.
    Lost,
}

/// The world.
pub(super) struct World {
    now: Ms,
    epochs: Vec<Conditions>,
    clients: Vec<Client>,
    copy: Vec<Option<i64>>,
    run: u32,
    replication: u32,
    redis_clock: i64,
    faults: VecDeque<(Ms, Fault)>,
    random: fastrand::Rng,
    /// How long the reaper's machine slept: its monotonic clock is behind by that.
    slept: Ms,
    asleep_until: Ms,
    /// The reaper does nothing before this.
    stopped_until: Ms,
    reaper_cut: bool,
    reply_stalls: bool,
    replies_lost: bool,
    /// How often the reaper was started anew.
    pub(super) reaper_restarts: u32,
    /// Living clients that were evicted.
    pub(super) losses: Vec<Loss>,
    /// When the last entry of a client that is gone was evicted.
    pub(super) last_ghost: Option<Ms>,
}

impl World {
    /// Hubs with so many clients each, which ping at random phases, and what is going to happen.
    pub(super) fn new(seed: u64, clients_of_hubs: &[usize], mut faults: Vec<(Ms, Fault)>) -> Self {
        faults.sort_by_key(|(at, _)| *at);
        let hubs = vec![Hub { cut: false, clock: 0 }; clients_of_hubs.len()];
        let mut world = Self {
            now: 0,
            epochs: vec![Conditions { since: 0, up: true, refuses_writes: false, hubs }],
            clients: Vec::new(),
            copy: Vec::new(),
            run: 0,
            replication: 0,
            redis_clock: 0,
            faults: faults.into(),
            random: fastrand::Rng::with_seed(seed),
            slept: 0,
            asleep_until: 0,
            stopped_until: 0,
            reaper_cut: false,
            reply_stalls: false,
            replies_lost: false,
            reaper_restarts: 0,
            losses: Vec::new(),
            last_ghost: None,
        };
        for (hub, count) in clients_of_hubs.iter().enumerate() {
            for _ in 0..*count {
                let born = world.random.u64(0..HEARTBEAT);
                world.join(hub, born);
            }
        }
        world
    }

    /// Adds entries that nobody has pinged for a day, of clients nobody knows.
    pub(super) fn haunt(&mut self, count: usize) {
        for _ in 0..count {
            let day = 24 * 60 * MINUTE + self.random.u64(0..MINUTE);
            let stored = Some(server(-i64::try_from(day).unwrap()));
            self.clients.push(Client { hub: 0, born: 0, gone: Some(0), stored, landed: None, settled: 0 });
        }
    }

    fn join(&mut self, hub: usize, born: Ms) {
        self.clients.push(Client { hub, born, gone: None, stored: None, landed: None, settled: self.now });
    }

    // === time ===

    /// True time.
    pub(super) fn now(&self) -> Ms {
        self.now
    }

    /// The reaper's monotonic clock.
    pub(super) fn mono(&self) -> Monotonic {
        Monotonic::from_start(std::time::Duration::from_millis(self.now - self.slept))
    }

    /// Chance, the same in every run.
    pub(super) fn chance(&mut self) -> f64 {
        self.random.f64()
    }

    /// A time between 0 and `most`, the same in every run.
    pub(super) fn some_time(&mut self, most: Ms) -> Ms {
        self.random.u64(0..=most)
    }

    /// Lets the reaper wait until its own clock shows `until`; longer if it is stopped by then.
    pub(super) fn wait_until(&mut self, until: Monotonic) {
        // A machine that goes to sleep meanwhile makes the waiting longer.
        while self.mono() < until {
            let left = u64::try_from(until.since(self.mono()).as_nanos().div_ceil(1_000_000)).unwrap();
            self.advance_to(self.now + left);
        }
        self.wait(0);
    }

    /// Lets the reaper wait; longer if it is stopped by then.
    pub(super) fn wait(&mut self, time: Ms) {
        self.advance_to(self.now + time);
        while self.now < self.stopped_until {
            self.advance_to(self.stopped_until);
        }
    }

    fn advance_to(&mut self, to: Ms) {
        while self.faults.front().is_some_and(|(at, _)| *at <= to) {
            if let Some((at, fault)) = self.faults.pop_front() {
                self.now = self.now.max(at);
                self.happen(fault);
            }
        }
        self.now = self.now.max(to);
    }

    // === what happens ===

    fn happen(&mut self, fault: Fault) {
        match fault {
            Fault::Down => self.change(|conditions| conditions.up = false),
            Fault::Up => self.change(|conditions| conditions.up = true),
            Fault::Copy => self.copy = self.settle_all().map(|client| client.stored).collect(),
            Fault::Restart(data) => {
                self.run += 1;
                self.replication += 1;
                self.bring_back(data);
                self.change(|conditions| conditions.up = true);
            }
            Fault::Failover => {
                self.replication += 1;
                self.bring_back(Data::Copied);
            }
            Fault::RefuseWrites(refuses) => self.change(|conditions| conditions.refuses_writes = refuses),
            Fault::RedisClock(by) => self.redis_clock += by,
            Fault::Cut(hub, cut) => self.change(|conditions| conditions.hubs[hub].cut = cut),
            Fault::HubClock(hub, clock) => self.change(|conditions| conditions.hubs[hub].clock = clock),
            Fault::Crash(hub) => self.vanish(hub, usize::MAX),
            Fault::Vanish(hub, count) => self.vanish(hub, count),
            Fault::Join(hub, count) => {
                for _ in 0..count {
                    let born = self.now + self.random.u64(1..MINUTE);
                    self.join(hub, born);
                }
            }
            Fault::ReaperCut(cut) => self.reaper_cut = cut,
            Fault::ReplyStalls => self.reply_stalls = true,
            Fault::ReaperStops(time) => self.stopped_until = self.stopped_until.max(self.now + time),
            Fault::ReaperSleeps(time) => self.sleep(time),
            Fault::ReaperRestarts => self.reaper_restarts += 1,
            Fault::LoseReplies(lost) => self.replies_lost = lost,
        }
    }

    /// While the machine sleeps the world goes on, and its clock stands still.
    fn sleep(&mut self, time: Ms) {
        let (begins, asleep) = (self.now, self.now < self.asleep_until);
        self.asleep_until = self.asleep_until.max(self.now + time);
        if asleep {
            return;
        }
        while self.now < self.asleep_until {
            self.advance_to(self.asleep_until);
        }
        self.slept += self.now - begins;
    }

    fn change(&mut self, change: impl FnOnce(&mut Conditions)) {
        let mut next = self.conditions().clone();
        next.since = self.now;
        change(&mut next);
        self.epochs.push(next);
    }

    pub(super) fn refuses_writes(&self) -> bool {
        self.conditions().refuses_writes
    }

    fn conditions(&self) -> &Conditions {
        self.epochs.last().unwrap()
    }

    fn vanish(&mut self, hub: usize, count: usize) {
        let now = self.now;
        let here = self.clients.iter_mut().filter(|client| client.hub == hub && client.is_connected(now));
        here.take(count).for_each(|client| client.gone = Some(now));
    }

    fn bring_back(&mut self, data: Data) {
        let copy = std::mem::take(&mut self.copy);
        for (n, client) in self.settle_all().enumerate() {
            match data {
                Data::All => {}
                Data::Copied => client.stored = copy.get(n).copied().flatten(),
                Data::Nothing => client.stored = None,
            }
        }
        self.copy = copy;
    }

    fn settle_all(&mut self) -> impl Iterator<Item = &mut Client> {
        for client in &mut self.clients {
            client.settle(self.now, &self.epochs);
        }
        self.clients.iter_mut()
    }

    // === what the reaper does ===

    /// The two clocks, if the reaper reaches Redis.
    fn read_time(&self) -> Option<Now> {
        let reached = self.conditions().up && !self.reaper_cut;
        reached.then(|| Now { server: Timestamp::from_millis(self.server_time()), mono: self.mono() })
    }

    fn server_time(&self) -> i64 {
        server(i64::try_from(self.now).unwrap() + self.redis_clock)
    }

    fn identity(&self) -> Identity {
        Identity { run_id: self.run.to_string(), replication_id: self.replication.to_string() }
    }

    /// The first reply of a look.
    fn begin_look(&mut self) -> Option<Now> {
        if std::mem::take(&mut self.reply_stalls) {
            self.wait(SECOND);
            return None;
        }
        self.read_time()
    }

    /// Reads everything within `took`; nothing if Redis went out of reach or was another before it ended.
    pub(super) fn survey(&mut self, timing: Timing, took: Ms) -> Option<Surveyed> {
        let (began, identity) = (self.begin_look()?, self.identity());
        let mut survey = Survey::new(timing).seeded(self.random.u64(..));
        let count = self.clients.len();
        for page in 0..PAGES {
            self.wait(took / PAGES as u64);
            let now = self.read_time()?;
            for n in count * page / PAGES..count * (page + 1) / PAGES {
                if let Some(stored) = self.clients[n].settle(self.now, &self.epochs) {
                    survey.observe(judged(stored), mark(stored), now, || id(n));
                }
            }
        }
        let ended = self.read_time()?;
        (self.identity() == identity).then_some(Surveyed { identity, began, ended, survey })
    }

    /// Re-reads some entries.
    pub(super) fn look(&mut self, ids: &[EntryId]) -> Option<Looked> {
        let now = self.begin_look()?;
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            found.push((id.clone(), self.clients[number(id)].settle(self.now, &self.epochs)));
        }
        Some(Looked { identity: self.identity(), now, found })
    }

    /// Strikes entries that held these times when they were re-read at `read_at` on `identity`; whether it can be sent,
    /// and what the script answers for each.
    pub(super) fn evict(
        &mut self,
        struck: &[(EntryId, i64)],
        identity: &Identity,
        read_at: Now,
    ) -> Option<Vec<Answer>> {
        self.read_time().filter(|_| self.identity() == *identity)?;
        if self.refuses_writes() {
            return Some(vec![Answer::Refused; struck.len()]);
        }
        let since = self.server_time() - read_at.server.millis();
        let too_late = !(0..=WINDOW).contains(&since);
        let lost = self.replies_lost;
        // Half of the lost replies are those of commands that were lost themselves.
        if lost && self.random.bool() {
            return Some(vec![Answer::Lost; struck.len()]);
        }
        let mut answers = Vec::with_capacity(struck.len());
        for (id, judged) in struck {
            let answer = if too_late { Answer::TooLate } else { self.evict_one(number(id), *judged) };
            answers.push(if lost { Answer::Lost } else { answer });
        }
        Some(answers)
    }

    fn evict_one(&mut self, n: usize, judged: i64) -> Answer {
        let Some(stored) = self.clients[n].settle(self.now, &self.epochs) else { return Answer::Gone };
        if stored != judged {
            return Answer::Spared;
        }
        let server_time = self.server_time();
        let client = &mut self.clients[n];
        client.stored = None;
        if client.is_connected(self.now) {
            let (landed, wrote) = client.landed.unwrap_or((client.born, server_time));
            let age = u64::try_from(server_time - wrote).unwrap_or(0);
            let lag = if wrote == stored { age.saturating_sub(self.now - landed) } else { 0 };
            self.losses.push(Loss { at: self.now, hub: client.hub, landed, lag });
        } else {
            self.last_ghost = Some(self.now);
        }
        Answer::Evicted
    }

    // === what is true ===

    /// Entries of clients that are gone.
    pub(super) fn ghosts(&mut self) -> usize {
        let now = self.now;
        self.settle_all().filter(|client| client.stored.is_some() && !client.is_connected(now)).count()
    }

    /// Whether nothing more is going to happen.
    pub(super) fn is_calm(&self) -> bool {
        self.faults.is_empty() && self.now >= self.stopped_until
    }

    /// How long nobody's ping has landed; none if there is no entry.
    pub(super) fn silent_for(&mut self) -> Option<Ms> {
        let now = self.now;
        self.settle_all()
            .filter(|client| client.stored.is_some())
            .filter_map(|client| Some(now - client.landed?.0))
            .min()
    }

    /// The longest time that Redis was out of reach at a stretch, of those that ended in the last so long before a loss.
    pub(super) fn longest_outage(&self, loss: &Loss, lately: Ms) -> Ms {
        let ends = self.epochs.iter().skip(1).map(|epoch| epoch.since).chain([self.now]);
        let mut lasts = 0;
        let outages = self.epochs.iter().zip(ends).map(|(epoch, end)| {
            lasts = if epoch.up { 0 } else { lasts + end - epoch.since };
            (end, lasts)
        });
        outages.filter(|(end, _)| *end + lately > loss.at).map(|(_, lasts)| lasts).max().unwrap_or_default()
    }

    /// Why the pings of a lost client did not land in the last so long, of those since the last that did.
    pub(super) fn misses(&self, loss: &Loss, lately: Ms) -> Vec<Miss> {
        let pings = (1..).map(|n| loss.landed + n * HEARTBEAT).take_while(|ping| *ping <= loss.at);
        let pings = pings.skip_while(|ping| *ping + lately < loss.at);
        let conditions = |ping: Ms| self.epochs.iter().rev().find(|epoch| epoch.since <= ping);
        pings.filter_map(|ping| conditions(ping)?.misses(loss.hub)).collect()
    }
}

impl Client {
    fn is_connected(&self, now: Ms) -> bool {
        self.born <= now && self.gone.is_none_or(|gone| gone > now)
    }

    /// Lets every ping land that does by `now`; returns what the entry holds then.
    fn settle(&mut self, now: Ms, epochs: &[Conditions]) -> Option<i64> {
        let from = self.settled;
        self.settled = now;
        let last = now.min(self.gone.unwrap_or(Ms::MAX));
        if last <= from || last < self.born {
            return self.stored;
        }
        let mut end = last;
        for epoch in epochs.iter().rev() {
            if end < epoch.since {
                continue;
            }
            let ping = end - (end - self.born.min(end)) % HEARTBEAT;
            let within = end >= self.born && ping > from && ping >= epoch.since;
            if within && epoch.lands(self.hub) {
                let wrote = server(i64::try_from(ping).unwrap() + epoch.hubs[self.hub].clock);
                self.landed = Some((ping, wrote));
                self.stored = Some(wrote);
                break;
            }
            if epoch.since <= from || epoch.since <= self.born {
                break;
            }
            end = epoch.since - 1;
        }
        self.stored
    }
}

/// A time on a clock that is right, as Redis and hubs write it.
fn server(since_begin: i64) -> i64 {
    1_800_000_000_000 + since_begin
}

fn id(n: usize) -> EntryId {
    EntryId::key(n.to_be_bytes())
}

fn number(id: &EntryId) -> usize {
    usize::from_be_bytes(id.key[..].try_into().unwrap())
}

/// How an entry that holds this time is judged.
pub(super) fn judged(stored: i64) -> Judged {
    Ok((Timestamp::from_millis(stored), Unit::UnixMs))
}

/// The mark of an entry that holds this time.
pub(super) fn mark(stored: i64) -> Mark {
    Mark::of([Some(&stored.to_be_bytes()[..])])
}
