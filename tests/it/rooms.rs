//! The whole program on a source of many rooms: a sorted set or a hash for each, all under one pattern.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::sleep;

use crate::harness::{Binary, Hub, Layout, Pinging, Server, eventually};
use crate::world::{
    Confined, FAST, Rhythm, SOON, STEADY, evictions, evicts, is_in, is_old_enough, metric, only_source, settle,
    throughout,
};

const HOUR: Duration = Duration::from_secs(3600);

/// Nobody turns stale in the middle of an audit.
const SLOW: Rhythm = Rhythm { threshold: Duration::from_secs(60), heartbeat: Duration::from_secs(6) };

/// A hub of several rooms, in which the clients have the same names.
struct House {
    server_url: String,
    layout: Layout,
    rooms: Vec<Hub>,
    /// The program's own user, with the rights that it needs for this and no other.
    confined: Confined,
}

impl House {
    async fn new(server: &Server, layout: Layout, rooms: usize) -> Self {
        let room = |n| Hub::new(server, layout).key(&format!("{layout:?}:{n}:seen"));
        let rooms = (0..rooms).map(room).collect();
        let confined = Confined::make(server, &format!("rooms-{layout:?}"), &["--acl"], &flags(layout)).await;
        Self { server_url: server.url(), layout, rooms, confined }
    }

    /// The program on all of them, by flags alone.
    fn reaper(&self, words: &[&str], rhythm: Rhythm) -> Binary {
        let binary = Binary::new(words).args(["--redis-url", &self.server_url]);
        self.confined.run(binary.args(flags(self.layout)).args(rhythm.flags()))
    }

    /// So many live clients in each room, with what belongs to them; each room's.
    async fn enter(&self, server: &Server, of: impl Fn(usize) -> usize) -> Vec<Vec<String>> {
        let mut clients = Vec::new();
        let mut pipe = redis::pipe();
        for (n, room) in self.rooms.iter().enumerate() {
            let ids = room.live(of(n)).await;
            pipe.cmd("SADD").arg(format!("{:?}:{n}:conns", self.layout)).arg(&ids).ignore();
            clients.push(ids);
        }
        pipe.exec_async(&mut server.client().await).await.unwrap();
        clients
    }

    fn ping(&self, rhythm: Rhythm, clients: &[Vec<String>]) -> Vec<Pinging> {
        self.rooms.iter().zip(clients).map(|(room, ids)| room.ping_every(rhythm.heartbeat, ids)).collect()
    }

    /// Exactly these are left in each room, and no living client was lost; and all that was done was allowed.
    async fn assert_left(&self, server: &Server, rhythm: Rhythm, clients: &[Vec<String>]) {
        self.confined.assert_nothing_was_refused(server).await;
        let mut client = server.client().await;
        for (n, (room, ids)) in self.rooms.iter().zip(clients).enumerate() {
            let ids: BTreeSet<String> = ids.iter().cloned().collect();
            assert_eq!(room.remaining().await, ids, "room {n}");
            let conns = format!("{:?}:{n}:conns", self.layout);
            let conns: BTreeSet<String> = redis::cmd("SMEMBERS").arg(conns).query_async(&mut client).await.unwrap();
            assert_eq!(conns, ids, "what belongs to room {n}");
            room.verdict(rhythm.threshold).await.assert_none_lost();
        }
    }
}

/// The source of all rooms.
fn flags(layout: Layout) -> Vec<String> {
    let (pattern, companion) = (format!("{layout:?}:{{room}}:seen"), format!("SREM {layout:?}:{{room}}:conns {{id}}"));
    let flags: &[&str] = match layout {
        Layout::Zset => &["--zset", &pattern],
        _ => &["--hash", &pattern, "--last-ping", "json /LatestPingTime"],
    };
    flags.iter().chain(&["--companion", &companion]).map(|&flag| flag.to_owned()).collect()
}

/// The two layouts in which a container holds many entries.
const CONTAINERS: [Layout; 2] = [Layout::Zset, Layout::Json];

