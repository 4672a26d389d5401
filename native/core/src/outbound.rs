//! What leaves a pod: straight on, or as a CONNECT in a tunnel to one of a group's endpoints. Until the far side has
//! answered, another endpoint may be tried.
use crate::api::{Action, Direction, Endpoint, OfferFacts};
use crate::conn::{Close, Conn, Failure, Far, Leg, Phase, Side, Trial, authority_of};
use crate::group::Pick;
use crate::h2::{self, Code, Violation};
use crate::hpack;
use crate::net::{self, Dial, SourcePorts};
use crate::pool::PoolKey;
use crate::shared::{Pod, slot_of};
use crate::tunnel::TunnelPhase;
use crate::worker::{Token, Worker};
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

impl Worker {
    /// A connection of the pod's own app was redirected to us.
    pub(crate) fn accept_outbound(&mut self, pod: &Arc<Pod>, fd: OwnedFd, peer: SocketAddr) {
        let raw = fd.as_raw_fd();
        let wanted = net::original_destination(raw, peer);
        let dst = wanted.unwrap_or(SocketAddr::new(peer.ip(), 0));
        let facts = facts(pod, Direction::Outbound, dst, peer.ip());
        let slot = self.new_conn(pod, facts, peer.port());
        if let Some(conn) = self.conns.get_mut(slot) {
            conn.app = Side::accepted(fd);
        }
        self.watch_socket(raw, Token::App(slot));
        if wanted.is_none() {
            return self.refuse(slot, 503, Failure::new("CONNECT", "the original destination is not known"));
        }
        if self.is_own_port(dst.port()) && self.is_local(pod, dst.ip()) {
            return self.refuse(slot, 503, Failure::new("CONNECT", "attempted recursive call to ourselves"));
        }
        self.judge(slot);
    }

    pub(crate) fn is_local(&self, pod: &Pod, ip: IpAddr) -> bool {
        ip.is_loopback() || pod.addresses.contains(&ip)
    }

    /// Carries out the verdict of an outbound connection; also again, when what it waited for has come.
    pub(crate) fn send_out(&mut self, slot: u32) {
        let Some(conn) = self.conns.get(slot) else { return };
        let Some(flow) = conn.flow.clone() else { return };
        match &flow.verdict.action {
            Action::Deny(status) => {
                self.refuse(slot, *status, Failure::new("DENY", denied(&flow.verdict.because, &flow.verdict.objects)));
            }
            Action::Direct(target) => self.dial_out(slot, *target),
            Action::Group(id) => match conn.endpoint.clone() {
                // Chosen already: it was the certificate that was missing.
                Some(endpoint) if conn.phase == Phase::AwaitingCertificate => self.use_endpoint(slot, &endpoint),
                _ => self.choose_endpoint(slot, id),
            },
        }
    }

    fn choose_endpoint(&mut self, slot: u32, group: &str) {
        let random = self.random();
        let Some(conn) = self.conns.get_mut(slot) else { return };
        let trial = conn.trial.get_or_insert_default();
        let groups = self.shared.groups.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut pick = groups.pick(group, &trial.tried, self.now_ms, random);
        if pick == Pick::Exhausted && std::mem::take(&mut trial.was_hung_up) {
            trial.tried.clear();
            pick = groups.pick(group, &[], self.now_ms, random);
        }
        drop(groups);
        let failure = trial.failure.take();
        match pick {
            Pick::Endpoint(endpoint) => {
                conn.endpoint = Some(endpoint.clone());
                self.use_endpoint(slot, &endpoint);
            }
            Pick::Unknown => {
                self.refuse(slot, 503, Failure::new("CONNECT", format!("no such endpoint group: {group}")))
            }
            Pick::Empty => self.refuse(slot, 503, failure.unwrap_or(Failure::new("CONNECT", "no healthy upstream"))),
            Pick::Exhausted => {
                self.refuse(slot, 503, failure.unwrap_or(Failure::new("CONNECT", "no endpoint is left to try")));
            }
        }
    }

