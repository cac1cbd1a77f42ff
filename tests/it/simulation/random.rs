//! Random histories: whatever happens, in whatever order, who lives stays and who is dead goes.
//!
//! A failure prints the shortest history that fails, and the seed. `PRESENCE_REAPER_SIMULATION_SEED=7 PROPTEST_CASES=20000
//! cargo test --test it simulation::random` tries others.

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestCaseError, TestRunner};

use presence_reaper::policy::continuity::CLOCK_TOLERANCE;

use super::reaper::{Evictor, Latency, Reaper, Seen, TIMING};
use super::world::{Data, Fault, HEARTBEAT, Loss, MINUTE, Miss, Ms, SECOND, World};

/// Troubles begin within this time, after a quarter of an hour.
const TROUBLED: Ms = 40 * MINUTE;

/// Longer than any grace: what the end of one sets free would be gone by then.
const AFTERMATH: Ms = 25 * MINUTE;

/// One trouble: what it is, and when it begins.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Outage { lasts: Ms, ends: Fault, hubs_later: Ms },
    Flapping { down: Ms, up: Ms, times: u64 },
    Failover { lost: Ms },
    RefusedWrites { lasts: Ms },
    RedisClock { by: i64, lasts: Ms },
    HubCut { hub: usize, lasts: Ms },
    HubClock { hub: usize, by: i64, lasts: Ms },
    HubCrash { hub: usize, return_with: usize },
    Churn { hub: usize, count: usize },
    ReaperCut { lasts: Ms },
    ReaperStops { lasts: Ms },
    ReaperSleeps { lasts: Ms },
    ReaperRestarts { away: Ms, up: Ms, times: u64 },
    LostReplies { lasts: Ms },
}

#[derive(Clone, Debug)]
struct History {
    /// How many clients each hub has.
    hubs: Vec<usize>,
    /// When each begins, and what it is.
    troubles: Vec<(Ms, Trouble)>,
    latency: Latency,
    seed: u64,
}

fn lasting(most: Ms) -> impl Strategy<Value = Ms> {
    prop_oneof![SECOND..2 * MINUTE, MINUTE..most]
}

fn offset() -> impl Strategy<Value = i64> {
    prop_oneof![-5_000..5_000_i64, -600_000..600_000_i64, -3_600_000..3_600_000_i64]
}

fn trouble() -> impl Strategy<Value = Trouble> {
    let hub = 0..4_usize;
    let ends = prop_oneof![
        Just(Fault::Up),
        Just(Fault::Restart(Data::All)),
        Just(Fault::Restart(Data::Copied)),
        Just(Fault::Restart(Data::Nothing)),
    ];
    prop_oneof![
        (lasting(20 * MINUTE), ends, 0..MINUTE).prop_map(|(lasts, ends, hubs_later)| Trouble::Outage {
            lasts,
            ends,
            hubs_later
        }),
        (SECOND..MINUTE, SECOND..MINUTE, 2..20_u64).prop_map(|(down, up, times)| Trouble::Flapping { down, up, times }),
        (0..MINUTE).prop_map(|lost| Trouble::Failover { lost }),
        lasting(20 * MINUTE).prop_map(|lasts| Trouble::RefusedWrites { lasts }),
        (offset(), lasting(20 * MINUTE)).prop_map(|(by, lasts)| Trouble::RedisClock { by, lasts }),
        (hub.clone(), lasting(20 * MINUTE)).prop_map(|(hub, lasts)| Trouble::HubCut { hub, lasts }),
        (hub.clone(), offset(), lasting(20 * MINUTE)).prop_map(|(hub, by, lasts)| Trouble::HubClock { hub, by, lasts }),
        (hub.clone(), 0..30_usize).prop_map(|(hub, return_with)| Trouble::HubCrash { hub, return_with }),
        (hub, 1..10_usize).prop_map(|(hub, count)| Trouble::Churn { hub, count }),
        lasting(20 * MINUTE).prop_map(|lasts| Trouble::ReaperCut { lasts }),
        lasting(20 * MINUTE).prop_map(|lasts| Trouble::ReaperStops { lasts }),
        lasting(20 * MINUTE).prop_map(|lasts| Trouble::ReaperSleeps { lasts }),
        (0..2 * MINUTE, SECOND..6 * MINUTE, 1..10_u64).prop_map(|(away, up, times)| Trouble::ReaperRestarts {
            away,
            up,
            times
        }),
        lasting(20 * MINUTE).prop_map(|lasts| Trouble::LostReplies { lasts }),
    ]
}

