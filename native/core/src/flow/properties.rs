//! What the cache answers equals a fresh decision, whatever changes, and in whatever order verdicts and changes arrive.
use super::*;
use crate::api::{Action, ReadKey, field};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::IpAddr;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn cached_equals_fresh_and_live_connections_end_up_under_the_truth(
        steps in prop::collection::vec(step(), 1..120),
        audit_one_in in 0u64..4,
        max_flows in 1usize..8,
        max_logged in 1usize..12,
    ) {
        let limits = Limits { max_flows_per_pod: max_flows, max_pending_per_pod: 6, audit_one_in, decision_timeout_ms: 1000 };
        let mut table = FlowTable::new(limits);
        table.log = InvalidationLog::new(max_logged);
        let mut world = World { table, ..World::new(limits) };
        for step in steps {
            world.run(step)?;
        }
        world.settle()?;
    }
}

#[derive(Clone, Debug)]
enum Step {
    Connect(OfferFacts),
    /// The decider takes what is there and decides with the snapshot of now …
    Decide(usize),
    /// … but its verdicts arrive later, the n-th first.
    Deliver(usize),
    Change(Edit),
    Release(usize),
}

#[derive(Clone, Debug)]
enum Edit {
    Workload(u8, Option<u8>),
    Policy(u8, Option<u8>),
    Route(u8, u8, Option<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    let edit = prop_oneof![
        (0u8..4, prop::option::of(0u8..3)).prop_map(|(ip, value)| Edit::Workload(ip, value)),
        (0u8..3, prop::option::of(0u8..4)).prop_map(|(workload, source)| Edit::Policy(workload, source)),
        (0u8..8, 28u8..=32, prop::option::of(0u8..3)).prop_map(|(ip, length, value)| Edit::Route(ip, length, value)),
    ];
    prop_oneof![
        5 => facts().prop_map(Step::Connect),
        3 => (1usize..5).prop_map(Step::Decide),
        3 => (0usize..4).prop_map(Step::Deliver),
        2 => edit.prop_map(Step::Change),
        1 => (0usize..20).prop_map(Step::Release),
    ]
}

fn facts() -> impl Strategy<Value = OfferFacts> {
    (0u8..8, 0u16..2, 0u8..4, 0u8..2, any::<bool>(), any::<bool>()).prop_map(|(dst, port, src, peer, pod, inbound)| {
        OfferFacts {
            pod: if pod { "one" } else { "two" }.into(),
            direction: if inbound { Direction::Inbound } else { Direction::Outbound },
            dst: ([10, 0, 0, dst], 80 + port).into(),
            src_ip: [10, 1, 0, src].into(),
            peer_identity: format!("peer{peer}").into(),
            authority: "".into(),
        }
    })
}

/// What a toy mesh knows.
#[derive(Clone, Default)]
struct Snapshot {
    version: u64,
    workloads: BTreeMap<u8, u8>,
    policies: BTreeMap<u8, u8>,
    routes: BTreeMap<(u8, u8), u8>,
}

impl Snapshot {
    fn apply(&mut self, edit: &Edit) -> Vec<Read> {
        self.version += 1;
        match edit {
            Edit::Workload(ip, value) => {
                set(&mut self.workloads, *ip, *value);
                vec![exact("workload", *ip)]
            }
            Edit::Policy(workload, source) => {
                set(&mut self.policies, *workload, *source);
                vec![exact("policy", *workload)]
            }
            Edit::Route(ip, length, value) => {
                set(&mut self.routes, (*ip, *length), *value);
                vec![Read { table: "route".into(), key: ReadKey::Prefix([10, 0, 0, *ip].into(), *length) }]
            }
        }
    }
}

fn set<K: Ord>(table: &mut BTreeMap<K, u8>, key: K, value: Option<u8>) {
    match value {
        Some(value) => table.insert(key, value),
        None => table.remove(&key),
    };
}

/// The toy decision: reads different fields and tables depending on what it finds.
struct Context<'a> {
    snapshot: &'a Snapshot,
    facts: &'a OfferFacts,
    reads: Vec<Read>,
    fields: u8,
}

impl Context<'_> {
    fn decide(mut self) -> Verdict {
        let because = self.because();
        let action = if because.starts_with("deny") { Action::Deny(401) } else { Action::Group(because.clone()) };
        Verdict {
            version: self.snapshot.version,
            action,
            because,
            objects: vec![],
            reads: self.reads,
            fields: self.fields,
            baggage: String::new(),
            forwarded_host: String::new(),
            labels: String::new(),
            log: String::new(),
            response_flags: "-".into(),
        }
    }

    fn because(&mut self) -> String {
        let dst = self.dst();
        let Some(workload) = self.workload(dst) else {
            return match self.route(dst) {
                Some(route) => format!("route {route}"),
                None => format!("pass {}", self.port()),
            };
        };
        let Some(denied) = self.policy(workload) else { return format!("allow {workload}") };
        if denied == 0 {
            return if self.peer() == "peer0" { "deny peer".into() } else { format!("allow {workload}") };
        }
        if self.src() == denied { "deny source".into() } else { format!("allow {workload}") }
    }

    fn workload(&mut self, ip: u8) -> Option<u8> {
        self.reads.push(exact("workload", ip));
        self.snapshot.workloads.get(&ip).copied()
    }

    fn policy(&mut self, workload: u8) -> Option<u8> {
        self.reads.push(exact("policy", workload));
        self.snapshot.policies.get(&workload).copied()
    }

    fn route(&mut self, ip: u8) -> Option<u8> {
        self.reads.push(Read { table: "route".into(), key: ReadKey::Prefix([10, 0, 0, ip].into(), 32) });
        let within = |(net, length): &(u8, u8)| u32::from(ip ^ net) >> (32 - length) == 0;
        let matching = self.snapshot.routes.iter().filter(|(key, _)| within(key));
        matching.max_by_key(|((net, length), _)| (*length, *net)).map(|(_, value)| *value)
    }

    fn dst(&mut self) -> u8 {
        self.fields |= field::DST_IP;
        last(self.facts.dst.ip())
    }

    fn port(&mut self) -> u16 {
        self.fields |= field::DST_PORT;
        self.facts.dst.port()
    }

    fn src(&mut self) -> u8 {
        self.fields |= field::SRC_IP;
        last(self.facts.src_ip)
    }

    fn peer(&mut self) -> String {
        self.fields |= field::PEER_IDENTITY;
        self.facts.peer_identity.to_string()
    }
}

