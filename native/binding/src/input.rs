//! What comes down from JavaScript, checked: an address that is none never reaches the engine.
use meltemi_core::api::{self, Action, ReadKey};
use napi::bindgen_prelude::Uint8Array;
use napi_derive::napi;
use std::net::{IpAddr, SocketAddr};

/// See `EngineOptions` in dataplane.ts.
#[napi(object, object_to_js = false)]
pub struct EngineSettings {
    pub threads: u32,
    pub spin_us: u32,
    pub congestion_control: String,
    pub mark: u32,
    pub outbound_port: u16,
    pub inbound_plain_port: u16,
    pub inbound_hbone_port: u16,
    pub connect_timeout_ms: u32,
    pub handshake_timeout_ms: u32,
    pub decision_timeout_ms: u32,
    pub pool_idle_ms: u32,
    pub set_aside_ms: u32,
    pub max_streams_per_tunnel: u32,
    pub max_flows_per_pod: u32,
    pub max_pending_per_pod: u32,
    pub max_connections_per_pod: u32,
    pub max_held_bytes: u32,
    pub audit_one_in: u32,
    pub max_log_bytes: u32,
    pub rekey_after_records: u32,
    pub access_log: bool,
}

#[napi(object, object_to_js = false)]
pub struct EnginePod {
    pub uid: String,
    pub name: String,
    pub namespace: String,
    pub identity: String,
    pub netns: String,
    pub addresses: Vec<String>,
}

#[napi(object, object_to_js = false)]
pub struct EngineRead {
    pub table: String,
    pub key: String,
    pub prefix: bool,
}

#[napi(object, object_to_js = false)]
pub struct EngineVerdict {
    pub offer_id: i64,
    pub version: i64,
    #[napi(ts_type = "'direct' | 'group' | 'deny'")]
    pub action: String,
    pub target_ip: String,
    pub target_port: u16,
    pub group: String,
    pub status: u16,
    pub because: String,
    pub objects: Vec<String>,
    pub reads: Vec<EngineRead>,
    pub fields: u8,
    pub baggage: String,
    pub forwarded_host: String,
    pub labels: String,
    pub log: String,
    pub response_flags: String,
}

#[napi(object, object_to_js = false)]
pub struct EngineGroup {
    pub id: String,
    pub endpoints: Vec<EngineEndpoint>,
}

#[napi(object, object_to_js = false)]
pub struct EngineEndpoint {
    pub id: String,
    pub ip: String,
    pub port: u16,
    pub tunnel_ip: String,
    pub tunnel_port: u16,
    pub authority: String,
    pub identities: Vec<String>,
    pub weight: u32,
    pub rank: u32,
    pub healthy: bool,
    pub labels: String,
    pub log: String,
}

#[napi(object, object_to_js = false)]
pub struct EngineCertificate {
    pub identity: String,
    pub key_id: i64,
    pub chain: Vec<Uint8Array>,
}

#[napi(object, object_to_js = false)]
pub struct EngineTrustAnchor {
    pub trust_domain: String,
    pub roots: Vec<Uint8Array>,
}

impl From<EngineSettings> for api::EngineOptions {
    fn from(settings: EngineSettings) -> Self {
        Self {
            threads: settings.threads as usize,
            spin_us: settings.spin_us.into(),
            congestion_control: settings.congestion_control,
            mark: settings.mark,
            outbound_port: settings.outbound_port,
            inbound_plain_port: settings.inbound_plain_port,
            inbound_hbone_port: settings.inbound_hbone_port,
            connect_timeout_ms: settings.connect_timeout_ms.into(),
            handshake_timeout_ms: settings.handshake_timeout_ms.into(),
            decision_timeout_ms: settings.decision_timeout_ms.into(),
            pool_idle_ms: settings.pool_idle_ms.into(),
            set_aside_ms: settings.set_aside_ms.into(),
            max_streams_per_tunnel: settings.max_streams_per_tunnel,
            max_flows_per_pod: settings.max_flows_per_pod as usize,
            max_pending_per_pod: settings.max_pending_per_pod as usize,
            max_connections_per_pod: settings.max_connections_per_pod as usize,
            max_held_bytes: settings.max_held_bytes as usize,
            audit_one_in: settings.audit_one_in.into(),
            max_log_bytes: settings.max_log_bytes as usize,
            rekey_after_records: settings.rekey_after_records.into(),
            access_log: settings.access_log,
        }
    }
}

impl EnginePod {
    pub fn parse(self) -> Result<api::DataplanePod, String> {
        let address = |text: &String| ip(text).map_err(|why| format!("pod {}: its address {why}", self.uid));
        let addresses = self.addresses.iter().map(address).collect::<Result<_, _>>()?;
        Ok(api::DataplanePod {
            addresses,
            uid: self.uid,
            name: self.name,
            namespace: self.namespace,
            identity: self.identity,
            netns: self.netns,
        })
    }
}

