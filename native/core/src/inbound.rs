//! What reaches a pod through a tunnel: CONNECTs are checked, judged, dialled to the app, and only then answered.
use crate::api::{Action, Direction, OfferFacts};
use crate::conn::{Close, Failure, Far, Leg, Phase};
use crate::h2::{self, Code, Violation};
use crate::hpack;
use crate::net::SourcePorts;
use crate::outbound::{denied, facts};
use crate::request::{MAX_AUTHORITY, Request};
use crate::tunnel::{MAX_PEER_STREAMS, Tunnel};
use crate::worker::{Token, Worker};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;

impl Worker {
    /// Headers of a stream that the peer opens, or its trailers.
    pub(crate) fn request(&mut self, tunnel: u32, stream: u32, end: bool, block: &[u8]) -> Result<(), Violation> {
        let is_draining = self.is_draining();
        let Some(of_tunnel) = self.tunnels.get_mut(tunnel) else { return Ok(()) };
        let mut request = Request::default();
        let decoded =
            of_tunnel.decoder.as_mut().map(|decoder| decoder.decode(block, |name, value| request.add(name, value)));
        let is_too_large = matches!(decoded, Some(Err(hpack::Error::ListTooLarge)));
        if !is_too_large && !matches!(decoded, Some(Ok(()))) {
            return Err(Violation { code: Code::Compression, what: "headers that cannot be read" });
        }
        if let Some(slot) = of_tunnel.streams.get(&stream).copied() {
            return self.trailers(slot, end);
        }
        if stream.is_multiple_of(2) || stream <= of_tunnel.stream {
            let is_closed = stream % 2 == 1 && stream <= of_tunnel.stream && end;
            let what = "headers on a stream that is closed or cannot be the peer's";
            return if is_closed { Ok(()) } else { Err(Violation { code: Code::Protocol, what }) };
        }
        of_tunnel.stream = stream;
        let is_full = of_tunnel.streams.len() >= MAX_PEER_STREAMS as usize;
        let over_quota = of_tunnel.pod.load() >= self.shared.options.max_connections_per_pod;
        if of_tunnel.is_draining || is_draining || is_full || over_quota {
            self.shared.reached.streams.fetch_add(u64::from(is_full), Relaxed);
            self.shared.reached.connections.fetch_add(u64::from(over_quota), Relaxed);
            let refused = h2::number_frame(h2::kind::RST_STREAM, stream, Code::RefusedStream as u32);
            self.put(tunnel, &refused);
            return Ok(());
        }
        let window = of_tunnel.initial_window;
        let slot = self.new_stream_conn(tunnel, &request);
        if let Some(of_tunnel) = self.tunnels.get_mut(tunnel) {
            of_tunnel.streams.insert(stream, slot);
        }
        if let Some(conn) = self.conns.get_mut(slot) {
            conn.far = Far::Stream(Leg::new(tunnel, stream, window, end));
        }
        match self.check_request(&request, is_too_large) {
            Ok(()) => self.judge(slot),
            Err(why) => self.refuse(slot, 400, Failure::new("CONNECT", why)),
        }
        Ok(())
    }

    fn new_stream_conn(&mut self, tunnel: u32, request: &Request) -> u32 {
        let Some(of_tunnel) = self.tunnels.get(tunnel) else { return u32::MAX };
        let (pod, peer) = (of_tunnel.pod.clone(), of_tunnel.peer);
        let authority = String::from_utf8_lossy(&request.authority[..request.authority.len().min(MAX_AUTHORITY)]);
        let facts = OfferFacts {
            peer_identity: of_tunnel.peer_identity.clone(),
            authority: authority.as_ref().into(),
            ..facts(&pod, Direction::Inbound, of_tunnel.local, peer.ip())
        };
        self.new_conn(&pod, facts, peer.port())
    }

