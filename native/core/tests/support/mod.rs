//! A mesh of two pods in network namespaces of their own: `a` at 10.77.0.1, `b` at 10.77.0.2 (and fd77::1, fd77::2),
//! each with its engine, redirected as an agent would. Needs root.
#![allow(dead_code)]
use meltemi_core::api::*;
use meltemi_core::engine::Engine;
use meltemi_core::net::in_netns;
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
    SubjectPublicKeyInfo,
};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

pub const A: &str = "spiffe://cluster.local/ns/test/sa/a";
pub const B: &str = "spiffe://cluster.local/ns/test/sa/b";
pub const A_IP: &str = "10.77.0.1";
pub const B_IP: &str = "10.77.0.2";
/// An address that is nobody's: only the mesh leads anywhere from there.
pub const VIP: &str = "10.78.0.1";

/// True when the tests that need namespaces can run; says so otherwise.
pub fn is_root() -> bool {
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    if !root {
        eprintln!("skipped: network namespaces need root");
    }
    root
}

/// A certificate authority of one trust domain.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub root: Vec<u8>,
    pub trust_domain: String,
    serial: AtomicU32,
}

impl Ca {
    pub fn new(trust_domain: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(rcgen::DnType::OrganizationName, trust_domain);
        let root = params.self_signed(&key).unwrap().der().to_vec();
        Self { issuer: Issuer::new(params, key), root, trust_domain: trust_domain.into(), serial: AtomicU32::new(1) }
    }

    pub fn anchor(&self) -> TrustAnchor {
        TrustAnchor { trust_domain: self.trust_domain.clone(), roots: vec![self.root.clone()] }
    }

