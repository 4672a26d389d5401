//! What goes wrong between two engines, and that it goes wrong in the right way.
mod support;
use meltemi_core::api::*;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::*;

#[test]
fn a_reset_passes_in_both_directions() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::new();
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    mesh.world.serve('b', "0.0.0.0:8080", move |mut stream| {
        let mut said = [0; 1];
        stream.read_exact(&mut said).unwrap();
        if said == *b"R" {
            return reset(stream);
        }
        stream.write_all(b"ok").unwrap();
        let error = stream.read(&mut said).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        count.fetch_add(1, Ordering::Relaxed);
    });
    let mut stream = mesh.connect();
    stream.write_all(b"R").unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    mesh.client.await_log(&["reset the connection", "connection complete"]);

    let mut stream = mesh.connect();
    stream.write_all(b"K").unwrap();
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).unwrap();
    reset(stream);
    await_true("the server sees the reset", || seen.load(Ordering::Relaxed) == 1);
}

/// Closes with a RST.
fn reset(stream: TcpStream) {
    meltemi_core::net::close_with_reset(stream.as_raw_fd());
}

#[test]
fn a_slow_reader_holds_only_its_own_window_and_not_its_neighbours() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::new();
    mesh.world.serve('b', "0.0.0.0:8080", |mut stream| {
        let mut said = [0; 1];
        stream.read_exact(&mut said).unwrap();
        match &said {
            b"S" => std::thread::sleep(Duration::from_secs(3600)),
            _ => drop(stream.write_all(&said)),
        }
    });
    let mut slow: Vec<TcpStream> = (0..3).map(|_| mesh.connect()).collect();
    let mut taken = vec![0; slow.len()];
    for (stream, taken) in slow.iter_mut().zip(&mut taken) {
        stream.write_all(b"S").unwrap();
        stream.set_write_timeout(Some(Duration::from_millis(400))).unwrap();
        let piece = vec![7; 256 << 10];
        while let Ok(count) = stream.write(&piece) {
            *taken += count;
            assert!(*taken < 64 << 20, "nobody reads, and still it is taken");
        }
    }
    for _ in 0..10 {
        let mut quick = mesh.connect();
        quick.write_all(b"Q").unwrap();
        let mut answer = [0; 1];
        quick.read_exact(&mut answer).unwrap();
    }
}

#[test]
fn peers_with_a_wrong_identity_are_refused() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::new();
    let expecting = |identity: &str| Endpoint { identities: vec![identity.into()], ..endpoint(8080) };
    mesh.echo();
    mesh.client.engine.put_groups(vec![group("g", vec![expecting("spiffe://cluster.local/ns/test/sa/c")])]);
    assert_refused(&mesh);
    mesh.client.await_log(&["expected was spiffe://cluster.local/ns/test/sa/c", "connection failed"]);
    let metrics = mesh.client.engine.metrics();
    assert!(metrics.contains("response_flags=\"IDENTITY_ERROR\""), "{metrics}");
    mesh.server.await_log(&["\"direction\":\"inbound\"", "connection failed"]);
}

#[test]
fn peers_of_an_unknown_or_foreign_trust_domain_are_refused() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::new();
    mesh.echo();
    // The right name, vouched for by somebody else's root.
    let impostor = Ca::new("cluster.local");
    mesh.server.certify(&impostor, B);
    assert_refused(&mesh);
    mesh.client.await_log(&["not signed by a root of its trust domain"]);
    mesh.server.certify(&mesh.ca, B);
    assert_works(&mesh);

    // A client of a domain that the server knows no roots of.
    mesh.server.engine.set_trust(&[Ca::new("other.example").anchor()]).unwrap();
    mesh.client.certify(&mesh.ca, A);
    assert_refused(&mesh);
    mesh.server.await_log(&["no roots are known for the trust domain of spiffe://cluster.local/ns/test/sa/a"]);
    mesh.client.await_log(&["the peer refused the tunnel"]);
}

