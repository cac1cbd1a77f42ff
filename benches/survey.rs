//! How fast a survey is, and what it costs the server: `--dry-run` over a million entries of each layout, and beside it
//! the barest client that reads the same data (SCAN+MGET, HSCAN, ZCOUNT, SCAN+ZRANGE), on the same server in the same run.
//!
//! `cargo bench --bench survey`; BENCH_ENTRIES sets another number, BENCH_LAYOUT one layout (a word of its name),
//! BENCH_SERVER another program than redis-server.
//! One JSON line a layout; read the ratios, for seconds differ from machine to machine.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a benchmark that fails should stop")]

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::{Connection, Value};
use tempfile::TempDir;
use tokio::time::Instant;

const PAGE: usize = 500;

fn main() {
    let entries: u64 = std::env::var("BENCH_ENTRIES").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let wanted = std::env::var("BENCH_LAYOUT").unwrap_or_default();
    for layout in Layout::ALL.into_iter().filter(|layout| layout.name().contains(&wanted)) {
        // A server of its own: its CPU time is that layout's.
        let mut server = Server::start();
        server.fill(layout, entries);
        let bare = server.measure(|server| server.read_bare(layout));
        let (survey, peak_mib) = server.measure_survey(layout, entries);
        println!("{}", line(layout, entries, &survey, &bare, peak_mib));
    }
}

fn line(layout: Layout, entries: u64, survey: &Cost, bare: &Cost, peak_mib: f64) -> serde_json::Value {
    let per_entry = |seconds: f64| (seconds * 1e6 / entries as f64 * 100.0).round() / 100.0;
    let ratio = |ours: f64, theirs: f64| (ours / theirs * 100.0).round() / 100.0;
    serde_json::json!({
        "bench": "survey", "layout": layout.name(), "entries": entries,
        "entries_per_s": (entries as f64 / survey.wall).round(),
        "wall_s": (survey.wall * 1e3).round() / 1e3,
        "server_cpu_us_per_entry": per_entry(survey.server_cpu),
        "peak_memory_mib": peak_mib.round(),
        "bare_server_cpu_us_per_entry": per_entry(bare.server_cpu),
        "wall_to_bare": ratio(survey.wall, bare.wall),
        "server_cpu_to_bare": ratio(survey.server_cpu, bare.server_cpu),
    })
}

#[derive(Clone, Copy)]
enum Layout {
    Zset,
    Strings,
    Hashes,
    Json,
    Rooms,
    Shards,
}

impl Layout {
    const ALL: [Self; 6] = [Self::Zset, Self::Strings, Self::Hashes, Self::Json, Self::Rooms, Self::Shards];

    fn name(self) -> &'static str {
        match self {
            Self::Zset => "zset",
            Self::Strings => "string keys",
            Self::Hashes => "hash per entry",
            Self::Json => "JSON in one hash",
            Self::Rooms => "rooms of 20, a sorted set each",
            Self::Shards => "rooms of 20, a hash each",
        }
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Zset => &["--zset", "presence:online"],
            Self::Strings => &["--keys", "conn:{id}"],
            Self::Hashes => &["--keys", "conn:{id}", "--last-ping", "field last_ping"],
            Self::Json => &["--hash", "presence:clients", "--last-ping", "json /LatestPingTime"],
            Self::Rooms => &["--zset", "room:{room}:seen"],
            Self::Shards => &["--hash", "room:{room}:seen"],
        }
    }

    /// Writes entries `from..to`, nine in ten fresh, as Lua on the server: a million round trips would take minutes.
    fn script(self) -> &'static str {
        match self {
            Self::Zset => "redis.call('ZADD', 'presence:online', at, 'client-' .. i)",
            Self::Strings => "redis.call('SET', 'conn:' .. i, string.format('%.0f', at))",
            Self::Hashes => "redis.call('HSET', 'conn:' .. i, 'last_ping', string.format('%.0f', at), 'user', i)",
            Self::Json => {
                "redis.call('HSET', 'presence:clients', 'client-' .. i, \
                 '{\"UserId\":\"u' .. i .. '\",\"LatestPingTime\":' .. string.format('%.0f', at) .. '}')"
            }
            Self::Rooms => "redis.call('ZADD', 'room:' .. math.floor(i / 20) .. ':seen', at, 'client-' .. i)",
            Self::Shards => {
                "redis.call('HSET', 'room:' .. math.floor(i / 20) .. ':seen', 'client-' .. i, \
                 string.format('%.0f', at))"
            }
        }
    }
}

/// What reading everything once took.
struct Cost {
    wall: f64,
    server_cpu: f64,
}

struct Server {
    process: Child,
    port: u16,
    connection: Connection,
    _directory: TempDir,
}

impl Server {
    fn start() -> Self {
        let program = std::env::var("BENCH_SERVER").unwrap_or_else(|_| "redis-server".into());
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let directory = TempDir::new().unwrap();
        let process = Command::new(program)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("a server program");
        let client = redis::Client::open(("127.0.0.1", port)).unwrap();
        let connection = (0..250).find_map(|_| {
            std::thread::sleep(Duration::from_millis(20));
            client.get_connection().ok()
        });
        Self { process, port, connection: connection.expect("the server comes up"), _directory: directory }
    }

