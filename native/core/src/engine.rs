//! The engine as its owner sees it: the methods of `dataplane.ts`, one to one. Nothing here waits for the loops, except
//! where it says so.
use crate::api::{
    ConnectionInfo, DataplanePod, Direction, EndpointGroup, EngineOptions, EngineStats, InstalledCertificate,
    KeyHandle, Level, Notice, Read, TrustAnchor, Verdict, Work,
};
use crate::flow;
use crate::handover::{self, Estate, Handed, Predecessor, Successor, What};
use crate::keys::Key;
use crate::net;
use crate::netns_sockets;
use crate::shared::{Pod, Shared, lock};
use crate::spiffe::trust_domain;
use crate::tls::Certificate;
use crate::worker::{Command, Worker};
use std::collections::HashMap;
use std::io::{Error, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub struct Engine {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    pods: Mutex<HashMap<String, Opened>>,
    /// Listeners of a predecessor that no pod has claimed yet.
    inherited: Mutex<HashMap<String, Vec<Listener>>>,
    predecessor: Mutex<Option<Predecessor>>,
    /// The predecessor is not relieved yet: what was inherited is not accepted from.
    holds_back: AtomicBool,
    successor: Mutex<Option<Successor>>,
    keys: RwLock<HashMap<u64, Arc<Key>>>,
    next_key: AtomicU64,
    /// Keys that a certificate is installed for, by identity.
    keys_in_use: Mutex<HashMap<String, u64>>,
    closed: AtomicBool,
}

/// A pod and its listeners, also while a successor accepts from them.
struct Opened {
    pod: Arc<Pod>,
    listeners: Vec<Listener>,
    is_inherited: bool,
}

type Listener = (Direction, Arc<OwnedFd>);

impl Engine {
    /// Starts the loops. `wake` is called, from any thread, when `take` has something; not again before `take`.
    pub fn new(options: EngineOptions, wake: Box<dyn Fn() + Send + Sync>) -> Result<Self, String> {
        let failed = |why: std::io::Error| format!("the engine cannot start: {why}");
        let shared = Arc::new(Shared::new(options, wake).map_err(failed)?);
        let mut threads = vec![];
        for index in 0..shared.mailboxes.len() {
            let worker = Worker::new(index, shared.clone()).map_err(failed)?;
            let thread = std::thread::Builder::new().name(format!("meltemi-{index}")).stack_size(STACK);
            threads.push(thread.spawn(move || worker.run()).map_err(failed)?);
        }
        Ok(Self {
            shared,
            threads: Mutex::new(threads),
            pods: Mutex::default(),
            inherited: Mutex::default(),
            predecessor: Mutex::default(),
            holds_back: AtomicBool::new(false),
            successor: Mutex::default(),
            keys: RwLock::default(),
            next_key: AtomicU64::new(1),
            keys_in_use: Mutex::default(),
            closed: AtomicBool::new(false),
        })
    }

    /// Opens the pod's listeners, or adopts inherited ones. True when they were inherited. Waits for the sockets.
    pub fn add_pod(&self, pod: &DataplanePod) -> Result<bool, String> {
        if lock(&self.pods).contains_key(&pod.uid) {
            return Ok(false);
        }
        let of_loops = Arc::new(Pod::open(pod)?);
        let inherited = lock(&self.inherited).remove(&pod.uid);
        let (listeners, is_inherited) = match inherited {
            Some(listeners) => (listeners, true),
            None => self.open_listeners(pod).map(|listeners| (listeners, false)).or_else(|why| {
                // The predecessor may have opened them after it handed over the others.
                let late = if why.kind() == ErrorKind::AddrInUse { self.ask_predecessor(&pod.uid) } else { vec![] };
                if late.is_empty() { Err(format!("pod {} in {}: {why}", pod.uid, pod.netns)) } else { Ok((late, true)) }
            })?,
        };
        let mut pods = lock(&self.pods);
        if !is_inherited || !self.holds_back.load(Ordering::Acquire) {
            self.accept_from(&of_loops, &listeners);
        }
        pods.insert(pod.uid.clone(), Opened { pod: of_loops, listeners, is_inherited });
        Ok(is_inherited)
    }

    fn accept_from(&self, pod: &Arc<Pod>, listeners: &[Listener]) {
        for (kind, fd) in listeners {
            self.shared.send_all(|| Command::Listen { pod: pod.clone(), kind: *kind, fd: fd.clone() });
        }
    }

    fn open_listeners(&self, pod: &DataplanePod) -> std::io::Result<Vec<Listener>> {
        let options = &self.shared.options;
        let ports = [
            (Direction::Outbound, options.outbound_port),
            (Direction::InboundPlaintext, options.inbound_plain_port),
            (Direction::Inbound, options.inbound_hbone_port),
        ];
        let open = |(kind, port)| {
            let fd: OwnedFd = net::listen(port, BACKLOG, &options.congestion_control)
                .map_err(|why| Error::new(why.kind(), format!("port {port} cannot be listened on: {why}")))?;
            Ok((kind, Arc::new(fd)))
        };
        net::in_netns(&pod.netns, || ports.into_iter().map(open).collect())
    }

    fn ask_predecessor(&self, uid: &str) -> Vec<Listener> {
        let asked = lock(&self.predecessor).as_ref().map(|predecessor| predecessor.ask(uid));
        let handed = asked.and_then(Result::ok).unwrap_or_default();
        handed.into_iter().filter_map(|Handed { what, fd }| Some((what.of_listener()?.1, fd))).collect()
    }

    /// Closes the pod's listeners and its connections, reported with `why`.
    pub fn remove_pod(&self, uid: &str, why: &str) {
        lock(&self.inherited).remove(uid);
        let Some(Opened { pod, .. }) = lock(&self.pods).remove(uid) else { return };
        netns_sockets::forget_netns(&pod.netns.id());
        self.shared.send_all(|| Command::RemovePod { pod: pod.clone(), why: why.to_owned() });
        lock(&self.shared.flows).remove_pod(uid);
    }

    /// What has come up; more than `max_offers` follow with another wake.
    pub fn take(&self, max_offers: usize) -> Work {
        self.shared.woken_up();
        let mut flows = lock(&self.shared.flows);
        let offers = flows.take_offers(max_offers);
        let (has_more, mismatches) = (flows.has_offers(), flows.take_notices());
        drop(flows);
        let access_log = std::mem::take(&mut lock(&self.shared.log).text).into_bytes();
        let mut notices: Vec<Notice> = lock(&self.shared.notices).drain(..).collect();
        let as_notice = |message| Notice { level: Level::Error, code: "audit-mismatch", message };
        notices.extend(mismatches.into_iter().map(as_notice));
        let wanted_certificates = std::mem::take(&mut *lock(&self.shared.wanted)).into_iter().collect();
        if has_more {
            self.shared.wake();
        }
        Work { offers, wanted_certificates, access_log, notices }
    }

    /// Verdicts by offer id.
    pub fn answer(&self, verdicts: Vec<(u64, Verdict)>) {
        let now_ms = self.shared.now_ms();
        let mut flows = lock(&self.shared.flows);
        let resolved: Vec<_> =
            verdicts.into_iter().flat_map(|(id, verdict)| flows.answer(id, verdict, now_ms)).collect();
        self.after_flow_change(flows, resolved);
    }

    pub fn put_groups(&self, groups: Vec<EndpointGroup>) {
        let mut held = self.shared.groups.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        groups.into_iter().for_each(|group| held.put(group));
    }

    pub fn remove_groups(&self, ids: &[String]) {
        let mut held = self.shared.groups.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        ids.iter().for_each(|id| held.remove(id));
    }

    pub fn invalidate(&self, version: u64, reads: &[Read]) {
        let mut flows = lock(&self.shared.flows);
        let resolved = flows.invalidate(version, reads, self.shared.now_ms());
        self.after_flow_change(flows, resolved);
    }

    fn after_flow_change(&self, flows: std::sync::MutexGuard<flow::FlowTable>, resolved: Vec<flow::Resolved>) {
        let has_offers = flows.has_offers();
        drop(flows);
        if has_offers {
            self.shared.wake();
        }
        self.shared.route(resolved);
    }

    pub fn create_key(&self) -> Result<KeyHandle, String> {
        let key = Key::generate()?;
        let key_id = self.next_key.fetch_add(1, Ordering::Relaxed);
        let public_key = key.public().to_vec();
        let mut keys = self.keys.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        keys.insert(key_id, key);
        // Keys whose CSR nobody ever answered do not pile up.
        if keys.len() > MAX_KEYS {
            let in_use = lock(&self.keys_in_use);
            let oldest = keys.keys().copied().filter(|id| !in_use.values().any(|used| used == id)).min();
            drop(in_use);
            oldest.map(|id| keys.remove(&id));
        }
        Ok(KeyHandle { key_id, public_key })
    }

    pub fn sign(&self, key_id: u64, bytes: &[u8]) -> Option<Vec<u8>> {
        self.key(key_id)?.sign(bytes)
    }

    fn key(&self, key_id: u64) -> Option<Arc<Key>> {
        self.keys.read().unwrap_or_else(|poisoned| poisoned.into_inner()).get(&key_id).cloned()
    }

    /// Swaps an identity's certificate; tunnels under the old one take no new streams.
    pub fn install_certificate(&self, installed: InstalledCertificate) -> Result<(), String> {
        let identity = installed.identity;
        let key =
            self.key(installed.key_id).ok_or_else(|| format!("{identity}: there is no key {}", installed.key_id))?;
        self.install(&identity, installed.chain, &key)?;
        let former = lock(&self.keys_in_use).insert(identity, installed.key_id);
        if let Some(former) = former.filter(|former| *former != installed.key_id) {
            self.keys.write().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(&former);
        }
        Ok(())
    }

    /// The same with a key from elsewhere; for static set-ups.
    pub fn install(&self, identity: &str, chain: Vec<Vec<u8>>, key: &Arc<Key>) -> Result<(), String> {
        let certificate = Certificate::new(identity, chain, key)?;
        lock(&self.shared.certificates).insert(identity.into(), Arc::new(certificate));
        self.shared.send_all(|| Command::Certificate(identity.to_owned()));
        Ok(())
    }

    pub fn remove_certificate(&self, identity: &str) {
        lock(&self.shared.certificates).remove(identity);
        if let Some(key_id) = lock(&self.keys_in_use).remove(identity) {
            self.keys.write().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(&key_id);
        }
        self.shared.send_all(|| Command::Certificate(identity.to_owned()));
    }

    /// Replaces all trust anchors, or none of them. Tunnels of peers that are no longer trusted take no new streams.
    pub fn set_trust(&self, anchors: &[TrustAnchor]) -> Result<(), String> {
        for anchor in anchors {
            if trust_domain(&format!("spiffe://{}/x", anchor.trust_domain)).is_none() {
                return Err(format!("{:?} is no trust domain", anchor.trust_domain));
            }
        }
        let pairs: Vec<_> = anchors.iter().map(|anchor| (anchor.trust_domain.clone(), anchor.roots.clone())).collect();
        let mut trust = self.shared.trust.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        *trust = Arc::new(trust.with_anchors(&pairs)?);
        drop(trust);
        self.shared.send_all(|| Command::Trust);
        Ok(())
    }

    /// Replaces all revocation lists, or none of them; live tunnels of revoked peers are closed.
    pub fn set_revocations(&self, crls: &[Vec<u8>]) -> Result<(), String> {
        let mut trust = self.shared.trust.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        *trust = Arc::new(trust.with_revocations(crls)?);
        drop(trust);
        self.shared.send_all(|| Command::Trust);
        Ok(())
    }

    /// Prometheus text.
    pub fn metrics(&self) -> String {
        let mut out = String::new();
        let mut registry = lock(&self.shared.registry);
        registry.evict(self.shared.now_ms(), SERIES_IDLE_MS);
        registry.render(&mut out);
        drop(registry);
        let stats = self.stats();
        for (name, kind, help, value) in [
            ("meltemi_tunnels", "gauge", "HBONE tunnels", stats.tunnels as u64),
            ("meltemi_flows", "gauge", "Cached flows", stats.flows as u64),
            ("meltemi_flow_hits_total", "counter", "Connections whose flow was cached", stats.cache_hits),
            ("meltemi_flow_misses_total", "counter", "Connections that asked for a decision", stats.cache_misses),
            (
                "meltemi_flow_audit_mismatches_total",
                "counter",
                "Cached flows that a fresh decision contradicts",
                stats.audit_mismatches,
            ),
            (
                "meltemi_access_log_dropped_total",
                "counter",
                "Access log lines nobody took in time",
                lock(&self.shared.log).dropped,
            ),
        ] {
            out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"));
        }
        out.push_str("# HELP meltemi_limit_reached_total Times a limit was reached\n");
        out.push_str("# TYPE meltemi_limit_reached_total counter\n");
        for (limit, times) in self.limits_reached() {
            out.push_str(&format!("meltemi_limit_reached_total{{limit=\"{limit}\"}} {times}\n"));
        }
        out
    }

    fn limits_reached(&self) -> [(&'static str, u64); 5] {
        let flows = lock(&self.shared.flows).stats();
        let reached = &self.shared.reached;
        [
            ("connections", reached.connections.load(Ordering::Relaxed)),
            ("flows", flows.evicted),
            ("peer", reached.peer.load(Ordering::Relaxed)),
            ("pending", flows.quota_full),
            ("streams", reached.streams.load(Ordering::Relaxed)),
        ]
    }

    /// Live connections, newest last. Waits for the loops, a moment at most.
    pub fn connections(&self, limit: usize) -> Vec<ConnectionInfo> {
        let (answer, answers) = std::sync::mpsc::sync_channel(self.shared.mailboxes.len());
        self.shared.send_all(|| Command::Snapshot(answer.clone()));
        drop(answer);
        let mut all = vec![];
        while let Ok(some) = answers.recv_timeout(SNAPSHOT_WAIT) {
            all.extend(some);
        }
        all.sort_by_key(|connection| std::cmp::Reverse(connection.open_ms));
        all.split_off(all.len().saturating_sub(limit))
    }

    pub fn stats(&self) -> EngineStats {
        let flows = lock(&self.shared.flows).stats();
        EngineStats {
            version: flows.version,
            pods: lock(&self.pods).len(),
            connections: self.shared.connections.load(Ordering::Relaxed),
            tunnels: self.shared.tunnels.load(Ordering::Relaxed),
            flows: flows.flows,
            pending_offers: flows.pending,
            groups: self.shared.groups.read().unwrap_or_else(|poisoned| poisoned.into_inner()).len(),
            cache_hits: flows.hits,
            cache_misses: flows.misses,
            audit_mismatches: flows.audit_mismatches,
        }
    }

    /// Waits until a successor of a higher generation has taken all listeners at `path` and serves: whether it shares
    /// this process's network namespace. None when this engine is closed before. From then on nothing is accepted here;
    /// live connections go on, peers are asked to use tunnels of the successor.
    pub fn offer_handover(&self, path: &Path, generation: u64) -> Result<Option<bool>, String> {
        let successor = handover::offer(path, generation, self)
            .map_err(|why| format!("listeners cannot be offered at {}: {why}", path.display()))?;
        let shares_network = successor.as_ref().map(|successor| successor.shares_network);
        *lock(&self.successor) = successor;
        Ok(shares_network)
    }

    /// Waits until the successor that took over is gone (true), or this engine is closed. Answers it meanwhile.
    pub fn successor_gone(&self) -> bool {
        let Some(successor) = lock(&self.successor).take() else { return false };
        handover::accompany(&successor, self)
    }

    /// Accepts again, when a successor is gone.
    pub fn resume_accepting(&self) {
        for opened in lock(&self.pods).values() {
            self.accept_from(&opened.pod, &opened.listeners);
        }
    }

    /// Whether an engine offers its listeners at `path`.
    pub fn is_offered(path: &Path) -> bool {
        handover::is_offered(path)
    }

    /// Takes the listeners of a predecessor, which alone accepts from them until `complete_handover`; later `add_pod`
    /// calls adopt them. The uids of their pods. No predecessor is no error. Waits for the predecessor.
    pub fn take_handover(&self, path: &Path, generation: u64) -> Result<Vec<String>, String> {
        let taken = handover::take(path, generation)
            .map_err(|why| format!("listeners cannot be taken at {}: {why}", path.display()))?;
        let Some((predecessor, handed)) = taken else { return Ok(vec![]) };
        let mut inherited: HashMap<String, Vec<Listener>> = HashMap::new();
        for Handed { what, fd } in handed {
            match what {
                What::Listener { uid, kind } => inherited.entry(uid).or_default().push((kind, fd)),
                What::Socket(key) => netns_sockets::inherit(key, fd),
            }
        }
        let mut uids: Vec<String> = inherited.keys().cloned().collect();
        uids.sort();
        *lock(&self.inherited) = inherited;
        *lock(&self.predecessor) = Some(predecessor);
        self.holds_back.store(true, Ordering::Release);
        Ok(uids)
    }

    /// Accepts from what was inherited, and tells the predecessor, if there is one, that it need not. An error when it is
    /// gone, or serves on.
    pub fn complete_handover(&self) -> Result<(), String> {
        let pods = lock(&self.pods);
        if self.holds_back.swap(false, Ordering::AcqRel) {
            for opened in pods.values().filter(|opened| opened.is_inherited) {
                self.accept_from(&opened.pod, &opened.listeners);
            }
        }
        drop(pods);
        let relieved = lock(&self.predecessor).as_ref().map_or(Ok(()), Predecessor::relieve);
        relieved.map_err(|why| format!("the predecessor was not relieved: {why}"))
    }

    /// Closes what was inherited and never claimed.
    pub fn forget_inherited(&self) {
        lock(&self.inherited).clear();
        netns_sockets::forget_inherited();
    }

    fn stop_accepting(&self) {
        for opened in lock(&self.pods).values_mut() {
            opened.listeners.clear();
        }
        self.shared.send_all(|| Command::StopAccepting);
    }

    /// Accepts nothing more, waits for connections to end, at most `deadline`, and closes the rest. How many that were.
    pub fn drain(&self, deadline: Duration) -> usize {
        self.shared.draining.store(true, Ordering::Release);
        self.stop_accepting();
        self.shared.send_all(|| Command::Drain);
        let until = Instant::now() + deadline;
        let left = || self.shared.connections.load(Ordering::Relaxed);
        // Whoever has begun a handshake would take its failure for ours; open, the tunnel is refused in words.
        let busy = || left() + self.shared.handshakes.load(Ordering::Relaxed) > 0;
        while busy() && Instant::now() < until && !self.closed.load(Ordering::Acquire) {
            std::thread::sleep(DRAIN_POLL);
        }
        let cut = left();
        self.shared.send_all(|| Command::CloseAll { why: "connection closed due to connection drain" });
        cut
    }

    /// Closes everything and waits for the loops to end. Further calls do nothing.
    pub fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.shared.send_all(|| Command::StopAccepting);
        self.shared.send_all(|| Command::CloseAll { why: "the engine is closed" });
        self.shared.send_all(|| Command::Stop);
        for thread in lock(&self.threads).drain(..) {
            let _ = thread.join();
        }
        lock(&self.pods).clear();
        lock(&self.inherited).clear();
        *lock(&self.predecessor) = None;
        *lock(&self.successor) = None;
    }
}

impl Estate for Engine {
    fn all(&self) -> Vec<Handed> {
        let pods = lock(&self.pods);
        let of_pods = pods.iter().flat_map(|(uid, opened)| {
            let handed = |(kind, fd): &Listener| {
                let what = What::Listener { uid: uid.clone(), kind: *kind };
                Handed { what, fd: fd.clone() }
            };
            opened.listeners.iter().map(handed)
        });
        let sockets = netns_sockets::open_sockets().into_iter();
        of_pods.chain(sockets.map(|(key, fd)| Handed { what: What::Socket(key), fd: Arc::new(fd) })).collect()
    }

    fn taken(&self) {
        netns_sockets::keep();
        self.shared.send_all(|| Command::StopAccepting);
        self.shared.send_all(|| Command::Drain);
    }

    fn is_over(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

const STACK: usize = 512 << 10;
const BACKLOG: i32 = 4096;
const MAX_KEYS: usize = 4096;
const SERIES_IDLE_MS: u64 = 600_000;
const SNAPSHOT_WAIT: Duration = Duration::from_millis(500);
const DRAIN_POLL: Duration = Duration::from_millis(10);