#[test]
fn a_root_is_replaced_without_a_break_and_then_refused() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::new();
    mesh.echo();
    let mut live = mesh.connect();
    ping(&mut live);
    let (old, new) = (&mesh.ca, Ca::new("cluster.local"));
    let both = TrustAnchor { roots: vec![old.root.clone(), new.root.clone()], ..old.anchor() };
    let nodes = [&mesh.client, &mesh.server];
    nodes.iter().for_each(|node| node.engine.set_trust(std::slice::from_ref(&both)).unwrap());
    assert_works(&mesh);
    assert_eq!(mesh.client.engine.stats().tunnels, 1, "a larger trust changes nothing");
    mesh.client.certify(&new, A);
    assert_works(&mesh);
    mesh.server.certify(&new, B);
    std::thread::sleep(Duration::from_millis(100));
    assert_works(&mesh);
    nodes.iter().for_each(|node| node.engine.set_trust(&[new.anchor()]).unwrap());
    assert_works(&mesh);
    ping(&mut live);
    // Whoever still comes with the old root is refused.
    mesh.client.certify(old, A);
    assert_refused(&mesh);
    mesh.server.await_log(&["not signed by a root of its trust domain"]);
    let nonsense = TrustAnchor { roots: vec![b"nonsense".to_vec()], ..old.anchor() };
    assert!(mesh.client.engine.set_trust(&[nonsense]).is_err());
    mesh.client.certify(&new, A);
    assert_works(&mesh);
    ping(&mut live);
}

#[test]
fn expired_certificates_are_refused_and_carry_nothing_new() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::new();
    mesh.echo();
    mesh.server.certify_for(&mesh.ca, B, Duration::from_secs(3));
    let mut before = mesh.connect();
    ping(&mut before);
    std::thread::sleep(Duration::from_secs(4));
    // The old tunnel goes on for whom it has, and takes nobody new.
    ping(&mut before);
    assert_refused(&mesh);
    mesh.client.await_log(&["has expired"]);
    mesh.server.certify(&mesh.ca, B);
    assert_works(&mesh);
    ping(&mut before);
}

#[test]
fn revoked_peers_are_cut_off_at_once_and_refused_after() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::new();
    mesh.echo();
    let serial = mesh.client.certify(&mesh.ca, A);
    let mut live = mesh.connect();
    ping(&mut live);
    assert!(mesh.server.engine.set_revocations(&[b"nonsense".to_vec()]).is_err());
    ping(&mut live);
    mesh.server.engine.set_revocations(&[mesh.ca.crl(&[serial])]).unwrap();
    assert!(live.read(&mut [0; 1]).is_err());
    mesh.server.await_log(&["revoked by CRL"]);
    assert_refused(&mesh);
    mesh.client.certify(&mesh.ca, A);
    assert_works(&mesh);
}

#[test]
fn a_new_certificate_means_a_new_tunnel_for_new_connections() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::new();
    mesh.echo();
    let mut before = mesh.connect();
    ping(&mut before);
    assert_eq!(mesh.client.engine.stats().tunnels, 1);
    mesh.client.certify(&mesh.ca, A);
    let mut after = mesh.connect();
    ping(&mut after);
    assert_eq!(mesh.client.engine.stats().tunnels, 2);
    ping(&mut before);
    drop(before);
    await_true("the old tunnel ends with its last stream", || mesh.client.engine.stats().tunnels == 1);
    mesh.server.certify(&mesh.ca, B);
    std::thread::sleep(Duration::from_millis(200));
    let mut third = mesh.connect();
    ping(&mut third);
    ping(&mut after);
    assert_eq!(mesh.client.engine.stats().tunnels, 2, "the server's GOAWAY was heeded");
}

#[test]
fn a_connection_waits_for_its_certificate() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::new();
    mesh.echo();
    mesh.client.engine.remove_certificate(A);
    mesh.server.engine.remove_certificate(B);
    let mut stream = mesh.connect();
    stream.write_all(b"early").unwrap();
    await_true("the client's is wanted", || mesh.client.wanted.lock().unwrap().contains(&A.to_owned()));
    mesh.client.certify(&mesh.ca, A);
    await_true("the server's is wanted", || mesh.server.wanted.lock().unwrap().contains(&B.to_owned()));
    mesh.server.certify(&mesh.ca, B);
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"early");
}