    fn fill(&mut self, layout: Layout, entries: u64) {
        let script = format!(
            "local t = redis.call('TIME') local now = t[1] * 1000 \
             for i = ARGV[1], ARGV[2] - 1 do local at = i % 10 == 0 and now - 3600000 or now {} end",
            layout.script()
        );
        for from in (0..entries).step_by(10_000) {
            let to = (from + 10_000).min(entries);
            let _: Value =
                redis::cmd("EVAL").arg(&script).arg(0).arg(from).arg(to).query(&mut self.connection).unwrap();
        }
    }

    fn cpu(&mut self) -> f64 {
        let info: String = redis::cmd("INFO").arg("cpu").query(&mut self.connection).unwrap();
        let seconds = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        seconds("used_cpu_sys:").unwrap() + seconds("used_cpu_user:").unwrap()
    }

    fn measure(&mut self, read: impl FnOnce(&mut Self)) -> Cost {
        let (cpu, began) = (self.cpu(), Instant::now());
        read(self);
        Cost { wall: began.elapsed().as_secs_f64(), server_cpu: self.cpu() - cpu }
    }

    fn measure_survey(&mut self, layout: Layout, entries: u64) -> (Cost, f64) {
        let mut peak = 0.0;
        let cost = self.measure(|server| {
            let mut child = Command::new(env!("CARGO_BIN_EXE_presence-reaper"))
                .args(["--dry-run", "-o", "json", "--redis-url", &format!("redis://127.0.0.1:{}", server.port)])
                .args(layout.flags())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let status = format!("/proc/{}/status", child.id());
            while child.try_wait().unwrap().is_none() {
                peak = f64::max(peak, high_water_mark(&status).unwrap_or(0.0));
                std::thread::sleep(Duration::from_millis(2));
            }
            let output = child.wait_with_output().unwrap();
            let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a JSON document");
            let seen = &document["sources"][0]["entries"];
            assert_eq!(seen["live"].as_u64().unwrap() + seen["stale"].as_u64().unwrap(), entries, "{document}");
        });
        (cost, peak)
    }

    /// Reads the same data the barest way: pages, and nothing done with them.
    fn read_bare(&mut self, layout: Layout) {
        match layout {
            Layout::Zset => {
                // What an index answers, as an audit wants it: how many there are, how many are stale, the oldest of those.
                let now: (u64, u64) = redis::cmd("TIME").query(&mut self.connection).unwrap();
                let stale = now.0 * 1000 - 300_000;
                let mut commands = redis::pipe();
                commands.cmd("ZCARD").arg("presence:online");
                commands.cmd("ZCOUNT").arg("presence:online").arg("-inf").arg(stale);
                commands.cmd("ZRANGEBYSCORE").arg("presence:online").arg("-inf").arg(stale);
                commands.arg("WITHSCORES").arg("LIMIT").arg(0).arg(100);
                let _: Vec<Value> = commands.query(&mut self.connection).unwrap();
            }
            Layout::Strings => self.scan("SCAN", &[], |connection, keys| {
                let _: Vec<Value> = redis::cmd("MGET").arg(keys).query(connection).unwrap();
            }),
            Layout::Hashes => self.scan("SCAN", &[], |connection, keys| {
                let mut commands = redis::pipe();
                keys.iter().for_each(|key| _ = commands.cmd("HMGET").arg(key).arg("last_ping"));
                let _: Vec<Value> = commands.query(connection).unwrap();
            }),
            Layout::Json => self.scan("HSCAN", &["presence:clients"], |_, _| {}),
            Layout::Rooms => self.scan("SCAN", &[], |connection, keys| {
                let mut commands = redis::pipe();
                keys.iter().for_each(|key| _ = commands.cmd("ZRANGE").arg(key).arg(0).arg(-1).arg("WITHSCORES"));
                let _: Vec<Value> = commands.query(connection).unwrap();
            }),
            Layout::Shards => self.scan("SCAN", &[], |connection, keys| {
                let mut commands = redis::pipe();
                keys.iter().for_each(|key| _ = commands.cmd("HGETALL").arg(key));
                let _: Vec<Value> = commands.query(connection).unwrap();
            }),
        }
    }

    fn scan(&mut self, command: &str, key: &[&str], mut each: impl FnMut(&mut Connection, &[Vec<u8>])) {
        let mut cursor = 0_u64;
        loop {
            let (next, page): (u64, Vec<Vec<u8>>) =
                redis::cmd(command).arg(key).arg(cursor).arg("COUNT").arg(PAGE).query(&mut self.connection).unwrap();
            if !page.is_empty() {
                each(&mut self.connection, &page);
            }
            if next == 0 {
                return;
            }
            cursor = next;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The most memory a process has had, in MiB.
fn high_water_mark(status: &str) -> Option<f64> {
    let text = std::fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<f64>().ok()? / 1024.0)
}
