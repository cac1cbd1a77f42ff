//! An absence that single runs see one after the other, and clocks that are moved meanwhile.

use serde_json::Value;

use super::*;
use crate::harness::Kind;
use crate::world::{breaks, is_in, is_old_enough, only_source, throughout};

/// Two runs a threshold apart are one threshold apart on a busy machine too, and not two.
const RUNS: Rhythm = Rhythm { threshold: Duration::from_secs(4), heartbeat: Duration::from_millis(500) };

const TWO_HOURS: Duration = Duration::from_secs(7_200);

async fn once(server: &Server, source: &str) -> Value {
    let (_file, binary) = configured(server, RUNS, source, &["--once", "-o", "json"]);
    let run = binary.env("PRESENCE_REAPER_GUARD__MAX_EVICT_RATE", "unlimited").run().await;
    only_source(&run.json()).clone()
}

async fn evicted(server: &Server, source: &str) -> u64 {
    once(server, source).await["evicted"].as_u64().unwrap()
}

/// What the last run left of those it saw missing.
async fn left(client: &mut MultiplexedConnection) -> String {
    let keys: Vec<String> = ask(client, "KEYS presence-reaper:*:state").await;
    ask::<Option<String>>(client, &format!("HGET {} absences", keys[0])).await.unwrap_or_default()
}

async fn a_threshold_passes() {
    sleep(RUNS.threshold + RUNS.heartbeat / 2).await;
}

async fn half_a_threshold_passes() {
    sleep(RUNS.threshold / 2 + RUNS.heartbeat / 2).await;
}

