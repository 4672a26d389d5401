//! The flow table: verdicts cached under exactly the fields and lookups they were made from. (Signatures; body follows.)
use crate::api::{Offer, OfferFacts, Read, Verdict};
use std::sync::Arc;

/// A cached verdict. Holders keep it alive; whether it is still in force is the table's knowledge.
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

pub struct FlowTable {}

/// All calls are under the owner's lock. `now_ms` is any monotonic clock.
impl FlowTable {
    pub fn new(limits: Limits) -> Self { let _ = limits; todo!() }
    /// Looks up and registers `conn` in one step. Every conn that was not `Full` needs a `release`.
    pub fn lookup(&mut self, facts: &OfferFacts, conn: u64, now_ms: u64) -> Lookup { let _ = (facts, conn, now_ms); todo!() }
    /// Who may proceed. A stale verdict resolves nobody: its question is offered again.
    pub fn answer(&mut self, offer_id: u64, verdict: Verdict, now_ms: u64) -> Vec<Resolved> { let _ = (offer_id, verdict, now_ms); todo!() }
    /// Drops flows that read one of `reads` at an older version, and looks the live connections under them up again:
    /// those answered by another flow at once are returned, the others follow from `answer`.
    pub fn invalidate(&mut self, version: u64, reads: &[Read], now_ms: u64) -> Vec<Resolved> { let _ = (version, reads, now_ms); todo!() }
    /// Registers a connection that did not come through `lookup` (handed over) and judges it.
    pub fn adopt(&mut self, facts: &OfferFacts, conn: u64, now_ms: u64) -> Option<Resolved> { let _ = (facts, conn, now_ms); todo!() }
    /// The connection is over, in whatever state it was.
    pub fn release(&mut self, conn: u64) { let _ = conn; todo!() }
    pub fn has_offers(&self) -> bool { todo!() }
    pub fn take_offers(&mut self, max: usize) -> Vec<Offer> { let _ = max; todo!() }
    /// True when a lookup of this pod would not be `Full` (resume accepting).
    pub fn has_room(&self, pod: &str) -> bool { let _ = pod; todo!() }
    /// Connections that waited too long; they are released. Call about every 100 ms.
    pub fn expire(&mut self, now_ms: u64) -> Vec<u64> { let _ = now_ms; todo!() }
    pub fn remove_pod(&mut self, pod: &str) { let _ = pod; todo!() }
    /// Sentences about audit mismatches since the last call, bounded.
    pub fn take_notices(&mut self) -> Vec<String> { todo!() }
    pub fn stats(&self) -> Stats { todo!() }
}