#[test]
fn a_denied_connection_is_reset_and_says_why() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::new();
    mesh.echo();
    *mesh.server.decide.lock().unwrap() = Box::new(|offer| Some(deny(offer)));
    assert_refused(&mesh);
    mesh.client.await_log(&["CONNECT status 401", "connection failed"]);
    mesh.server.await_log(&["policy-deny: policy/test/deny", "connection failed"]);
    let metrics = mesh.server.engine.metrics();
    assert!(
        metrics.contains("istio_tcp_connections_failed_total{reporter=\"destination\",response_flags=\"DENY\""),
        "{metrics}"
    );
}

#[test]
fn a_change_closes_live_connections_that_would_now_be_denied() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::new();
    mesh.echo();
    let mut stream = mesh.connect();
    ping(&mut stream);
    let change = [meltemi_core::api::Read { table: "policies".into(), key: ReadKey::Exact("all".into()) }];
    // Still allowed: nothing happens to it.
    mesh.server.engine.invalidate(1, &change);
    ping(&mut stream);
    *mesh.server.decide.lock().unwrap() = Box::new(|offer| {
        assert!(offer.rejudge);
        Some(Verdict { version: 2, ..deny(offer) })
    });
    mesh.server.engine.invalidate(2, &change);
    assert!(stream.read(&mut [0; 1]).is_err());
    mesh.server.await_log(&["closed due to policy change", "connection complete"]);
    let metrics = mesh.server.engine.metrics();
    let failed = "istio_tcp_connections_failed_total{reporter=\"destination\",response_flags=\"DENY\",connection_security_policy=\"mutual_tls\"} 1\n";
    assert!(metrics.contains(failed), "{metrics}");
    assert_eq!(mesh.server.log_lines(), 1);
}

#[test]
fn a_live_connection_stays_with_its_endpoint_when_there_is_none_for_others() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::new();
    mesh.echo();
    let mut stream = mesh.connect();
    ping(&mut stream);
    let asked = Arc::new(AtomicBool::new(false));
    let was_asked = asked.clone();
    *mesh.client.decide.lock().unwrap() = Box::new(move |offer| {
        was_asked.fetch_or(offer.rejudge, Ordering::Relaxed);
        Some(Verdict { version: 2, action: Action::Deny(503), ..deny(offer) })
    });
    let change = [meltemi_core::api::Read { table: "policies".into(), key: ReadKey::Exact("all".into()) }];
    mesh.client.engine.invalidate(2, &change);
    await_true("the live one is judged again", || asked.load(Ordering::Relaxed));
    assert_refused(&mesh);
    ping(&mut stream);
}

#[test]
fn a_dead_endpoint_costs_another_try_and_no_byte() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::new();
    mesh.echo();
    let nobody_there = Endpoint { tunnel: Some(format!("{B_IP}:15009").parse().unwrap()), ..endpoint(8088) };
    let app_is_down = endpoint(8089);
    for dead in [nobody_there, app_is_down] {
        let far = Endpoint { rank: 1, ..endpoint(8080) };
        mesh.client.engine.put_groups(vec![group("g", vec![dead, far])]);
        let mut stream = mesh.connect();
        let said: Vec<u8> = (0..60_000u32).map(|number| number as u8).collect();
        stream.write_all(&said).unwrap();
        let mut answer = vec![0; said.len()];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, said);
        ping(&mut stream);
    }
    // With nobody left the client is reset.
    mesh.client.engine.put_groups(vec![group("g", vec![endpoint(8089)])]);
    assert_refused(&mesh);
    mesh.client.await_log(&["CONNECT status 503"]);
    mesh.client.engine.put_groups(vec![group("g", vec![])]);
    assert_refused(&mesh);
    mesh.client.await_log(&["no healthy upstream"]);
}

