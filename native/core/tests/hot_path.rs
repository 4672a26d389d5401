//! The hot path by counts, where a time would drown in noise: allocations and bytes of the engines' loops, and their
//! system calls. Each bound leaves a little room above what was measured, which is noted beside it (client, server).
#[path = "support/counting.rs"]
mod counting;
mod support;
#[path = "support/system_calls.rs"]
mod system_calls;
use counting::{Counting, Counts, of_thread};
use meltemi_core::api::*;
use std::fmt::Debug;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard};
use support::*;
use system_calls::{Calls, Trace, can_trace, total};

#[global_allocator]
static HEAP: Counting = Counting;

#[test]
fn bulk_is_relayed_without_allocating() {
    let Some(pair) = Pair::start(options()) else { return };
    pair.mesh.world.serve('b', "0.0.0.0:8080", |mut stream| {
        let mut buffer = vec![0; 1 << 20];
        while stream.read_exact(&mut buffer).is_ok() {
            stream.write_all(b"+").unwrap();
        }
    });
    let mut stream = pair.mesh.connect();
    let piece = vec![7; 1 << 20];
    let mut send = |megabytes: usize| {
        for _ in 0..megabytes {
            stream.write_all(&piece).unwrap();
        }
        stream.read_exact(&mut vec![0; megabytes]).unwrap();
    };
    send(16);
    let both = pair.count(|| send(128)).per(128);
    // 0.03 and 0.5 to 1.8: records that arrive in two reads. One for each record would be 64.
    both.allocate_at_most("megabyte", [1.0, 8.0]);
}

#[test]
fn a_round_trip_allocates_nothing() {
    let Some(pair) = Pair::start(options()) else { return };
    pair.mesh.echo();
    let mut stream = pair.mesh.connect();
    ping(&mut stream, 200);
    let both = pair.count(|| ping(&mut stream, 4000)).per(4000);
    // 0 and 0; once a second each loop makes a list of its tunnels.
    both.allocate_at_most("round trip", [0.01, 0.01]);
}

#[test]
fn a_new_connection_on_a_known_way_allocates_a_handful() {
    let Some(pair) = Pair::start(options()) else { return };
    pair.mesh.echo();
    pair.connect_and_close(100);
    // Nobody takes the access log meanwhile: how often its buffer begins anew would depend on time.
    let logs = [&pair.mesh.client, &pair.mesh.server].map(|node| node.log.lock().unwrap());
    let both = pair.count(|| pair.connect_and_close(400)).per(400);
    drop(logs);
    // 12.0 and 7.9, of up to 2160 and 1740 bytes, with an access-log line each.
    both.allocate_at_most("new connection", [12.6, 8.3]);
    both.allocate_bytes_at_most("new connection", [2300.0, 1900.0]);
    assert_eq!(pair.mesh.client.engine.stats().tunnels, 1);
}

/// A TLS connection without streams; connections share it.
#[test]
fn an_idle_tunnel_holds_its_state_and_no_buffers() {
    let Some(pair) = Pair::start(EngineOptions { access_log: false, ..options() }) else { return };
    let (a, b) = (&pair.mesh.world.a, &pair.mesh.world.b);
    run(&format!("ip -n {b} route add local 10.79.0.0/16 dev lo; ip -n {a} route add 10.79.0.0/16 dev eth0"));
    pair.mesh.echo();
    let open = |numbers: std::ops::Range<u32>| {
        for number in numbers {
            let tunnel = format!("10.79.{}.{}:15008", number / 250, number % 250 + 1).parse().unwrap();
            let endpoint = Endpoint { tunnel: Some(tunnel), ..endpoint(8080) };
            pair.mesh.client.engine.put_groups(vec![group("g", vec![endpoint])]);
            pair.connect_and_close(1);
        }
    };
    open(0..50);
    let before = in_use();
    let both = pair.count(|| open(50..450)).per(400);
    let in_use = (in_use() - before) as f64 / 400.0;
    assert_eq!(pair.mesh.client.engine.stats().tunnels, 450);
    assert_eq!(pair.mesh.server.engine.stats().tunnels, 450);
    // 1648 and 1651: the tunnel itself is 616, the peer's certificate 390.
    both.hold_at_most("idle tunnel", [1850.0, 1850.0]);
    // 7900 to 8400 for both ends together, with the ciphers' state (4 of 600 bytes) and what the C library spends on each piece.
    println!("bytes of the process's heap per idle tunnel, both ends: {in_use:.0}");
    assert!(in_use <= 8800.0, "an idle tunnel takes {in_use:.0} bytes of the process's heap");
}

/// The target is a kilobyte.
#[test]
fn an_idle_connection_in_a_tunnel_holds_less_than_a_kilobyte() {
    let Some(pair) = Pair::start(EngineOptions { max_streams_per_tunnel: 256, ..options() }) else { return };
    pair.mesh.echo();
    let mut open = vec![];
    let mut connect = |count: usize| {
        for _ in 0..count {
            let mut stream = pair.mesh.connect();
            ping(&mut stream, 1);
            open.push(stream);
        }
    };
    connect(50);
    let both = pair.count(|| connect(200)).per(200);
    // 699 and 729: the connection itself is 288, the rest its place in tables that grow by doubling.
    both.hold_at_most("idle connection", [850.0, 850.0]);
    assert_eq!(pair.mesh.client.engine.stats().tunnels, 1);
}