for_each_server! {
    /// A single run has not watched for a threshold: it reports, and leaves. The one that comes a threshold later has, by
    /// what the others saw; and who is evicted leaves nothing to the next of its name.
    async fn missing_goes_in_the_first_single_run_after_a_threshold(server: Server) {
        let mut client = server.client().await;
        workers(&mut client).await;
        is_old_enough(&server, RUNS).await;
        let first = once(&server, WORKERS).await;
        assert_eq!((&first["evicted"], &first["unreadable_by"]["missing"]), (&0.into(), &1.into()), "{first:#}");
        assert_eq!(left(&mut client).await.split(' ').count(), 3, "one is left to the next run");
        half_a_threshold_passes().await;
        assert_eq!(evicted(&server, WORKERS).await, 0, "not yet");

        half_a_threshold_passes().await;
        let later = once(&server, WORKERS).await;
        assert_eq!((&later["evicted"], &later["entries"]["stale"]), (&1.into(), &1.into()), "{later:#}");
        let alive: BTreeSet<String> = ask(&mut client, "SMEMBERS workers").await;
        assert_eq!(alive, ["worker:a", "worker:b"].map(str::to_owned).into());
        assert_eq!(left(&mut client).await, "0 whole");

        run(&mut client, &["SADD workers worker:gone"]).await;
        assert_eq!(evicted(&server, WORKERS).await, 0, "a new one of its name");
    }

    /// Who is there at the second run stays, and if a run saw it there, it begins anew with the next absence.
    async fn missing_begins_anew_where_a_client_came_back_between_two_runs(server: Server) {
        let mut client = server.client().await;
        workers(&mut client).await;
        is_old_enough(&server, RUNS).await;
        run(&mut client, &["SADD workers worker:back"]).await;
        assert_eq!(evicted(&server, WORKERS).await, 0);
        half_a_threshold_passes().await;
        run(&mut client, &["SET worker:gone x"]).await;
        assert_eq!(evicted(&server, WORKERS).await, 0);
        run(&mut client, &["DEL worker:gone"]).await;
        half_a_threshold_passes().await;
        run(&mut client, &["SET worker:back x"]).await;
        assert_eq!(evicted(&server, WORKERS).await, 0);
        assert_eq!(ask::<u64>(&mut client, "SCARD workers").await, 4);
    }

    /// What was refused in between shows at the second look of the next run, and may have been what is missing.
    async fn g11_missing_begins_anew_after_refused_writes_between_two_runs(server: Server) {
        let mut client = server.client().await;
        workers(&mut client).await;
        is_old_enough(&server, RUNS).await;
        assert_eq!(evicted(&server, WORKERS).await, 0);
        run(&mut client, &["CONFIG SET maxmemory 1"]).await;
        let refused: redis::RedisResult<()> = redis::cmd("SET").arg("x").arg("y").query_async(&mut client).await;
        assert!(refused.is_err());
        run(&mut client, &["CONFIG SET maxmemory 0"]).await;
        a_threshold_passes().await;
        let second = once(&server, WORKERS).await;
        assert_eq!((&second["evicted"], &second["state"]), (&0.into(), &"grace".into()), "{second:#}");
        let left = left(&mut client).await;
        let age: u128 = left.rsplit(':').next().unwrap().parse().unwrap();
        assert!(age < RUNS.threshold.as_millis(), "{left}");
    }

    /// A run that is killed may have evicted: those it was about to take it leaves to nobody.
    async fn missing_that_was_due_is_not_left_by_a_run_that_is_killed(server: Server) {
        let mut client = server.client().await;
        workers(&mut client).await;
        is_old_enough(&server, RUNS).await;
        assert_eq!(evicted(&server, WORKERS).await, 0);
        a_threshold_passes().await;
        let (_file, binary) = configured(&server, RUNS, WORKERS, &["--once"]);
        let second = binary.spawn();
        eventually(SOON, async || second.stderr().contains("stale; looking again in ")).await;
        assert_eq!(left(&mut client).await, "0 whole");
        drop(second);
    }

    /// A client that comes back while the second run makes sure of it stays.
    async fn p1_missing_that_comes_back_in_the_countdown_stays(server: Server) {
        let mut client = server.client().await;
        workers(&mut client).await;
        is_old_enough(&server, RUNS).await;
        assert_eq!(evicted(&server, WORKERS).await, 0);
        a_threshold_passes().await;
        let (_file, binary) = configured(&server, RUNS, WORKERS, &["--once", "-o", "json"]);
        let second = binary.spawn();
        eventually(SOON, async || second.stderr().contains("stale; looking again in ")).await;
        run(&mut client, &["SET worker:gone x"]).await;
        let told = second.wait(SOON).await.json();
        assert_eq!(only_source(&told)["evicted"], 0, "{told:#}");
        assert_eq!(ask::<u64>(&mut client, "SCARD workers").await, 3);
    }

    /// An entry that names another owner than at the run before was written in between.
    async fn missing_begins_anew_where_an_entry_names_another_key(server: Server) {
        let mut client = server.client().await;
        let source = "hash = \"conns\"\nlast_ping = \"exists server:{value}\"\nmissing = \"stale\"";
        run(&mut client, &["HSET conns a s1 b s2 c s3", "SET server:s1 x"]).await;
        is_old_enough(&server, RUNS).await;
        assert_eq!(evicted(&server, source).await, 0);
        a_threshold_passes().await;
        run(&mut client, &["HSET conns c s4"]).await;
        assert_eq!(evicted(&server, source).await, 1);
        assert_eq!(ask::<Vec<String>>(&mut client, "HKEYS conns").await, ["a", "c"]);
    }

    /// A restart between two runs may have cost what is missing.
    async fn g5_missing_begins_anew_after_a_restart_between_two_runs(server: Server) {
        let mut server = server;
        let mut client = server.client().await;
        workers(&mut client).await;
        is_old_enough(&server, RUNS).await;
        assert_eq!(evicted(&server, WORKERS).await, 0);
        run(&mut client, &["SAVE"]).await;
        server.restart().await;
        is_old_enough(&server, RUNS).await;
        let second = once(&server, WORKERS).await;
        assert_eq!((&second["evicted"], &second["state"]), (&0.into(), &"grace".into()), "{second:#}");
        assert_eq!(second["entries"]["stale"], 0, "{second:#}");
    }

    /// A key that is misspelt is there for nobody, in any number of runs, and nothing of it is left to the next.
    async fn missing_with_a_typo_evicts_nobody_in_any_number_of_runs(server: Server) {
        let mut client = server.client().await;
        workers(&mut client).await;
        run(&mut client, &["HSET conn:a at 1", "HSET conn:b at 1"]).await;
        is_old_enough(&server, RUNS).await;
        for lookup in ["exists wroker:{id}", "hget conn:{id} ta"] {
            let source = WORKERS.replace("exists {member}", lookup);
            for _ in 0..3 {
                assert_eq!(evicted(&server, &source).await, 0, "{lookup}");
                half_a_threshold_passes().await;
            }
            assert_eq!(left(&mut client).await, "0 whole", "{lookup}");
            let keys: Vec<String> = ask(&mut client, "KEYS presence-reaper:*").await;
            run(&mut client, &[&format!("DEL {}", keys.join(" "))]).await;
        }
        assert_eq!(ask::<u64>(&mut client, "SCARD workers").await, 3);
    }

    /// More than one run leaves to another: the rest has not been seen before.
    async fn missing_in_great_number_is_left_in_part(server: Server) {
        let mut client = server.client().await;
        workers(&mut client).await;
        let many: Vec<String> = (0..5_200).map(|n| format!("worker:{n}")).collect();
        run(&mut client, &[&format!("SADD workers {}", many.join(" "))]).await;
        is_old_enough(&server, RUNS).await;
        assert_eq!(evicted(&server, WORKERS).await, 0);
        let left = left(&mut client).await;
        assert!(left.starts_with("0 partial ") && left.split(' ').count() == 5_002, "{left}");
        a_threshold_passes().await;
        let second = once(&server, WORKERS).await;
        assert_eq!((&second["entries"]["stale"], &second["would_evict"]), (&5_000.into(), &5_000.into()), "{second:#}");
        assert!(ask::<u64>(&mut client, "SCARD workers").await >= 203);
    }
}