fn last(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(ip) => ip.octets()[15],
    }
}

fn exact(table: &str, key: u8) -> Read {
    Read { table: table.into(), key: ReadKey::Exact(key.to_string()) }
}

/// The engine (what each connection was told last), the decider (verdicts on their way), and the truth.
struct World {
    table: FlowTable,
    snapshot: Snapshot,
    told: BTreeMap<u64, (OfferFacts, Option<Arc<Flow>>)>,
    on_the_way: Vec<(u64, Verdict)>,
    last_conn: u64,
}

impl World {
    fn new(limits: Limits) -> Self {
        Self {
            table: FlowTable::new(limits),
            snapshot: Snapshot::default(),
            told: BTreeMap::new(),
            on_the_way: Vec::new(),
            last_conn: 0,
        }
    }

    fn run(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Connect(facts) => {
                self.last_conn += 1;
                match self.table.lookup(&facts, self.last_conn, 0) {
                    Lookup::Hit(flow) => {
                        self.check(&facts, &flow)?;
                        self.told.insert(self.last_conn, (facts, Some(flow)));
                    }
                    Lookup::Asked => {
                        self.told.insert(self.last_conn, (facts, None));
                    }
                    Lookup::Full => prop_assert!(!self.table.has_room(&facts.pod)),
                }
            }
            Step::Decide(max) => {
                for offer in self.table.take_offers(max) {
                    self.on_the_way.push((offer.id, self.fresh(&offer.facts)));
                }
            }
            Step::Deliver(nth) => {
                if nth < self.on_the_way.len() {
                    let (id, verdict) = self.on_the_way.remove(nth);
                    let resolved = self.table.answer(id, verdict, 0);
                    self.tell(resolved)?;
                }
            }
            Step::Change(edit) => {
                let reads = self.snapshot.apply(&edit);
                let resolved = self.table.invalidate(self.snapshot.version, &reads, 0);
                self.tell(resolved)?;
            }
            Step::Release(nth) => {
                if let Some(conn) = self.told.keys().nth(nth).copied() {
                    self.told.remove(&conn);
                    self.table.release(conn);
                }
            }
        }
        self.check_sizes()
    }

    /// Lets everything that is under way arrive; then each connection was told the truth of now.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..20 {
            self.run(Step::Decide(100))?;
            while !self.on_the_way.is_empty() {
                self.run(Step::Deliver(0))?;
            }
        }
        prop_assert!(!self.table.has_offers());
        prop_assert_eq!(self.table.stats().pending, 0);
        prop_assert_eq!(self.table.stats().audit_mismatches, 0);
        for (facts, flow) in self.told.values() {
            self.check(facts, flow.as_ref().expect("was answered"))?;
        }
        for conn in std::mem::take(&mut self.told).into_keys() {
            self.table.release(conn);
        }
        prop_assert_eq!(self.table.entries.len(), self.table.stats().flows);
        prop_assert!(self.table.conns.is_empty());
        Ok(())
    }

    fn tell(&mut self, resolved: Vec<Resolved>) -> Result<(), TestCaseError> {
        for one in resolved {
            let (facts, flow) = self.told.get_mut(&one.conn).expect("is a connection");
            prop_assert_eq!(one.rejudge, flow.is_some());
            *flow = Some(one.flow.clone());
            let facts = facts.clone();
            self.check(&facts, &one.flow)?;
        }
        Ok(())
    }

    fn check(&self, facts: &OfferFacts, flow: &Flow) -> Result<(), TestCaseError> {
        let fresh = self.fresh(facts);
        prop_assert_eq!(&flow.verdict.because, &fresh.because);
        prop_assert_eq!(&flow.verdict.action, &fresh.action);
        Ok(())
    }

    fn check_sizes(&self) -> Result<(), TestCaseError> {
        let table = &self.table;
        prop_assert_eq!(table.stats().flows, table.entries.values().filter(|entry| entry.cached).count());
        for pod in table.pods.values() {
            prop_assert!(pod.cache.len() <= table.limits.max_flows_per_pod);
            prop_assert!(pod.asked <= table.limits.max_pending_per_pod);
        }
        Ok(())
    }

    fn fresh(&self, facts: &OfferFacts) -> Verdict {
        Context { snapshot: &self.snapshot, facts, reads: Vec::new(), fields: 0 }.decide()
    }
}
