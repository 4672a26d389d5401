use super::*;
use crate::api::{Action, ReadKey, field};

#[test]
fn a_miss_asks_once_and_the_answer_is_cached_under_its_fields() {
    let mut table = table();
    assert!(matches!(table.lookup(&facts(1, 80), 1, 0), Lookup::Asked));
    assert!(matches!(table.lookup(&facts(1, 80), 2, 0), Lookup::Asked));
    let offers = table.take_offers(10);
    assert_eq!((offers.len(), offers[0].rejudge), (1, false));
    assert!(!table.has_offers());
    let resolved = table.answer(offers[0].id, verdict(0, field::DST_IP, &[]), 0);
    assert_eq!(resolved.iter().map(|one| (one.conn, one.rejudge)).collect::<Vec<_>>(), [(1, false), (2, false)]);
    assert!(matches!(table.lookup(&facts(1, 443), 3, 0), Lookup::Hit(_)), "the port was not looked at");
    assert!(matches!(table.lookup(&facts(2, 80), 4, 0), Lookup::Asked));
    assert!(table.answer(offers[0].id, verdict(0, 0, &[]), 0).is_empty(), "answered already");
    assert_eq!((table.stats().hits, table.stats().misses, table.stats().flows), (1, 3, 1));
}

#[test]
fn a_pod_and_a_direction_have_flows_of_their_own() {
    let mut table = table();
    settle(&mut table, &facts(1, 80), 1, verdict(0, 0, &[]));
    assert!(matches!(table.lookup(&facts(9, 9), 2, 0), Lookup::Hit(_)));
    let inbound = OfferFacts { direction: Direction::Inbound, ..facts(1, 80) };
    assert!(matches!(table.lookup(&inbound, 3, 0), Lookup::Asked));
    let other = OfferFacts { pod: "other".into(), ..facts(1, 80) };
    assert!(matches!(table.lookup(&other, 4, 0), Lookup::Asked));
}

#[test]
fn a_change_drops_just_the_flows_that_read_it() {
    let mut table = table();
    settle(&mut table, &facts(1, 80), 1, verdict(0, field::DST_IP, &[exact("a")]));
    settle(&mut table, &facts(2, 80), 2, verdict(0, field::DST_IP, &[exact("b"), prefix("10.1.2.3", 32)]));
    table.invalidate(1, &[exact("c"), prefix("10.2.0.0", 16)], 0);
    assert_eq!(table.stats().flows, 2);
    table.invalidate(2, &[exact("a")], 0);
    assert!(matches!(table.lookup(&facts(2, 80), 3, 0), Lookup::Hit(_)));
    assert!(matches!(table.lookup(&facts(1, 80), 4, 0), Lookup::Asked));
    table.invalidate(3, &[prefix("10.0.0.0", 8)], 0);
    assert_eq!(table.stats().flows, 0);
}

#[test]
fn a_flow_as_new_as_the_change_stays() {
    let mut table = table();
    settle(&mut table, &facts(1, 80), 1, verdict(5, field::DST_IP, &[exact("a")]));
    table.invalidate(5, &[exact("a")], 0);
    assert_eq!(table.stats().flows, 1);
    table.invalidate(6, &[exact("a")], 0);
    assert_eq!(table.stats().flows, 0);
}

#[test]
fn a_stale_verdict_is_refused_and_asked_again() {
    let mut table = table();
    table.lookup(&facts(1, 80), 1, 0);
    let first = table.take_offers(1).remove(0);
    table.invalidate(7, &[exact("a")], 0);
    assert!(table.answer(first.id, verdict(6, 0, &[exact("a")]), 0).is_empty());
    let second = table.take_offers(1).remove(0);
    assert_ne!(first.id, second.id);
    assert_eq!(second.facts, first.facts);
    assert_eq!(table.answer(second.id, verdict(7, 0, &[exact("a")]), 0).len(), 1);
    assert_eq!(table.stats().refused_stale, 1);
}

#[test]
fn a_verdict_older_than_the_log_reaches_is_refused() {
    let mut table = table();
    table.log = InvalidationLog::new(2);
    for version in 1..=4 {
        table.invalidate(version, &[exact("x")], 0);
    }
    table.lookup(&facts(1, 80), 1, 0);
    let offer = table.take_offers(1).remove(0);
    assert!(table.answer(offer.id, verdict(1, 0, &[exact("unrelated")]), 0).is_empty());
    let offer = table.take_offers(1).remove(0);
    assert_eq!(table.answer(offer.id, verdict(2, 0, &[exact("unrelated")]), 0).len(), 1);
}

