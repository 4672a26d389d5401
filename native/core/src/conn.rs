//! One connection of a pod: an app's socket on one side, a stream of a tunnel or another socket on the other. However
//! it ends, it ends in `finish`, which makes its one report.
use crate::api::{Action, Direction, Endpoint, OfferFacts};
use crate::flow::Flow;
use crate::h2::{self, Code};
use crate::net;
use crate::report;
use crate::shared::{Pod, lock};
use crate::stats::{Labels, Reporter, Series};
use crate::tunnel::STREAM_WINDOW;
use crate::worker::Worker;
use std::borrow::Cow;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

pub(crate) struct Conn {
    pub id: u64,
    pub pod: Arc<Pod>,
    pub facts: OfferFacts,
    pub src_port: u16,
    pub phase: Phase,
    pub started_ms: u64,
    /// When the present phase is overdue; of no meaning once open.
    pub deadline_ms: u64,
    /// Place in the worker's list of connections that are not open yet.
    pub pending_at: u32,
    pub flow: Option<Arc<Flow>>,
    pub endpoint: Option<Arc<Endpoint>>,
    pub series: Option<Arc<Series>>,
    /// The accepted socket; for an inbound tunnel stream, the one dialled to the app.
    pub app: Side,
    pub far: Far,
    pub app_to_far: u64,
    pub far_to_app: u64,
    /// Queued to be pumped this turn.
    pub queued: bool,
    /// Exists until the far side has answered.
    pub trial: Option<Box<Trial>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waits for a verdict.
    Deciding,
    /// No room in the flow table: waits to be asked for.
    Parked,
    AwaitingCertificate,
    /// A socket of its own is connecting.
    Dialing,
    /// Its tunnel is connecting or shaking hands.
    AwaitingTunnel,
    /// CONNECT is sent.
    AwaitingResponse,
    Open,
}

pub(crate) enum Far {
    None,
    Stream(Leg),
    Socket(Side),
}

/// Our end of a stream.
pub(crate) struct Leg {
    pub tunnel: u32,
    pub stream: u32,
    /// What the peer still takes.
    pub window: i64,
    /// What the peer may still send.
    pub receive_window: i64,
    /// Delivered and not yet given back as credit.
    pub unacknowledged: u32,
    /// Listed with its tunnel as having something to send.
    pub waiting: bool,
    pub end_sent: bool,
    pub end_received: bool,
}

impl Leg {
    /// Of a stream that has just been opened; the peer takes `window` bytes.
    pub fn new(tunnel: u32, stream: u32, window: i64, end_received: bool) -> Self {
        Self {
            tunnel,
            stream,
            window,
            receive_window: i64::from(STREAM_WINDOW),
            unacknowledged: 0,
            waiting: false,
            end_sent: false,
            end_received,
        }
    }
}

/// A socket and what is to be written to it.
pub(crate) struct Side {
    fd: Option<OwnedFd>,
    pub connecting: bool,
    pub readable: bool,
    /// The peer has closed or reset: read until the end, without trusting short reads.
    pub hangup: bool,
    pub read_done: bool,
    pub write_done: bool,
    pub unsent: Vec<u8>,
    pub unsent_at: usize,
}

/// What a connection remembers while it may still change its endpoint.
#[derive(Default)]
pub(crate) struct Trial {
    pub tried: Vec<Arc<Endpoint>>,
    pub attempts: u32,
    /// Read from the client and possibly sent, but not answered.
    pub held: Vec<u8>,
    /// How much of `held` went to the present stream.
    pub replayed: usize,
    pub failure: Option<Failure>,
    /// An endpoint hung up, as an agent does that is replaced: when none is left, all may be tried once more.
    pub was_hung_up: bool,
}

/// Why something ended, in words and as a `response_flags` value.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub message: Cow<'static, str>,
    pub flag: &'static str,
}

impl Failure {
    pub fn new(flag: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { message: message.into(), flag }
    }

