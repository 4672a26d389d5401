//! The engine against another HTTP/2 and another TLS stack (the h2 crate on rustls), both ways, and against a hostile
//! peer with a good certificate.
mod support;
use bytes::Bytes;
use meltemi_core::h2 as frames;
use meltemi_core::h2::{flag, frame_header, kind, number_frame};
use meltemi_core::net::in_netns;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use support::*;

#[test]
fn a_foreign_client_gets_through_with_every_status() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::new();
    mesh.echo();
    block_on(async {
        let sender = foreign_client(&mesh, A).await;
        for round in 0..30 {
            let (status, mut body, mut send) = connect(&sender, &format!("{B_IP}:8080")).await;
            assert_eq!(status, 200);
            let said = Bytes::from(vec![round as u8; 1000 * round]);
            send.send_data(said.clone(), true).unwrap();
            let mut answer = vec![];
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                answer.extend_from_slice(&data);
            }
            assert_eq!(answer, said);
        }
        assert_eq!(connect(&sender, &format!("{B_IP}:8099")).await.0, 503, "nobody listens there");
        assert_eq!(connect(&sender, &format!("{B_IP}:15006")).await.0, 400, "one of our own ports");
        for request in [
            http::Request::get("http://10.77.0.2:8080/").body(()).unwrap(),
            http::Request::post("http://10.77.0.2:8080/").header("x-long", "y".repeat(3000)).body(()).unwrap(),
        ] {
            let (response, _) = sender.clone().ready().await.unwrap().send_request(request, true).unwrap();
            assert_eq!(response.await.unwrap().status(), 400);
        }
        *mesh.server.decide.lock().unwrap() = Box::new(|offer| Some(deny(offer)));
        assert_eq!(connect(&sender, "b.test.svc.cluster.local:80").await.0, 401);
    });
    mesh.server.await_log(&["not a CONNECT"]);
    mesh.server.await_log(&["\"dst.hbone_addr\":\"b.test.svc.cluster.local:80\"", "policy-deny"]);
}

#[test]
fn a_foreign_client_can_fill_every_window() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::new();
    mesh.world.serve('b', "0.0.0.0:8080", |mut stream| {
        let mut said = [0; 1];
        let mut total = 0u64;
        stream.read_exact(&mut said).unwrap();
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            total += count as u64;
        }
        stream.write_all(&total.to_be_bytes()).unwrap();
        stream.write_all(&vec![5; 20 << 20]).unwrap();
    });
    block_on(async {
        let sender = foreign_client(&mesh, A).await;
        let (status, mut body, mut send) = connect(&sender, &format!("{B_IP}:8080")).await;
        assert_eq!(status, 200);
        let mut left = 40 << 20;
        send.send_data(Bytes::from_static(b"!"), false).unwrap();
        while left > 0 {
            send.reserve_capacity(left.min(1 << 20));
            let capacity = std::future::poll_fn(|context| send.poll_capacity(context)).await.unwrap().unwrap();
            send.send_data(Bytes::from(vec![1; capacity.min(left)]), false).unwrap();
            left -= capacity.min(left);
        }
        send.send_data(Bytes::new(), true).unwrap();
        let mut answer = vec![];
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            answer.extend_from_slice(&data);
        }
        assert_eq!(answer[..8], (40u64 << 20).to_be_bytes());
        assert_eq!(answer.len(), 8 + (20 << 20));
    });
}