#[test]
fn live_connections_under_a_dropped_flow_are_judged_again_once_per_question() {
    let mut table = table();
    settle(&mut table, &facts(1, 80), 1, verdict(0, field::DST_IP, &[exact("a")]));
    table.lookup(&facts(1, 80), 2, 0);
    table.lookup(&facts(1, 443), 3, 0);
    assert!(table.invalidate(1, &[exact("a")], 0).is_empty());
    let offers = table.take_offers(10);
    assert_eq!(offers.len(), 2);
    assert!(offers.iter().all(|offer| offer.rejudge));
    let mut conns = Vec::new();
    for offer in offers {
        let denied = Verdict { action: Action::Deny(401), ..verdict(1, 0, &[]) };
        for one in table.answer(offer.id, denied, 0) {
            assert!(one.rejudge && matches!(one.flow.verdict.action, Action::Deny(_)));
            conns.push(one.conn);
        }
    }
    conns.sort_unstable();
    assert_eq!(conns, [1, 2, 3]);
}

#[test]
fn an_evicted_flow_still_has_its_connections_judged_again() {
    let mut table = FlowTable::new(Limits { max_flows_per_pod: 1, ..LIMITS });
    settle(&mut table, &facts(1, 80), 1, verdict(0, field::DST_IP, &[exact("a")]));
    settle(&mut table, &facts(2, 80), 2, verdict(0, field::DST_IP, &[]));
    assert_eq!((table.stats().flows, table.stats().evicted), (1, 1));
    table.invalidate(1, &[exact("a")], 0);
    assert_eq!(table.take_offers(10).len(), 1);
    table.release(1);
    table.release(2);
    assert_eq!(table.entries.len(), 1, "the cached one");
}

#[test]
fn the_least_recently_used_flow_goes_first() {
    let mut table = FlowTable::new(Limits { max_flows_per_pod: 2, ..LIMITS });
    for host in [1, 2] {
        settle(&mut table, &facts(host, 80), u64::from(host), verdict(0, field::DST_IP, &[]));
    }
    table.lookup(&facts(1, 80), 10, 0);
    settle(&mut table, &facts(3, 80), 3, verdict(0, field::DST_IP, &[]));
    assert!(matches!(table.lookup(&facts(1, 80), 11, 0), Lookup::Hit(_)));
    assert!(matches!(table.lookup(&facts(2, 80), 12, 0), Lookup::Asked));
}

#[test]
fn pending_offers_have_a_quota_per_pod() {
    let mut table = FlowTable::new(Limits { max_pending_per_pod: 1, ..LIMITS });
    assert!(matches!(table.lookup(&facts(1, 80), 1, 0), Lookup::Asked));
    assert!(!table.has_room("pod"));
    assert!(matches!(table.lookup(&facts(2, 80), 2, 0), Lookup::Full));
    assert!(matches!(table.lookup(&facts(1, 80), 3, 0), Lookup::Asked), "joins what is asked already");
    let other = OfferFacts { pod: "other".into(), ..facts(2, 80) };
    assert!(matches!(table.lookup(&other, 4, 0), Lookup::Asked));
    let offer = table.take_offers(1).remove(0);
    table.answer(offer.id, verdict(0, field::DST_IP, &[]), 0);
    assert!(table.has_room("pod"));
    assert_eq!(table.stats().quota_full, 1);
}

#[test]
fn a_new_connection_that_joins_a_judgement_counts_for_the_quota_too() {
    let mut table = FlowTable::new(Limits { max_pending_per_pod: 1, ..LIMITS });
    settle(&mut table, &facts(1, 80), 1, verdict(0, field::DST_IP, &[exact("a")]));
    table.invalidate(1, &[exact("a")], 0);
    assert!(matches!(table.lookup(&facts(1, 80), 2, 0), Lookup::Asked));
    assert!(matches!(table.lookup(&facts(2, 80), 3, 0), Lookup::Full));
    let offer = table.take_offers(1).remove(0);
    table.answer(offer.id, verdict(0, field::DST_IP, &[exact("a")]), 0);
    assert!(matches!(table.lookup(&facts(2, 80), 3, 0), Lookup::Full), "the stale verdict changed nothing");
    let offer = table.take_offers(1).remove(0);
    assert_eq!(table.answer(offer.id, verdict(1, field::DST_IP, &[exact("a")]), 0).len(), 2);
    assert!(matches!(table.lookup(&facts(2, 80), 3, 0), Lookup::Asked));
}

#[test]
fn who_waits_too_long_is_named_once_and_a_live_one_is_asked_again() {
    let mut table = table();
    settle(&mut table, &facts(1, 80), 1, verdict(0, field::DST_IP, &[exact("a")]));
    table.invalidate(1, &[exact("a")], 0);
    table.lookup(&facts(2, 80), 2, 50);
    assert_eq!(table.take_offers(10).len(), 2);
    assert!(table.expire(99).is_empty());
    assert!(table.expire(100).is_empty(), "the live one stays");
    assert_eq!(table.take_offers(10).len(), 1);
    assert_eq!(table.expire(150), [2]);
    assert!(table.expire(1000).is_empty());
    assert!(table.has_room("pod"));
}