    pub fn closed(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new("-", message)
    }

    /// The peer, or its agent, has gone; nothing else is wrong with it.
    pub fn is_hang_up(&self) -> bool {
        self.flag == "-"
    }
}

impl Side {
    pub fn none() -> Self {
        Self {
            fd: None,
            connecting: true,
            readable: false,
            hangup: false,
            read_done: false,
            write_done: false,
            unsent: vec![],
            unsent_at: 0,
        }
    }

    pub fn accepted(fd: OwnedFd) -> Self {
        Self { fd: Some(fd), connecting: false, readable: true, ..Self::none() }
    }

    pub fn dialled(fd: OwnedFd) -> Self {
        Self { fd: Some(fd), ..Self::none() }
    }

    /// Gives a socket to a side that may hold bytes for it already.
    pub fn dial(&mut self, fd: OwnedFd) {
        self.fd = Some(fd);
    }

    /// -1 while there is no socket.
    pub fn fd(&self) -> RawFd {
        self.fd.as_ref().map_or(-1, |fd| fd.as_raw_fd())
    }

    pub fn has_unsent(&self) -> bool {
        self.unsent_at < self.unsent.len()
    }

    pub fn unsent_length(&self) -> usize {
        self.unsent.len() - self.unsent_at
    }

    /// Writes what waits; how much went. An error means that the socket is broken.
    pub fn drain(&mut self) -> Result<usize, ()> {
        let before = self.unsent_at;
        while self.has_unsent() {
            let count = net::send(self.fd(), &self.unsent[self.unsent_at..]);
            if count < 0 && !net::would_block() {
                return Err(());
            }
            if count <= 0 {
                break;
            }
            self.unsent_at += count as usize;
        }
        let count = self.unsent_at - before;
        if !self.has_unsent() {
            (self.unsent, self.unsent_at) = (vec![], 0);
        } else if self.unsent_at > COMPACT_AT {
            self.unsent.drain(..self.unsent_at);
            self.unsent_at = 0;
        }
        Ok(count)
    }
}

impl Conn {
    pub fn new(id: u64, pod: Arc<Pod>, facts: OfferFacts, src_port: u16, now_ms: u64) -> Self {
        Self {
            id,
            pod,
            facts,
            src_port,
            phase: Phase::Deciding,
            started_ms: now_ms,
            deadline_ms: u64::MAX,
            pending_at: u32::MAX,
            flow: None,
            endpoint: None,
            series: None,
            app: Side::none(),
            far: Far::None,
            app_to_far: 0,
            far_to_app: 0,
            queued: false,
            trial: None,
        }
    }

    pub fn src(&self) -> SocketAddr {
        SocketAddr::new(self.facts.src_ip, self.src_port)
    }

    /// Bytes from who opened the connection, and back to it.
    pub fn request_response_bytes(&self) -> (u64, u64) {
        match self.facts.direction {
            Direction::Inbound => (self.far_to_app, self.app_to_far),
            Direction::Outbound | Direction::InboundPlaintext => (self.app_to_far, self.far_to_app),
        }
    }

    /// Bytes that the pod sent and received.
    pub fn sent_received(&self) -> (u64, u64) {
        let (request, response) = self.request_response_bytes();
        if self.facts.direction == Direction::Outbound { (request, response) } else { (response, request) }
    }

    pub fn leg(&mut self) -> Option<&mut Leg> {
        match &mut self.far {
            Far::Stream(leg) => Some(leg),
            _ => None,
        }
    }

    pub fn reporter(&self) -> Reporter {
        if self.facts.direction == Direction::Outbound { Reporter::Source } else { Reporter::Destination }
    }

    pub fn is_mutual_tls(&self) -> bool {
        match self.facts.direction {
            Direction::Outbound => self.endpoint.as_ref().is_some_and(|endpoint| endpoint.tunnel.is_some()),
            Direction::Inbound => true,
            Direction::InboundPlaintext => false,
        }
    }