#[test]
fn a_foreign_server_is_spoken_to_within_its_limits() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::new();
    mesh.server.engine.remove_pod("Kubernetes//Pod/test/b", "another takes its place");
    let tunnels = Arc::new(AtomicUsize::new(0));
    let headers = foreign_server(&mesh, tunnels.clone(), 2, None);
    let mut streams: Vec<TcpStream> = (0..7).map(|_| mesh.connect()).collect();
    let said: Vec<u8> = (0..300_000u32).map(|number| number as u8).collect();
    std::thread::scope(|scope| {
        for stream in &mut streams {
            let said = &said;
            scope.spawn(move || {
                let mut writer = stream.try_clone().unwrap();
                let send = std::thread::spawn({
                    let said = said.clone();
                    move || {
                        writer.write_all(&said).unwrap();
                        writer.shutdown(std::net::Shutdown::Write).unwrap();
                    }
                });
                let mut answer = vec![];
                stream.read_to_end(&mut answer).unwrap();
                assert!(answer == *said);
                send.join().unwrap();
            });
        }
    });
    assert!(tunnels.load(Ordering::Relaxed) >= 3, "two streams a tunnel");
    let headers = headers.lock().unwrap();
    let first = &headers[0];
    assert_eq!(first.0, format!("{B_IP}:8080"));
    assert_eq!(first.1["baggage"], "k8s.cluster.name=Kubernetes,k8s.namespace.name=test");
    let forwarded = first.1["forwarded"].to_str().unwrap();
    assert!(
        forwarded.starts_with(&format!("for=\"{A_IP}:")) && forwarded.ends_with("\";host=b.test.svc.cluster.local"),
        "{forwarded}"
    );
    let trace = first.1["traceparent"].to_str().unwrap();
    assert!(trace.starts_with("00-") && trace.ends_with("-00") && trace.len() == 55, "{trace}");
}

#[test]
fn a_foreign_servers_refusals_and_goodbyes_are_understood() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::new();
    mesh.server.engine.remove_pod("Kubernetes//Pod/test/b", "another takes its place");
    let tunnels = Arc::new(AtomicUsize::new(0));
    foreign_server(&mesh, tunnels.clone(), 100, Some(5));
    // Each tunnel says goodbye after five streams; nobody notices.
    for _ in 0..23 {
        let mut stream = mesh.connect();
        stream.write_all(b"ping").unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
    }
    assert!(tunnels.load(Ordering::Relaxed) >= 4);
    for status in [401, 503] {
        mesh.client.engine.put_groups(vec![group("g", vec![endpoint(status)])]);
        let mut stream = mesh.connect();
        // Whichever comes after the reset sees it.
        let is_reset = stream.write_all(b"ping").is_err() || stream.read(&mut [0; 1]).is_err();
        assert!(is_reset, "{status}");
        mesh.client.await_log(&[&format!("CONNECT status {status}"), "connection failed"]);
    }
}

