//! A small load generator, for the worlds of the `pair` example:
//!
//!   load server NAME                         listens in NAMEb, port 9000
//!   load up|down|ping|short NAME CONNECTIONS SECONDS [ADDRESS]   drives it from NAMEa
use meltemi_core::net::in_netns;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["server", name] => server(name),
        [mode, name, connections, seconds, ref rest @ ..] => {
            let target = rest.first().unwrap_or(&"10.78.0.1:9000");
            client(mode, name, connections.parse().unwrap(), seconds.parse().unwrap(), target.parse().unwrap());
        }
        _ => eprintln!("usage: load server NAME | load up|down|ping|short NAME CONNECTIONS SECONDS [ADDRESS]"),
    }
}

fn server(name: &str) {
    let listener = in_netns(&format!("/run/netns/{name}b"), || TcpListener::bind("0.0.0.0:9000")).unwrap();
    for stream in listener.incoming().flatten() {
        std::thread::Builder::new().stack_size(640 << 10).spawn(move || serve(stream)).unwrap();
    }
}

fn serve(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut mode = [0];
    if stream.read_exact(&mut mode).is_err() {
        return;
    }
    let mut buffer = vec![0; if mode[0] == b'P' { 4096 } else { 512 << 10 }];
    match mode[0] {
        b'P' => {
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..count]).is_err() {
                    return;
                }
            }
        }
        b'D' => while stream.write_all(&buffer).is_ok() {},
        _ => while matches!(stream.read(&mut buffer), Ok(1..)) {},
    }
}

fn client(mode: &str, name: &str, connections: usize, seconds: f64, target: SocketAddr) {
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let bytes = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..connections)
        .map(|_| {
            let (mode, netns, bytes) = (mode.to_owned(), format!("/run/netns/{name}a"), bytes.clone());
            std::thread::spawn(move || in_netns(&netns, || Ok(drive(&mode, target, end, &bytes))).unwrap())
        })
        .collect();
    let started = Instant::now();
    let mut times: Vec<u32> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    let elapsed = started.elapsed().as_secs_f64();
    if times.is_empty() {
        let gigabits = bytes.load(Ordering::Relaxed) as f64 * 8.0 / elapsed / 1e9;
        return println!("{mode} x{connections}: {gigabits:.2} Gb/s");
    }
    times.sort_unstable();
    let (rate, p50, p99) = (times.len() as f64 / elapsed, times[times.len() / 2], times[times.len() * 99 / 100]);
    println!("{mode} x{connections}: {rate:.0}/s p50 {p50} us p99 {p99} us");
}

fn drive(mode: &str, target: SocketAddr, end: Instant, bytes: &AtomicU64) -> Vec<u32> {
    let mut times = vec![];
    let mut buffer = vec![0; 512 << 10];
    let open = |first: &[u8]| {
        let mut stream = TcpStream::connect(target).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(first).unwrap();
        stream
    };
    match mode {
        "short" => {
            while Instant::now() < end {
                let begin = Instant::now();
                let mut stream = open(b"Pping");
                stream.read_exact(&mut buffer[..4]).unwrap();
                times.push(begin.elapsed().as_micros() as u32);
            }
        }
        "ping" => {
            let mut stream = open(b"P");
            while Instant::now() < end {
                let begin = Instant::now();
                stream.write_all(&buffer[..64]).unwrap();
                stream.read_exact(&mut buffer[64..128]).unwrap();
                times.push(begin.elapsed().as_micros() as u32);
            }
        }
        _ => {
            let mut stream = open(if mode == "up" { b"U" } else { b"D" });
            while Instant::now() < end {
                let count = if mode == "up" { stream.write(&buffer) } else { stream.read(&mut buffer) };
                bytes.fetch_add(count.unwrap() as u64, Ordering::Relaxed);
            }
        }
    }
    times
}