#[test]
fn a_tunnels_end_that_falls_silent_costs_a_timeout_once() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::with(EngineOptions { connect_timeout_ms: 200, set_aside_ms: 1, ..options() });
    mesh.echo();
    assert_works(&mesh);
    // From now on nothing comes through.
    let netns = mesh.world.b.clone();
    run(&format!("ip -n {netns} link set eth0 down"));
    let begin = Instant::now();
    assert_refused(&mesh);
    assert!(begin.elapsed() < Duration::from_secs(6), "{:?}", begin.elapsed());
    mesh.client.await_log(&["did not answer the CONNECT in time"]);
    run(&format!("ip -n {netns} link set eth0 up; ip -n {netns} route add default dev eth0"));
    // The kernel takes up to a second to say so, and forgets for another who did not answer meanwhile.
    run(&format!(
        "for ns in {} {netns}; do
           until ip -n $ns link show eth0 | grep -q 'state UP'; do sleep 0.05; done; ip -n $ns neigh flush dev eth0
         done",
        mesh.world.a
    ));
    // The silent tunnel is not offered again: a new one is made at once.
    assert_works(&mesh);
}

#[test]
fn tunnels_are_shared_filled_and_released_when_idle() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::with(EngineOptions { max_streams_per_tunnel: 4, pool_idle_ms: 300, ..options() });
    mesh.echo();
    // All at once: they wait for one handshake, and only what does not fit asks for another.
    let mut streams: Vec<TcpStream> = (0..10).map(|_| mesh.connect()).collect();
    streams.iter_mut().for_each(ping);
    assert_eq!(mesh.client.engine.stats().tunnels, 3);
    drop(streams);
    await_true("idle tunnels go", || mesh.client.engine.stats().tunnels + mesh.server.engine.stats().tunnels == 0);
    assert_works(&mesh);
}

#[test]
fn several_loops_share_pods_and_flows() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::with(EngineOptions { threads: 3, ..options() });
    mesh.echo();
    let mut streams: Vec<TcpStream> = (0..60).map(|_| mesh.connect()).collect();
    streams.iter_mut().for_each(ping);
    assert_eq!(mesh.client.engine.connections(1000).len(), 60);
    let workers: std::collections::HashSet<u64> =
        mesh.client.engine.connections(1000).iter().map(|connection| connection.id >> 44).collect();
    assert!(workers.iter().all(|worker| *worker < 3));
    *mesh.server.decide.lock().unwrap() = Box::new(|offer| Some(Verdict { version: 2, ..deny(offer) }));
    let change = [meltemi_core::api::Read { table: "policies".into(), key: ReadKey::Exact("all".into()) }];
    mesh.server.engine.invalidate(2, &change);
    for stream in &mut streams {
        assert!(stream.read(&mut [0; 1]).is_err());
    }
    await_true("all are gone", || mesh.client.engine.stats().connections + mesh.server.engine.stats().connections == 0);
    await_true("each is reported", || mesh.client.log_lines() == 60 && mesh.server.log_lines() == 60);
}

#[test]
fn plaintext_goes_straight_out_and_comes_in_with_its_source_address() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::new();
    mesh.world.serve('b', "0.0.0.0:8080", |mut stream| {
        let peer = stream.peer_addr().unwrap();
        let mut all = vec![];
        stream.read_to_end(&mut all).unwrap();
        write!(stream, "{} said {}", peer.ip(), all.len()).unwrap();
    });
    *mesh.client.decide.lock().unwrap() = Box::new(|offer| Some(verdict(Action::Direct(offer.facts.dst))));
    let mut stream = mesh.world.connect('a', &format!("{B_IP}:8080")).unwrap();
    stream.write_all(&vec![1; 3 << 20]).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, format!("{A_IP} said {}", 3 << 20));
    mesh.server.await_log(&["\"direction\":\"inbound-plaintext\"", "connection complete"]);
    *mesh.server.decide.lock().unwrap() = Box::new(|offer| Some(Verdict { version: 2, ..deny(offer) }));
    let change = [meltemi_core::api::Read { table: "policies".into(), key: ReadKey::Exact("all".into()) }];
    mesh.server.engine.invalidate(2, &change);
    let mut refused = mesh.world.connect('a', &format!("{B_IP}:8080")).unwrap();
    assert!(refused.write_all(b"x").is_err() || refused.read(&mut [0; 1]).is_err());
}