    fn use_endpoint(&mut self, slot: u32, endpoint: &Arc<Endpoint>) {
        let Some(target) = endpoint.tunnel else { return self.dial_out(slot, endpoint.addr) };
        let Some(conn) = self.conns.get(slot) else { return };
        let (pod, source, id) = (conn.pod.clone(), conn.facts.src_ip, conn.id);
        let most = self.shared.options.max_streams_per_tunnel;
        let mut dialling = None;
        for candidate in self.pool.candidates(&pod, source, target) {
            let Some(tunnel) = self.tunnels.get(*candidate) else { continue };
            if !tunnel.key.as_ref().is_some_and(|key| key.is_for(&pod, source, endpoint, target)) {
                continue;
            }
            match tunnel.phase {
                TunnelPhase::Open if tunnel.has_room(most) => return self.open_stream(slot, *candidate),
                TunnelPhase::Open => {}
                _ => dialling = Some(*candidate),
            }
        }
        if self.shared.certificate(&pod.identity).is_none() {
            self.await_phase(slot, Phase::AwaitingCertificate, self.shared.options.decision_timeout_ms);
            return self.shared.want_certificate(&pod.identity);
        }
        let options = &self.shared.options;
        let timeout_ms = options.connect_timeout_ms + options.handshake_timeout_ms + options.decision_timeout_ms;
        self.await_phase(slot, Phase::AwaitingTunnel, timeout_ms);
        let tunnel = match dialling {
            Some(tunnel) => tunnel,
            None if endpoint.identities.is_empty() => {
                let why = format!("the endpoint {} has no identity to expect", endpoint.id);
                return self.try_next(slot, Failure::new("IDENTITY_ERROR", why), true);
            }
            None => match self.dial(&pod, target, Some(source), SourcePorts::Any) {
                Ok(fd) => self.new_tunnel(&pod, fd, target, Some(PoolKey::new(&pod, source, endpoint, target))),
                Err(why) => return self.try_next(slot, connect_failure(target, &why), true),
            },
        };
        if let Some(tunnel) = self.tunnels.get_mut(tunnel) {
            tunnel.waiting.push(id);
        }
    }

    /// Its tunnel's handshake is done.
    pub(crate) fn tunnel_is_open(&mut self, tunnel: u32, id: u64) {
        let slot = slot_of(id);
        let Some(conn) = self.conns.get(slot).filter(|conn| conn.id == id && conn.phase == Phase::AwaitingTunnel)
        else {
            return;
        };
        let Some(endpoint) = conn.endpoint.clone() else { return };
        let most = self.shared.options.max_streams_per_tunnel;
        if self.tunnels.get(tunnel).is_some_and(|tunnel| tunnel.has_room(most)) {
            self.open_stream(slot, tunnel);
        } else {
            self.use_endpoint(slot, &endpoint);
        }
    }

    /// Sends the CONNECT, and what the client has said already right behind it.
    fn open_stream(&mut self, slot: u32, tunnel: u32) {
        let random = [self.random(), self.random(), self.random()];
        let Some(of_tunnel) = self.tunnels.get_mut(tunnel) else { return };
        let stream = of_tunnel.stream;
        of_tunnel.stream += 2;
        of_tunnel.streams.insert(stream, slot);
        let window = of_tunnel.initial_window;
        let Some(conn) = self.conns.get_mut(slot) else { return };
        if let Some(trial) = &mut conn.trial {
            trial.replayed = 0;
        }
        conn.far = Far::Stream(Leg::new(tunnel, stream, window, false));
        let block = connect_block(conn, random);
        let timeout_ms = self.shared.options.connect_timeout_ms + RESPONSE_GRACE_MS;
        self.await_phase(slot, Phase::AwaitingResponse, timeout_ms);
        self.put(tunnel, &h2::frame_header(block.len(), h2::kind::HEADERS, h2::flag::END_HEADERS, stream));
        self.put(tunnel, &block);
        self.pump(slot);
    }

    /// Headers from the far side of a CONNECT we sent: its answer, or trailers.
    pub(crate) fn response(&mut self, tunnel: u32, stream: u32, end: bool, block: &[u8]) -> Result<(), Violation> {
        let Some(of_tunnel) = self.tunnels.get_mut(tunnel) else { return Ok(()) };
        let mut status = 0;
        let decoder = of_tunnel.decoder.as_mut();
        let decoded = decoder.map(|decoder| {
            decoder.decode(block, |name, value| {
                if name == b":status" {
                    status = std::str::from_utf8(value).ok().and_then(|text| text.parse::<u16>().ok()).unwrap_or(0);
                }
            })
        });
        if !matches!(decoded, Some(Ok(()))) {
            return Err(Violation { code: Code::Compression, what: "headers that cannot be read" });
        }
        let Some(slot) = of_tunnel.streams.get(&stream).copied() else {
            let was_opened = stream % 2 == 1 && stream < of_tunnel.stream;
            return if was_opened {
                Ok(())
            } else {
                Err(Violation { code: Code::Protocol, what: "an answer to nothing" })
            };
        };
        let Some(conn) = self.conns.get_mut(slot) else { return Ok(()) };
        if conn.phase == Phase::Open {
            if let Some(leg) = conn.leg().filter(|_| end) {
                leg.end_received = true;
            }
            self.reap(slot);
            return Ok(());
        }
        match status {
            100..=199 if !end => Ok(()),
            200..=299 => {
                if let Some(leg) = conn.leg() {
                    leg.end_received |= end;
                }
                self.answered(slot);
                Ok(())
            }
            500..=599 => {
                let why = Failure::new("CONNECT", format!("the endpoint cannot be reached: CONNECT status {status}"));
                self.leave_stream(slot);
                self.try_next(slot, why, true);
                Ok(())
            }
            _ => {
                let why = Failure::new("CONNECT", format!("refused by the destination: CONNECT status {status}"));
                self.refuse(slot, status, why);
                Ok(())
            }
        }
    }

