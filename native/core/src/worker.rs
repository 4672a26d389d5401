//! One epoll loop per thread, run to completion: an event is carried from the socket it came from to the socket it
//! leaves by, and what tunnels have to send goes out at the end of the turn. Everything a connection needs lives on its
//! thread.
use crate::api::{Action, ConnectionInfo, Direction, Level, OfferFacts};
use crate::conn::{Close, Conn, Failure, Phase};
use crate::flow::{Flow, Lookup, Resolved};
use crate::net::{self, ThreadNetns};
use crate::pool::Pool;
use crate::shared::{Pod, Shared, connection_id, lock, slot_of, worker_of};
use crate::slab::Slab;
use crate::stage::Stage;
use crate::tunnel::Tunnel;
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant, SystemTime};

pub(crate) struct Worker {
    pub index: usize,
    pub shared: Arc<Shared>,
    epoll: OwnedFd,
    pub conns: Slab<Conn>,
    pub tunnels: Slab<Tunnel>,
    listeners: Slab<Listener>,
    pub stage: Stage,
    /// Receive buffer, taken out while it is in use.
    pub rx: Vec<u8>,
    /// Pieces of the receive buffer that are to be delivered.
    pub segments: Vec<Segment>,
    pub pieces: Vec<(usize, usize)>,
    pub run: VecDeque<Job>,
    pub pool: Pool,
    /// Connections that are not open yet, for their deadlines.
    pub pending: Vec<u32>,
    /// Connections that found the flow table full.
    parked: VecDeque<u64>,
    /// Tunnels that end at the end of this turn.
    pub doomed: Vec<(u32, Failure)>,
    pub netns: ThreadNetns,
    pub now_ms: u64,
    pub log: String,
    /// This turn moved bulk data: no spinning.
    pub is_bulk: bool,
    generation: u32,
    random: u64,
    clock: Clock,
    last_tick_ms: u64,
    last_second_ms: u64,
    last_log_wake_ms: u64,
    /// Lines were handed over without waking anybody.
    log_waits: bool,
    /// Listeners that do not accept for now.
    paused: usize,
    /// Some endpoint was set aside by this loop.
    pub has_set_aside: bool,
    closed: bool,
}

/// A piece of the receive buffer that belongs to a connection; `end` marks the end of its stream.
pub(crate) struct Segment {
    pub conn: u32,
    pub at: usize,
    pub length: usize,
    pub end: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Job {
    Pump(u32),
    Read(u32),
}

/// What the engine's owner tells a loop.
pub(crate) enum Command {
    Listen {
        pod: Arc<Pod>,
        kind: Direction,
        fd: Arc<OwnedFd>,
    },
    RemovePod {
        pod: Arc<Pod>,
        why: String,
    },
    Resolved(Vec<Resolved>),
    Expired(Vec<u64>),
    /// The certificate of this identity came, changed or went.
    Certificate(String),
    /// The roots or the revocation lists changed.
    Trust,
    Snapshot(SyncSender<Vec<ConnectionInfo>>),
    /// No more connections are accepted.
    StopAccepting,
    /// Tunnels take no new streams.
    Drain,
    CloseAll {
        why: &'static str,
    },
    Stop,
}

struct Listener {
    pod: Arc<Pod>,
    kind: Direction,
    fd: Arc<OwnedFd>,
    /// Not accepting until then; 0 when it is.
    paused_until_ms: u64,
}

/// What the wall clock showed when ours began, so that a turn needs one clock only.
struct Clock {
    unix_ms_at_start: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Mailbox,
    Listener(u32),
    App(u32),
    Far(u32),
    Tunnel(u32),
}

impl Worker {
    pub fn new(index: usize, shared: Arc<Shared>) -> std::io::Result<Self> {
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            return Err(std::io::Error::last_os_error());
        }
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        let worker = Self {
            index,
            epoll,
            conns: Slab::default(),
            tunnels: Slab::default(),
            listeners: Slab::default(),
            stage: Stage::new(STAGE_RECORDS),
            rx: vec![0; RECEIVE_BUFFER],
            segments: vec![],
            pieces: vec![],
            run: VecDeque::new(),
            pool: Pool::default(),
            pending: vec![],
            parked: VecDeque::new(),
            doomed: vec![],
            netns: ThreadNetns::here()?,
            now_ms: shared.now_ms(),
            log: String::new(),
            is_bulk: false,
            generation: 0,
            random: seed(),
            clock: Clock::at(shared.now_ms()),
            last_tick_ms: 0,
            last_second_ms: 0,
            last_log_wake_ms: 0,
            log_waits: false,
            paused: 0,
            has_set_aside: false,
            closed: false,
            shared,
        };
        worker.watch(worker.shared.mailboxes[index].fd(), Token::Mailbox, libc::EPOLLIN)?;
        Ok(worker)
    }