fn history() -> impl Strategy<Value = History> {
    let hubs = prop::collection::vec(1..40_usize, 1..4);
    let troubles = prop::collection::vec((0..TROUBLED, trouble()), 0..6);
    let latency = (0..20 * SECOND, 0..3 * SECOND).prop_map(|(survey, strike)| Latency { survey, strike });
    (hubs, troubles, latency, any::<u64>()).prop_map(|(hubs, troubles, latency, seed)| History {
        hubs,
        troubles,
        latency,
        seed,
    })
}

impl History {
    fn faults(&self) -> Vec<(Ms, Fault)> {
        let mut faults = vec![(14 * MINUTE, Fault::Copy)];
        for (n, (at, trouble)) in self.troubles.iter().enumerate() {
            let at = 15 * MINUTE + at + n as Ms;
            self.add(at, *trouble, &mut faults);
        }
        // In the end everything is well, and a few have died.
        let ends = faults.iter().map(|(at, _)| *at).max().unwrap_or_default() + 1;
        faults.push((ends, Fault::Up));
        faults.push((ends, Fault::RefuseWrites(false)));
        faults.push((ends, Fault::ReaperCut(false)));
        faults.push((ends, Fault::LoseReplies(false)));
        for hub in 0..self.hubs.len() {
            faults.push((ends, Fault::Cut(hub, false)));
            faults.push((ends, Fault::HubClock(hub, 0)));
            faults.push((ends, Fault::Vanish(hub, self.hubs[hub] / 5)));
        }
        faults
    }

    fn add(&self, at: Ms, trouble: Trouble, faults: &mut Vec<(Ms, Fault)>) {
        let hubs = self.hubs.len();
        let mut add = |at: Ms, fault| faults.push((at, fault));
        match trouble {
            Trouble::Outage { lasts, ends, hubs_later } => {
                add(at, Fault::Down);
                add(at + lasts, ends);
                for hub in 0..hubs {
                    add(at, Fault::Cut(hub, true));
                    add(at + lasts + hubs_later, Fault::Cut(hub, false));
                }
            }
            Trouble::Flapping { down, up, times } => {
                for n in 0..times {
                    add(at + n * (down + up), Fault::Down);
                    add(at + n * (down + up) + down, Fault::Up);
                }
            }
            Trouble::Failover { lost } => {
                add(at - lost, Fault::Copy);
                add(at, Fault::Failover);
            }
            Trouble::RefusedWrites { lasts } => {
                add(at, Fault::RefuseWrites(true));
                add(at + lasts, Fault::RefuseWrites(false));
            }
            Trouble::RedisClock { by, lasts } => {
                add(at, Fault::RedisClock(by));
                add(at + lasts, Fault::RedisClock(-by));
            }
            Trouble::HubCut { hub, lasts } => {
                add(at, Fault::Cut(hub % hubs, true));
                add(at + lasts, Fault::Cut(hub % hubs, false));
            }
            Trouble::HubClock { hub, by, lasts } => {
                add(at, Fault::HubClock(hub % hubs, by));
                add(at + lasts, Fault::HubClock(hub % hubs, 0));
            }
            Trouble::HubCrash { hub, return_with } => {
                add(at, Fault::Crash(hub % hubs));
                add(at + MINUTE, Fault::Join(hub % hubs, return_with));
            }
            Trouble::Churn { hub, count } => {
                for n in 0..10 {
                    add(at + n * MINUTE, Fault::Vanish(hub % hubs, count));
                    add(at + n * MINUTE, Fault::Join(hub % hubs, count));
                }
            }
            Trouble::ReaperCut { lasts } => {
                add(at, Fault::ReaperCut(true));
                add(at + lasts, Fault::ReaperCut(false));
            }
            Trouble::ReaperStops { lasts } => add(at, Fault::ReaperStops(lasts)),
            Trouble::ReaperSleeps { lasts } => add(at, Fault::ReaperSleeps(lasts)),
            Trouble::ReaperRestarts { away, up, times } => {
                for n in 0..times {
                    add(at + n * (away + up), Fault::ReaperStops(away));
                    add(at + n * (away + up), Fault::ReaperRestarts);
                }
            }
            Trouble::LostReplies { lasts } => {
                add(at, Fault::LoseReplies(true));
                add(at + lasts, Fault::LoseReplies(false));
            }
        }
    }