    /// 200: the way is open.
    fn answered(&mut self, slot: u32) {
        let held = self.conns.get(slot).and_then(|conn| conn.trial.as_ref()).map_or(0, |trial| trial.held.len());
        self.established(slot);
        self.reinstate(slot);
        if let Some(conn) = self.conns.get_mut(slot) {
            // Counted before there was a series to count in.
            if let Some(series) = &conn.series {
                series.received_bytes.fetch_add(held as u64, std::sync::atomic::Ordering::Relaxed);
            }
            if conn.trial.as_ref().is_some_and(|trial| trial.replayed >= trial.held.len()) {
                conn.trial = None;
            }
        }
        self.reap(slot);
        self.pump(slot);
    }

    pub(crate) fn reinstate(&mut self, slot: u32) {
        if !self.has_set_aside {
            return;
        }
        if let Some(endpoint) = self.conns.get(slot).and_then(|conn| conn.endpoint.as_ref()) {
            self.shared.groups.write().unwrap_or_else(|poisoned| poisoned.into_inner()).reinstate(endpoint);
        }
    }

    /// The peer reset one of our streams.
    pub(crate) fn stream_reset(&mut self, slot: u32, code: u32) {
        let Some(conn) = self.conns.get_mut(slot) else { return };
        let why = Failure::new("CONNECT", format!("the destination reset the connection (HTTP/2 code {code})"));
        if conn.phase != Phase::AwaitingResponse {
            return self.finish(slot, Close::Reset, Some(Failure { flag: "-", ..why }));
        }
        self.leave_stream(slot);
        // A refused stream was not looked at: the endpoint is fine.
        self.try_next(slot, why, code != Code::RefusedStream as u32);
    }

    /// Gives up the stream of a connection that goes on elsewhere.
    fn leave_stream(&mut self, slot: u32) {
        let Some(conn) = self.conns.get_mut(slot) else { return };
        if let Far::Stream(leg) = std::mem::replace(&mut conn.far, Far::None) {
            let undelivered = conn.app.unsent_length();
            self.leave_tunnel(leg.tunnel, leg.stream, undelivered, Some(Code::Cancel));
        }
    }

    /// The far side failed before it answered: another endpoint, or the end. `blame` says whether the endpoint is at
    /// fault, or only the tunnel that was shared.
    pub(crate) fn try_next(&mut self, slot: u32, why: Failure, blame: bool) {
        self.leave_stream(slot);
        let set_aside_until = self.now_ms + self.shared.options.set_aside_ms;
        let Some(conn) = self.conns.get_mut(slot) else { return };
        let group = conn.flow.as_ref().is_some_and(|flow| matches!(flow.verdict.action, Action::Group(_)));
        let trial: &mut Trial = conn.trial.get_or_insert_default();
        trial.attempts += 1;
        trial.was_hung_up |= why.is_hang_up();
        let is_last = trial.attempts >= MAX_ATTEMPTS || !group || !conn.app_is_untouched();
        let endpoint = conn.endpoint.clone().filter(|_| blame);
        if let (Some(endpoint), Some(trial)) = (endpoint, &mut conn.trial) {
            trial.tried.push(endpoint.clone());
            self.has_set_aside = true;
            let mut groups = self.shared.groups.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            groups.set_aside(&endpoint, set_aside_until);
        }
        if is_last {
            return self.refuse(slot, 503, why);
        }
        if let Some(trial) = &mut conn.trial {
            trial.failure = Some(why);
        }
        conn.phase = Phase::Dialing;
        self.send_out(slot);
    }