#[test]
fn ipv6_passes_like_ipv4() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::new();
    mesh.world.serve('b', "[::]:8080", |mut stream| {
        let peer = stream.peer_addr().unwrap().ip();
        write!(stream, "{peer}").unwrap();
    });
    let six = Endpoint {
        addr: "[fd77::2]:8080".parse().unwrap(),
        tunnel: Some("[fd77::2]:15008".parse().unwrap()),
        ..endpoint(8080)
    };
    mesh.client.engine.put_groups(vec![group("g", vec![six])]);
    let mut stream = mesh.world.connect('a', "[fd78::1]:80").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "fd77::1");
    drop(stream);
    mesh.server.await_log(&["[fd77::2]:15008", "\"dst.hbone_addr\":\"[fd77::2]:8080\""]);
}

#[test]
fn calls_to_the_engine_itself_are_refused() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::new();
    // Straight at our own listeners, from inside the pod and from outside.
    for (from, to) in [
        ('a', "127.0.0.1:15001"),
        ('a', "10.77.0.1:15001"),
        ('a', "10.77.0.1:15006"),
        ('a', "10.77.0.2:15006"),
        ('a', "10.77.0.2:15001"),
    ] {
        *mesh.client.decide.lock().unwrap() = Box::new(|offer| Some(verdict(Action::Direct(offer.facts.dst))));
        let Ok(mut stream) = mesh.world.connect(from, to) else { continue };
        let _ = stream.write_all(b"x");
        assert!(!matches!(stream.read(&mut [0; 1]), Ok(1..)), "{to}");
    }
    // Through the tunnel, at our own ports.
    for port in [15001, 15006, 15008, 15053] {
        *mesh.client.decide.lock().unwrap() = Box::new(|offer| Some(to_group(offer)));
        mesh.client.engine.put_groups(vec![group("g", vec![endpoint(port)])]);
        assert_refused(&mesh);
        mesh.server.await_log(&["attempted recursive call", &format!(":{port}\"")]);
    }
    await_true("no connection is left", || {
        mesh.client.engine.stats().connections + mesh.server.engine.stats().connections == 0
    });
}

#[test]
fn a_pod_without_room_for_questions_waits_and_its_neighbour_does_not() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::with(EngineOptions { max_pending_per_pod: 4, ..options() });
    mesh.echo();
    // Each destination port is a question of its own; nobody answers.
    let asked = Arc::new(std::sync::Mutex::new(vec![]));
    let questions = asked.clone();
    *mesh.client.decide.lock().unwrap() = Box::new(move |offer| {
        questions.lock().unwrap().push(offer.id);
        None
    });
    let mut streams: Vec<TcpStream> =
        (0..12).map(|port| mesh.world.connect('a', &format!("{VIP}:{}", 100 + port)).unwrap()).collect();
    await_true("the quota is used up", || mesh.client.engine.stats().pending_offers == 4);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(mesh.client.engine.stats().pending_offers, 4);
    *mesh.client.decide.lock().unwrap() = Box::new(|offer| Some(to_group(offer)));
    let held: Vec<_> = asked.lock().unwrap().drain(..).collect();
    mesh.client.engine.answer(held.into_iter().map(|id| (id, verdict(Action::Group("g".into())))).collect());
    for stream in &mut streams {
        ping(stream);
    }
}

#[test]
fn an_undecided_connection_ends_when_its_time_is_up() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::with(EngineOptions { decision_timeout_ms: 300, ..options() });
    *mesh.client.decide.lock().unwrap() = Box::new(|_| None);
    let begin = Instant::now();
    assert_refused(&mesh);
    assert!(begin.elapsed() < Duration::from_secs(2));
    mesh.client.await_log(&["no decision came in time", "connection failed"]);
    assert_eq!(mesh.client.engine.stats().connections, 0);
}

