//! Two engines in two network namespaces, with real apps' sockets at both ends.
mod support;
use meltemi_core::api::*;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;
use support::*;

#[test]
fn a_connection_passes_through_the_tunnel_and_is_reported_once_at_each_end() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::new();
    mesh.world.serve('b', "0.0.0.0:8080", |mut stream| {
        let peer = stream.peer_addr().unwrap();
        let mut said = [0; 5];
        stream.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"hello");
        write!(stream, "from {}", peer.ip()).unwrap();
    });
    let mut stream = mesh.connect();
    stream.write_all(b"hello").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, format!("from {A_IP}"), "the app sees the client's own address");
    drop(stream);
    mesh.client.await_log(&[
        "\"direction\":\"outbound\"",
        "\"bytes_sent\":5,\"bytes_recv\":14",
        "10.77.0.2:15008",
        "connection complete",
    ]);
    mesh.server.await_log(&[
        "\"direction\":\"inbound\"",
        "\"bytes_sent\":14,\"bytes_recv\":5",
        A,
        "connection complete",
    ]);
    assert_eq!((mesh.client.log_lines(), mesh.server.log_lines()), (1, 1));
    let metrics = mesh.client.engine.metrics();
    assert!(metrics.contains("istio_tcp_received_bytes_total{reporter=\"source\",source_workload=\"a\",destination_workload=\"b\",response_flags=\"-\",connection_security_policy=\"mutual_tls\"} 5\n"), "{metrics}");
}

#[test]
fn bulk_arrives_whole_in_both_directions_across_many_key_updates() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::with(EngineOptions { rekey_after_records: 100, ..options() });
    mesh.echo();
    let stream = mesh.connect();
    let total = 64 << 20;
    let mut writer = stream.try_clone().unwrap();
    let sent = std::thread::spawn(move || {
        let mut check = Checksum::default();
        let mut piece = vec![0; 100_003];
        let mut left = total;
        let mut seed = 1u64;
        while left > 0 {
            for byte in &mut piece {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = (seed >> 56) as u8;
            }
            let count = piece.len().min(left);
            check.add(&piece[..count]);
            writer.write_all(&piece[..count]).unwrap();
            left -= count;
        }
        writer.shutdown(Shutdown::Write).unwrap();
        check
    });
    let mut received = Checksum::default();
    let mut buffer = vec![0; 1 << 20];
    let mut stream = stream;
    loop {
        let count = stream.read(&mut buffer).unwrap();
        if count == 0 {
            break;
        }
        received.add(&buffer[..count]);
    }
    assert_eq!(received, sent.join().unwrap());
    assert_eq!(received.length, total);
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Checksum {
    length: usize,
    sum: u64,
}

impl Checksum {
    fn add(&mut self, bytes: &[u8]) {
        self.length += bytes.len();
        for byte in bytes {
            self.sum = (self.sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

#[test]
fn half_close_passes_both_ways() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::new();
    mesh.world.serve('b', "0.0.0.0:8080", |mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&all.repeat(2)).unwrap();
    });
    let mut stream = mesh.connect();
    stream.write_all(b"ab").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(stream), b"abab");

    mesh.world.serve('b', "0.0.0.0:8081", |mut stream| {
        stream.write_all(b"first").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"after the server's end");
        DONE.store(true, std::sync::atomic::Ordering::Release);
    });
    mesh.client.engine.put_groups(vec![group("g", vec![endpoint(8081)])]);
    let mut stream = mesh.connect();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"first");
    stream.write_all(b"after the server's end").unwrap();
    drop(stream);
    await_true("the server reads to the end", || DONE.load(std::sync::atomic::Ordering::Acquire));
}

static DONE: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

fn read_all(mut stream: TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all
}

#[test]
fn a_server_may_speak_first() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::new();
    mesh.world.serve('b', "0.0.0.0:8080", |mut stream| {
        stream.write_all(b"220 ready\r\n").unwrap();
        let mut said = [0; 4];
        stream.read_exact(&mut said).unwrap();
    });
    let mut stream = mesh.connect();
    let mut banner = [0; 11];
    stream.read_exact(&mut banner).unwrap();
    assert_eq!(&banner, b"220 ready\r\n");
    stream.write_all(b"QUIT").unwrap();
    assert_eq!(read_all(stream), b"");
    let _ = Duration::ZERO;
}
