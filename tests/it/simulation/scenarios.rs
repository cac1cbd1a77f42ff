//! What is tried: bad days, each begun at five different moments of a heartbeat.
//!
//! There are 300 clients where nothing else is said. Every number of the rule is a share of them but the smallest mass
//! (10), the smallest source (10) and the smallest pace (50), so 3,000 come to the same, in ten times the time.

use super::reaper::{Evictor, Latency, Naive, Reaper};
use super::world::{Data, Fault, HEARTBEAT, MINUTE, Ms, SECOND, World};

/// The trouble begins so long after a quarter of an hour: no phase between pings, surveys and faults may be the lucky one.
const PHASES: [Ms; 5] = [0, 7 * SECOND, 13 * SECOND, 22 * SECOND, 28 * SECOND];

/// A few commands' time, and a survey's.
const LATENCY: Latency = Latency { survey: 400, strike: 10 };

/// Whoever is not clean by then never will be.
const STUCK: Ms = 180 * MINUTE;

/// Longer than any grace: what was freed by the end of one would be gone by then.
const AFTERMATH: Ms = 21 * MINUTE;

/// One bad day.
pub(super) struct Scenario {
    /// What happens, in words.
    pub(super) name: &'static str,
    /// How many clients the hubs have.
    hubs: &'static [usize],
    /// How many day-old entries there are at the beginning.
    haunted: usize,
    /// When the trouble begins.
    begins: Ms,
    /// What happens, counted from there.
    faults: fn() -> Vec<(i64, Fault)>,
    /// Within how many minutes of the trouble's begin it must be clean.
    pub(super) clean_within: i64,
    /// Whether some are lost although nothing could tell: see "What cannot be guaranteed".
    pub(super) unavoidable: bool,
    /// How many times the clients.
    scale: usize,
}

/// What came of a scenario, in the worst of its phases.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Worst {
    /// Living clients that were evicted; one that comes back and is evicted again counts again.
    pub(super) lost: usize,
    /// How long after the trouble began the last entry of a dead client went; none if one never did.
    pub(super) clean: Option<Ms>,
}

impl Scenario {
    const fn new(name: &'static str, clean_within: i64, faults: fn() -> Vec<(i64, Fault)>) -> Self {
        let hubs = &[100, 100, 100];
        Self { name, hubs, haunted: 0, begins: 15 * MINUTE, faults, clean_within, unavoidable: false, scale: 1 }
    }

    const fn with_hubs(self, hubs: &'static [usize]) -> Self {
        Self { hubs, ..self }
    }

    const fn unavoidable(self) -> Self {
        Self { unavoidable: true, ..self }
    }

    /// The same with so many times the clients.
    pub(super) const fn times(self, scale: usize) -> Self {
        Self { scale, ..self }
    }

    /// The worst that the reaper makes of it.
    pub(super) fn reaped(&self) -> Worst {
        self.worst(|world| Box::new(Reaper::start(world, LATENCY)))
    }

    /// The worst that a home-made cleaner makes of it.
    pub(super) fn cleaned_by_age(&self) -> Worst {
        self.worst(|_| Box::new(Naive))
    }

    fn worst(&self, start: fn(&World) -> Box<dyn Evictor>) -> Worst {
        let runs = PHASES.map(|phase| self.run(phase, start));
        let clean = runs.iter().map(|run| run.clean).collect::<Option<Vec<Ms>>>();
        Worst {
            lost: runs.iter().map(|run| run.lost).max().unwrap_or_default(),
            clean: clean.and_then(|times| times.into_iter().max()),
        }
    }

    fn run(&self, phase: Ms, start: fn(&World) -> Box<dyn Evictor>) -> Worst {
        let begins = if self.begins == 0 { 0 } else { self.begins + phase };
        let at = |since: i64| begins.checked_add_signed(since * 1_000).unwrap();
        let faults: Vec<(Ms, Fault)> =
            (self.faults)().into_iter().map(|(since, fault)| (at(since), fault.times(self.scale))).collect();
        let ends = faults.iter().map(|(at, _)| *at).max().unwrap_or_default();
        let clients: Vec<usize> = self.hubs.iter().map(|count| count * self.scale).collect();
        let mut world = World::new(phase, &clients, faults);
        world.haunt(self.haunted * self.scale);
        // Everybody has pinged once before the first look.
        world.wait(HEARTBEAT);
        let mut evictor = start(&world);
        while world.now() < ends + AFTERMATH || (world.ghosts() > 0 && world.now() < begins + STUCK) {
            evictor.turn(&mut world);
        }
        let clean = (world.ghosts() == 0).then(|| world.last_ghost.unwrap_or(begins).saturating_sub(begins));
        Worst { lost: world.losses.len(), clean }
    }
}