for_each_server! {
    /// An audit counts what is in all the rooms together, names each entry's room, and writes nothing.
    async fn an_audit_counts_all_rooms_as_one_source(server: Server) {
        let houses = [House::new(&server, CONTAINERS[0], 40).await, House::new(&server, CONTAINERS[1], 40).await];
        for house in &houses {
            for room in &house.rooms {
                room.live(3).await;
                room.stale(2, HOUR).await;
            }
        }
        server.reset_stats().await;

        for house in &houses {
            let run = house.reaper(&["--dry-run", "-o", "json"], SLOW).run().await;

            let document = run.assert_code(0).json();
            let source = only_source(&document);
            assert_eq!((source["entries"]["live"].as_u64(), source["entries"]["stale"].as_u64()), (Some(120), Some(80)));
            assert_eq!((&document["complete"], source["would_evict"].as_u64()), (&true.into(), Some(80)));
            let keys: BTreeSet<&str> = source["stale"].as_array().unwrap().iter().map(|entry| entry["key"].as_str().unwrap()).collect();
            assert_eq!(keys.len(), 40, "each with its room");
        }
        assert!(server.write_commands_seen().await.is_empty(), "{:?}", server.write_commands_seen().await);
    }

    /// The dead of each room go with what belongs to them, the last one of a room too; whoever pings stays.
    async fn the_daemon_evicts_the_dead_of_each_room(server: Server) {
        for layout in CONTAINERS {
            let house = House::new(&server, layout, 12).await;
            // Rooms of one, of two, of many.
            let clients = house.enter(&server, |n| if n < 4 { 1 } else { n }).await;
            let pinging = house.ping(STEADY, &clients);
            let daemon = settle(house.reaper(&["run"], STEADY)).await;
            assert_eq!(evictions(&daemon).await, 0);

            let mut left = clients.clone();
            let mut dead = 0;
            for n in [0, 2, 5, 9] {
                let most = left[n].len().min(3);
                let gone: Vec<String> = left[n].drain(..most).collect();
                dead += gone.len() as u64;
                pinging[n].silence(&gone);
            }

            evicts(&daemon, dead).await;
            let live = left.iter().map(Vec::len).sum::<usize>() as f64;
            eventually(SOON, async || metric(&daemon, "entries", Some(("state", "live"))).await == Some(live)).await;
            house.assert_left(&server, STEADY, &left).await;
            daemon.terminate();
            daemon.wait(SOON).await.assert_code(0);
        }
    }

    /// One run by hand does the same.
    async fn once_evicts_the_stale_of_each_room(server: Server) {
        for layout in CONTAINERS {
            let house = House::new(&server, layout, 10).await;
            let clients = house.enter(&server, |n| n + 1).await;
            for room in &house.rooms {
                room.stale(7, HOUR).await;
            }
            let _pinging = house.ping(STEADY, &clients);
            is_old_enough(&server, STEADY).await;

            let run = house.reaper(&["--once", "-o", "json"], STEADY).run().await;

            assert_eq!(only_source(&run.assert_code(0).json())["evicted"], 70);
            house.assert_left(&server, STEADY, &clients).await;
        }
    }

    /// When nobody pings in any room, nobody is evicted from any.
    async fn p3_when_all_rooms_are_silent_nobody_goes(server: Server) {
        let house = House::new(&server, Layout::Zset, 10).await;
        let clients = house.enter(&server, |_| 3).await;
        let pinging = house.ping(FAST, &clients);
        let daemon = settle(house.reaper(&["run"], FAST)).await;

        for room in pinging {
            room.stop().await;
        }

        is_in(&daemon, "silent").await;
        throughout(FAST.threshold * 2, async || evictions(&daemon).await == 0).await;
        for (room, ids) in house.rooms.iter().zip(&clients) {
            assert_eq!(room.remaining().await.len(), ids.len());
        }
    }

    /// The pulse is felt in all rooms: the ghosts of one stay when the others fell silent since the last survey.
    async fn p3_the_ghosts_of_a_room_stay_when_the_others_fell_silent_since_the_survey(server: Server) {
        for layout in CONTAINERS {
            let house = House::new(&server, layout, 6).await;
            let clients = house.enter(&server, |_| 3).await;
            let pinging = house.ping(STEADY, &clients);
            let daemon = settle(house.reaper(&["run"], STEADY)).await;

            pinging[0].silence(&clients[0]);
            // They are due when the others have been silent for four heartbeats.
            sleep(STEADY.threshold - STEADY.heartbeat * 5).await;
            for room in pinging {
                room.stop().await;
            }

            throughout(STEADY.threshold, async || evictions(&daemon).await == 0).await;
            house.assert_left(&server, STEADY, &clients).await;
        }
    }

    /// A pattern that finds more rooms than allowed evicts nothing, and says how to mend it.
    async fn more_rooms_than_allowed_hold_the_source(server: Server) {
        let house = House::new(&server, Layout::Zset, 6).await;
        for room in &house.rooms {
            room.live(2).await;
            room.stale(2, HOUR).await;
        }
        let few = |words: &[&str]| house.reaper(words, FAST).env("PRESENCE_REAPER_GUARD__MAX_KEYS", "5");
        let sentence = "more than 5 sorted sets match Zset:*:seen";

        let audit = few(&["--dry-run", "-o", "json"]).run().await;

        let document = audit.assert_code(1).json();
        assert_eq!((&document["complete"], &document["sources"][0]["state"]), (&false.into(), &"blind".into()));
        assert!(document["sources"][0]["error"].as_str().unwrap().contains(sentence), "{document:#}");
        let daemon = few(&["run"]).listening().spawn();
        is_in(&daemon, "blind").await;
        throughout(FAST.threshold * 2, async || evictions(&daemon).await == 0).await;
        assert!(daemon.stderr().contains(sentence) && daemon.stderr().contains("raise `max_keys`"), "{}", daemon.stderr());
    }
}