#[test]
fn few_system_calls_are_made() {
    if !can_trace() {
        return;
    }
    let Some(pair) = Pair::start(EngineOptions { spin_us: 0, ..options() }) else { return };
    pair.mesh.echo();
    let mut stream = pair.mesh.connect();
    ping(&mut stream, 20);
    let calls = pair.trace(|| ping(&mut stream, 500));
    // 4 and 4: for each of two messages a read and a send.
    at_most("system calls", "round trip", calls.each_ref().map(|calls| total(calls, &[]) / 500.0), [4.2, 4.2], &calls);
    drop(stream);
    pair.connect_and_close(20);
    let calls = pair.trace(|| pair.connect_and_close(200));
    // 10.9 to 12.7 and 20.0 to 21.7, by how many of the tunnel's messages go together.
    at_most(
        "system calls",
        "new connection",
        calls.each_ref().map(|calls| total(calls, &[]) / 200.0),
        [14.0, 23.0],
        &calls,
    );
    // 7.0 and 16.0, of which setsockopt 8.
    let alone = calls.each_ref().map(|calls| total(calls, &["recvfrom", "sendto"]) / 200.0);
    at_most("system calls on sockets of its own", "new connection", alone, [7.5, 16.5], &calls);
}

/// Two engines with one loop each, alone in the process.
struct Pair {
    mesh: Mesh,
    loops: [i32; 2],
    _alone: MutexGuard<'static, ()>,
}

/// What the client's and the server's loop took, for each of so many times.
struct Both {
    loops: [Counts; 2],
    times: i64,
}

impl Pair {
    fn start(options: EngineOptions) -> Option<Self> {
        if !is_root() {
            return None;
        }
        let alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let client = Node::new(options.clone(), Box::new(|offer| Some(to_group(offer))));
        let client_loop = other_loop(0);
        let server = Node::new(options, Box::new(|offer| Some(to_app(offer))));
        let loops = [client_loop, other_loop(client_loop)];
        Some(Self { mesh: Mesh::of(client, server), loops, _alone: alone })
    }

    fn count(&self, work: impl FnOnce()) -> Both {
        let before = self.loops.map(of_thread);
        work();
        let [client, server] = self.loops.map(of_thread);
        Both { loops: [client - before[0], server - before[1]], times: 1 }
    }

    /// Connects, makes one round trip and closes, one after the other, until both engines have forgotten them.
    fn connect_and_close(&self, times: usize) {
        for _ in 0..times {
            ping(&mut self.mesh.connect(), 1);
        }
        for node in [&self.mesh.client, &self.mesh.server] {
            await_true("all connections are closed", || node.engine.stats().connections == 0);
        }
    }

    /// System calls of the client's and the server's loop meanwhile, by name.
    fn trace(&self, work: impl FnOnce()) -> [Calls; 2] {
        let traces = self.loops.map(Trace::start);
        work();
        traces.map(Trace::end)
    }
}

impl Both {
    fn per(self, times: i64) -> Self {
        Self { times, ..self }
    }

    fn allocate_at_most(&self, what: &str, bounds: [f64; 2]) {
        at_most("allocations", what, self.each(|counts| counts.allocations), bounds, &self.loops);
    }

    fn allocate_bytes_at_most(&self, what: &str, bounds: [f64; 2]) {
        at_most("bytes allocated", what, self.each(|counts| counts.bytes), bounds, &self.loops);
    }

    fn hold_at_most(&self, what: &str, bounds: [f64; 2]) {
        at_most("bytes held", what, self.each(|counts| counts.held), bounds, &self.loops);
    }

    fn each(&self, figure: fn(&Counts) -> i64) -> [f64; 2] {
        self.loops.map(|counts| figure(&counts) as f64 / self.times as f64)
    }
}

fn at_most(figure: &str, what: &str, measured: [f64; 2], bounds: [f64; 2], details: &dyn Debug) {
    let [client, server] = measured;
    println!("{figure} per {what}: {client:.2} at the client, {server:.2} at the server");
    let is_within = client <= bounds[0] && server <= bounds[1];
    assert!(is_within, "{figure} per {what}: {client:.2} and {server:.2}, at most {bounds:?}; in all {details:?}");
}

fn ping(stream: &mut TcpStream, times: usize) {
    let mut answer = [0; 64];
    for _ in 0..times {
        stream.write_all(&[7; 64]).unwrap();
        stream.read_exact(&mut answer).unwrap();
    }
}

/// The thread of an engine's loop, as soon as it bears its name.
fn other_loop(known: i32) -> i32 {
    let is_loop = |thread: &i32| {
        let name = std::fs::read_to_string(format!("/proc/self/task/{thread}/comm")).unwrap_or_default();
        *thread != known && name.starts_with("meltemi-")
    };
    let find = || {
        let threads = std::fs::read_dir("/proc/self/task").ok()?.flatten();
        threads.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(is_loop)
    };
    await_some("the engine's loop", find).expect("a thread of the engine's loop")
}

/// Bytes of the whole process's heap in use, libraries in C included.
fn in_use() -> usize {
    unsafe { libc::mallinfo2() }.uordblks
}

/// Counts are of threads, but one test's load would batch the other's.
static ALONE: Mutex<()> = Mutex::new(());
