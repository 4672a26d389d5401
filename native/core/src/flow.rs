//! The flow table: verdicts cached under exactly the fields and lookups they were made from. It holds no sockets and
//! reads no clock; its owner calls it under a lock.
mod cache;
#[cfg(test)]
mod properties;
mod reads;
#[cfg(test)]
mod tests;

use crate::api::{Direction, Offer, OfferFacts, PodUid, Read, Verdict};
use cache::{Cache, Key};
use reads::{InvalidationLog, Readers};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// A verdict that was given. Holders keep it alive; whether it is still in force is the table's knowledge.
#[derive(Debug)]
pub struct Flow {
    pub id: u64,
    pub verdict: Verdict,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Cached flows of one pod; the least recently used goes first.
    pub max_flows_per_pod: usize,
    /// Offers of one pod that wait for a verdict (re-judgements and audits come on top).
    pub max_pending_per_pod: usize,
    /// One hit in N is decided again and compared; 0 never.
    pub audit_one_in: u64,
    /// How long a new connection waits for its verdict.
    pub decision_timeout_ms: u64,
}

#[derive(Debug)]
pub enum Lookup {
    /// In force now; the connection is registered under it (`release` when it ends, also after a deny).
    Hit(Arc<Flow>),
    /// The connection waits; `answer` or `expire` will name it.
    Asked,
    /// The pod's quota of pending offers is used up; the connection is not registered.
    Full,
}

/// A connection whose verdict has come; it is registered under `flow` already.
#[derive(Debug)]
pub struct Resolved {
    pub conn: u64,
    pub flow: Arc<Flow>,
    /// The connection was live: close it if it would be denied now.
    pub rejudge: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub version: u64,
    pub flows: usize,
    pub pending: usize,
    pub hits: u64,
    pub misses: u64,
    pub audits: u64,
    pub audit_mismatches: u64,
    pub refused_stale: u64,
    pub evicted: u64,
    pub quota_full: u64,
}

pub struct FlowTable {
    limits: Limits,
    pods: HashMap<PodUid, Pod>,
    /// Flows that are cached or have live connections.
    entries: HashMap<u64, Entry>,
    readers: Readers,
    log: InvalidationLog,
    pending: HashMap<u64, Pending>,
    conns: HashMap<u64, Conn>,
    /// Offer ids to take: of new connections, and of re-judgements and audits. Ids that are gone are skipped.
    fresh: VecDeque<u64>,
    again: VecDeque<u64>,
    audits_pending: usize,
    last_id: u64,
    notices: Vec<String>,
    stats: Stats,
}

struct Entry {
    flow: Arc<Flow>,
    pod: PodUid,
    direction: Direction,
    key: Key,
    cached: bool,
    conns: HashSet<u64>,
}

#[derive(Default)]
struct Pod {
    cache: Cache,
    pending: HashMap<(Direction, Key), u64>,
    /// How many of `pending` were asked by a new connection.
    asked: usize,
}

struct Pending {
    facts: OfferFacts,
    waiters: Vec<u64>,
    origin: Origin,
    since_ms: u64,
    taken: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    New,
    Rejudge,
    Audit(u64),
}

struct Conn {
    facts: OfferFacts,
    flow: Option<u64>,
    waiting: Option<u64>,
    /// It had a verdict once, so it may be carrying bytes.
    live: bool,
    since_ms: u64,
}

