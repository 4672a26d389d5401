//! What the loops and the engine's owner share. Locks are held for moments and never two at a time.
use crate::api::{DataplanePod, EngineOptions, Level, Notice, PodUid};
use crate::flow::{self, FlowTable};
use crate::group::Groups;
use crate::net::Netns;
use crate::spiffe::Trust;
use crate::stats::{Registry, Sockets};
use crate::tls::Certificate;
use crate::worker::Command;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Instant;

pub(crate) struct Shared {
    pub options: EngineOptions,
    pub started: Instant,
    pub flows: Mutex<FlowTable>,
    pub groups: RwLock<Groups>,
    pub registry: Mutex<Registry>,
    pub sockets: Arc<Sockets>,
    pub certificates: Mutex<HashMap<Arc<str>, Arc<Certificate>>>,
    pub wanted: Mutex<BTreeSet<String>>,
    pub trust: RwLock<Arc<Trust>>,
    pub log: Mutex<Log>,
    pub notices: Mutex<VecDeque<Notice>>,
    pub mailboxes: Vec<Mailbox>,
    pub connections: AtomicUsize,
    pub tunnels: AtomicUsize,
    /// Accepted tunnels that are not open yet.
    pub handshakes: AtomicUsize,
    pub draining: AtomicBool,
    pub reached: Reached,
    wake: Box<dyn Fn() + Send + Sync>,
    woken: AtomicBool,
}

/// How often limits of the loops were reached, for `meltemi_limit_reached_total`.
#[derive(Default)]
pub(crate) struct Reached {
    /// A pod had as many connections as it may.
    pub connections: AtomicU64,
    /// A peer opened more streams on a tunnel than it may.
    pub streams: AtomicU64,
    /// A peer broke HTTP/2 or went beyond what it may send; its tunnel was closed.
    pub peer: AtomicU64,
}

/// Rendered access-log lines that nobody has taken yet.
#[derive(Default)]
pub(crate) struct Log {
    pub text: String,
    pub dropped: u64,
}

/// A pod as the loops know it.
#[derive(Debug)]
pub(crate) struct Pod {
    pub uid: PodUid,
    pub identity: Arc<str>,
    pub netns: Arc<Netns>,
    pub addresses: Vec<IpAddr>,
    pub connections: AtomicUsize,
    /// Tunnels that reached this pod.
    pub tunnels: AtomicUsize,
}

impl Pod {
    pub fn open(pod: &DataplanePod) -> Result<Self, String> {
        let netns = Netns::open(&pod.netns)
            .map_err(|why| format!("pod {}: its network namespace {} cannot be opened: {why}", pod.uid, pod.netns))?;
        Ok(Self {
            uid: pod.uid.as_str().into(),
            identity: pod.identity.as_str().into(),
            netns: Arc::new(netns),
            addresses: pod.addresses.clone(),
            connections: AtomicUsize::new(0),
            tunnels: AtomicUsize::new(0),
        })
    }

    /// What counts against the pod's limit.
    pub fn load(&self) -> usize {
        self.connections.load(Ordering::Relaxed) + self.tunnels.load(Ordering::Relaxed)
    }
}

impl Shared {
    pub fn new(options: EngineOptions, wake: Box<dyn Fn() + Send + Sync>) -> std::io::Result<Self> {
        let limits = flow::Limits {
            max_flows_per_pod: options.max_flows_per_pod,
            max_pending_per_pod: options.max_pending_per_pod,
            audit_one_in: options.audit_one_in,
            decision_timeout_ms: options.decision_timeout_ms,
        };
        let registry = Registry::new(MAX_SERIES);
        let mailboxes = (0..options.threads.clamp(1, MAX_THREADS)).map(|_| Mailbox::new()).collect::<Result<_, _>>()?;
        Ok(Self {
            started: Instant::now(),
            flows: Mutex::new(FlowTable::new(limits)),
            groups: RwLock::default(),
            sockets: registry.sockets(),
            registry: Mutex::new(registry),
            certificates: Mutex::default(),
            wanted: Mutex::default(),
            trust: RwLock::default(),
            log: Mutex::default(),
            notices: Mutex::default(),
            mailboxes,
            connections: AtomicUsize::new(0),
            tunnels: AtomicUsize::new(0),
            handshakes: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            reached: Reached::default(),
            wake,
            woken: AtomicBool::new(false),
            options,
        })
    }