// === clocks ===

for_each_server! {
    /// Redis' clock is set between two runs, on or back: no time has passed for that.
    async fn g5_missing_is_not_aged_by_a_clock_that_moves_between_two_runs(kind: Kind) {
        for ahead in [TWO_HOURS, RUNS.threshold + Duration::from_secs(1)] {
            let server = Server::builder(kind).movable_clock().start().await;
            let mut client = server.client().await;
            workers(&mut client).await;
            is_old_enough(&server, RUNS).await;
            assert_eq!(evicted(&server, WORKERS).await, 0);

            let before = server_now(&mut client).await;
            server.move_clock(ahead);
            // A server may answer with the time of a moment ago.
            eventually(SOON, async || server_now(&mut client.clone()).await >= before.plus(ahead)).await;
            let second = once(&server, WORKERS).await;
            assert_eq!((&second["evicted"], &second["entries"]["stale"]), (&0.into(), &0.into()), "{second:#}");
            assert!(second["hold"]["detail"].as_str().unwrap().contains("a jump of redis' clock"), "{second:#}");

            server.move_clock(Duration::ZERO);
            assert_eq!(evicted(&server, WORKERS).await, 0, "back again");
            assert_eq!(ask::<u64>(&mut client, "SCARD workers").await, 3);
        }
    }

    /// Redis' clock is set two hours on while the daemon watches: keys run out by it that nobody lost, and no absence is
    /// older for it. What is missing a threshold later goes.
    async fn g5_missing_is_not_aged_by_a_clock_that_moves_on_two_hours(kind: Kind) {
        let server = Server::builder(kind).movable_clock().start().await;
        let mut client = server.client().await;
        run(&mut client, &["SADD workers worker:a worker:b worker:gone"]).await;
        let beats = beating(&server, &["SET worker:a x PX 3600000"]);
        run(&mut client, &["SET worker:b x PX 3600000", "SET worker:gone x PX 3600000"]).await;
        let (_file, daemon) = daemon(&server, RUNS, WORKERS).await;
        run(&mut client, &["DEL worker:gone"]).await;
        sleep(RUNS.heartbeat * 3).await;

        server.move_clock(TWO_HOURS);
        // Its time runs out by the clock alone.
        eventually(SOON, async || !ask::<bool>(&mut client.clone(), "EXISTS worker:b").await).await;
        is_in(&daemon, "grace").await;
        throughout(RUNS.threshold / 2, async || evictions(&daemon).await == 0).await;
        run(&mut client, &["SET worker:b x PX 3600000"]).await;
        assert_eq!(breaks(&daemon, "clock_jump").await, 1);

        eventually(SOON, async || evictions(&daemon).await == 1).await;
        let alive: BTreeSet<String> = ask(&mut client, "SMEMBERS workers").await;
        assert_eq!(alive, ["worker:a", "worker:b"].map(str::to_owned).into());
        beats.abort();
    }
}
