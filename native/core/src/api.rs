//! The flat values that cross between whoever decides and the engine. The mirror of
//! `src/agent/dataplane/dataplane.ts`, with addresses parsed: a bad one is refused at the border.
use std::net::{IpAddr, SocketAddr};

pub type PodUid = std::sync::Arc<str>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    Outbound,
    Inbound,
    InboundPlaintext,
}

/// The facts of one connection that a decision may look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferFacts {
    pub pod: PodUid,
    pub direction: Direction,
    /// Original destination (outbound, plaintext) or the tunnel's local address (inbound).
    pub dst: SocketAddr,
    pub src_ip: IpAddr,
    /// Verified SPIFFE id of the peer, or empty.
    pub peer_identity: std::sync::Arc<str>,
    /// CONNECT authority as sent, or empty.
    pub authority: std::sync::Arc<str>,
}

#[derive(Clone, Debug)]
pub struct Offer {
    pub id: u64,
    pub facts: OfferFacts,
    /// A live connection that is judged again.
    pub rejudge: bool,
}

/// Bits of `Verdict::fields`.
pub mod field {
    pub const DST_IP: u8 = 1;
    pub const DST_PORT: u8 = 2;
    pub const SRC_IP: u8 = 4;
    pub const PEER_IDENTITY: u8 = 8;
    pub const AUTHORITY: u8 = 16;
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Read {
    pub table: String,
    pub key: ReadKey,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ReadKey {
    Exact(String),
    /// Recorded as a full-length prefix (an address), invalidated by any prefix that contains it.
    Prefix(IpAddr, u8),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Direct(SocketAddr),
    Group(String),
    /// HTTP status of a refused CONNECT: 400, 401 or 503.
    Deny(u16),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub version: u64,
    pub action: Action,
    pub because: String,
    pub objects: Vec<String>,
    pub reads: Vec<Read>,
    pub fields: u8,
    pub baggage: String,
    pub forwarded_host: String,
    pub labels: String,
    pub log: String,
    pub response_flags: String,
}

#[derive(Clone, Debug)]
pub struct EndpointGroup {
    pub id: String,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub id: String,
    pub addr: SocketAddr,
    /// None: plaintext straight to `addr`.
    pub tunnel: Option<SocketAddr>,
    /// CONNECT authority; empty means `addr`.
    pub authority: String,
    pub identities: Vec<String>,
    pub weight: u32,
    pub rank: u32,
    pub healthy: bool,
    pub labels: String,
    pub log: String,
}

#[derive(Clone, Debug)]
pub struct EngineOptions {
    pub threads: usize,
    pub spin_us: u64,
    pub congestion_control: String,
    pub mark: u32,
    pub outbound_port: u16,
    pub inbound_plain_port: u16,
    pub inbound_hbone_port: u16,
    pub connect_timeout_ms: u64,
    pub handshake_timeout_ms: u64,
    pub decision_timeout_ms: u64,
    pub pool_idle_ms: u64,
    pub set_aside_ms: u64,
    pub max_streams_per_tunnel: u32,
    pub max_flows_per_pod: usize,
    pub max_pending_per_pod: usize,
    pub max_connections_per_pod: usize,
    pub max_held_bytes: usize,
    pub audit_one_in: u64,
    pub max_log_bytes: usize,
    pub rekey_after_records: u64,
    pub access_log: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            threads: (cores / 2).max(1),
            spin_us: 50,
            congestion_control: String::new(),
            mark: 0x539,
            outbound_port: 15001,
            inbound_plain_port: 15006,
            inbound_hbone_port: 15008,
            connect_timeout_ms: 10_000,
            handshake_timeout_ms: 10_000,
            decision_timeout_ms: 5_000,
            pool_idle_ms: 300_000,
            set_aside_ms: 5_000,
            max_streams_per_tunnel: 100,
            max_flows_per_pod: 4096,
            max_pending_per_pod: 256,
            max_connections_per_pod: 65_536,
            max_held_bytes: 64 << 10,
            audit_one_in: 1000,
            max_log_bytes: 8 << 20,
            rekey_after_records: 1 << 24,
            access_log: true,
        }
    }
}

#[derive(Clone, Debug)]
pub struct DataplanePod {
    pub uid: String,
    pub name: String,
    pub namespace: String,
    pub identity: String,
    pub netns: String,
    pub addresses: Vec<IpAddr>,
}

#[derive(Clone, Debug)]
pub struct InstalledCertificate {
    pub identity: String,
    pub key_id: u64,
    /// DER, leaf first.
    pub chain: Vec<Vec<u8>>,
}

#[derive(Clone, Debug)]
pub struct TrustAnchor {
    pub trust_domain: String,
    /// DER.
    pub roots: Vec<Vec<u8>>,
}

#[derive(Clone, Debug)]
pub struct KeyHandle {
    pub key_id: u64,
    /// SubjectPublicKeyInfo, DER.
    pub public_key: Vec<u8>,
}

/// Everything that has come up since it was last asked for.
#[derive(Debug, Default)]
pub struct Work {
    pub offers: Vec<Offer>,
    pub wanted_certificates: Vec<String>,
    /// Newline-separated JSON.
    pub access_log: Vec<u8>,
    pub notices: Vec<Notice>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Info,
    Warn,
    Error,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub level: Level,
    pub code: &'static str,
    pub message: String,
}

#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    pub id: u64,
    pub pod: String,
    pub direction: Direction,
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub peer_identity: String,
    pub endpoint: String,
    pub because: String,
    pub state: &'static str,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub open_ms: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    pub version: u64,
    pub pods: usize,
    pub connections: usize,
    pub tunnels: usize,
    pub flows: usize,
    pub pending_offers: usize,
    pub groups: usize,
    pub cache_hits: u64,
    pub cache_misses: u64,
    pub audit_mismatches: u64,
}