    /// Lets it happen. What went wrong, if something did.
    fn run(&self) -> Result<(), String> {
        let faults = self.faults();
        let ends = faults.iter().map(|(at, _)| *at).max().unwrap_or_default();
        let mut world = World::new(self.seed, &self.hubs, faults);
        world.wait(HEARTBEAT);
        let mut reaper = Reaper::start(&world, self.latency);
        let dirty = |world: &mut World| world.now() < ends + self.clean_within() && world.ghosts() > 0;
        while world.now() < ends + AFTERMATH || !world.is_calm() || dirty(&mut world) {
            reaper.turn(&mut world);
            for loss in std::mem::take(&mut world.losses) {
                if !excused(&loss, &world, &reaper.seen) {
                    let misses = world.misses(&loss, loss.at - loss.landed);
                    return Err(format!("a living client was evicted: {loss:?}, its pings since: {misses:?}"));
                }
            }
        }
        match world.ghosts() {
            0 => Ok(()),
            count => Err(format!("{count} entries of dead clients are still there: {:?}", reaper.hold(&world))),
        }
    }

    /// How long after the last trouble the last dead entry may stand: an hour of silence after the last break, the
    /// threshold, the first slice after a mass, the pace; and as long as the entry claims to be of the future.
    fn clean_within(&self) -> Ms {
        let ahead = self.troubles.iter().map(|(_, trouble)| match trouble {
            Trouble::HubClock { by, .. } | Trouble::RedisClock { by, .. } => by.unsigned_abs(),
            _ => 0,
        });
        85 * MINUTE + ahead.sum::<Ms>()
    }
}

// === what cannot be guaranteed ===

/// Whether nothing in Redis could tell this loss from a death: see "What cannot be guaranteed" in `docs/safety.md`.
fn excused(loss: &Loss, world: &World, seen: &[Seen]) -> bool {
    some_could_not_write(loss, world, seen) || nobody_could_write(loss, seen)
}

const THRESHOLD: Ms = 5 * MINUTE;

/// A hub's clock that is behind by more than this is noticed: its entries turn up older than they can be. That is the age
/// from which entries are watched, the longest time between two surveys that is no break, and the clock's tolerance.
fn unnoticed_lag() -> Ms {
    let lag = TIMING.watch_from() + TIMING.survey_interval() + TIMING.heartbeat_interval + CLOCK_TOLERANCE;
    u64::try_from(lag.as_millis()).unwrap()
}

/// An outage for everybody that is shorter is no break.
const UNNOTICED_OUTAGE: Ms = 2 * HEARTBEAT;

/// Fewer refused pings in a row are no silence.
const UNNOTICED_REFUSALS: usize = 3;

/// No ping of it landed for the whole waiting time: because its hub was cut off, or met outages too short to be seen. And
/// most others went on pinging.
fn some_could_not_write(loss: &Loss, world: &World, seen: &[Seen]) -> bool {
    let waiting_time = (THRESHOLD - loss.lag.min(unnoticed_lag())).max(3 * HEARTBEAT);
    let misses = world.misses(loss, waiting_time);
    let refused = misses.iter().filter(|miss| **miss == Miss::Refused).count();
    let unnoticed = refused <= UNNOTICED_REFUSALS && world.longest_outage(loss, waiting_time) < UNNOTICED_OUTAGE;
    let others_pinged = seen.last().is_some_and(|seen| !seen.silent());
    let mut lately = seen.iter().rev().take_while(|seen| seen.at + 2 * THRESHOLD > loss.at);
    let mass = lately.any(|seen| seen.late >= 10 && seen.late * 100 >= seen.live * 55);
    loss.at - loss.landed >= waiting_time && unnoticed && others_pinged && !mass
}

/// Nobody could write until the silence was released by time. It begins earlier where clocks are behind; and a reaper that
/// was started in the middle of it counts from there, and whatever is stale could have been living.
fn nobody_could_write(loss: &Loss, seen: &[Seen]) -> bool {
    let speaking = |seen: &&Seen| seen.silent_for[0].is_none_or(|time| time < 3 * HEARTBEAT);
    let begins = match seen.iter().rev().find(speaking) {
        Some(spoke) => Some((spoke.at, spoke.live)),
        None => seen.first().map(|first| (first.at, first.live + first.stale)),
    };
    begins.is_some_and(|(at, recent)| {
        let release = if recent < 10 { 15 * MINUTE } else { 60 * MINUTE };
        loss.at - at + loss.lag >= release
    })
}

// === the test ===

#[test]
fn p1_p2_p3_p7_whatever_happens_the_living_stay_and_the_dead_go() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("PRESENCE_REAPER_SIMULATION_SEED").unwrap_or(1);
    let cases = number("PROPTEST_CASES").unwrap_or(1_000);
    let config = ProptestConfig {
        cases: u32::try_from(cases).unwrap(),
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 3_000,
        ..ProptestConfig::default()
    };
    let tried = TestRunner::new(config).run(&history(), |history| history.run().map_err(TestCaseError::fail));
    if let Err(error) = tried {
        panic!("with PRESENCE_REAPER_SIMULATION_SEED={seed}: {error}");
    }
}