    pub fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Tells the owner that `take` has something. At most one call until it takes.
    pub fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            (self.wake)();
        }
    }

    pub fn woken_up(&self) {
        self.woken.store(false, Ordering::Release);
    }

    pub fn notice(&self, level: Level, code: &'static str, message: String) {
        let mut notices = lock(&self.notices);
        if notices.len() >= MAX_NOTICES {
            notices.pop_front();
        }
        notices.push_back(Notice { level, code, message });
        drop(notices);
        self.wake();
    }

    pub fn certificate(&self, identity: &str) -> Option<Arc<Certificate>> {
        lock(&self.certificates).get(identity).cloned()
    }

    /// Notes that a connection waits for this identity's certificate.
    pub fn want_certificate(&self, identity: &str) {
        lock(&self.wanted).insert(identity.to_owned());
        self.wake();
    }

    pub fn trust(&self) -> Arc<Trust> {
        self.trust.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    pub fn send_all(&self, command: impl Fn() -> Command) {
        for mailbox in &self.mailboxes {
            mailbox.send(command());
        }
    }

    /// Hands resolved connections to the loops that own them.
    pub fn route(&self, resolved: Vec<flow::Resolved>) {
        if let [mailbox] = &self.mailboxes[..] {
            if !resolved.is_empty() {
                mailbox.send(Command::Resolved(resolved));
            }
            return;
        }
        let mut per_worker: Vec<Vec<flow::Resolved>> = self.mailboxes.iter().map(|_| vec![]).collect();
        for one in resolved {
            if let Some(list) = per_worker.get_mut(worker_of(one.conn)) {
                list.push(one);
            }
        }
        for (mailbox, list) in self.mailboxes.iter().zip(per_worker) {
            if !list.is_empty() {
                mailbox.send(Command::Resolved(list));
            }
        }
    }
}

/// Commands for one loop.
pub(crate) struct Mailbox {
    commands: Mutex<VecDeque<Command>>,
    event: OwnedFd,
    sent: AtomicU64,
}

impl Mailbox {
    fn new() -> std::io::Result<Self> {
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { commands: Mutex::default(), event, sent: AtomicU64::new(0) })
    }

    pub fn send(&self, command: Command) {
        lock(&self.commands).push_back(command);
        self.sent.fetch_add(1, Ordering::Relaxed);
        let one = 1u64.to_ne_bytes();
        unsafe { libc::write(self.event.as_raw_fd(), one.as_ptr().cast(), 8) };
    }

    pub fn take(&self) -> VecDeque<Command> {
        let mut count = [0u8; 8];
        unsafe { libc::read(self.event.as_raw_fd(), count.as_mut_ptr().cast(), 8) };
        std::mem::take(&mut *lock(&self.commands))
    }

    pub fn fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}

/// A connection's number: which loop, which generation, which slot. Fits the integers of JavaScript.
pub(crate) fn connection_id(worker: usize, generation: u32, slot: u32) -> u64 {
    (worker as u64) << 44 | u64::from(generation & 0xf_ffff) << 24 | u64::from(slot & 0xff_ffff)
}

pub(crate) fn slot_of(connection: u64) -> u32 {
    (connection & 0xff_ffff) as u32
}

pub(crate) fn worker_of(connection: u64) -> usize {
    (connection >> 44) as usize
}

/// A lock whose holder panicked is still a lock: the data are counters and tables that stay usable.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

const MAX_SERIES: usize = 20_000;
const MAX_NOTICES: usize = 256;
const MAX_THREADS: usize = 128;