    /// A leaf for a public key; its serial number too.
    pub fn leaf(&self, identity: &str, public_key: &[u8], lifetime: Duration) -> (Vec<u8>, u32) {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(identity.try_into().unwrap())];
        params.serial_number = Some(SerialNumber::from(u64::from(serial)));
        params.not_before = unix(SystemTime::now() - Duration::from_secs(3600));
        params.not_after = unix(SystemTime::now() + lifetime);
        let key = SubjectPublicKeyInfo::from_der(public_key).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().der().to_vec(), serial)
    }

    /// An authority of its own name whose certificate this one signs.
    pub fn intermediate(&self, lifetime: Duration) -> (Ca, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "intermediate");
        params.serial_number = Some(SerialNumber::from(u64::from(self.serial.fetch_add(1, Ordering::Relaxed))));
        params.not_before = unix(SystemTime::now() - Duration::from_secs(3600));
        params.not_after = unix(SystemTime::now() + lifetime);
        let der = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        let ca = Ca {
            issuer: Issuer::new(params, key),
            root: self.root.clone(),
            trust_domain: self.trust_domain.clone(),
            serial: AtomicU32::new(1000),
        };
        (ca, der)
    }

    pub fn crl(&self, serials: &[u32]) -> Vec<u8> {
        let now = unix(SystemTime::now() - Duration::from_secs(60));
        let revoked = |serial: &u32| rcgen::RevokedCertParams {
            serial_number: SerialNumber::from(u64::from(*serial)),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let params = rcgen::CertificateRevocationListParams {
            this_update: now,
            next_update: unix(SystemTime::now() + Duration::from_secs(3600)),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().der().to_vec()
    }
}

fn unix(time: SystemTime) -> time::OffsetDateTime {
    rcgen::date_time_ymd(1970, 1, 1) + time.duration_since(SystemTime::UNIX_EPOCH).unwrap()
}

/// An engine with somebody who decides.
pub struct Node {
    pub engine: Arc<Engine>,
    pub log: Arc<Mutex<String>>,
    pub notices: Arc<Mutex<Vec<Notice>>>,
    pub wanted: Arc<Mutex<Vec<String>>>,
    pub decide: Arc<Mutex<Decide>>,
    pub offers: Arc<AtomicU32>,
    bell: Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

pub type Decide = Box<dyn FnMut(&Offer) -> Option<Verdict> + Send>;

impl Node {
    pub fn new(options: EngineOptions, decide: Decide) -> Self {
        let (bell, rings) = channel();
        let ring = bell.clone();
        let engine = Engine::new(options, Box::new(move || _ = ring.send(true))).unwrap();
        let mut node = Self {
            engine: Arc::new(engine),
            log: Arc::default(),
            notices: Arc::default(),
            wanted: Arc::default(),
            decide: Arc::new(Mutex::new(decide)),
            offers: Arc::default(),
            bell,
            thread: None,
        };
        let (engine, log, notices, wanted) =
            (node.engine.clone(), node.log.clone(), node.notices.clone(), node.wanted.clone());
        let (decide, offers) = (node.decide.clone(), node.offers.clone());
        let thread = std::thread::spawn(move || {
            while rings.recv() == Ok(true) {
                let work = engine.take(256);
                offers.fetch_add(work.offers.len() as u32, Ordering::Relaxed);
                log.lock().unwrap().push_str(&String::from_utf8(work.access_log).unwrap());
                notices.lock().unwrap().extend(work.notices);
                wanted.lock().unwrap().extend(work.wanted_certificates);
                let mut decide = decide.lock().unwrap();
                let verdicts: Vec<_> =
                    work.offers.iter().filter_map(|offer| Some((offer.id, decide(offer)?))).collect();
                drop(decide);
                engine.answer(verdicts);
            }
        });
        node.thread = Some(thread);
        node
    }

    pub fn certify(&self, ca: &Ca, identity: &str) -> u32 {
        self.certify_for(ca, identity, Duration::from_secs(3600))
    }

    pub fn certify_for(&self, ca: &Ca, identity: &str, lifetime: Duration) -> u32 {
        let key = self.engine.create_key().unwrap();
        let (leaf, serial) = ca.leaf(identity, &key.public_key, lifetime);
        let installed = InstalledCertificate { identity: identity.into(), key_id: key.key_id, chain: vec![leaf] };
        self.engine.install_certificate(installed).unwrap();
        serial
    }

    /// Waits for a line of the access log that contains all of `parts`.
    pub fn await_log(&self, parts: &[&str]) -> String {
        let what = format!("an access-log line with {parts:?}");
        await_some(&what, || {
            let log = self.log.lock().unwrap();
            log.lines().find(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned)
        })
        .unwrap_or_else(|| panic!("no {what} in:\n{}\n{:?}", self.log.lock().unwrap(), self.notices.lock().unwrap()))
    }

    pub fn log_lines(&self) -> usize {
        self.log.lock().unwrap().lines().count()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.engine.close();
        let _ = self.bell.send(false);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Polls for at most ten seconds.
pub fn await_some<T>(_what: &str, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(value) = probe() {
            return Some(value);
        }
        if Instant::now() > until {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn await_true(what: &str, mut probe: impl FnMut() -> bool) {
    assert!(await_some(what, || probe().then_some(())).is_some(), "in vain awaited: {what}");
}

/// Two namespaces joined by a veth, with redirection into the engines.
pub struct World {
    pub a: String,
    pub b: String,
}

static WORLDS: AtomicU32 = AtomicU32::new(0);

impl World {
    pub fn new() -> Self {
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let tag = format!("mc{}-{number}", std::process::id());
        let world = Self { a: format!("{tag}a"), b: format!("{tag}b") };
        world.build();
        world
    }

    pub fn build(&self) {
        let (a, b) = (&self.a, &self.b);
        run(&format!("ip netns add {a}; ip netns add {b}; ip -n {a} link add eth0 type veth peer name eth0 netns {b}"));
        for (ns, ip, ip6) in [(a, A_IP, "fd77::1"), (b, B_IP, "fd77::2")] {
            run(&format!(
                "ip -n {ns} link set lo up; ip -n {ns} link set eth0 up; ip -n {ns} addr add {ip}/24 dev eth0
                 ip -n {ns} addr add {ip6}/64 dev eth0 nodad; ip -n {ns} route add default dev eth0; ip -n {ns} -6 route add default dev eth0
                 ip -n {ns} rule add fwmark 0x111/0xfff lookup 100 pref 32764; ip -n {ns} route add local default dev lo table 100
                 ip -n {ns} -6 rule add fwmark 0x111/0xfff lookup 100 pref 32764; ip -n {ns} -6 route add local default dev lo table 100
                 ip netns exec {ns} sh -c 'echo 1000 > /proc/sys/net/ipv4/tcp_max_tw_buckets; echo 1024 65535 > /proc/sys/net/ipv4/ip_local_port_range'
                 ip netns exec {ns} nft -f - <<'RULES'
                 table inet mesh {{
                   chain prerouting_mark {{
                     type filter hook prerouting priority mangle
                     meta mark & 0xfff == 0x539 ct mark set 0x111
                   }}
                   chain output_mark {{
                     type route hook output priority mangle
                     ct mark & 0xfff == 0x111 meta mark set 0x111
                   }}
                   chain prerouting_nat {{
                     type nat hook prerouting priority dstnat
                     ip daddr != 127.0.0.1 tcp dport != 15008 meta mark & 0xfff != 0x539 redirect to :15006
                     ip6 daddr != ::1 tcp dport != 15008 meta mark & 0xfff != 0x539 redirect to :15006
                   }}
                   chain output_nat {{
                     type nat hook output priority -100
                     meta mark & 0xfff == 0x111 accept
                     oifname lo ip daddr != 127.0.0.1 accept
                     meta l4proto tcp meta mark & 0xfff != 0x539 redirect to :15001
                   }}
                 }}
RULES"
            ));
        }
    }

    pub fn netns(&self, pod: char) -> String {
        format!("/run/netns/{}", if pod == 'a' { &self.a } else { &self.b })
    }

    pub fn pod(&self, pod: char) -> DataplanePod {
        let (identity, ip, ip6) = if pod == 'a' { (A, A_IP, "fd77::1") } else { (B, B_IP, "fd77::2") };
        DataplanePod {
            uid: format!("Kubernetes//Pod/test/{pod}"),
            name: pod.into(),
            namespace: "test".into(),
            identity: identity.into(),
            netns: self.netns(pod),
            addresses: vec![ip.parse().unwrap(), ip6.parse().unwrap()],
        }
    }

    /// Connects from a pod, as an app in it would.
    pub fn connect(&self, pod: char, target: &str) -> std::io::Result<TcpStream> {
        let target: SocketAddr = target.parse().unwrap();
        let stream = in_netns(&self.netns(pod), || TcpStream::connect_timeout(&target, Duration::from_secs(5)))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.set_write_timeout(Some(Duration::from_secs(20)))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    pub fn listen(&self, pod: char, address: &str) -> TcpListener {
        let address: SocketAddr = address.parse().unwrap();
        in_netns(&self.netns(pod), || TcpListener::bind(address)).unwrap()
    }

    /// Serves each connection on a thread of its own, until the listener's address is never used again.
    pub fn serve(&self, pod: char, address: &str, serve: impl Fn(TcpStream) + Send + Sync + 'static) {
        let listener = self.listen(pod, address);
        let serve = Arc::new(serve);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serve = serve.clone();
                std::thread::spawn(move || serve(stream));
            }
        });
    }
}

impl Drop for World {
    fn drop(&mut self) {
        run(&format!("ip netns del {}; ip netns del {}", self.a, self.b));
    }
}

/// Both ends with a certificate authority, all verdicts permissive.
pub struct Mesh {
    pub client: Node,
    pub server: Node,
    pub ca: Ca,
    pub world: World,
}

impl Mesh {
    pub fn new() -> Self {
        Self::with(options())
    }

    pub fn with(options: EngineOptions) -> Self {
        let client = Node::new(options.clone(), Box::new(|offer| Some(to_group(offer))));
        let server = Node::new(options, Box::new(|offer| Some(to_app(offer))));
        Self::of(client, server)
    }

    /// Of engines that run already.
    pub fn of(client: Node, server: Node) -> Self {
        let world = World::new();
        let ca = Ca::new("cluster.local");
        for node in [&client, &server] {
            node.engine.set_trust(&[ca.anchor()]).unwrap();
        }
        client.certify(&ca, A);
        server.certify(&ca, B);
        client.engine.put_groups(vec![group("g", vec![endpoint(8080)])]);
        client.engine.add_pod(&world.pod('a')).unwrap();
        server.engine.add_pod(&world.pod('b')).unwrap();
        Self { client, server, ca, world }
    }

    pub fn connect(&self) -> TcpStream {
        self.world.connect('a', &format!("{VIP}:80")).unwrap()
    }

    pub fn echo(&self) {
        self.world.serve('b', "0.0.0.0:8080", |mut stream| {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..count]).is_err() {
                    return;
                }
            }
        });
    }
}

pub fn options() -> EngineOptions {
    EngineOptions { threads: 1, audit_one_in: 0, ..EngineOptions::default() }
}

pub fn endpoint(port: u16) -> Endpoint {
    Endpoint {
        id: format!("Kubernetes//Pod/test/b:{port}"),
        addr: format!("{B_IP}:{port}").parse().unwrap(),
        tunnel: Some(format!("{B_IP}:15008").parse().unwrap()),
        authority: String::new(),
        identities: vec![B.into()],
        weight: 1,
        rank: 0,
        healthy: true,
        labels: "destination_workload=\"b\"".into(),
        log: "\"dst.workload\":\"b\"".into(),
    }
}

pub fn group(id: &str, endpoints: Vec<Endpoint>) -> EndpointGroup {
    EndpointGroup { id: id.into(), endpoints }
}

pub fn verdict(action: Action) -> Verdict {
    Verdict {
        version: 1,
        action,
        because: "test".into(),
        objects: vec![],
        reads: vec![meltemi_core::api::Read { table: "policies".into(), key: ReadKey::Exact("all".into()) }],
        fields: field::DST_IP | field::DST_PORT,
        baggage: "k8s.cluster.name=Kubernetes,k8s.namespace.name=test".into(),
        forwarded_host: "b.test.svc.cluster.local".into(),
        labels: "reporter=\"source\",source_workload=\"a\"".into(),
        log: "\"src.workload\":\"a\"".into(),
        response_flags: "-".into(),
    }
}

pub fn to_group(_offer: &Offer) -> Verdict {
    verdict(Action::Group("g".into()))
}

/// Delivers to what the CONNECT (or the original destination) names.
pub fn to_app(offer: &Offer) -> Verdict {
    let target = offer.facts.authority.parse().unwrap_or(offer.facts.dst);
    Verdict {
        fields: field::AUTHORITY | field::DST_IP | field::DST_PORT | field::PEER_IDENTITY | field::SRC_IP,
        log: format!("\"src.identity\":\"{}\"", offer.facts.peer_identity),
        labels: "reporter=\"destination\"".into(),
        ..verdict(Action::Direct(target))
    }
}

pub fn deny(offer: &Offer) -> Verdict {
    Verdict {
        because: "policy-deny".into(),
        objects: vec!["policy/test/deny".into()],
        response_flags: "DENY".into(),
        ..Verdict { action: Action::Deny(401), ..to_app(offer) }
    }
}

pub fn run(script: &str) {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
}

pub fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub static NEVER: AtomicBool = AtomicBool::new(false);
