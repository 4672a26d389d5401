//! One tunnel: a TCP connection, its handshake, its records and its HTTP/2 state. What its streams mean is the business
//! of outbound.rs (CONNECTs we send) and inbound.rs (those we answer).
use crate::api::Level;
use crate::conn::{Close, Failure, Phase};
use crate::h2::{self, Code, Event, Reader, Settings, Violation};
use crate::hpack;
use crate::net;
use crate::pool::PoolKey;
use crate::record::{
    ALERT, APPLICATION_DATA, HANDSHAKE, HEADER, Keys, MAX_CIPHERTEXT, PostHandshake, PostHandshakeReader,
};
use crate::shared::Pod;
use crate::spiffe::{PeerEnd, PeerError};
use crate::tls::{Certificate, Handshake};
use crate::worker::{Job, Segment, Token, Worker};
use rustls::pki_types::{CertificateDer, UnixTime};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

pub(crate) struct Tunnel {
    pub fd: OwnedFd,
    pub pod: Arc<Pod>,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub phase: TunnelPhase,
    pub deadline_ms: u64,
    /// What the pool knows it by; none for a tunnel that was accepted.
    pub key: Option<PoolKey>,
    certificate: Option<Arc<Certificate>>,
    pub peer_identity: Arc<str>,
    peer_chain: Vec<CertificateDer<'static>>,
    shaken_at: u64,
    /// When a certificate of either side expires, seconds since 1970.
    not_after: u64,
    handshake: Option<Box<Handshake>>,
    pub tx: Option<Box<Keys>>,
    rx: Option<Box<Keys>>,
    /// The peer asked for new sending keys.
    update_due: bool,
    updates_in_a_row: u8,
    post_handshake: PostHandshakeReader,
    pub reader: Reader,
    pub decoder: Option<Box<hpack::Decoder>>,
    /// Sealed bytes that the socket did not take.
    out: Vec<u8>,
    out_at: usize,
    /// Received bytes of a record that is not complete.
    partial: Vec<u8>,
    /// What the peer takes on all streams together, and on a new one.
    pub window: i64,
    pub initial_window: i64,
    /// What we take on all streams together.
    receive_window: i64,
    unacknowledged: u32,
    /// Bytes received and not delivered, of all streams.
    pub backlog: usize,
    /// Client: the next stream's number. Server: the last one's.
    pub stream: u32,
    pub peer_max_streams: u32,
    pub streams: HashMap<u32, u32, BuildHasherDefault<StreamHasher>>,
    /// Connections that have something to send and could not.
    ready: VecDeque<u32>,
    /// Connections that wait for the handshake.
    pub waiting: Vec<u64>,
    /// Takes no new streams.
    pub is_draining: bool,
    /// Server: from then on new streams are refused; until then the peer may not know yet.
    refuse_at_ms: u64,
    /// Its certificate was replaced during the handshake.
    drain_when_open: bool,
    pub idle_since_ms: u64,
    /// When the peer was last heard of.
    heard_ms: u64,
    queued: bool,
    hangup: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TunnelPhase {
    Connecting,
    AwaitingCertificate,
    Handshaking,
    Open,
}

impl Tunnel {
    pub fn is_client(&self) -> bool {
        self.key.is_some()
    }

    pub fn is_open(&self) -> bool {
        self.phase == TunnelPhase::Open
    }

    /// Nothing more goes out until the socket takes what it was given.
    pub fn is_blocked(&self) -> bool {
        !self.out.is_empty()
    }

    pub fn has_room(&self, max_streams: u32) -> bool {
        let most = max_streams.min(self.peer_max_streams) as usize;
        !self.is_draining && self.streams.len() + self.waiting.len() < most && self.stream < LAST_STREAM
    }

    fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Worker {
    /// Takes up a socket as a tunnel: dialled when it has a `key`, else accepted.
    pub(crate) fn new_tunnel(&mut self, pod: &Arc<Pod>, fd: OwnedFd, peer: SocketAddr, key: Option<PoolKey>) -> u32 {
        let is_client = key.is_some();
        let raw = fd.as_raw_fd();
        let tunnel = Tunnel {
            local: net::local_address(raw).unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0))),
            fd,
            pod: pod.clone(),
            peer,
            phase: TunnelPhase::Connecting,
            deadline_ms: self.now_ms + self.shared.options.connect_timeout_ms,
            certificate: None,
            peer_identity: "".into(),
            peer_chain: vec![],
            shaken_at: 0,
            not_after: u64::MAX,
            handshake: None,
            tx: None,
            rx: None,
            update_due: false,
            updates_in_a_row: 0,
            post_handshake: PostHandshakeReader::default(),
            reader: Reader::new(!is_client),
            decoder: None,
            out: vec![],
            out_at: 0,
            partial: vec![],
            window: i64::from(h2::DEFAULT_WINDOW),
            initial_window: i64::from(h2::DEFAULT_WINDOW),
            receive_window: i64::from(CONNECTION_WINDOW),
            unacknowledged: 0,
            backlog: 0,
            stream: if is_client { 1 } else { 0 },
            peer_max_streams: u32::MAX,
            streams: HashMap::default(),
            ready: VecDeque::new(),
            waiting: vec![],
            is_draining: false,
            refuse_at_ms: u64::MAX,
            drain_when_open: false,
            idle_since_ms: self.now_ms,
            heard_ms: self.now_ms,
            queued: false,
            hangup: false,
            key,
        };
        let slot = self.tunnels.insert(tunnel);
        if let Some(key) = self.tunnels.get(slot).and_then(|tunnel| tunnel.key.as_ref()) {
            self.pool.add(key, slot);
        }
        self.shared.tunnels.fetch_add(1, Relaxed);
        pod.tunnels.fetch_add(usize::from(!is_client), Relaxed);
        self.watch_socket(raw, Token::Tunnel(slot));
        slot
    }

    /// A connection of a pod reaches its HBONE port.
    pub(crate) fn accept_tunnel(&mut self, pod: &Arc<Pod>, fd: OwnedFd, peer: SocketAddr) {
        let slot = self.new_tunnel(pod, fd, peer, None);
        self.start_handshake(slot);
    }

    /// The tunnel ends at the end of this turn (its slot may be in use right now).
    pub(crate) fn doom(&mut self, slot: u32, why: Failure) {
        if !self.doomed.iter().any(|(other, _)| *other == slot) {
            self.doomed.push((slot, why));
        }
    }

    // Events.

    pub(crate) fn tunnel_event(&mut self, slot: u32, bits: i32) {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        if tunnel.phase == TunnelPhase::Connecting {
            if bits & (libc::EPOLLERR | libc::EPOLLHUP) != 0 {
                let error = net::take_error(tunnel.raw());
                return self.tunnel_dial_failed(slot, if error == 0 { libc::ECONNREFUSED } else { error });
            }
            if bits & libc::EPOLLOUT != 0 {
                tunnel.local = net::local_address(tunnel.raw()).unwrap_or(tunnel.local);
                self.start_handshake(slot);
            }
            return;
        }
        tunnel.hangup |= bits & (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) != 0;
        if bits & libc::EPOLLOUT != 0 {
            self.drain_out(slot);
        }
        if bits & (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) != 0 {
            self.read_tunnel(slot);
        }
    }

    pub(crate) fn read_queued(&mut self, slot: u32) {
        if let Some(tunnel) = self.tunnels.get_mut(slot) {
            tunnel.queued = false;
            self.read_tunnel(slot);
        }
    }

    fn start_handshake(&mut self, slot: u32) {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        let pod = tunnel.pod.clone();
        let Some(certificate) = self.shared.certificate(&pod.identity) else {
            tunnel.phase = TunnelPhase::AwaitingCertificate;
            tunnel.deadline_ms = self.now_ms + self.shared.options.decision_timeout_ms;
            return self.shared.want_certificate(&pod.identity);
        };
        let trust = self.shared.trust();
        let handshake = match &tunnel.key {
            Some(key) => Handshake::client(&certificate, trust, key.peers.clone()),
            None => Handshake::server(&certificate, trust),
        };
        match handshake {
            Ok(handshake) => {
                tunnel.phase = TunnelPhase::Handshaking;
                tunnel.deadline_ms = self.now_ms + self.shared.options.handshake_timeout_ms;
                tunnel.not_after = certificate.not_after;
                tunnel.certificate = Some(certificate);
                tunnel.handshake = Some(Box::new(handshake));
                self.send_handshake(slot);
                if !self.tunnels.get(slot).is_some_and(Tunnel::is_client) {
                    // What came while the certificate was awaited made its event already.
                    self.read_tunnel(slot);
                }
            }
            Err(why) => self.doom(slot, Failure::new(why.flag, why.message)),
        }
    }

    fn send_handshake(&mut self, slot: u32) {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        if let Some(handshake) = &mut tunnel.handshake {
            handshake.output(&mut tunnel.out);
        }
        self.drain_out(slot);
    }

    // Receiving.

    fn read_tunnel(&mut self, slot: u32) {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        if matches!(tunnel.phase, TunnelPhase::Connecting | TunnelPhase::AwaitingCertificate) {
            return;
        }
        let mut rx = std::mem::take(&mut self.rx);
        let before = tunnel.partial.len();
        rx[..before].copy_from_slice(&tunnel.partial);
        let count = net::recv(tunnel.raw(), &mut rx[before..]);
        let capacity = rx.len() - before;
        let hangup = tunnel.hangup;
        tunnel.heard_ms = self.now_ms;
        let mut outcome = Ok(());
        if count > 0 {
            self.is_bulk |= count > BULK_BYTES;
            outcome = self.records(slot, &mut rx[..before + count as usize]);
        } else if count == 0 {
            outcome = Err(Failure::closed("the peer closed the tunnel"));
        } else if !net::would_block() {
            outcome = Err(Failure::closed(format!("the tunnel broke: {}", std::io::Error::last_os_error())));
        }
        self.rx = rx;
        match outcome {
            Err(why) => self.doom(slot, why),
            Ok(()) if count > 0 && (count as usize == capacity || hangup) => {
                if let Some(tunnel) = self.tunnels.get_mut(slot).filter(|tunnel| !tunnel.queued) {
                    tunnel.queued = true;
                    self.run.push_back(Job::Read(slot));
                }
            }
            Ok(()) => {}
        }
    }

    /// Opens each whole record of `input`; keeps what is left of a partial one.
    fn records(&mut self, slot: u32, input: &mut [u8]) -> Result<(), Failure> {
        let mut at = 0;
        let outcome = loop {
            let rest = &mut input[at..];
            let Some(header) = rest.first_chunk::<HEADER>().copied() else { break Ok(()) };
            let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
            if length > MAX_CIPHERTEXT || length == 0 {
                break Err(Failure::new("TLS_FAILURE", "the peer sent no TLS record"));
            }
            if rest.len() < HEADER + length {
                break Ok(());
            }
            let body = at + HEADER..at + HEADER + length;
            at = body.end;
            if let Err(why) = self.record(slot, header, input, body) {
                break Err(why);
            }
        };
        self.deliver(slot, input);
        if let Some(tunnel) = self.tunnels.get_mut(slot) {
            tunnel.partial.clear();
            tunnel.partial.extend_from_slice(&input[at..]);
            if at == input.len() {
                tunnel.partial = vec![];
            }
        }
        outcome
    }

    fn record(
        &mut self,
        slot: u32,
        header: [u8; HEADER],
        input: &mut [u8],
        body: std::ops::Range<usize>,
    ) -> Result<(), Failure> {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return Ok(()) };
        let Some(keys) = &mut tunnel.rx else {
            return self.handshake_record(slot, &input[body.start - HEADER..body.end]);
        };
        let opened = keys.open(header, &mut input[body.clone()]);
        let (content_type, length) =
            opened.map_err(|_| Failure::new("TLS_FAILURE", "a TLS record is not authentic"))?;
        let content = body.start..body.start + length;
        if content_type != HANDSHAKE && !tunnel.post_handshake.is_between_messages() {
            return Err(Failure::new("TLS_FAILURE", "a TLS handshake message is interrupted"));
        }
        match content_type {
            APPLICATION_DATA => {
                tunnel.updates_in_a_row = 0;
                self.frames(slot, &input[..content.end], content.start)
            }
            HANDSHAKE => self.post_handshake(slot, &input[content]),
            ALERT => Err(alert(&input[content])),
            _ => Err(Failure::new("TLS_FAILURE", "a TLS record of unknown type")),
        }
    }

    fn handshake_record(&mut self, slot: u32, record: &[u8]) -> Result<(), Failure> {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return Ok(()) };
        let Some(handshake) = &mut tunnel.handshake else { return Ok(()) };
        let outcome = handshake.feed(record);
        self.send_handshake(slot);
        let is_done = outcome.map_err(|why| Failure::new(why.flag, why.message))?;
        if is_done { self.shaken(slot) } else { Ok(()) }
    }

    /// The handshake is done: HTTP/2 begins, and whoever waited goes on.
    fn shaken(&mut self, slot: u32) -> Result<(), Failure> {
        let unix_seconds = self.unix_ms() / 1000;
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return Ok(()) };
        let Some(handshake) = tunnel.handshake.take() else { return Ok(()) };
        let established = handshake.finish().map_err(|why| Failure::new(why.flag, why.message))?;
        tunnel.tx = Some(Box::new(established.tx));
        tunnel.rx = Some(Box::new(established.rx));
        tunnel.not_after = tunnel.not_after.min(established.peer.not_after);
        tunnel.peer_identity = established.peer.identity.into();
        tunnel.peer_chain = established.peer_chain;
        tunnel.shaken_at = unix_seconds;
        tunnel.phase = TunnelPhase::Open;
        tunnel.idle_since_ms = self.now_ms;
        let list = if tunnel.is_client() { MAX_RESPONSE_LIST } else { MAX_REQUEST_LIST };
        tunnel.decoder = Some(Box::new(hpack::Decoder::new(HEADER_TABLE, list)));
        let waiting = std::mem::take(&mut tunnel.waiting);
        let is_client = tunnel.is_client();
        let opening = h2::opening(is_client, STREAM_WINDOW, CONNECTION_WINDOW, MAX_PEER_STREAMS, list as u32);
        self.put(slot, &opening);
        for id in waiting {
            self.tunnel_is_open(slot, id);
        }
        if self.tunnels.get(slot).is_some_and(|tunnel| tunnel.drain_when_open) {
            self.drain_tunnel(slot);
        }
        Ok(())
    }

    fn post_handshake(&mut self, slot: u32, content: &[u8]) -> Result<(), Failure> {
        let bad = |what| Failure::new("TLS_FAILURE", what);
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return Ok(()) };
        let message = tunnel.post_handshake.read(content).map_err(|_| bad("a TLS message that cannot be"))?;
        let PostHandshake::KeyUpdate { answer } = message else { return Ok(()) };
        tunnel.updates_in_a_row += 1;
        if tunnel.updates_in_a_row > MAX_UPDATES_IN_A_ROW {
            return Err(bad("a flood of key updates"));
        }
        tunnel.rx.as_mut().and_then(|keys| keys.update()).ok_or_else(|| bad("no further TLS keys"))?;
        tunnel.update_due |= answer;
        if answer {
            // Our own update goes out now, not with the next data.
            self.own(slot);
        }
        Ok(())
    }

    /// Application data in `input[at..]`.
    fn frames(&mut self, slot: u32, input: &[u8], mut at: usize) -> Result<(), Failure> {
        loop {
            let Some(tunnel) = self.tunnels.get_mut(slot) else { return Ok(()) };
            match tunnel.reader.next(input, &mut at) {
                Ok(None) => return Ok(()),
                Ok(Some(event)) => {
                    if let Err(violation) = self.frame(slot, input, event) {
                        return Err(self.violated(slot, violation));
                    }
                }
                Err(violation) => return Err(self.violated(slot, violation)),
            }
        }
    }

    fn frame(&mut self, slot: u32, input: &[u8], event: Event) -> Result<(), Violation> {
        if let Event::Data { stream, bytes, flow, end } = event {
            return self.data_frame(slot, stream, bytes, flow, end);
        }
        // What came before is delivered before, so that a reset does not overtake data.
        if matches!(event, Event::Headers { .. } | Event::Reset { .. }) {
            self.deliver(slot, input);
        }
        match event {
            Event::Data { .. } | Event::SettingsAck => Ok(()),
            Event::Headers { stream, end } => self.headers_frame(slot, stream, end),
            Event::Reset { stream, code } => self.reset_frame(slot, stream, code),
            Event::Settings(settings) => self.settings_frame(slot, settings),
            Event::Ping(payload) => {
                self.put(slot, &h2::frame_header(8, h2::kind::PING, h2::flag::ACK, 0));
                self.put(slot, &payload);
                Ok(())
            }
            Event::Goaway { last, code } => {
                self.goaway_frame(slot, last, code);
                Ok(())
            }
            Event::Window { stream, increment } => self.window_frame(slot, stream, increment),
        }
    }

    fn data_frame(
        &mut self,
        slot: u32,
        stream: u32,
        bytes: std::ops::Range<usize>,
        flow: u32,
        end: bool,
    ) -> Result<(), Violation> {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return Ok(()) };
        tunnel.receive_window -= i64::from(flow);
        tunnel.unacknowledged += flow;
        if tunnel.receive_window < 0 {
            return Err(Violation { code: Code::FlowControl, what: "more data than the connection's window" });
        }
        let Some(conn) = tunnel.streams.get(&stream).copied() else {
            if is_idle(tunnel, stream) {
                return Err(Violation { code: Code::Protocol, what: "data on a stream that was never opened" });
            }
            self.credit_connection(slot);
            return Ok(());
        };
        let (is_client, of_conn) = (tunnel.is_client(), self.conns.get_mut(conn));
        let Some(of_conn) = of_conn else { return Ok(()) };
        if is_client && of_conn.phase != Phase::Open {
            return Err(Violation { code: Code::Protocol, what: "data before the answer to its CONNECT" });
        }
        let Some(leg) = of_conn.leg() else { return Ok(()) };
        leg.receive_window -= i64::from(flow);
        if leg.receive_window < 0 {
            return Err(Violation { code: Code::FlowControl, what: "more data than the stream's window" });
        }
        if leg.end_received {
            return Err(Violation { code: Code::StreamClosed, what: "data after the end of its stream" });
        }
        // Padding counts as delivered.
        leg.unacknowledged += flow - bytes.len() as u32;
        leg.end_received |= end;
        if !bytes.is_empty() {
            self.segments.push(Segment { conn, at: bytes.start, length: bytes.len(), end: false });
        }
        if end {
            self.segments.push(Segment { conn, at: 0, length: 0, end: true });
        }
        self.credit_connection(slot);
        Ok(())
    }

    fn headers_frame(&mut self, slot: u32, stream: u32, end: bool) -> Result<(), Violation> {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return Ok(()) };
        let block = tunnel.reader.take_block();
        if tunnel.is_client() {
            self.response(slot, stream, end, &block)
        } else {
            self.request(slot, stream, end, &block)
        }
    }

    fn reset_frame(&mut self, slot: u32, stream: u32, code: u32) -> Result<(), Violation> {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return Ok(()) };
        let Some(conn) = tunnel.streams.get(&stream).copied() else {
            return match is_idle(tunnel, stream) {
                true => Err(Violation { code: Code::Protocol, what: "a reset of a stream that was never opened" }),
                false => Ok(()),
            };
        };
        let is_client = tunnel.is_client();
        // The peer knows: no reset goes back.
        tunnel.streams.remove(&stream);
        tunnel.idle_since_ms = self.now_ms;
        self.after_stream_left(slot);
        let is_premature = self.conns.get(conn).is_some_and(|conn| conn.phase != Phase::Open);
        if self.ends_politely(slot, conn, code) {
            self.reap(conn);
        } else if is_client {
            self.stream_reset(conn, code);
        } else {
            self.finish(conn, Close::Reset, Some(Failure::closed("the peer reset the connection")));
            if let Some(tunnel) = self.tunnels.get_mut(slot).filter(|_| is_premature) {
                tunnel.reader.premature_reset()?;
            }
        }
        Ok(())
    }

    /// A peer that has said all may say that it wants to hear no more (RFC 9113, section 8.1): what it said is still
    /// delivered.
    fn ends_politely(&mut self, slot: u32, conn: u32, code: u32) -> bool {
        let Some(conn) = self.conns.get_mut(conn).filter(|conn| conn.phase == Phase::Open) else { return false };
        let undelivered = conn.app.unsent_length();
        let Some(leg) = conn.leg().filter(|leg| leg.end_received && code == Code::NoError as u32) else { return false };
        leg.end_sent = true;
        leg.tunnel = NO_TUNNEL;
        conn.app.read_done = true;
        if let Some(tunnel) = self.tunnels.get_mut(slot) {
            tunnel.backlog = tunnel.backlog.saturating_sub(undelivered);
        }
        true
    }

    /// A draining tunnel ends with its last stream.
    pub(crate) fn after_stream_left(&mut self, slot: u32) {
        if self.tunnels.get(slot).is_some_and(|tunnel| tunnel.is_draining && tunnel.streams.is_empty()) {
            self.doom(slot, Failure::closed("drained"));
        }
    }

    fn settings_frame(&mut self, slot: u32, settings: Settings) -> Result<(), Violation> {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return Ok(()) };
        if let Some(max) = settings.max_streams {
            tunnel.peer_max_streams = max;
        }
        if let Some(window) = settings.initial_window.map(i64::from) {
            let change = window - tunnel.initial_window;
            tunnel.initial_window = window;
            for conn in tunnel.streams.values() {
                let Some(leg) = self.conns.get_mut(*conn).and_then(|conn| conn.leg()) else { continue };
                leg.window += change;
                if leg.window > h2::MAX_WINDOW {
                    return Err(Violation { code: Code::FlowControl, what: "a window that is too large" });
                }
            }
        }
        self.put(slot, &h2::frame_header(0, h2::kind::SETTINGS, h2::flag::ACK, 0));
        self.requeue_streams(slot);
        Ok(())
    }

    fn requeue_streams(&mut self, slot: u32) {
        let Some(tunnel) = self.tunnels.get(slot) else { return };
        let conns: Vec<u32> = tunnel.streams.values().copied().collect();
        conns.into_iter().for_each(|conn| self.queue_pump(conn));
    }

    fn window_frame(&mut self, slot: u32, stream: u32, increment: u32) -> Result<(), Violation> {
        let too_large = Violation { code: Code::FlowControl, what: "a window that is too large" };
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return Ok(()) };
        if stream == 0 {
            tunnel.window += i64::from(increment);
            if tunnel.window > h2::MAX_WINDOW {
                return Err(too_large);
            }
            self.kick(slot);
            return Ok(());
        }
        let Some(conn) = tunnel.streams.get(&stream).copied() else {
            return match is_idle(tunnel, stream) {
                true => Err(Violation { code: Code::Protocol, what: "a window for a stream that was never opened" }),
                false => Ok(()),
            };
        };
        let Some(leg) = self.conns.get_mut(conn).and_then(|conn| conn.leg()) else { return Ok(()) };
        let was_shut = leg.window <= 0;
        leg.window += i64::from(increment);
        if leg.window > h2::MAX_WINDOW {
            return Err(too_large);
        }
        if was_shut {
            self.queue_pump(conn);
        }
        Ok(())
    }

    fn goaway_frame(&mut self, slot: u32, last: u32, code: u32) {
        self.stop_streams(slot);
        let Some(tunnel) = self.tunnels.get(slot) else { return };
        if !tunnel.is_client() {
            return;
        }
        // What the peer will not look at is tried elsewhere.
        let lost: Vec<u32> = tunnel.streams.iter().filter(|(id, _)| **id > last).map(|(_, conn)| *conn).collect();
        for conn in lost {
            self.stream_reset(conn, if code == 0 { Code::RefusedStream as u32 } else { code });
        }
        self.after_stream_left(slot);
    }

    fn violated(&mut self, slot: u32, violation: Violation) -> Failure {
        self.shared.reached.peer.fetch_add(1, Relaxed);
        if let Some(tunnel) = self.tunnels.get(slot).filter(|tunnel| tunnel.is_open()) {
            let last = if tunnel.is_client() { 0 } else { tunnel.stream };
            let message = format!("{} ({}): {}", tunnel.peer, tunnel.peer_identity, violation.what);
            self.put(slot, &h2::goaway(last, violation.code));
            self.shared.notice(Level::Warn, "http2-violation", message);
        }
        Failure::new("H2_HANDSHAKE_FAILURE", format!("the peer broke HTTP/2: {}", violation.what))
    }

    // Sending.

    /// Makes the stage this tunnel's, with keys that are fresh enough.
    pub(crate) fn own(&mut self, slot: u32) {
        if self.stage.owner().is_some_and(|owner| owner != slot) {
            self.flush();
        }
        self.stage.own(slot);
        let limit = self.shared.options.rekey_after_records.clamp(MIN_REKEY, MAX_REKEY);
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        if let Some(keys) = &mut tunnel.tx
            && (tunnel.update_due || keys.sequence() >= limit)
        {
            tunnel.update_due = false;
            self.stage.update_keys(keys);
            // Room for another, should the peer ask for it in this very turn.
            if !self.stage.has_slot() {
                self.flush();
                self.stage.own(slot);
            }
        }
    }

    /// Records that may still be sealed under the present key.
    pub(crate) fn records_left(&self, slot: u32) -> usize {
        let limit = self.shared.options.rekey_after_records.clamp(MIN_REKEY, MAX_REKEY);
        let sequence = self.tunnels.get(slot).and_then(|tunnel| tunnel.tx.as_ref()).map_or(0, |keys| keys.sequence());
        limit.saturating_sub(sequence).max(1) as usize
    }

    pub(crate) fn seal(&mut self) {
        let Some(owner) = self.stage.owner() else { return };
        if let Some(keys) = self.tunnels.get_mut(owner).and_then(|tunnel| tunnel.tx.as_mut()) {
            self.stage.seal(keys);
        }
    }

    /// Appends frames to what this tunnel sends at the end of the turn; nothing for one that is not open.
    pub(crate) fn put(&mut self, slot: u32, mut bytes: &[u8]) {
        if !self.tunnels.get(slot).is_some_and(Tunnel::is_open) {
            return;
        }
        self.own(slot);
        while !bytes.is_empty() {
            if self.stage.room() == 0 {
                self.seal();
            }
            if !self.stage.has_slot() {
                self.flush();
                self.own(slot);
            }
            let count = self.stage.room().min(bytes.len());
            self.stage.push(&bytes[..count]);
            bytes = &bytes[count..];
        }
    }

    /// Sends what is staged; keeps what the socket does not take.
    pub(crate) fn flush(&mut self) {
        let Some(owner) = self.stage.owner() else { return };
        self.seal();
        let bytes = self.stage.take();
        let Some(tunnel) = self.tunnels.get_mut(owner) else { return };
        let mut sent = 0;
        while tunnel.out.is_empty() && sent < bytes.len() {
            let count = net::send(tunnel.raw(), &bytes[sent..]);
            if count <= 0 {
                break;
            }
            sent += count as usize;
        }
        if sent < bytes.len() {
            tunnel.out.extend_from_slice(&bytes[sent..]);
            if tunnel.out.len() - tunnel.out_at > MAX_UNSENT {
                self.doom(owner, Failure::closed("the peer asks for more than it reads"));
            }
        }
    }

    fn drain_out(&mut self, slot: u32) {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        if tunnel.out.is_empty() {
            return;
        }
        while tunnel.out_at < tunnel.out.len() {
            let count = net::send(tunnel.raw(), &tunnel.out[tunnel.out_at..]);
            if count <= 0 {
                return;
            }
            tunnel.out_at += count as usize;
        }
        (tunnel.out, tunnel.out_at) = (vec![], 0);
        self.kick(slot);
    }

    /// Whoever waited to send may try again.
    fn kick(&mut self, slot: u32) {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        for conn in std::mem::take(&mut tunnel.ready) {
            if let Some(leg) = self.conns.get_mut(conn).and_then(|conn| conn.leg()) {
                leg.waiting = false;
                self.queue_pump(conn);
            }
        }
    }

    /// Lists a connection to be kicked when its tunnel can send again.
    pub(crate) fn wait_for_tunnel(&mut self, slot: u32, conn: u32) {
        let Some(leg) = self.conns.get_mut(conn).and_then(|conn| conn.leg()) else { return };
        if !leg.waiting {
            leg.waiting = true;
            if let Some(tunnel) = self.tunnels.get_mut(slot) {
                tunnel.ready.push_back(conn);
            }
        }
    }

    /// Gives the connection's window back as bytes arrive, unless too much waits for slow readers.
    pub(crate) fn credit_connection(&mut self, slot: u32) {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        if tunnel.unacknowledged < CONNECTION_WINDOW / 4 || tunnel.backlog > MAX_BACKLOG || !tunnel.is_open() {
            return;
        }
        let credit = std::mem::take(&mut tunnel.unacknowledged);
        tunnel.receive_window += i64::from(credit);
        self.put(slot, &h2::number_frame(h2::kind::WINDOW_UPDATE, 0, credit));
    }

    // Ends.

    /// No new streams: out of the pool, and the peer is told.
    pub(crate) fn drain_tunnel(&mut self, slot: u32) {
        let refuse_at_ms = self.now_ms + GOAWAY_GRACE_MS;
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        if tunnel.is_draining {
            return;
        }
        if !tunnel.is_open() {
            tunnel.drain_when_open = true;
            return;
        }
        let is_client = tunnel.is_client();
        if is_client {
            self.stop_streams(slot);
            self.after_stream_left(slot);
        } else if tunnel.refuse_at_ms == u64::MAX {
            tunnel.refuse_at_ms = refuse_at_ms;
            self.put(slot, &h2::goaway(i32::MAX as u32, Code::NoError));
        }
    }

    fn stop_streams(&mut self, slot: u32) {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        tunnel.is_draining = true;
        if let Some(key) = &tunnel.key {
            self.pool.remove(key, slot);
        }
    }

    pub(crate) fn close_tunnel(&mut self, slot: u32, why: &Failure) {
        let is_open = self.tunnels.get(slot).is_some_and(Tunnel::is_open);
        if is_open {
            self.own(slot);
            if let Some(keys) = self.tunnels.get_mut(slot).and_then(|tunnel| tunnel.tx.as_mut()) {
                if !self.stage.has_slot() {
                    // A full stage has no room for a goodbye; the FIN will do.
                } else {
                    self.stage.push_record(keys, ALERT, &CLOSE_NOTIFY);
                }
            }
            self.flush();
        }
        let Some(tunnel) = self.tunnels.remove(slot) else { return };
        // A server that does not take our certificate says so only after the handshake.
        let was_good = is_open && tunnel.reader.is_settled();
        self.shared.tunnels.fetch_sub(1, Relaxed);
        tunnel.pod.tunnels.fetch_sub(usize::from(!tunnel.is_client()), Relaxed);
        if let Some(key) = &tunnel.key {
            self.pool.remove(key, slot);
        } else if !is_open {
            self.report_failed_tunnel(&tunnel, why);
        }
        for conn in tunnel.streams.values() {
            self.tunnel_lost(*conn, why, was_good);
        }
        for id in &tunnel.waiting {
            let conn = crate::shared::slot_of(*id);
            if self.conns.get(conn).is_some_and(|conn| conn.id == *id) {
                self.tunnel_lost(conn, why, was_good);
            }
        }
    }

    /// The tunnel of a connection is gone.
    fn tunnel_lost(&mut self, slot: u32, why: &Failure, was_good: bool) {
        let Some(conn) = self.conns.get_mut(slot) else { return };
        match conn.phase {
            Phase::AwaitingTunnel | Phase::AwaitingResponse
                if conn.facts.direction == crate::api::Direction::Outbound =>
            {
                conn.far = crate::conn::Far::None;
                self.try_next(slot, why.clone(), !was_good);
            }
            _ => self.finish(slot, Close::Reset, Some(why.clone())),
        }
    }

    /// A CONNECT was not answered: a tunnel that was silent all the while is not offered to others.
    pub(crate) fn leave_silent_tunnel(&mut self, slot: u32) {
        let silent_since = self.now_ms.saturating_sub(self.shared.options.connect_timeout_ms);
        let Some(tunnel) = self.conns.get_mut(slot).and_then(|conn| conn.leg()).map(|leg| leg.tunnel) else { return };
        if self.tunnels.get(tunnel).is_some_and(|tunnel| tunnel.heard_ms < silent_since) {
            self.stop_streams(tunnel);
        }
    }

    /// Once a second: deadlines, idleness, expiry, floods.
    pub(crate) fn tunnels_tick(&mut self) {
        let (now_ms, unix_seconds) = (self.now_ms, self.unix_ms() / 1000);
        let idle_ms = self.shared.options.pool_idle_ms;
        for slot in self.tunnels.slots_of(|_| true) {
            let Some(tunnel) = self.tunnels.get_mut(slot) else { continue };
            tunnel.reader.tick();
            match tunnel.phase {
                TunnelPhase::Connecting if tunnel.deadline_ms <= now_ms => {
                    self.tunnel_dial_failed(slot, libc::ETIMEDOUT)
                }
                TunnelPhase::AwaitingCertificate if tunnel.deadline_ms <= now_ms => {
                    let why = format!("no certificate of {} came in time", tunnel.pod.identity);
                    self.doom(slot, Failure::new("IDENTITY_ERROR", why));
                }
                TunnelPhase::Handshaking if tunnel.deadline_ms <= now_ms => {
                    self.doom(slot, Failure::new("TLS_FAILURE", "the TLS handshake took too long"));
                }
                TunnelPhase::Open => {
                    if tunnel.refuse_at_ms <= now_ms && !tunnel.is_draining {
                        tunnel.is_draining = true;
                        let last = tunnel.stream;
                        self.put(slot, &h2::goaway(last, Code::NoError));
                        self.after_stream_left(slot);
                    } else if tunnel.not_after <= unix_seconds {
                        self.drain_tunnel(slot);
                    } else if tunnel.is_client()
                        && tunnel.streams.is_empty()
                        && tunnel.idle_since_ms + idle_ms <= now_ms
                    {
                        self.doom(slot, Failure::closed("idle"));
                    }
                }
                _ => {}
            }
        }
    }

    /// Tunnels under a former certificate take no new streams; whoever waited for the new one goes on.
    pub(crate) fn certificate_changed(&mut self, identity: &str) {
        let current = self.shared.certificate(identity);
        for slot in self.tunnels.slots_of(|tunnel| *tunnel.pod.identity == *identity) {
            let Some(tunnel) = self.tunnels.get(slot) else { continue };
            match (&tunnel.certificate, &current) {
                (None, Some(_)) if tunnel.phase == TunnelPhase::AwaitingCertificate => self.start_handshake(slot),
                (Some(used), Some(current)) if Arc::ptr_eq(used, current) => {}
                (Some(_), _) => self.drain_tunnel(slot),
                (None, _) => {}
            }
        }
        if current.is_some() {
            for slot in
                self.conns.slots_of(|conn| conn.phase == Phase::AwaitingCertificate && *conn.pod.identity == *identity)
            {
                self.send_out(slot);
            }
        }
    }

    /// Tunnels of peers that are now revoked end at once; those of peers whose root is gone take no new streams.
    pub(crate) fn trust_changed(&mut self) {
        let trust = self.shared.trust();
        for slot in self.tunnels.slots_of(Tunnel::is_open) {
            let Some(tunnel) = self.tunnels.get(slot) else { continue };
            let Some((leaf, intermediates)) = tunnel.peer_chain.split_first() else { continue };
            let end = if tunnel.is_client() { PeerEnd::Server } else { PeerEnd::Client };
            let then = UnixTime::since_unix_epoch(Duration::from_secs(tunnel.shaken_at));
            match trust.verify(leaf, intermediates, then, end) {
                Ok(_) => {}
                Err(PeerError::Revoked(_)) => {
                    self.doom(slot, Failure::new("CERT_REVOKED", "peer certificate revoked by CRL"));
                }
                Err(_) => self.drain_tunnel(slot),
            }
        }
    }
}