#[test]
fn a_hostile_client_is_cut_off_and_others_are_not() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::new();
    mesh.echo();
    let frame =
        |kind, flags, stream, payload: &[u8]| [&frame_header(payload.len(), kind, flags, stream)[..], payload].concat();
    let connect_block = |authority: &[u8]| {
        let mut block = vec![];
        meltemi_core::hpack::encode(&mut block, b":method", b"CONNECT");
        meltemi_core::hpack::encode(&mut block, b":authority", authority);
        block
    };
    let open = |stream| frame(kind::HEADERS, flag::END_HEADERS, stream, &connect_block(b"10.77.0.2:8080"));
    let bad: Vec<(&str, Vec<u8>)> = vec![
        ("pings", frame(kind::PING, 0, 0, &[0; 8]).repeat(5000)),
        ("settings", frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1]).repeat(5000)),
        (
            "opened and reset",
            (0..6000)
                .flat_map(|number| {
                    [open(number * 2 + 1), number_frame(kind::RST_STREAM, number * 2 + 1, 8).to_vec()].concat()
                })
                .collect(),
        ),
        ("more than its window", [open(1), frame(kind::DATA, 0, 1, &[0; 16384]).repeat(2500)].concat()),
        ("data for an idle stream", frame(kind::DATA, 0, 9, b"x")),
        ("a window for an idle stream", number_frame(kind::WINDOW_UPDATE, 9, 1).to_vec()),
        ("an even stream", frame(kind::HEADERS, flag::END_HEADERS, 2, &connect_block(b"10.77.0.2:8080"))),
        ("an old stream", [open(5), open(3)].concat()),
        ("a window beyond 2^31", [open(1), number_frame(kind::WINDOW_UPDATE, 1, 0x7fff_ffff).to_vec()].concat()),
        ("a window beyond 2^31 for all", number_frame(kind::WINDOW_UPDATE, 0, 0x7fff_ffff).to_vec()),
        ("headers that cannot be", frame(kind::HEADERS, flag::END_HEADERS, 1, &[0xff; 50])),
        ("data after its end", [open(1), frame(kind::DATA, 1, 1, b"x"), frame(kind::DATA, 0, 1, b"x")].concat()),
        (
            "continuations without end",
            [frame(kind::HEADERS, 0, 1, b"\x82"), frame(kind::CONTINUATION, 0, 1, b"\x82").repeat(100)].concat(),
        ),
        ("trailers that end nothing", [open(1), open(1)].concat()),
    ];
    for (what, frames) in bad {
        let mut tunnel = raw_client(&mesh);
        let _ = tunnel.write_all(&frames);
        let _ = tunnel.flush();
        let mut answer = vec![];
        let ended = read_to_end(&mut tunnel, &mut answer);
        assert!(ended, "{what}: the tunnel should have ended");
        let mut stream = mesh.connect();
        stream.write_all(b"ping").unwrap();
        stream.read_exact(&mut [0; 4]).unwrap();
    }
    // Not worth a cut: each gets its answer, the tunnel lives.
    let mut tunnel = raw_client(&mesh);
    for (number, authority) in
        [&b""[..], b"nonsense", b"10.77.0.2:0", b"10.77.0.2:99999", b"\xff\xfe:80", &[b'a'; 9000]].iter().enumerate()
    {
        tunnel
            .write_all(&frame(kind::HEADERS, flag::END_HEADERS, number as u32 * 2 + 1, &connect_block(authority)))
            .unwrap();
    }
    tunnel.write_all(&frame(kind::PING, 0, 0, b"stillok?")).unwrap();
    let mut answer = vec![];
    let mut piece = [0; 4096];
    while !answer.windows(8).any(|window| window == b"stillok?") {
        let count = tunnel.read(&mut piece).unwrap();
        assert!(count > 0);
        answer.extend_from_slice(&piece[..count]);
    }
    drop(tunnel);
    await_true("no stream is left behind", || mesh.server.engine.stats().connections <= 1);
    assert!(!mesh.server.notices.lock().unwrap().iter().any(|notice| notice.code == "engine-bug"));
}

fn read_to_end(tunnel: &mut impl Read, out: &mut Vec<u8>) -> bool {
    let mut piece = [0; 4096];
    let begin = std::time::Instant::now();
    while begin.elapsed() < Duration::from_secs(5) {
        match tunnel.read(&mut piece) {
            Ok(0) => return true,
            Ok(count) => out.extend_from_slice(&piece[..count]),
            Err(why) if matches!(why.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                return false;
            }
            Err(_) => return true,
        }
    }
    false
}

fn raw_client(mesh: &Mesh) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    let socket = dial_marked(mesh);
    socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let connection = rustls::ClientConnection::new(client_config(mesh, A), name()).unwrap();
    let mut tunnel = rustls::StreamOwned::new(connection, socket);
    tunnel.write_all(frames::PREFACE).unwrap();
    tunnel.write_all(&frame_header(0, kind::SETTINGS, 0, 0)).unwrap();
    tunnel.flush().unwrap();
    tunnel
}

/// A socket from pod a to pod b's tunnel port that is not redirected.
fn dial_marked(mesh: &Mesh) -> TcpStream {
    let dial = meltemi_core::net::Dial {
        ports: meltemi_core::net::SourcePorts::Any,
        target: format!("{B_IP}:15008").parse().unwrap(),
        source: None,
        mark: 0x539,
        congestion_control: "",
    };
    let socket: TcpStream = in_netns(&mesh.world.netns('a'), || meltemi_core::net::dial(&dial)).unwrap().into();
    socket.set_nonblocking(false).unwrap();
    socket
}

fn name() -> ServerName<'static> {
    "b".try_into().unwrap()
}