    pub fn because(&self) -> &str {
        self.flow.as_ref().map_or("", |flow| &flow.verdict.because)
    }

    pub fn state(&self) -> &'static str {
        match (self.phase, &self.far) {
            (Phase::Deciding | Phase::Parked, _) => "deciding",
            (Phase::AwaitingCertificate, _) => "awaiting certificate",
            (Phase::Open, Far::Stream(leg)) if leg.end_received || leg.end_sent => "half-closed",
            (Phase::Open, Far::Socket(far)) if far.read_done || self.app.read_done => "half-closed",
            (Phase::Open, _) => "open",
            _ => "connecting",
        }
    }
}

/// How a connection is taken down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Close {
    /// Both directions have ended properly.
    Clean,
    /// Sockets are reset, a stream that is still there too.
    Reset,
}

impl Worker {
    /// The end of every connection: takes it out, closes what it held, reports it once.
    pub(crate) fn finish(&mut self, slot: u32, close: Close, failure: Option<Failure>) {
        let Some(conn) = self.conns.remove(slot) else { return };
        self.forget_pending(conn.pending_at);
        if let Far::Stream(leg) = &conn.far {
            let (tunnel, stream, ended) = (leg.tunnel, leg.stream, leg.end_sent && leg.end_received);
            self.leave_tunnel(tunnel, stream, conn.app.unsent_length(), (!ended).then_some(RESET_CODE));
        }
        if close == Close::Reset {
            for fd in [conn.app.fd(), if let Far::Socket(far) = &conn.far { far.fd() } else { -1 }] {
                if fd >= 0 {
                    net::close_with_reset(fd);
                }
            }
        }
        conn.pod.connections.fetch_sub(1, Relaxed);
        self.shared.connections.fetch_sub(1, Relaxed);
        self.shared.sockets.add(conn.reporter(), -1);
        lock(&self.shared.flows).release(conn.id);
        self.count(&conn, failure.as_ref());
        self.report(&conn, failure.as_ref());
    }

    /// The connection has come about: counted from here on as open.
    pub(crate) fn established(&mut self, slot: u32) {
        let Some(conn) = self.conns.get_mut(slot) else { return };
        conn.phase = Phase::Open;
        let pending_at = std::mem::replace(&mut conn.pending_at, u32::MAX);
        let Some(conn) = self.conns.get(slot) else { return };
        let series = self.series(conn, "-");
        let Some(conn) = self.conns.get_mut(slot) else { return };
        series.opened.fetch_add(1, Relaxed);
        conn.series = Some(series);
        self.forget_pending(pending_at);
    }

    /// A connection that never came about counts as opened, closed and failed; one that was cut off for a reason of ours
    /// as failed too.
    fn count(&mut self, conn: &Conn, failure: Option<&Failure>) {
        let flag = failure.map_or("-", |failure| failure.flag);
        if let Some(series) = &conn.series {
            series.closed.fetch_add(1, Relaxed);
            if flag != "-" {
                self.series(conn, flag).failed.fetch_add(1, Relaxed);
            }
            return;
        }
        let denied = conn.flow.as_ref().filter(|flow| matches!(flow.verdict.action, Action::Deny(_)));
        let series = self.series(conn, denied.map_or(flag, |flow| &flow.verdict.response_flags));
        series.opened.fetch_add(1, Relaxed);
        series.closed.fetch_add(1, Relaxed);
        series.failed.fetch_add(1, Relaxed);
    }

    fn series(&self, conn: &Conn, response_flags: &str) -> Arc<Series> {
        let labels = Labels {
            verdict: conn.flow.as_ref().map_or("", |flow| &flow.verdict.labels),
            endpoint: conn.endpoint.as_ref().map_or("", |endpoint| &endpoint.labels),
            response_flags,
            mutual_tls: conn.is_mutual_tls(),
        };
        lock(&self.shared.registry).series(&labels, self.now_ms)
    }