/// True for a stream that nobody has opened yet.
fn is_idle(tunnel: &Tunnel, stream: u32) -> bool {
    let is_ours = stream % 2 == 1;
    if tunnel.is_client() { !is_ours || stream >= tunnel.stream } else { !is_ours || stream > tunnel.stream }
}

fn alert(content: &[u8]) -> Failure {
    match content {
        [_, 0] => Failure::closed("the peer closed the tunnel"),
        [_, code] => Failure::new(
            "TLS_FAILURE",
            format!("the peer refused the tunnel: TLS alert {code} ({})", alert_name(*code)),
        ),
        _ => Failure::new("TLS_FAILURE", "a TLS alert that cannot be"),
    }
}

fn alert_name(code: u8) -> &'static str {
    match code {
        20 => "bad record",
        40 => "handshake failure",
        42 => "bad certificate",
        44 => "certificate revoked",
        45 => "certificate expired",
        46 => "certificate unknown",
        48 => "unknown CA",
        49 => "access denied",
        116 => "certificate required",
        120 => "no application protocol",
        _ => "other",
    }
}

/// Stream numbers are small and ours or bounded: mixing them is enough.
#[derive(Default)]
pub(crate) struct StreamHasher(u64);

impl Hasher for StreamHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}

pub(crate) const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Undelivered bytes of one tunnel above which the connection's window is not given back.
const MAX_BACKLOG: usize = 32 << 20;
/// Streams a peer may have open at a time.
pub(crate) const MAX_PEER_STREAMS: u32 = 256;
/// The tunnel of a stream that has left it.
const NO_TUNNEL: u32 = u32::MAX;
const LAST_STREAM: u32 = i32::MAX as u32 - 2;
const HEADER_TABLE: usize = 4096;
const MAX_REQUEST_LIST: usize = 64 << 10;
const MAX_RESPONSE_LIST: usize = 16 << 10;
/// Sealed bytes a peer may leave unread while it goes on asking.
const MAX_UNSENT: usize = 2 << 20;
const MAX_UPDATES_IN_A_ROW: u8 = 4;
const MIN_REKEY: u64 = 64;
/// RFC 8446, section 5.5.
const MAX_REKEY: u64 = 1 << 24;
const GOAWAY_GRACE_MS: u64 = 1000;
const CLOSE_NOTIFY: [u8; 2] = [1, 0];
const BULK_BYTES: isize = 8192;
