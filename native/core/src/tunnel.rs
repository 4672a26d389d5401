//! One tunnel: a TCP connection, its handshake, its records and its HTTP/2 state. What its streams mean is the business
//! of outbound.rs (CONNECTs we send) and inbound.rs (those we answer).
mod end;
mod frames;
mod receive;
mod send;

use crate::conn::Failure;
use crate::h2::{self, Reader};
use crate::hpack;
use crate::net;
use crate::pool::PoolKey;
use crate::record::{Keys, PostHandshakeReader};
use crate::shared::Pod;
use crate::tls::{Certificate, Handshake};
use crate::worker::{Token, Worker};
use rustls::pki_types::CertificateDer;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

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
        self.shared.handshakes.fetch_add(usize::from(!is_client), Relaxed);
        pod.tunnels.fetch_add(usize::from(!is_client), Relaxed);
        self.watch_socket(raw, Token::Tunnel(slot));
        slot
    }

    /// A connection of a pod reaches its HBONE port.
    pub(crate) fn accept_tunnel(&mut self, pod: &Arc<Pod>, fd: OwnedFd, peer: SocketAddr) {
        let slot = self.new_tunnel(pod, fd, peer, None);
        self.start_handshake(slot);
    }

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
        self.shared.handshakes.fetch_sub(usize::from(!tunnel.is_client()), Relaxed);
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
/// Streams a peer may have open at a time.
pub(crate) const MAX_PEER_STREAMS: u32 = 256;
const LAST_STREAM: u32 = i32::MAX as u32 - 2;
const HEADER_TABLE: usize = 4096;
const MAX_REQUEST_LIST: usize = 64 << 10;
const MAX_RESPONSE_LIST: usize = 16 << 10;