fn identity(mesh: &Mesh, identity: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let (leaf, _) =
        mesh.ca.leaf(identity, &rcgen::PublicKeyData::subject_public_key_info(&key), Duration::from_secs(600));
    (vec![leaf.into()], key.serialize_der().try_into().unwrap())
}

fn client_config(mesh: &Mesh, own: &str) -> Arc<rustls::ClientConfig> {
    let (chain, key) = identity(mesh, own);
    let mut config = rustls::ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

async fn foreign_client(mesh: &Mesh, own: &str) -> h2::client::SendRequest<Bytes> {
    let socket = dial_marked(mesh);
    socket.set_nonblocking(true).unwrap();
    let socket = tokio::net::TcpStream::from_std(socket).unwrap();
    let tls = tokio_rustls::TlsConnector::from(client_config(mesh, own)).connect(name(), socket).await.unwrap();
    let (sender, connection) = h2::client::Builder::new().initial_window_size(1 << 20).handshake(tls).await.unwrap();
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}

async fn connect(
    sender: &h2::client::SendRequest<Bytes>,
    authority: &str,
) -> (u16, h2::RecvStream, h2::SendStream<Bytes>) {
    let request = http::Request::connect(authority).header("baggage", "k8s.namespace.name=test").body(()).unwrap();
    let (response, send) = sender.clone().ready().await.unwrap().send_request(request, false).unwrap();
    let response = response.await.unwrap();
    (response.status().as_u16(), response.into_body(), send)
}

type Seen = Arc<std::sync::Mutex<Vec<(String, http::HeaderMap)>>>;

/// Echoes in place of engine b. A port below 1000 is answered as a status; `goodbye_after` streams a tunnel ends.
fn foreign_server(mesh: &Mesh, tunnels: Arc<AtomicUsize>, max_streams: u32, goodbye_after: Option<usize>) -> Seen {
    let listener =
        std::iter::repeat_with(|| in_netns(&mesh.world.netns('b'), || std::net::TcpListener::bind("0.0.0.0:15008")))
            .find_map(Result::ok)
            .unwrap();
    listener.set_nonblocking(true).unwrap();
    let (chain, key) = identity(mesh, B);
    let mut config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let seen = Seen::default();
    let headers = seen.clone();
    std::thread::spawn(move || {
        block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
            while let Ok((socket, _)) = listener.accept().await {
                tunnels.fetch_add(1, Ordering::Relaxed);
                let (acceptor, headers) = (acceptor.clone(), headers.clone());
                tokio::spawn(async move {
                    let tls = acceptor.accept(socket).await.unwrap();
                    let mut builder = h2::server::Builder::new();
                    builder.max_concurrent_streams(max_streams).initial_window_size(30_000);
                    let mut connection = builder.handshake::<_, Bytes>(tls).await.unwrap();
                    let mut count = 0;
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        count += 1;
                        headers.lock().unwrap().push((request.uri().to_string(), request.headers().clone()));
                        tokio::spawn(echo(request, respond));
                        if goodbye_after == Some(count) {
                            connection.graceful_shutdown();
                        }
                    }
                });
            }
        });
    });
    seen
}

async fn echo(request: http::Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let port = request.uri().port_u16().unwrap();
    if port < 1000 {
        let refusal = http::Response::builder().status(port).body(()).unwrap();
        respond.send_response(refusal, true).unwrap();
        return;
    }
    let mut send = respond.send_response(http::Response::new(()), false).unwrap();
    let mut body = request.into_body();
    while let Some(Ok(mut data)) = body.data().await {
        body.flow_control().release_capacity(data.len()).unwrap();
        while !data.is_empty() {
            send.reserve_capacity(data.len());
            let Some(Ok(capacity)) = std::future::poll_fn(|context| send.poll_capacity(context)).await else { return };
            send.send_data(data.split_to(capacity.min(data.len())), false).unwrap();
        }
    }
    let _ = send.send_data(Bytes::new(), true);
}

fn block_on(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}

#[derive(Debug)]
struct AnyServer;

impl rustls::client::danger::ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        unreachable!()
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