    pub fn run(mut self) {
        let mut events: [libc::epoll_event; 128] = unsafe { std::mem::zeroed() };
        let mut spin = Spin::new(self.shared.options.spin_us);
        while !self.closed {
            let timeout = if !self.run.is_empty() || spin.is_on() { 0 } else { self.timeout_ms() };
            let epoll = self.epoll.as_raw_fd();
            let count = unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), events.len() as i32, timeout) }.max(0);
            if count == 0 && self.run.is_empty() && spin.goes_on() {
                continue;
            }
            self.now_ms = self.shared.now_ms();
            for event in &events[..count as usize] {
                self.guarded(Token::unpack(event.u64), |worker, token| worker.event(token, event.events));
            }
            for _ in 0..self.run.len() {
                match self.run.pop_front() {
                    Some(Job::Pump(slot)) => self.guarded(Token::App(slot), |worker, _| worker.pump_queued(slot)),
                    Some(Job::Read(slot)) => self.guarded(Token::Tunnel(slot), |worker, _| worker.read_queued(slot)),
                    None => break,
                }
            }
            self.end_turn();
            spin.after_turn(count as u32, std::mem::take(&mut self.is_bulk));
        }
    }

    /// A panic costs the connection or tunnel it happened in, not the thread.
    fn guarded(&mut self, token: Token, work: impl FnOnce(&mut Self, Token)) {
        if catch_unwind(AssertUnwindSafe(|| work(self, token))).is_ok() {
            return;
        }
        self.shared.notice(Level::Error, "engine-bug", format!("a panic was caught; {token:?} is closed"));
        if self.rx.len() != RECEIVE_BUFFER {
            self.rx = vec![0; RECEIVE_BUFFER];
        }
        self.segments.clear();
        let bug = || Failure::closed("internal error");
        let result = catch_unwind(AssertUnwindSafe(|| match token {
            Token::App(slot) | Token::Far(slot) => self.finish(slot, Close::Reset, Some(bug())),
            Token::Tunnel(slot) => self.doom(slot, bug()),
            Token::Mailbox | Token::Listener(_) => {}
        }));
        drop(result);
    }

    fn event(&mut self, token: Token, bits: u32) {
        match token {
            Token::Mailbox => self.commands(),
            Token::Listener(slot) => self.accept(slot),
            Token::App(slot) => self.app_event(slot, bits as i32),
            Token::Far(slot) => self.far_event(slot, bits as i32),
            Token::Tunnel(slot) => self.tunnel_event(slot, bits as i32),
        }
    }

    fn end_turn(&mut self) {
        if self.now_ms >= self.last_tick_ms + self.tick_ms() {
            self.tick();
        }
        while let Some((slot, why)) = self.doomed.pop() {
            self.guarded(Token::Tunnel(slot), |worker, _| worker.close_tunnel(slot, &why));
        }
        self.flush();
        self.conns.reclaim();
        self.tunnels.reclaim();
        self.listeners.reclaim();
        if !self.log.is_empty() {
            self.hand_over_log();
        }
    }

    fn timeout_ms(&self) -> i32 {
        let is_idle = self.conns.is_empty() && self.tunnels.is_empty() && !self.has_deadlines();
        if is_idle {
            -1
        } else {
            (self.last_tick_ms + self.tick_ms()).saturating_sub(self.now_ms).clamp(1, 1000) as i32
        }
    }

    fn tick_ms(&self) -> u64 {
        if self.has_deadlines() { 50 } else { 1000 }
    }

    fn has_deadlines(&self) -> bool {
        !self.pending.is_empty() || !self.parked.is_empty() || self.log_waits || self.paused > 0
    }

    fn tick(&mut self) {
        self.last_tick_ms = self.now_ms;
        let due: Vec<u32> = self.pending.iter().copied().filter(|slot| self.is_overdue(*slot)).collect();
        for slot in due {
            self.overdue(slot);
        }
        if self.index == 0 {
            let expired = lock(&self.shared.flows).expire(self.now_ms);
            for (index, mailbox) in self.shared.mailboxes.iter().enumerate() {
                let of_worker: Vec<u64> = expired.iter().copied().filter(|id| worker_of(*id) == index).collect();
                if !of_worker.is_empty() {
                    mailbox.send(Command::Expired(of_worker));
                }
            }
        }
        self.unpark();
        self.resume_listeners();
        if self.log_waits {
            self.log_waits = false;
            self.last_log_wake_ms = self.now_ms;
            self.shared.wake();
        }
        if self.now_ms >= self.last_second_ms + 1000 {
            self.last_second_ms = self.now_ms;
            self.clock = Clock::at(self.now_ms);
            self.tunnels_tick();
            if self.has_set_aside {
                self.shared.groups.write().unwrap_or_else(|poisoned| poisoned.into_inner()).expire(self.now_ms);
            }
        }
    }

    fn is_overdue(&self, slot: u32) -> bool {
        self.conns.get(slot).is_some_and(|conn| conn.deadline_ms <= self.now_ms)
    }

    fn overdue(&mut self, slot: u32) {
        let Some(conn) = self.conns.get(slot) else { return };
        match conn.phase {
            Phase::Open => {}
            Phase::Deciding => self.refuse(slot, 503, Failure::new("CONNECT", "no decision came in time")),
            Phase::Parked => {
                self.refuse(slot, 503, Failure::new("CONNECT", "too many connections of this pod wait for a decision"))
            }
            Phase::AwaitingCertificate => {
                let why = format!("no certificate of {} came in time", conn.pod.identity);
                self.refuse(slot, 503, Failure::new("IDENTITY_ERROR", why));
            }
            Phase::Dialing => self.dial_failed(slot, libc::ETIMEDOUT),
            // The tunnel's own deadline, or a peer that does not answer our CONNECT.
            Phase::AwaitingTunnel | Phase::AwaitingResponse => {
                self.leave_silent_tunnel(slot);
                self.try_next(
                    slot,
                    Failure::new("CONNECT", "the tunnel's end did not answer the CONNECT in time"),
                    true,
                );
            }
        }
    }

    fn hand_over_log(&mut self) {
        let mut log = lock(&self.shared.log);
        if log.text.len() + self.log.len() > self.shared.options.max_log_bytes {
            log.dropped += self.log.bytes().filter(|byte| *byte == b'\n').count() as u64;
        } else {
            log.text.push_str(&self.log);
        }
        let length = log.text.len();
        drop(log);
        self.log.clear();
        if length > LOG_WAKE_BYTES || self.now_ms >= self.last_log_wake_ms + LOG_WAKE_MS {
            self.last_log_wake_ms = self.now_ms;
            self.shared.wake();
        } else {
            self.log_waits = true;
        }
    }

    // What the owner says.

    fn commands(&mut self) {
        let shared = self.shared.clone();
        for command in shared.mailboxes[self.index].take() {
            self.command(command);
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Listen { pod, kind, fd } => self.listen(pod, kind, fd),
            Command::RemovePod { pod, why } => self.remove_pod(&pod, &why),
            Command::Resolved(list) => list.into_iter().for_each(|resolved| self.resolved(resolved)),
            Command::Expired(list) => list.into_iter().for_each(|id| self.expired(id)),
            Command::Certificate(identity) => self.certificate_changed(&identity),
            Command::Trust => self.trust_changed(),
            Command::Snapshot(answer) => {
                let _ = answer.try_send(self.conns.iter().map(|(_, conn)| self.describe(conn)).collect());
            }
            Command::StopAccepting => {
                for slot in self.listeners.slots_of(|_| true) {
                    self.drop_listener(slot);
                }
            }
            Command::Drain => {
                for slot in self.tunnels.slots_of(|_| true) {
                    self.drain_tunnel(slot);
                }
            }
            Command::CloseAll { why } => {
                for slot in self.conns.slots_of(|_| true) {
                    self.finish(slot, Close::Reset, Some(Failure::closed(why)));
                }
                for slot in self.tunnels.slots_of(|_| true) {
                    self.doom(slot, Failure::closed(why));
                }
            }
            Command::Stop => self.closed = true,
        }
    }

    fn listen(&mut self, pod: Arc<Pod>, kind: Direction, fd: Arc<OwnedFd>) {
        let raw = fd.as_raw_fd();
        let slot = self.listeners.insert(Listener { pod, kind, fd, paused_until_ms: 0 });
        self.watch_listener(raw, slot);
    }

    fn watch_listener(&self, fd: RawFd, slot: u32) {
        let exclusive = if self.shared.mailboxes.len() > 1 { libc::EPOLLEXCLUSIVE } else { 0 };
        if let Err(why) = self.watch(fd, Token::Listener(slot), libc::EPOLLIN | exclusive) {
            self.shared.notice(Level::Error, "listen", format!("a listener cannot be watched: {why}"));
        }
    }

    fn drop_listener(&mut self, slot: u32) {
        if let Some(listener) = self.listeners.remove(slot) {
            self.paused -= usize::from(listener.paused_until_ms != 0);
            self.unwatch(listener.fd.as_raw_fd());
        }
    }

    fn remove_pod(&mut self, pod: &Pod, why: &str) {
        for slot in self.listeners.slots_of(|listener| listener.pod.uid == pod.uid) {
            self.drop_listener(slot);
        }
        for slot in self.conns.slots_of(|conn| conn.pod.uid == pod.uid) {
            self.finish(slot, Close::Reset, Some(Failure::closed(why.to_owned())));
        }
        for slot in self.tunnels.slots_of(|tunnel| tunnel.pod.uid == pod.uid) {
            self.doom(slot, Failure::closed(why.to_owned()));
        }
        if let Err(why) = self.netns.leave(&pod.netns) {
            self.shared.notice(Level::Error, "netns", format!("the namespace of pod {} is not let go: {why}", pod.uid));
        }
    }

    fn resolved(&mut self, resolved: Resolved) {
        let slot = slot_of(resolved.conn);
        let Some(conn) = self.conns.get_mut(slot).filter(|conn| conn.id == resolved.conn) else { return };
        if conn.phase == Phase::Deciding {
            return self.decided(slot, resolved.flow);
        }
        let denied = matches!(resolved.flow.verdict.action, Action::Deny(_));
        let why = format!("connection closed due to policy change: {}", resolved.flow.verdict.because);
        conn.flow = Some(resolved.flow);
        if denied {
            self.refuse(slot, 401, Failure::new("DENY", why));
        }
    }

    fn expired(&mut self, id: u64) {
        let slot = slot_of(id);
        if self.conns.get(slot).is_some_and(|conn| conn.id == id && conn.phase == Phase::Deciding) {
            self.refuse(slot, 503, Failure::new("CONNECT", "no decision came in time"));
        }
    }

    // Decisions.

    /// A connection with its facts: from here on it has a number and will be reported.
    pub(crate) fn new_conn(&mut self, pod: &Arc<Pod>, facts: OfferFacts, src_port: u16) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        let id = connection_id(self.index, self.generation, self.conns.vacant());
        let conn = Conn::new(id, pod.clone(), facts, src_port, self.now_ms);
        pod.connections.fetch_add(1, Relaxed);
        self.shared.connections.fetch_add(1, Relaxed);
        self.shared.sockets.add(conn.reporter(), 1);
        self.conns.insert(conn)
    }

    /// Asks the flow table: registered there first, so that no change slips in between.
    pub(crate) fn judge(&mut self, slot: u32) {
        let Some(conn) = self.conns.get(slot) else { return };
        let lookup = lock(&self.shared.flows).lookup(&conn.facts, conn.id, self.now_ms);
        match lookup {
            Lookup::Hit(flow) => self.decided(slot, flow),
            Lookup::Asked => {
                self.await_phase(slot, Phase::Deciding, self.shared.options.decision_timeout_ms);
                self.shared.wake();
            }
            Lookup::Full => {
                self.parked.push_back(conn.id);
                let pod = conn.pod.clone();
                if conn.phase != Phase::Parked {
                    self.await_phase(slot, Phase::Parked, self.shared.options.decision_timeout_ms);
                }
                self.pause_pod(&pod, self.now_ms + self.shared.options.decision_timeout_ms);
            }
        }
    }

    fn decided(&mut self, slot: u32, flow: Arc<Flow>) {
        let Some(conn) = self.conns.get_mut(slot) else { return };
        conn.phase = Phase::Dialing;
        conn.flow = Some(flow);
        match conn.facts.direction {
            Direction::Outbound => self.send_out(slot),
            Direction::Inbound | Direction::InboundPlaintext => self.deliver_to_app(slot),
        }
    }

    /// Asks again for connections that found the table full, as long as there is room.
    fn unpark(&mut self) {
        for _ in 0..self.parked.len() {
            let Some(id) = self.parked.pop_front() else { return };
            let slot = slot_of(id);
            let Some(conn) = self.conns.get(slot).filter(|conn| conn.id == id && conn.phase == Phase::Parked) else {
                continue;
            };
            if lock(&self.shared.flows).has_room(&conn.pod.uid) {
                self.judge(slot);
            } else {
                self.parked.push_back(id);
            }
        }
    }

    // Accepting.

    fn accept(&mut self, slot: u32) {
        for _ in 0..self.accepts_per_event() {
            let Some(listener) = self.listeners.get(slot).filter(|listener| listener.paused_until_ms == 0) else {
                return;
            };
            let (pod, kind, fd) = (listener.pod.clone(), listener.kind, listener.fd.as_raw_fd());
            if pod.load() >= self.shared.options.max_connections_per_pod {
                self.shared.reached.connections.fetch_add(1, Relaxed);
                return self.pause_pod(&pod, self.now_ms + PAUSE_MS);
            }
            match net::accept(fd) {
                Ok(None) => return,
                Ok(Some((fd, peer))) => match kind {
                    Direction::Outbound => self.accept_outbound(&pod, fd, peer),
                    Direction::Inbound => self.accept_tunnel(&pod, fd, peer),
                    Direction::InboundPlaintext => self.accept_plaintext(&pod, fd, peer),
                },
                Err(why) => {
                    self.shared.notice(
                        Level::Error,
                        "accept",
                        format!("pod {}: nothing can be accepted: {why}", pod.uid),
                    );
                    return self.pause_pod(&pod, self.now_ms + PAUSE_MS);
                }
            }
        }
    }

    /// Several loops share a listener: one at a time spreads better.
    fn accepts_per_event(&self) -> usize {
        if self.shared.mailboxes.len() > 1 { 1 } else { 16 }
    }

    /// The backlog is the queue; other pods do not notice.
    fn pause_pod(&mut self, pod: &Arc<Pod>, until_ms: u64) {
        for slot in self.listeners.slots_of(|listener| Arc::ptr_eq(&listener.pod, pod) && listener.paused_until_ms == 0)
        {
            let Some(listener) = self.listeners.get_mut(slot) else { continue };
            listener.paused_until_ms = until_ms.max(1);
            self.paused += 1;
            let fd = listener.fd.as_raw_fd();
            self.unwatch(fd);
        }
    }

    fn resume_listeners(&mut self) {
        if self.paused == 0 {
            return;
        }
        for slot in self.listeners.slots_of(|listener| listener.paused_until_ms != 0) {
            let Some(listener) = self.listeners.get(slot) else { continue };
            let has_room = lock(&self.shared.flows).has_room(&listener.pod.uid)
                && listener.pod.load() < self.shared.options.max_connections_per_pod;
            if !has_room && self.now_ms < listener.paused_until_ms {
                continue;
            }
            let fd = listener.fd.as_raw_fd();
            if let Some(listener) = self.listeners.get_mut(slot) {
                listener.paused_until_ms = 0;
                self.paused -= 1;
            }
            self.watch_listener(fd, slot);
        }
    }

    // Odds and ends.

    /// Watches a connected socket, edge-triggered, for everything at once.
    pub(crate) fn watch_socket(&self, fd: RawFd, token: Token) {
        let _ = self.watch(fd, token, libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET);
    }

    fn watch(&self, fd: RawFd, token: Token, events: i32) -> std::io::Result<()> {
        let mut event = libc::epoll_event { events: events as u32, u64: token.pack() };
        match unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    }

    fn unwatch(&self, fd: RawFd) {
        unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()) };
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.shared.draining.load(Acquire)
    }

    pub(crate) fn is_own_port(&self, port: u16) -> bool {
        let options = &self.shared.options;
        port == options.outbound_port || port == options.inbound_plain_port || port == options.inbound_hbone_port
    }

    pub(crate) fn unix_ms(&self) -> u64 {
        self.clock.unix_ms_at_start + self.now_ms
    }

    /// Xorshift: for load balancing and trace ids, nothing that must not be guessed.
    pub(crate) fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn describe(&self, conn: &Conn) -> ConnectionInfo {
        let (bytes_sent, bytes_received) = conn.sent_received();
        ConnectionInfo {
            id: conn.id,
            pod: conn.pod.uid.to_string(),
            direction: conn.facts.direction,
            src: conn.src(),
            dst: conn.facts.dst,
            peer_identity: conn.facts.peer_identity.to_string(),
            endpoint: conn.endpoint.as_ref().map_or(String::new(), |endpoint| endpoint.id.clone()),
            because: conn.because().to_owned(),
            state: conn.state(),
            bytes_sent,
            bytes_received,
            open_ms: self.now_ms.saturating_sub(conn.started_ms),
        }
    }
}

