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