// === the days ===

/// A dozen clients vanish as the trouble begins, so that something is to be evicted in spite of it.
fn a_dozen_vanish() -> Vec<(i64, Fault)> {
    vec![(0, Fault::Vanish(0, 4)), (0, Fault::Vanish(1, 4)), (0, Fault::Vanish(2, 4))]
}

fn and(faults: impl IntoIterator<Item = (i64, Fault)>) -> Vec<(i64, Fault)> {
    a_dozen_vanish().into_iter().chain(faults).collect()
}

fn all_hubs(fault: fn(usize) -> Fault, at: i64) -> [(i64, Fault); 3] {
    [0, 1, 2].map(|hub| (at, fault(hub)))
}

const M: i64 = 60;

/// One client in a hundred vanishes every minute, and a new one comes.
fn churn() -> Vec<(i64, Fault)> {
    let minutes = (0..30).flat_map(|minute| {
        let hubs = [0, 1, 2].into_iter();
        hubs.flat_map(move |hub| [(minute * M, Fault::Vanish(hub, 1)), (minute * M, Fault::Join(hub, 1))])
    });
    minutes.collect()
}

/// The rows of the table.
pub(super) fn all() -> Vec<Scenario> {
    vec![
        // Clients die.
        Scenario::new("one hub of three crashes", 6, || vec![(0, Fault::Crash(0))]),
        Scenario::new("one hub of two crashes", 7, || vec![(0, Fault::Crash(0))]).with_hubs(&[150, 150]),
        Scenario::new("two hubs of three crash", 19, || vec![(0, Fault::Crash(0)), (0, Fault::Crash(1))]),
        Scenario::new("all hubs crash, 80 % of the clients come back with new ids", 19, || {
            let mut faults = all_hubs(Fault::Crash, 0).to_vec();
            faults.extend(all_hubs(|hub| Fault::Join(hub, 80), 30));
            faults
        }),
        Scenario::new("all clients die, and nobody comes back", 70, || all_hubs(Fault::Crash, 0).to_vec()),
        Scenario::new("all of 5 clients die", 20, || vec![(0, Fault::Crash(0))]).with_hubs(&[5]),
        Scenario {
            haunted: 270,
            begins: 0,
            ..Scenario::new("first start, 90 % of the entries a day old", 10, Vec::new)
        }
        .with_hubs(&[30]),
        Scenario::new("steady churn: 1 % of the clients vanish every minute, for half an hour", 36, churn),
        // Redis is in trouble.
        Scenario::new("Redis down for 10 min, hubs back 45 s later", 30, || {
            let mut faults = and([(0, Fault::Down), (10 * M, Fault::Restart(Data::All))]);
            faults.extend(all_hubs(|hub| Fault::Cut(hub, true), 0));
            faults.extend(all_hubs(|hub| Fault::Cut(hub, false), 10 * M + 45));
            faults
        }),
        Scenario {
            begins: 55 * MINUTE,
            ..Scenario::new("Redis killed, back with data 50 min old", 20, || {
                and([(-50 * M, Fault::Copy), (0, Fault::Down), (5, Fault::Restart(Data::Copied))])
            })
        },
        Scenario::new("failover, the client of one hub stalls for 14 min", 20, || {
            and([(-1, Fault::Copy), (0, Fault::Failover), (0, Fault::Cut(0, true)), (14 * M, Fault::Cut(0, false))])
        }),
        Scenario::new("Redis out of memory for 20 min: reads work, writes are refused", 30, || {
            and([(0, Fault::RefuseWrites(true)), (20 * M, Fault::RefuseWrites(false))])
        }),
        Scenario::new("Redis' clock jumps ahead by 10 min, and back after 20", 40, || {
            and([(0, Fault::RedisClock(600_000)), (20 * M, Fault::RedisClock(-600_000))])
        }),
        Scenario::new("Redis out of reach for 40 s of every minute, for 20 min", 36, || {
            let outages = (0..20).flat_map(|n| [(n * M, Fault::Down), (n * M + 40, Fault::Up)]);
            and(outages)
        }),
        Scenario::new("one reply to the reaper stalls every 2 min 30 s, for an hour", 6, || {
            and((0..24).map(|n| (n * 150 - 10 * M, Fault::ReplyStalls)))
        }),
        // Hubs are in trouble.
        Scenario::new("all hubs cut off from Redis for 20 min", 30, || {
            let mut faults = and(all_hubs(|hub| Fault::Cut(hub, true), 0));
            faults.extend(all_hubs(|hub| Fault::Cut(hub, false), 20 * M));
            faults
        }),
        Scenario::new("all hubs cut off for 20 min, back one by one within 4", 36, || {
            and([0, 1, 2].into_iter().flat_map(|hub| {
                let back = (20 + 2 * i64::try_from(hub).unwrap()) * M;
                [(0, Fault::Cut(hub, true)), (back, Fault::Cut(hub, false))]
            }))
        }),
        Scenario::new("two hubs of three cut off for 10 min", 30, || {
            and([0, 1].into_iter().flat_map(|hub| [(0, Fault::Cut(hub, true)), (10 * M, Fault::Cut(hub, false))]))
        }),
        Scenario::new("one hub of three cut off for 7 min", 10, || {
            and([(0, Fault::Cut(0, true)), (7 * M, Fault::Cut(0, false))])
        })
        .unavoidable(),
        Scenario::new("one hub of three cut off for 30 min", 10, || {
            and([(0, Fault::Cut(0, true)), (30 * M, Fault::Cut(0, false))])
        })
        .unavoidable(),
        Scenario::new("the clock of one hub is 10 min behind, for an hour", 10, || {
            and([(0, Fault::HubClock(0, -600_000)), (60 * M, Fault::HubClock(0, 0))])
        }),
        Scenario::new("the clock of one hub is 4 min behind, and it is cut off for 2 min", 10, || {
            and([
                (-10 * M, Fault::HubClock(0, -240_000)),
                (0, Fault::Cut(0, true)),
                (2 * M, Fault::Cut(0, false)),
                (20 * M, Fault::HubClock(0, 0)),
            ])
        }),
        Scenario::new("all hubs write local time, 5 h behind, for an hour", 70, || {
            let mut faults = and(all_hubs(|hub| Fault::HubClock(hub, -18_000_000), 0));
            faults.extend(all_hubs(|hub| Fault::HubClock(hub, 0), 60 * M));
            faults
        }),
        Scenario {
            begins: 135 * MINUTE,
            ..Scenario::new(
                "the clocks of all hubs are 10 min behind, and after 2 h they are cut off for 10 min",
                40,
                || {
                    let mut faults = and(all_hubs(|hub| Fault::HubClock(hub, -600_000), -120 * M));
                    faults.extend(all_hubs(|hub| Fault::Cut(hub, true), 0));
                    faults.extend(all_hubs(|hub| Fault::Cut(hub, false), 10 * M));
                    faults.extend(all_hubs(|hub| Fault::HubClock(hub, 0), 20 * M));
                    faults
                },
            )
        },
        Scenario::new("the clocks of all hubs fall 10 min behind, and then they are cut off for 30 min", 50, || {
            let mut faults = all_hubs(|hub| Fault::HubClock(hub, -600_000), 0).to_vec();
            faults.extend(all_hubs(|hub| Fault::Cut(hub, true), 2 * M));
            faults.extend(all_hubs(|hub| Fault::Vanish(hub, 4), 31 * M));
            faults.extend(all_hubs(|hub| Fault::Cut(hub, false), 32 * M));
            faults.extend(all_hubs(|hub| Fault::HubClock(hub, 0), 32 * M));
            faults
        }),
        // The reaper is in trouble.
        Scenario::new("the reaper stands still for 20 min, one hub crashes meanwhile", 37, || {
            vec![(0, Fault::ReaperStops(1_200_000)), (5 * M, Fault::Crash(0))]
        }),
        Scenario::new("the reaper is started anew every 4 min, for half an hour", 40, || {
            and((0..8).map(|n| (n * 4 * M, Fault::ReaperRestarts)))
        }),
    ]
}