impl Clock {
    fn at(now_ms: u64) -> Self {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { unix_ms_at_start: (unix.as_millis() as u64).saturating_sub(now_ms) }
    }
}

impl Token {
    fn pack(self) -> u64 {
        let (kind, slot) = match self {
            Token::Mailbox => (0, 0),
            Token::Listener(slot) => (1, slot),
            Token::App(slot) => (2, slot),
            Token::Far(slot) => (3, slot),
            Token::Tunnel(slot) => (4, slot),
        };
        kind << 32 | u64::from(slot)
    }

    fn unpack(packed: u64) -> Self {
        let slot = packed as u32;
        match packed >> 32 {
            0 => Token::Mailbox,
            1 => Token::Listener(slot),
            2 => Token::App(slot),
            3 => Token::Far(slot),
            _ => Token::Tunnel(slot),
        }
    }
}

/// Polls for a while before parking, as waking a halted CPU costs more than a ping; only while few events come, as a
/// busy loop would lose by it.
struct Spin {
    spin: Duration,
    until: Option<Instant>,
    window: Instant,
    events: u32,
    per_ms: u32,
}

impl Spin {
    fn new(spin_us: u64) -> Self {
        Self { spin: Duration::from_micros(spin_us), until: None, window: Instant::now(), events: 0, per_ms: 0 }
    }