/// `now_ms` is any monotonic clock.
impl FlowTable {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            pods: HashMap::new(),
            entries: HashMap::new(),
            readers: Readers::default(),
            log: InvalidationLog::new(MAX_LOGGED_READS),
            pending: HashMap::new(),
            conns: HashMap::new(),
            fresh: VecDeque::new(),
            again: VecDeque::new(),
            audits_pending: 0,
            last_id: 0,
            notices: Vec::new(),
            stats: Stats::default(),
        }
    }

    /// Looks up and registers `conn` in one step. Every connection that was not `Full` needs a `release`.
    pub fn lookup(&mut self, facts: &OfferFacts, conn: u64, now_ms: u64) -> Lookup {
        self.release(conn);
        if let Some(id) = self.cached(facts) {
            self.stats.hits += 1;
            if self.limits.audit_one_in > 0 && self.stats.hits.is_multiple_of(self.limits.audit_one_in) {
                self.audit(id, facts, now_ms);
            }
            self.conns
                .insert(conn, Conn { facts: facts.clone(), flow: None, waiting: None, live: true, since_ms: now_ms });
            return Lookup::Hit(self.bind(conn, id));
        }
        self.stats.misses += 1;
        if !self.reserve(facts) {
            self.stats.quota_full += 1;
            return Lookup::Full;
        }
        self.conns
            .insert(conn, Conn { facts: facts.clone(), flow: None, waiting: None, live: false, since_ms: now_ms });
        self.ask(conn, Origin::New, now_ms);
        Lookup::Asked
    }

    /// Registers a live connection that did not come through `lookup` (it was handed over) and judges it; None: later.
    pub fn adopt(&mut self, facts: &OfferFacts, conn: u64, now_ms: u64) -> Option<Resolved> {
        self.release(conn);
        self.conns.insert(conn, Conn { facts: facts.clone(), flow: None, waiting: None, live: true, since_ms: now_ms });
        self.rejudge(conn, now_ms)
    }

    /// Who may proceed. A stale verdict resolves nobody: its question is offered again.
    pub fn answer(&mut self, offer_id: u64, verdict: Verdict, now_ms: u64) -> Vec<Resolved> {
        let Some(pending) = self.remove_pending(offer_id) else { return Vec::new() };
        if self.log.refuses(&verdict) {
            self.stats.refused_stale += 1;
            self.ask_again(pending.waiters, now_ms);
            return Vec::new();
        }
        let shaken = match pending.origin {
            Origin::Audit(id) if self.entries.get(&id).is_some_and(|entry| entry.cached) => {
                if self.agrees(id, &verdict) {
                    return pending.waiters.into_iter().filter_map(|conn| self.settle_with(conn, id)).collect();
                }
                self.overrule(id, &pending.facts, &verdict)
            }
            _ => Vec::new(),
        };
        let id = self.insert(&pending.facts, verdict);
        let mut resolved: Vec<Resolved> =
            pending.waiters.into_iter().filter_map(|conn| self.settle_with(conn, id)).collect();
        resolved.extend(shaken.into_iter().filter_map(|conn| self.rejudge(conn, now_ms)));
        resolved
    }

    /// Drops flows that read one of `reads` at an older version, and looks the live connections under them up again:
    /// those that another flow answers at once are returned, the others follow from `answer`.
    pub fn invalidate(&mut self, version: u64, reads: &[Read], now_ms: u64) -> Vec<Resolved> {
        self.stats.version = self.stats.version.max(version);
        self.log.push(version, reads);
        let mut conns = Vec::new();
        for id in self.readers.of(reads) {
            if self.entries.get(&id).is_some_and(|entry| entry.flow.verdict.version < version) {
                conns.extend(self.drop_flow(id));
            }
        }
        conns.into_iter().filter_map(|conn| self.rejudge(conn, now_ms)).collect()
    }

    /// The connection is over, in whatever state it was. Unknown ones are ignored.
    pub fn release(&mut self, conn: u64) {
        let Some(gone) = self.conns.remove(&conn) else { return };
        if let Some(id) = gone.flow {
            self.unbind(conn, id);
        }
        let Some(offer_id) = gone.waiting else { return };
        let Some(pending) = self.pending.get_mut(&offer_id) else { return };
        pending.waiters.retain(|waiter| *waiter != conn);
        if pending.waiters.is_empty() && !pending.taken {
            self.remove_pending(offer_id);
        }
    }

    pub fn has_offers(&self) -> bool {
        let open = |id: &u64| self.pending.get(id).is_some_and(|pending| !pending.taken);
        self.fresh.iter().any(open) || self.again.iter().any(open)
    }

    /// Offers that were not taken yet: new connections first, but not all of the room.
    pub fn take_offers(&mut self, max: usize) -> Vec<Offer> {
        let mut offers = Vec::new();
        let reserved = self.again.len().min(max.div_ceil(4));
        while offers.len() < max - reserved {
            let Some(id) = self.fresh.pop_front() else { break };
            offers.extend(self.take_offer(id));
        }
        while offers.len() < max {
            let Some(id) = self.again.pop_front() else { break };
            offers.extend(self.take_offer(id));
        }
        offers
    }

    /// True when a lookup of this pod would not be `Full` (resume accepting).
    pub fn has_room(&self, pod: &str) -> bool {
        self.pods.get(pod).is_none_or(|pod| pod.asked < self.limits.max_pending_per_pod)
    }

    /// Connections that waited too long; they are released. Live ones keep the verdict they have, and their question
    /// is put again. Call about every 100 ms.
    pub fn expire(&mut self, now_ms: u64) -> Vec<u64> {
        let timeout_ms = self.limits.decision_timeout_ms;
        let mut late = Vec::new();
        let overdue = |since_ms: u64| now_ms >= since_ms.saturating_add(timeout_ms);
        let old: Vec<u64> =
            self.pending.iter().filter(|(_, pending)| overdue(pending.since_ms)).map(|(id, _)| *id).collect();
        for offer_id in old {
            let Some(pending) = self.pending.get(&offer_id) else { continue };
            let timed_out =
                |conn: &&u64| self.conns.get(*conn).is_some_and(|conn| !conn.live && overdue(conn.since_ms));
            let gone: Vec<u64> = pending.waiters.iter().filter(timed_out).copied().collect();
            for conn in &gone {
                self.release(*conn);
            }
            late.extend(gone);
            let Some(pending) = self.pending.get_mut(&offer_id) else { continue };
            if pending.waiters.is_empty() {
                self.remove_pending(offer_id);
            } else if pending.taken {
                pending.taken = false;
                pending.since_ms = now_ms;
                self.again.push_back(offer_id);
            }
        }
        late
    }

    /// Forgets all of the pod; its connections are the owner's to close.
    pub fn remove_pod(&mut self, uid: &str) {
        let Some(pod) = self.pods.remove(uid) else { return };
        for offer_id in pod.pending.into_values() {
            self.forget_pending(offer_id);
        }
        self.conns.retain(|_, conn| &*conn.facts.pod != uid);
        let Self { entries, readers, stats, .. } = self;
        entries.retain(|id, entry| {
            let keep = &*entry.pod != uid;
            if !keep {
                readers.remove(*id, &entry.flow.verdict.reads);
                stats.flows -= usize::from(entry.cached);
            }
            keep
        });
    }

    /// Sentences about audit mismatches since the last call, bounded.
    pub fn take_notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }

    pub fn stats(&self) -> Stats {
        Stats { pending: self.pending.len(), ..self.stats }
    }

    fn cached(&mut self, facts: &OfferFacts) -> Option<u64> {
        self.pods.get_mut(&facts.pod)?.cache.find(facts)
    }

    /// Looks a live connection up again. None: it was asked, or is gone.
    fn rejudge(&mut self, conn: u64, now_ms: u64) -> Option<Resolved> {
        let known = self.conns.get(&conn)?;
        if known.waiting.is_some() {
            return None;
        }
        let facts = known.facts.clone();
        match self.cached(&facts) {
            Some(id) => Some(Resolved { conn, flow: self.bind(conn, id), rejudge: true }),
            None => {
                self.ask(conn, Origin::Rejudge, now_ms);
                None
            }
        }
    }

    /// True when a new connection with these facts may wait. What is under way for live connections counts from now on.
    fn reserve(&mut self, facts: &OfferFacts) -> bool {
        let pod = self.pods.entry(facts.pod.clone()).or_default();
        let under_way = pod.pending.get(&(facts.direction, Key::whole(facts)));
        let under_way = under_way.and_then(|offer_id| self.pending.get_mut(offer_id));
        if under_way.as_ref().is_some_and(|pending| pending.origin == Origin::New) {
            return true;
        }
        if pod.asked >= self.limits.max_pending_per_pod {
            return false;
        }
        if let Some(pending) = under_way {
            self.audits_pending -= usize::from(matches!(pending.origin, Origin::Audit(_)));
            pending.origin = Origin::New;
            pod.asked += 1;
        }
        true
    }

    /// Offers the question of `waiters`, who have the same facts, once more.
    fn ask_again(&mut self, waiters: Vec<u64>, now_ms: u64) {
        let is_new = |conn: &u64| self.conns.get(conn).is_some_and(|conn| !conn.live);
        let origin = if waiters.iter().any(is_new) { Origin::New } else { Origin::Rejudge };
        for conn in waiters {
            self.ask(conn, origin, now_ms);
        }
    }

    /// Makes the connection wait for the offer of its facts, made now unless it is under way.
    fn ask(&mut self, conn: u64, origin: Origin, now_ms: u64) {
        let Some(waiter) = self.conns.get_mut(&conn) else { return };
        let facts = waiter.facts.clone();
        let offer_id = self.offer(facts, origin, now_ms);
        if let (Some(waiter), Some(pending)) = (self.conns.get_mut(&conn), self.pending.get_mut(&offer_id)) {
            waiter.waiting = Some(offer_id);
            pending.waiters.push(conn);
        }
    }

    fn offer(&mut self, facts: OfferFacts, origin: Origin, now_ms: u64) -> u64 {
        let pod = self.pods.entry(facts.pod.clone()).or_default();
        let key = (facts.direction, Key::whole(&facts));
        if let Some(offer_id) = pod.pending.get(&key) {
            return *offer_id;
        }
        self.last_id += 1;
        let offer_id = self.last_id;
        pod.pending.insert(key, offer_id);
        match origin {
            Origin::New => {
                pod.asked += 1;
                self.fresh.push_back(offer_id);
            }
            Origin::Rejudge => self.again.push_back(offer_id),
            Origin::Audit(_) => {
                self.audits_pending += 1;
                self.again.push_back(offer_id);
            }
        }
        self.pending.insert(offer_id, Pending { facts, waiters: Vec::new(), origin, since_ms: now_ms, taken: false });
        offer_id
    }

    fn take_offer(&mut self, id: u64) -> Option<Offer> {
        let pending = self.pending.get_mut(&id).filter(|pending| !pending.taken)?;
        pending.taken = true;
        Some(Offer { id, facts: pending.facts.clone(), rejudge: pending.origin == Origin::Rejudge })
    }

    fn remove_pending(&mut self, offer_id: u64) -> Option<Pending> {
        let pending = self.forget_pending(offer_id)?;
        if let Some(pod) = self.pods.get_mut(&pending.facts.pod) {
            pod.pending.remove(&(pending.facts.direction, Key::whole(&pending.facts)));
            pod.asked -= usize::from(pending.origin == Origin::New);
        }
        Some(pending)
    }

    /// The part of `remove_pending` that does not touch the pod.
    fn forget_pending(&mut self, offer_id: u64) -> Option<Pending> {
        let pending = self.pending.remove(&offer_id)?;
        self.audits_pending -= usize::from(matches!(pending.origin, Origin::Audit(_)));
        Some(pending)
    }

    /// Puts a verdict into the cache, in place of one under the same key.
    fn insert(&mut self, facts: &OfferFacts, verdict: Verdict) -> u64 {
        self.last_id += 1;
        let id = self.last_id;
        let key = Key::masked(facts, verdict.fields);
        self.readers.add(id, &verdict.reads);
        let flow = Arc::new(Flow { id, verdict });
        let entry = Entry {
            flow,
            pod: facts.pod.clone(),
            direction: facts.direction,
            key: key.clone(),
            cached: true,
            conns: HashSet::new(),
        };
        self.entries.insert(id, entry);
        self.stats.flows += 1;
        let cache = &mut self.pods.entry(facts.pod.clone()).or_default().cache;
        let replaced = cache.insert(facts.direction, key, id);
        let evicted = if cache.len() > self.limits.max_flows_per_pod { cache.pop_least_recently_used() } else { None };
        self.stats.evicted += u64::from(evicted.is_some());
        for former in replaced.into_iter().chain(evicted) {
            self.uncached(former);
        }
        id
    }

    /// The flow has left the cache; it stays known while connections are under it, so that they are judged again.
    fn uncached(&mut self, id: u64) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.cached = false;
        self.stats.flows -= 1;
        if entry.conns.is_empty() {
            self.forget_flow(id);
        }
    }

    /// The flow is no longer in force. Returns the connections under it, which are under none now.
    fn drop_flow(&mut self, id: u64) -> Vec<u64> {
        let Some(entry) = self.forget_flow(id) else { return Vec::new() };
        if entry.cached {
            self.stats.flows -= 1;
            if let Some(pod) = self.pods.get_mut(&entry.pod) {
                pod.cache.remove(entry.direction, &entry.key);
            }
        }
        for conn in &entry.conns {
            if let Some(conn) = self.conns.get_mut(conn) {
                conn.flow = None;
            }
        }
        entry.conns.into_iter().collect()
    }

    fn forget_flow(&mut self, id: u64) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        self.readers.remove(id, &entry.flow.verdict.reads);
        Some(entry)
    }

    /// A connection that waited comes under a flow of the table.
    fn settle_with(&mut self, conn: u64, id: u64) -> Option<Resolved> {
        let rejudge = self.conns.get(&conn)?.live;
        Some(Resolved { conn, flow: self.bind(conn, id), rejudge })
    }

    fn bind(&mut self, conn: u64, id: u64) -> Arc<Flow> {
        if let Some(known) = self.conns.get_mut(&conn) {
            known.waiting = None;
            known.live = true;
            if let Some(former) = known.flow.replace(id) {
                self.unbind(conn, former);
            }
        }
        let entry = self.entries.get_mut(&id).expect("bound to a flow of the table");
        entry.conns.insert(conn);
        entry.flow.clone()
    }

    fn unbind(&mut self, conn: u64, id: u64) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.conns.remove(&conn);
        if entry.conns.is_empty() && !entry.cached {
            self.forget_flow(id);
        }
    }

    fn audit(&mut self, id: u64, facts: &OfferFacts, now_ms: u64) {
        if self.audits_pending < MAX_AUDITS_PENDING {
            self.stats.audits += 1;
            self.offer(facts.clone(), Origin::Audit(id), now_ms);
        }
    }

    fn agrees(&self, id: u64, fresh: &Verdict) -> bool {
        let cached = self.entries.get(&id).map(|entry| &entry.flow.verdict);
        // Newer than what we were told of: its invalidation may still be on the way.
        cached.is_none_or(|cached| fresh.version > self.stats.version || same_decision(cached, fresh))
    }

    /// A cached verdict differs from a fresh one, which is a bug of whoever decides. The fresh one counts: returns the
    /// connections to judge again.
    fn overrule(&mut self, id: u64, facts: &OfferFacts, verdict: &Verdict) -> Vec<u64> {
        let Some(entry) = self.entries.get(&id) else { return Vec::new() };
        self.stats.audit_mismatches += 1;
        if self.notices.len() < MAX_NOTICES {
            let (was, now) = (&entry.flow.verdict, verdict);
            self.notices.push(format!(
                "cached verdict differs from a fresh one for {:?} {} of pod {} from {}: {} {:?} (version {}), now {} {:?} (version {})",
                facts.direction,
                facts.dst,
                facts.pod,
                facts.src_ip,
                was.because,
                was.action,
                was.version,
                now.because,
                now.action,
                now.version
            ));
        }
        self.drop_flow(id)
    }
}

fn same_decision(one: &Verdict, other: &Verdict) -> bool {
    let told = |verdict: &Verdict| Verdict { version: 0, reads: Vec::new(), fields: 0, ..verdict.clone() };
    told(one) == told(other)
}

const MAX_LOGGED_READS: usize = 16_384;
const MAX_AUDITS_PENDING: usize = 32;
const MAX_NOTICES: usize = 16;