impl EngineVerdict {
    /// Offer id and verdict. A malformed one answers nothing: its connection fails when the decision times out.
    pub fn parse(self) -> Result<(u64, api::Verdict), String> {
        let name = |why| format!("verdict {} ({}): {why}", self.offer_id, self.because);
        let action = match &self.action[..] {
            "direct" => {
                let target = ip(&self.target_ip).map_err(|why| name(format!("target {why}")))?;
                Action::Direct(SocketAddr::new(target, self.target_port))
            }
            "group" if !self.group.is_empty() => Action::Group(self.group),
            "deny" => Action::Deny(self.status),
            other => return Err(name(format!("action '{other}' is none of direct, group (with an id), deny"))),
        };
        let reads = self.reads.into_iter().map(EngineRead::looked_up).collect::<Result<_, _>>();
        let verdict = api::Verdict {
            version: unsigned(self.version),
            action,
            reads: reads.map_err(|why: String| format!("verdict {} ({}): {why}", self.offer_id, self.because))?,
            because: self.because,
            objects: self.objects,
            fields: self.fields,
            baggage: self.baggage,
            forwarded_host: self.forwarded_host,
            labels: self.labels,
            log: self.log,
            response_flags: self.response_flags,
        };
        Ok((self.offer_id.cast_unsigned(), verdict))
    }
}

impl EngineRead {
    /// As a verdict records it: a prefix lookup has the address that was looked up.
    fn looked_up(self) -> Result<api::Read, String> {
        let read = self.changed()?;
        match read.key {
            ReadKey::Prefix(ip, length) if length < full_length(ip) => {
                Err(format!("read of {}: a prefix lookup records an address, not {ip}/{length}", read.table))
            }
            _ => Ok(read),
        }
    }

    /// As an invalidation names it: an address or a CIDR block where `prefix` is set.
    pub fn changed(self) -> Result<api::Read, String> {
        if !self.prefix {
            return Ok(api::Read { table: self.table, key: ReadKey::Exact(self.key) });
        }
        let (address, length) =
            self.key.split_once('/').map_or((&self.key[..], None), |(ip, length)| (ip, Some(length)));
        let address = ip(address).map_err(|why| format!("read of {}: key {why}", self.table))?;
        let full = full_length(address);
        let length = length.map_or(Ok(full), str::parse).ok().filter(|length| *length <= full);
        let length = length.ok_or_else(|| format!("read of {}: '{}' is no CIDR block", self.table, self.key))?;
        Ok(api::Read { table: self.table, key: ReadKey::Prefix(address, length) })
    }
}

impl EngineGroup {
    /// The group without its malformed endpoints, and what is wrong with those.
    pub fn parse(self) -> (api::EndpointGroup, Vec<String>) {
        let (mut endpoints, mut wrong) = (Vec::with_capacity(self.endpoints.len()), Vec::new());
        for endpoint in self.endpoints {
            match endpoint.parse() {
                Ok(endpoint) => endpoints.push(endpoint),
                Err(why) => wrong.push(format!("group {}: {why}", self.id)),
            }
        }
        (api::EndpointGroup { id: self.id, endpoints }, wrong)
    }
}

impl EngineEndpoint {
    fn parse(self) -> Result<api::Endpoint, String> {
        let name = |why| format!("endpoint {}: address {why}", self.id);
        let addr = SocketAddr::new(ip(&self.ip).map_err(name)?, self.port);
        let tunnel = match &self.tunnel_ip[..] {
            "" => None,
            text => Some(SocketAddr::new(ip(text).map_err(name)?, self.tunnel_port)),
        };
        Ok(api::Endpoint {
            id: self.id,
            addr,
            tunnel,
            authority: self.authority,
            identities: self.identities,
            weight: self.weight,
            rank: self.rank,
            healthy: self.healthy,
            labels: self.labels,
            log: self.log,
        })
    }
}

impl From<EngineCertificate> for api::InstalledCertificate {
    fn from(certificate: EngineCertificate) -> Self {
        let key_id = certificate.key_id.cast_unsigned();
        Self { identity: certificate.identity, key_id, chain: bytes(certificate.chain) }
    }
}

impl From<EngineTrustAnchor> for api::TrustAnchor {
    fn from(anchor: EngineTrustAnchor) -> Self {
        Self { trust_domain: anchor.trust_domain, roots: bytes(anchor.roots) }
    }
}

pub fn bytes(list: Vec<Uint8Array>) -> Vec<Vec<u8>> {
    list.into_iter().map(|one| one.to_vec()).collect()
}

/// An address in canonical form: an IPv4-mapped IPv6 address is IPv4.
pub fn ip(text: &str) -> Result<IpAddr, String> {
    let parsed: Result<IpAddr, _> = text.parse();
    parsed.map(|ip| ip.to_canonical()).map_err(|_| format!("'{text}' is no IP address"))
}

/// Versions count from 0.
pub fn unsigned(version: i64) -> u64 {
    u64::try_from(version).unwrap_or(0)
}

fn full_length(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}