    fn is_on(&self) -> bool {
        self.until.is_some()
    }

    /// Nothing happened: gives way to others, unless it is time to park.
    fn goes_on(&mut self) -> bool {
        let Some(until) = self.until else { return false };
        if Instant::now() >= until {
            self.until = None;
            return false;
        }
        unsafe { libc::sched_yield() };
        true
    }

    fn after_turn(&mut self, events: u32, is_bulk: bool) {
        if self.spin.is_zero() {
            return;
        }
        let now = Instant::now();
        self.events += events;
        let elapsed = now.duration_since(self.window).as_micros() as u64;
        if elapsed >= 1000 {
            self.per_ms = (u64::from(self.events) * 1000 / elapsed) as u32;
            (self.window, self.events) = (now, 0);
        }
        let is_quiet = self.per_ms <= SPIN_BELOW_PER_MS && self.events <= SPIN_BELOW_PER_MS && !is_bulk;
        self.until = (events > 0 && is_quiet).then(|| now + self.spin);
    }
}

fn seed() -> u64 {
    let mut bytes = [0; 8];
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u64::from_ne_bytes(bytes) | 1
}

/// Records that one send may carry.
const STAGE_RECORDS: usize = 32;
/// What one read of a tunnel may bring, and a partial record before it.
pub(crate) const RECEIVE_BUFFER: usize = (512 << 10) + (32 << 10);
const SPIN_BELOW_PER_MS: u32 = 30;
const PAUSE_MS: u64 = 100;
const LOG_WAKE_BYTES: usize = 64 << 10;
const LOG_WAKE_MS: u64 = 50;
