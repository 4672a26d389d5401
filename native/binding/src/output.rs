//! What goes up to JavaScript.
use meltemi_core::api::{self, Direction, Level};
use napi::bindgen_prelude::Uint8Array;
use napi_derive::napi;

/// See `Work` in dataplane.ts.
#[napi(object, object_from_js = false)]
pub struct EngineWork {
    pub offers: Vec<EngineOffer>,
    pub wanted_certificates: Vec<String>,
    pub access_log: Uint8Array,
    pub notices: Vec<EngineNotice>,
}

#[napi(object, object_from_js = false)]
pub struct EngineOffer {
    pub id: i64,
    pub pod: String,
    #[napi(ts_type = "'outbound' | 'inbound' | 'inbound-plaintext'")]
    pub direction: &'static str,
    pub dst_ip: String,
    pub dst_port: u16,
    pub src_ip: String,
    pub peer_identity: String,
    pub authority: String,
    pub rejudge: bool,
}

#[napi(object, object_from_js = false)]
pub struct EngineNotice {
    #[napi(ts_type = "'info' | 'warn' | 'error'")]
    pub level: &'static str,
    pub code: String,
    pub message: String,
}

#[napi(object, object_from_js = false)]
pub struct EngineKey {
    pub key_id: i64,
    pub public_key: Uint8Array,
}

#[napi(object, object_from_js = false)]
pub struct EngineConnection {
    pub id: i64,
    pub pod: String,
    #[napi(ts_type = "'outbound' | 'inbound' | 'inbound-plaintext'")]
    pub direction: &'static str,
    pub src_ip: String,
    pub src_port: u16,
    pub dst_ip: String,
    pub dst_port: u16,
    pub peer_identity: String,
    pub endpoint: String,
    pub because: String,
    pub state: &'static str,
    pub bytes_sent: i64,
    pub bytes_received: i64,
    pub open_ms: i64,
}

#[napi(object, object_from_js = false)]
pub struct EngineSizes {
    pub version: i64,
    pub pods: i64,
    pub connections: i64,
    pub tunnels: i64,
    pub flows: i64,
    pub pending_offers: i64,
    pub groups: i64,
    pub cache_hits: i64,
    pub cache_misses: i64,
    pub audit_mismatches: i64,
}

/// See `BorderResult` in dataplane.ts.
#[napi(object, object_from_js = false)]
pub struct EngineResult {
    pub ok: bool,
    pub error: String,
}

#[napi(object, object_from_js = false)]
pub struct EnginePodResult {
    pub ok: bool,
    pub error: String,
    pub inherited: bool,
}

#[napi(object, object_from_js = false)]
pub struct EngineHandoverResult {
    pub ok: bool,
    pub error: String,
    pub pods: Vec<String>,
}

#[napi(object, object_from_js = false)]
pub struct EngineOfferResult {
    pub ok: bool,
    pub error: String,
    pub shares_network: bool,
}

#[napi(object, object_from_js = false)]
pub struct EngineFdResult {
    pub ok: bool,
    pub error: String,
    pub fd: i32,
}

impl From<Result<(), String>> for EngineResult {
    fn from(result: Result<(), String>) -> Self {
        Self { ok: result.is_ok(), error: result.err().unwrap_or_default() }
    }
}

impl From<Result<bool, String>> for EnginePodResult {
    fn from(result: Result<bool, String>) -> Self {
        let inherited = result == Ok(true);
        Self { ok: result.is_ok(), error: result.err().unwrap_or_default(), inherited }
    }
}

impl From<Result<bool, String>> for EngineOfferResult {
    fn from(result: Result<bool, String>) -> Self {
        let shares_network = result == Ok(true);
        Self { ok: result.is_ok(), error: result.err().unwrap_or_default(), shares_network }
    }
}

impl From<Result<Vec<String>, String>> for EngineHandoverResult {
    fn from(result: Result<Vec<String>, String>) -> Self {
        match result {
            Ok(pods) => Self { ok: true, error: String::new(), pods },
            Err(error) => Self { ok: false, error, pods: Vec::new() },
        }
    }
}

impl From<api::Work> for EngineWork {
    fn from(work: api::Work) -> Self {
        Self {
            offers: work.offers.into_iter().map(EngineOffer::from).collect(),
            wanted_certificates: work.wanted_certificates,
            access_log: Uint8Array::new(work.access_log),
            notices: work.notices.into_iter().map(EngineNotice::from).collect(),
        }
    }
}

impl From<api::Offer> for EngineOffer {
    fn from(offer: api::Offer) -> Self {
        let facts = offer.facts;
        Self {
            id: offer.id.cast_signed(),
            pod: facts.pod.to_string(),
            direction: direction(facts.direction),
            dst_ip: facts.dst.ip().to_string(),
            dst_port: facts.dst.port(),
            src_ip: facts.src_ip.to_string(),
            peer_identity: facts.peer_identity.to_string(),
            authority: facts.authority.to_string(),
            rejudge: offer.rejudge,
        }
    }
}

impl From<api::Notice> for EngineNotice {
    fn from(notice: api::Notice) -> Self {
        let level = match notice.level {
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        };
        Self { level, code: notice.code.into(), message: notice.message }
    }
}

impl From<api::KeyHandle> for EngineKey {
    fn from(key: api::KeyHandle) -> Self {
        Self { key_id: key.key_id.cast_signed(), public_key: Uint8Array::new(key.public_key) }
    }
}

impl From<api::ConnectionInfo> for EngineConnection {
    fn from(connection: api::ConnectionInfo) -> Self {
        Self {
            id: connection.id.cast_signed(),
            pod: connection.pod,
            direction: direction(connection.direction),
            src_ip: connection.src.ip().to_string(),
            src_port: connection.src.port(),
            dst_ip: connection.dst.ip().to_string(),
            dst_port: connection.dst.port(),
            peer_identity: connection.peer_identity,
            endpoint: connection.endpoint,
            because: connection.because,
            state: connection.state,
            bytes_sent: connection.bytes_sent.cast_signed(),
            bytes_received: connection.bytes_received.cast_signed(),
            open_ms: connection.open_ms.cast_signed(),
        }
    }
}

impl From<api::EngineStats> for EngineSizes {
    fn from(stats: api::EngineStats) -> Self {
        Self {
            version: stats.version.cast_signed(),
            pods: stats.pods as i64,
            connections: stats.connections as i64,
            tunnels: stats.tunnels as i64,
            flows: stats.flows as i64,
            pending_offers: stats.pending_offers as i64,
            groups: stats.groups as i64,
            cache_hits: stats.cache_hits.cast_signed(),
            cache_misses: stats.cache_misses.cast_signed(),
            audit_mismatches: stats.audit_mismatches.cast_signed(),
        }
    }
}

fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Outbound => "outbound",
        Direction::Inbound => "inbound",
        Direction::InboundPlaintext => "inbound-plaintext",
    }
}