#[test]
fn removing_a_pod_closes_its_connections_with_the_reason() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::new();
    mesh.echo();
    let mut stream = mesh.connect();
    ping(&mut stream);
    assert_eq!(mesh.server.engine.connections(10).len(), 1);
    assert_eq!(mesh.server.engine.connections(10)[0].state, "open");
    mesh.server.engine.remove_pod("Kubernetes//Pod/test/b", "the pod left the mesh");
    assert!(stream.read(&mut [0; 1]).is_err());
    mesh.server.await_log(&["the pod left the mesh"]);
    await_true("the loop has left the pod's namespace", || !is_anybody_in(&mesh.world.netns('b')));
    await_true("nothing is left", || {
        mesh.server.engine.stats().tunnels == 0 && mesh.server.engine.stats().connections == 0
    });
    assert!(mesh.server.engine.add_pod(&mesh.world.pod('b')).is_ok_and(|inherited| !inherited));
    assert_works(&mesh);
}

#[test]
fn draining_lets_connections_end_and_cuts_the_rest() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::new();
    mesh.echo();
    let (mut short, mut long) = (mesh.connect(), mesh.connect());
    ping(&mut short);
    ping(&mut long);
    let engine = mesh.server.engine.clone();
    let draining = std::thread::spawn(move || engine.drain(Duration::from_millis(700)));
    std::thread::sleep(Duration::from_millis(100));
    ping(&mut short);
    drop(short);
    assert_eq!(draining.join().unwrap(), 1);
    assert!(long.read(&mut [0; 1]).is_err());
    mesh.server.await_log(&["connection closed due to connection drain"]);
}

#[test]
fn listeners_pass_to_a_successor_and_no_connection_is_refused() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::new();
    mesh.echo();
    let path = std::env::temp_dir().join(format!("meltemi-handover-{}.sock", std::process::id()));
    let (old, offered) = (mesh.client.engine.clone(), path.clone());
    let offering = std::thread::spawn(move || old.offer_handover(&offered, 5));
    await_true("the offer stands", || path.exists());

    let successor = Node::new(options(), Box::new(|offer| Some(to_group(offer))));
    assert!(successor.engine.take_handover(&path, 5).is_err(), "an equal generation takes nothing");
    successor.engine.set_trust(&[mesh.ca.anchor()]).unwrap();
    successor.engine.put_groups(vec![group("g", vec![endpoint(8080)])]);
    successor.certify(&mesh.ca, A);

    let mut live = mesh.connect();
    ping(&mut live);
    let is_over = Arc::new(AtomicUsize::new(0));
    let (netns, over) = (mesh.world.netns('a'), is_over.clone());
    let traffic = std::thread::spawn(move || {
        let mut count = 0;
        while over.load(Ordering::Relaxed) == 0 {
            let target = format!("{VIP}:80").parse().unwrap();
            let open = || TcpStream::connect_timeout(&target, Duration::from_secs(5));
            let mut stream = meltemi_core::net::in_netns(&netns, open).expect("a connection was refused");
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            ping(&mut stream);
            count += 1;
        }
        count
    });
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(successor.engine.take_handover(&path, 6).unwrap(), ["Kubernetes//Pod/test/a"]);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(successor.engine.add_pod(&mesh.world.pod('a')), Ok(true));
    assert_eq!(successor.engine.complete_handover(), Ok(()));
    assert_eq!(offering.join().unwrap(), Ok(Some(true)));
    std::thread::sleep(Duration::from_millis(300));
    is_over.store(1, Ordering::Relaxed);
    assert!(traffic.join().unwrap() > 10);
    // The old engine keeps what it had.
    ping(&mut live);
    await_true("the successor carries connections", || successor.log_lines() > 0);
    assert!(!path.exists());
    assert_eq!(successor.engine.take_handover(&path, 7), Ok(vec![]), "no predecessor is no error");
    // And it goes back to work when the successor dies.
    let old = mesh.client.engine.clone();
    let watching = std::thread::spawn(move || old.successor_gone());
    successor.engine.close();
    assert!(watching.join().unwrap());
    mesh.client.engine.resume_accepting();
    assert_works(&mesh);
}