    fn check_request(&self, request: &Request, is_too_large: bool) -> Result<(), &'static str> {
        if is_too_large {
            return Err("the request's headers are too large");
        }
        if request.method != b"CONNECT" {
            return Err("not a CONNECT");
        }
        if request.malformed {
            return Err("a CONNECT with headers that it cannot have");
        }
        let port = request.port().ok_or("the authority is not host:port")?;
        if self.is_own_port(port) || port == DNS_PORT {
            return Err("attempted recursive call: the port is one of ours");
        }
        Ok(())
    }

    fn trailers(&mut self, slot: u32, end: bool) -> Result<(), Violation> {
        if !end {
            return Err(Violation { code: Code::Protocol, what: "trailers that do not end their stream" });
        }
        if let Some(leg) = self.conns.get_mut(slot).and_then(|conn| conn.leg()) {
            leg.end_received = true;
        }
        self.reap(slot);
        Ok(())
    }

    /// Carries out the verdict of an inbound connection, tunnelled or plaintext.
    pub(crate) fn deliver_to_app(&mut self, slot: u32) {
        let Some(conn) = self.conns.get(slot) else { return };
        let Some(flow) = conn.flow.clone() else { return };
        let target = match &flow.verdict.action {
            Action::Direct(target) => *target,
            Action::Deny(status) => {
                let why = denied(&flow.verdict.because, &flow.verdict.objects);
                return self.refuse(slot, *status, Failure::new("DENY", why));
            }
            Action::Group(_) => {
                return self.refuse(slot, 503, Failure::new("CONNECT", "an inbound connection cannot go to a group"));
            }
        };
        let (pod, src, direction) = (conn.pod.clone(), conn.facts.src_ip, conn.facts.direction);
        if self.is_own_port(target.port()) {
            return self.refuse(
                slot,
                400,
                Failure::new("CONNECT", "attempted recursive call: the port is one of ours"),
            );
        }
        // A client on the pod's own address cannot be imitated: its answers would never come back.
        let source = (src != target.ip() && !self.is_local(&pod, src)).then_some(src);
        let ports = SourcePorts::BelowClients(self.random());
        match self.dial(&pod, target, source, ports) {
            Ok(fd) if direction == Direction::Inbound => self.dialled_app(slot, fd),
            Ok(fd) => self.dialled_far(slot, fd),
            Err(why) => self.dial_failed(slot, why.raw_os_error().unwrap_or(libc::ECONNREFUSED)),
        }
    }

    fn dialled_app(&mut self, slot: u32, fd: OwnedFd) {
        let raw = fd.as_raw_fd();
        let Some(conn) = self.conns.get_mut(slot) else { return };
        conn.app.dial(fd);
        self.await_phase(slot, Phase::Dialing, self.shared.options.connect_timeout_ms);
        self.watch_socket(raw, Token::App(slot));
    }

    /// The app has taken the connection: now the peer may know.
    pub(crate) fn app_connected(&mut self, slot: u32) {
        self.established(slot);
        let Some(conn) = self.conns.get_mut(slot) else { return };
        let early = conn.far_to_app;
        if let Some(series) = &conn.series {
            series.received_bytes.fetch_add(early, std::sync::atomic::Ordering::Relaxed);
        }
        let Some((tunnel, stream)) = conn.leg().map(|leg| (leg.tunnel, leg.stream)) else { return };
        self.answer(tunnel, stream, 200, false);
        self.drain_app(slot);
        self.reap(slot);
    }

    fn answer(&mut self, tunnel: u32, stream: u32, status: u16, end: bool) {
        if !self.tunnels.get(tunnel).is_some_and(Tunnel::is_open) {
            return;
        }
        let mut block = Vec::with_capacity(16);
        hpack::encode_status(&mut block, status);
        let flags = h2::flag::END_HEADERS | if end { h2::flag::END_STREAM } else { 0 };
        self.put(tunnel, &h2::frame_header(block.len(), h2::kind::HEADERS, flags, stream));
        self.put(tunnel, &block);
    }

    /// Ends a connection that may not be, or cannot be made: a status for a CONNECT that has no answer yet, else a RST.
    pub(crate) fn refuse(&mut self, slot: u32, status: u16, why: Failure) {
        let Some(conn) = self.conns.get_mut(slot) else { return };
        if conn.facts.direction == Direction::Inbound && conn.phase != Phase::Open {
            let undelivered = conn.app.unsent_length();
            if let Far::Stream(leg) = std::mem::replace(&mut conn.far, Far::None) {
                self.answer(leg.tunnel, leg.stream, status, true);
                // A whole answer before the whole request: the rest is not wanted (RFC 9113, section 8.1).
                let reset = (!leg.end_received).then_some(Code::NoError);
                self.leave_tunnel(leg.tunnel, leg.stream, undelivered, reset);
            }
        }
        self.finish(slot, Close::Reset, Some(why));
    }

    /// A peer that never got as far as a CONNECT is reported too.
    pub(crate) fn report_failed_tunnel(&mut self, tunnel: &Tunnel, why: &Failure) {
        let facts = facts(&tunnel.pod, Direction::Inbound, tunnel.local, tunnel.peer.ip());
        let slot = self.new_conn(&tunnel.pod, facts, tunnel.peer.port());
        self.finish(slot, Close::Clean, Some(why.clone()));
    }
}

const DNS_PORT: u16 = 15053;