    /// A socket from inside the pod's network namespace.
    pub(crate) fn dial(
        &mut self,
        pod: &Pod,
        target: SocketAddr,
        source: Option<IpAddr>,
        ports: SourcePorts,
    ) -> std::io::Result<OwnedFd> {
        self.netns.enter(&pod.netns)?;
        let options = &self.shared.options;
        let congestion_control = &options.congestion_control;
        net::dial(&Dial { target, source, ports, mark: options.mark, congestion_control })
    }

    pub(crate) fn dial_failed(&mut self, slot: u32, error: i32) {
        let Some(conn) = self.conns.get_mut(slot) else { return };
        let target = match (conn.flow.as_ref().map(|flow| &flow.verdict.action), &conn.endpoint) {
            (Some(Action::Direct(target)), _) => *target,
            (_, Some(endpoint)) => endpoint.addr,
            _ => conn.facts.dst,
        };
        let why = connect_failure(target, &std::io::Error::from_raw_os_error(error));
        if conn.facts.direction == Direction::Outbound {
            if let Far::Socket(far) = std::mem::replace(&mut conn.far, Far::None) {
                // The next socket is of the same connection; nothing else would tell its events from this one's.
                self.unwatch(far.fd());
            }
            self.try_next(slot, why, true);
        } else {
            self.refuse(slot, 503, why);
        }
    }

    pub(crate) fn tunnel_dial_failed(&mut self, slot: u32, error: i32) {
        let Some(tunnel) = self.tunnels.get(slot) else { return };
        let why = connect_failure(tunnel.peer, &std::io::Error::from_raw_os_error(error));
        self.doom(slot, why);
    }
}

impl Conn {
    /// Nothing from the far side has reached the app, so that another endpoint may speak.
    fn app_is_untouched(&self) -> bool {
        self.far_to_app == 0
    }
}

/// Of a connection whose peer says nothing of itself. The empty names are shared, not allocated.
pub(crate) fn facts(pod: &Arc<Pod>, direction: Direction, dst: SocketAddr, src_ip: IpAddr) -> OfferFacts {
    let (peer_identity, authority) = (Arc::default(), Arc::default());
    OfferFacts { pod: pod.uid.clone(), direction, dst, src_ip, peer_identity, authority }
}

pub(crate) fn denied(because: &str, objects: &[String]) -> String {
    if objects.is_empty() { because.to_owned() } else { format!("{because}: {}", objects.join(", ")) }
}

fn connect_block(conn: &Conn, random: [u64; 3]) -> Vec<u8> {
    let mut block = Vec::with_capacity(384);
    let (Some(flow), Some(endpoint)) = (&conn.flow, &conn.endpoint) else { return block };
    let verdict = &flow.verdict;
    hpack::encode(&mut block, b":method", b"CONNECT");
    hpack::encode(&mut block, b":authority", authority_of(endpoint).as_bytes());
    if !verdict.baggage.is_empty() && verdict.baggage.len() <= MAX_BAGGAGE {
        hpack::encode(&mut block, b"baggage", verdict.baggage.as_bytes());
    }
    let mut forwarded = Vec::with_capacity(96);
    let _ = write!(forwarded, "for=\"{}\"", conn.src());
    if !verdict.forwarded_host.is_empty() && verdict.forwarded_host.len() <= MAX_HOST {
        let _ = write!(forwarded, ";host={}", verdict.forwarded_host);
    }
    hpack::encode(&mut block, b"forwarded", &forwarded);
    let mut trace = Vec::with_capacity(55);
    let _ = write!(trace, "00-{:016x}{:016x}-{:016x}-00", random[0], random[1] | 1, random[2] | 1);
    hpack::encode(&mut block, b"traceparent", &trace);
    block
}

pub(crate) fn connect_failure(target: SocketAddr, why: &std::io::Error) -> Failure {
    match why.raw_os_error() {
        Some(libc::ETIMEDOUT) if target.port() == HBONE_PORT => {
            let message = "connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008";
            Failure::new("NETWORK_POLICY", message)
        }
        _ => Failure::new("CONNECT", format!("connection to {target} failed: {why}")),
    }
}

const HBONE_PORT: u16 = 15008;
const MAX_ATTEMPTS: u32 = 5;
/// A far side that dials for as long as we would still gets its answer here.
const RESPONSE_GRACE_MS: u64 = 2000;
const MAX_BAGGAGE: usize = 8192;
const MAX_HOST: usize = 1024;