#[test]
fn a_successor_that_dies_at_any_step_has_taken_nothing() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::new();
    mesh.echo();
    let path = std::env::temp_dir().join(format!("meltemi-half-{}.sock", std::process::id()));
    let (old, offered) = (mesh.client.engine.clone(), path.clone());
    let offering = std::thread::spawn(move || old.offer_handover(&offered, 5));
    let is_offered = || meltemi_core::engine::Engine::is_offered(&path);
    await_true("the offer stands", is_offered);
    for steps in 0..3 {
        let successor = Node::new(options(), Box::new(|offer| Some(to_group(offer))));
        if steps > 0 {
            assert_eq!(successor.engine.take_handover(&path, 6).unwrap().len(), 1);
        }
        if steps > 1 {
            assert_eq!(successor.engine.add_pod(&mesh.world.pod('a')), Ok(true));
        }
        successor.engine.close();
        drop(successor);
        assert_works(&mesh);
        await_true("the offer stands again", is_offered);
    }
    // One that comes later than another, and a pod that came after the others were handed over.
    let successor = Node::new(options(), Box::new(|offer| Some(to_group(offer))));
    assert_eq!(successor.engine.take_handover(&path, 7).unwrap().len(), 1);
    mesh.server.engine.remove_pod("Kubernetes//Pod/test/b", "it moves");
    await_true("its ports are free", || mesh.client.engine.add_pod(&mesh.world.pod('b')) == Ok(false));
    assert_eq!(successor.engine.add_pod(&mesh.world.pod('b')), Ok(true), "asked for");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(successor.engine.complete_handover(), Ok(()));
    assert_eq!(offering.join().unwrap(), Ok(Some(true)));
}

#[test]
fn thousands_of_short_connections_leave_no_descriptor_behind() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::new();
    mesh.echo();
    assert_works(&mesh);
    let before = open_fds();
    let count = 3000;
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let netns = mesh.world.netns('a');
            std::thread::spawn(move || {
                meltemi_core::net::in_netns(&netns, || {
                    for _ in 0..count / 4 {
                        let mut stream = TcpStream::connect(format!("{VIP}:80"))?;
                        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
                        ping(&mut stream);
                    }
                    Ok(())
                })
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap().unwrap();
    }
    await_true("all are reported", || mesh.client.log_lines() > count && mesh.server.log_lines() > count);
    assert_eq!((mesh.client.log_lines(), mesh.server.log_lines()), (count + 1, count + 1));
    await_true("all are closed", || {
        mesh.client.engine.stats().connections + mesh.server.engine.stats().connections == 0
    });
    // Other tests run in this process too: allow them some.
    await_true("no descriptor is left", || open_fds() < before + 100);
    assert!(mesh.client.engine.stats().tunnels <= 4);
}

fn ping(stream: &mut TcpStream) {
    stream.write_all(b"ping").unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"ping");
}

fn assert_works(mesh: &Mesh) {
    ping(&mut mesh.connect());
}

/// True when a thread of this process is inside the namespace.
fn is_anybody_in(netns: &str) -> bool {
    use std::os::unix::fs::MetadataExt;
    let inode = std::fs::metadata(netns).unwrap().ino();
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks.filter_map(|task| std::fs::metadata(task.path().join("ns/net")).ok()).any(|meta| meta.ino() == inode)
}

/// The connection is accepted (redirection always is) and then reset, without a byte.
fn assert_refused(mesh: &Mesh) {
    let mut stream = match mesh.world.connect('a', &format!("{VIP}:80")) {
        Ok(stream) => stream,
        // So quick that connect itself saw it.
        Err(why) => return assert_eq!(why.kind(), ErrorKind::ConnectionReset),
    };
    // Whichever comes after the reset sees it.
    let outcome = stream.write_all(b"ping").and_then(|()| stream.read(&mut [0; 1]).map(|_| ()));
    let error = outcome.expect_err("it should have been reset");
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
}