#[test]
fn a_connection_that_ends_while_waiting_is_not_resolved() {
    let mut table = table();
    table.lookup(&facts(1, 80), 1, 0);
    table.release(1);
    assert!(!table.has_offers());
    table.lookup(&facts(1, 80), 2, 0);
    let offer = table.take_offers(1).remove(0);
    table.release(2);
    assert!(table.answer(offer.id, verdict(0, 0, &[]), 0).is_empty());
    assert!(matches!(table.lookup(&facts(1, 80), 3, 0), Lookup::Hit(_)), "the answer is of use");
}

#[test]
fn an_audit_finds_a_cached_verdict_that_is_wrong() {
    let mut table = FlowTable::new(Limits { audit_one_in: 2, ..LIMITS });
    settle(&mut table, &facts(1, 80), 1, verdict(0, field::DST_IP, &[]));
    table.lookup(&facts(1, 80), 2, 0);
    assert!(!table.has_offers());
    table.lookup(&facts(1, 80), 3, 0);
    let offer = table.take_offers(1).remove(0);
    assert!(table.answer(offer.id, verdict(0, field::DST_IP, &[]), 0).is_empty());
    assert_eq!((table.stats().audits, table.stats().audit_mismatches), (1, 0));
    table.lookup(&facts(1, 80), 4, 0);
    table.lookup(&facts(1, 80), 5, 0);
    let offer = table.take_offers(1).remove(0);
    let mut resolved: Vec<u64> = table
        .answer(offer.id, Verdict { because: "other".into(), ..verdict(0, field::DST_IP | field::DST_PORT, &[]) }, 0)
        .iter()
        .map(|one| one.conn)
        .collect();
    resolved.sort_unstable();
    assert_eq!(resolved, [1, 2, 3, 4, 5], "all under the wrong one have the right one now");
    assert_eq!((table.stats().audit_mismatches, table.take_notices().len()), (1, 1));
}

#[test]
fn a_pod_that_goes_takes_everything_along() {
    let mut table = table();
    settle(&mut table, &facts(1, 80), 1, verdict(0, field::DST_IP, &[exact("a")]));
    table.lookup(&facts(2, 80), 2, 0);
    table.remove_pod("pod");
    assert!(table.take_offers(10).is_empty());
    assert!(table.invalidate(1, &[exact("a")], 0).is_empty());
    assert_eq!((table.stats().flows, table.stats().pending, table.entries.len(), table.conns.len()), (0, 0, 0, 0));
}

#[test]
fn a_handed_over_connection_is_judged() {
    let mut table = table();
    assert!(table.adopt(&facts(1, 80), 1, 0).is_none());
    let offer = table.take_offers(1).remove(0);
    assert!(offer.rejudge);
    assert!(table.answer(offer.id, verdict(0, 0, &[]), 0)[0].rejudge);
    assert!(table.adopt(&facts(2, 80), 2, 0).is_some_and(|one| one.rejudge));
}

#[test]
fn new_connections_do_not_starve_the_judged_again() {
    let mut table = table();
    for host in 0..4 {
        table.adopt(&facts(host, 80), u64::from(host), 0);
        table.lookup(&facts(host, 443), 10 + u64::from(host), 0);
    }
    let offers = table.take_offers(4);
    assert_eq!(offers.iter().filter(|offer| offer.rejudge).count(), 1);
    assert_eq!(table.take_offers(100).len(), 4);
}

fn table() -> FlowTable {
    FlowTable::new(LIMITS)
}

fn settle(table: &mut FlowTable, facts: &OfferFacts, conn: u64, verdict: Verdict) {
    assert!(matches!(table.lookup(facts, conn, 0), Lookup::Asked));
    let offer = table.take_offers(1).remove(0);
    assert_eq!(table.answer(offer.id, verdict, 0).len(), 1);
}

fn facts(host: u8, port: u16) -> OfferFacts {
    OfferFacts {
        pod: "pod".into(),
        direction: Direction::Outbound,
        dst: ([10, 0, 0, host], port).into(),
        src_ip: [10, 9, 9, 9].into(),
        peer_identity: "".into(),
        authority: "".into(),
    }
}

fn verdict(version: u64, fields: u8, reads: &[Read]) -> Verdict {
    Verdict {
        version,
        action: Action::Group("g".into()),
        because: "test".into(),
        objects: vec![],
        reads: reads.to_vec(),
        fields,
        baggage: String::new(),
        forwarded_host: String::new(),
        labels: String::new(),
        log: String::new(),
        response_flags: "-".into(),
    }
}

fn exact(key: &str) -> Read {
    Read { table: "t".into(), key: ReadKey::Exact(key.into()) }
}

fn prefix(ip: &str, length: u8) -> Read {
    Read { table: "p".into(), key: ReadKey::Prefix(ip.parse().unwrap(), length) }
}

const LIMITS: Limits =
    Limits { max_flows_per_pod: 100, max_pending_per_pod: 100, audit_one_in: 0, decision_timeout_ms: 100 };
