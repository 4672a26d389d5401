//! Everything at once for a few seconds: what must arrive arrives whole, everything is reported once, nothing is left.
mod support;
use meltemi_core::api::*;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::*;

#[test]
fn under_churn_of_everything_no_byte_is_lost_and_nothing_is_left() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::with(EngineOptions {
        threads: 2,
        rekey_after_records: 64,
        max_streams_per_tunnel: 7,
        audit_one_in: 3,
        ..options()
    });
    // Echoes; the first byte says how.
    mesh.world.serve('b', "0.0.0.0:8080", |mut stream| {
        let mut buffer = vec![0; 100_000];
        let mut mode = [0];
        if stream.read_exact(&mut mode).is_err() {
            return;
        }
        if mode[0] == b'R' {
            return meltemi_core::net::close_with_reset(stream.as_raw_fd());
        }
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if mode[0] == b'S' {
                std::thread::sleep(Duration::from_millis(2));
            }
            if stream.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
    });
    let (over, opened) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let workers: Vec<_> = (0..12u64)
        .map(|number| {
            let (netns, over, opened) = (mesh.world.netns('a'), over.clone(), opened.clone());
            std::thread::spawn(move || {
                let mut random = number * 7919 + 1;
                while !over.load(Ordering::Relaxed) {
                    let target = format!("{VIP}:80").parse().unwrap();
                    let connect = || TcpStream::connect_timeout(&target, Duration::from_secs(5));
                    let stream = meltemi_core::net::in_netns(&netns, connect).unwrap();
                    opened.fetch_add(1, Ordering::Relaxed);
                    talk(stream, &mut random);
                }
            })
        })
        .collect();
    let change = [meltemi_core::api::Read { table: "policies".into(), key: ReadKey::Exact("all".into()) }];
    let version = Arc::new(AtomicUsize::new(1));
    for (node, decide) in [(&mesh.client, to_group as fn(&Offer) -> Verdict), (&mesh.server, to_app)] {
        let version = version.clone();
        *node.decide.lock().unwrap() =
            Box::new(move |offer| Some(Verdict { version: version.load(Ordering::Relaxed) as u64, ..decide(offer) }));
    }
    let begin = Instant::now();
    let mut round = 1;
    while begin.elapsed() < Duration::from_secs(4) {
        round += 1;
        version.store(round, Ordering::Relaxed);
        mesh.client.engine.invalidate(round as u64, &change);
        mesh.server.engine.invalidate(round as u64, &change);
        match round % 4 {
            0 => drop(mesh.client.certify(&mesh.ca, A)),
            1 => drop(mesh.server.certify(&mesh.ca, B)),
            2 => mesh
                .client
                .engine
                .put_groups(vec![group("g", vec![endpoint(8080), Endpoint { weight: 3, ..endpoint(8081) }])]),
            _ => mesh.client.engine.put_groups(vec![group("g", vec![endpoint(8080)])]),
        }
        let _ = (mesh.client.engine.metrics(), mesh.server.engine.connections(100));
        std::thread::sleep(Duration::from_millis(60));
    }
    over.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.join().unwrap();
    }
    for node in [&mesh.client, &mesh.server] {
        await_true("all is closed", || node.engine.stats().connections == 0);
        let bugs: Vec<Notice> =
            node.notices.lock().unwrap().iter().filter(|notice| notice.level == Level::Error).cloned().collect();
        assert_eq!(bugs, []);
        assert_eq!(node.engine.stats().audit_mismatches, 0);
    }
    let count = opened.load(Ordering::Relaxed);
    assert!(count > 200, "{count}");
    await_true("each connection is reported", || mesh.client.log_lines() >= count);
    assert_eq!(mesh.client.log_lines(), count);
}

fn talk(mut stream: TcpStream, random: &mut u64) {
    let mut next = |below: u64| {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        *random % below
    };
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let (kind, size) = (next(8), next(3_000_000) as usize >> next(12));
    let mode = match kind {
        0 => b'R',
        1 => b'S',
        _ => b'E',
    };
    let said: Vec<u8> = (0..size).map(|at| (at as u64 ^ *random) as u8).collect();
    let mut writer = stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        writer.write_all(&[mode])?;
        writer.write_all(&said)?;
        writer.shutdown(Shutdown::Write)?;
        Ok::<_, std::io::Error>(said)
    });
    if kind == 2 {
        // Walks away in the middle.
        let _ = stream.read(&mut [0; 1000]);
        meltemi_core::net::close_with_reset(stream.as_raw_fd());
        drop(stream);
        return drop(sending.join().unwrap());
    }
    let mut heard = vec![];
    let outcome = stream.read_to_end(&mut heard);
    let sent = sending.join().unwrap();
    if mode != b'R' {
        outcome.expect("the echo was cut off");
        assert!(heard == sent.expect("the sender was cut off"), "the echo differs");
    }
}