    fn report(&mut self, conn: &Conn, failure: Option<&Failure>) {
        if !self.shared.options.access_log {
            return;
        }
        let (bytes_sent, bytes_received) = conn.sent_received();
        let tunnel = conn.endpoint.as_ref().and_then(|endpoint| endpoint.tunnel);
        let target = conn.endpoint.as_ref().map(|endpoint| authority_of(endpoint));
        let record = report::Record {
            unix_ms: self.unix_ms(),
            direction: conn.facts.direction,
            src: conn.src(),
            dst: tunnel.or(conn.endpoint.as_ref().map(|endpoint| endpoint.addr)).unwrap_or(conn.facts.dst),
            hbone: match conn.facts.direction {
                Direction::Outbound => tunnel.and(target.as_deref()),
                Direction::Inbound => Some(&conn.facts.authority[..]),
                Direction::InboundPlaintext => None,
            },
            bytes_sent,
            bytes_received,
            duration_ms: self.now_ms.saturating_sub(conn.started_ms),
            established: conn.series.is_some(),
            error: failure.map(|failure| &failure.message[..]),
            because: conn.because(),
            verdict_log: conn.flow.as_ref().map_or("", |flow| &flow.verdict.log),
            endpoint_log: conn.endpoint.as_ref().map_or("", |endpoint| &endpoint.log),
        };
        report::render(&mut self.log, &record);
    }

    /// Lists a connection as not open yet, due at `now + timeout_ms`.
    pub(crate) fn await_phase(&mut self, slot: u32, phase: Phase, timeout_ms: u64) {
        let deadline_ms = self.now_ms + timeout_ms;
        let next = self.pending.len() as u32;
        let Some(conn) = self.conns.get_mut(slot) else { return };
        conn.phase = phase;
        conn.deadline_ms = deadline_ms;
        if conn.pending_at == u32::MAX {
            conn.pending_at = next;
            self.pending.push(slot);
        }
    }

    fn forget_pending(&mut self, at: u32) {
        if at == u32::MAX {
            return;
        }
        self.pending.swap_remove(at as usize);
        if let Some(moved) = self.pending.get(at as usize).copied()
            && let Some(conn) = self.conns.get_mut(moved)
        {
            conn.pending_at = at;
        }
    }

    /// Breaks a stream off its tunnel; `reset` tells the peer so.
    pub(crate) fn leave_tunnel(&mut self, slot: u32, stream: u32, undelivered: usize, reset: Option<Code>) {
        let now_ms = self.now_ms;
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        tunnel.backlog = tunnel.backlog.saturating_sub(undelivered);
        if tunnel.streams.remove(&stream).is_none() {
            return;
        }
        tunnel.idle_since_ms = now_ms;
        let is_over = tunnel.is_draining && tunnel.streams.is_empty();
        let can_write = tunnel.is_open();
        if let Some(code) = reset.filter(|_| can_write) {
            self.put(slot, &h2::number_frame(h2::kind::RST_STREAM, stream, code as u32));
        }
        self.credit_connection(slot);
        if is_over {
            self.doom(slot, Failure::closed("drained"));
        }
    }
}

/// What a CONNECT to this endpoint names.
pub(crate) fn authority_of(endpoint: &Endpoint) -> Cow<'_, str> {
    if endpoint.authority.is_empty() { endpoint.addr.to_string().into() } else { endpoint.authority.as_str().into() }
}

/// RFC 9113, section 8.5: a TCP connection that ended badly.
const RESET_CODE: Code = Code::Connect;
/// Sent bytes are moved out of a buffer from here on.
const COMPACT_AT: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    /// What an idle connection costs, beside its entry in the flow table.
    #[test]
    fn an_idle_connection_is_small() {
        assert!(size_of::<Conn>() <= 512, "{}", size_of::<Conn>());
    }
}
