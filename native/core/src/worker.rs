//! One epoll loop per thread, run to completion: an event is carried from the socket it came from to the socket it
//! leaves by, and what tunnels have to send goes out at the end of the turn. Everything a connection needs lives on its
//! thread.
mod accept;
mod commands;
mod judge;
mod spin;
mod tick;

use self::spin::Spin;
use crate::api::{ConnectionInfo, Direction, Level};
use crate::conn::{Close, Conn, Failure};
use crate::flow::Resolved;
use crate::net::ThreadNetns;
use crate::pool::Pool;
use crate::shared::{Pod, Shared};
use crate::slab::{STAMP_MASK, Slab};
use crate::stage::Stage;
use crate::tunnel::Tunnel;
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Acquire;
use std::sync::mpsc::SyncSender;
use std::time::SystemTime;

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
                let (token, stamp) = Token::unpack(event.u64);
                // A program that has just been started may still have a socket that is closed here: its events go on.
                if stamp == self.stamp(token) {
                    self.guarded(token, |worker, token| worker.event(token, event.events));
                }
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

    /// Of what the token is about now.
    fn stamp(&self, token: Token) -> u32 {
        match token {
            Token::App(slot) | Token::Far(slot) => self.conns.stamp(slot),
            Token::Tunnel(slot) => self.tunnels.stamp(slot),
            // Unwatched before they are closed.
            Token::Mailbox | Token::Listener(_) => 0,
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

    /// Watches a connected socket, edge-triggered, for everything at once.
    pub(crate) fn watch_socket(&self, fd: RawFd, token: Token) {
        let _ = self.watch(fd, token, libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET);
    }

    fn watch(&self, fd: RawFd, token: Token, events: i32) -> std::io::Result<()> {
        let mut event = libc::epoll_event { events: events as u32, u64: token.pack(self.stamp(token)) };
        match unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    }

    pub(crate) fn unwatch(&self, fd: RawFd) {
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
}

impl Clock {
    fn at(now_ms: u64) -> Self {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { unix_ms_at_start: (unix.as_millis() as u64).saturating_sub(now_ms) }
    }
}

impl Token {
    fn pack(self, stamp: u32) -> u64 {
        let (kind, slot) = match self {
            Token::Mailbox => (0, 0),
            Token::Listener(slot) => (1, slot),
            Token::App(slot) => (2, slot),
            Token::Far(slot) => (3, slot),
            Token::Tunnel(slot) => (4, slot),
        };
        kind << 61 | u64::from(stamp) << 32 | u64::from(slot)
    }

    fn unpack(packed: u64) -> (Self, u32) {
        let slot = packed as u32;
        let token = match packed >> 61 {
            0 => Token::Mailbox,
            1 => Token::Listener(slot),
            2 => Token::App(slot),
            3 => Token::Far(slot),
            _ => Token::Tunnel(slot),
        };
        (token, (packed >> 32) as u32 & STAMP_MASK)
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
