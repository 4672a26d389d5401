//! Endpoint groups: edited in place, picked from per connection.
use crate::api::{Endpoint, EndpointGroup};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// What a pick comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pick {
    Endpoint(Arc<Endpoint>),
    /// No group of this id.
    Unknown,
    /// The group has no healthy endpoint.
    Empty,
    /// Each healthy endpoint was tried already.
    Exhausted,
}

#[derive(Default)]
pub struct Groups {
    groups: HashMap<String, Vec<Arc<Endpoint>>>,
    /// Endpoints that failed to connect, and until when (ms) they are avoided.
    set_aside: HashMap<Target, u64>,
}

/// What a connect attempt aims at: the address behind a tunnel, and the tunnel's end.
type Target = (SocketAddr, Option<SocketAddr>);

impl Groups {
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates the group or replaces its endpoints; an equal endpoint keeps its allocation.
    pub fn put(&mut self, group: EndpointGroup) {
        let mut former: HashMap<Target, Arc<Endpoint>> = HashMap::new();
        for endpoint in self.groups.remove(&group.id).unwrap_or_default() {
            former.insert(target(&endpoint), endpoint);
        }
        let keep = |new: Endpoint| match former.get(&target(&new)) {
            Some(old) if **old == new => old.clone(),
            _ => Arc::new(new),
        };
        let endpoints = group.endpoints.into_iter().map(keep).collect();
        self.groups.insert(group.id, endpoints);
    }

    pub fn remove(&mut self, id: &str) {
        self.groups.remove(id);
    }

    pub fn len(&self) -> usize {
        self.groups.len()
    }

    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// A weighted random endpoint of the lowest rank that has one which is healthy, untried and not set aside. When all
    /// that are left are set aside, one of those. `random` is any number, evenly distributed.
    pub fn pick(&self, id: &str, tried: &[Arc<Endpoint>], now_ms: u64, random: u64) -> Pick {
        let Some(endpoints) = self.groups.get(id) else { return Pick::Unknown };
        let healthy = || endpoints.iter().filter(|endpoint| endpoint.healthy);
        if healthy().next().is_none() {
            return Pick::Empty;
        }
        let untried = |endpoint: &&Arc<Endpoint>| !tried.iter().any(|other| target(other) == target(endpoint));
        let ready = |endpoint: &&Arc<Endpoint>| untried(endpoint) && !self.is_set_aside(endpoint, now_ms);
        let chosen =
            weighted(|| healthy().filter(ready), random).or_else(|| weighted(|| healthy().filter(untried), random));
        chosen.map_or(Pick::Exhausted, |endpoint| Pick::Endpoint(endpoint.clone()))
    }

    /// The endpoint failed to connect: it is avoided, in every group, until `until_ms`.
    pub fn set_aside(&mut self, endpoint: &Endpoint, until_ms: u64) {
        self.set_aside.insert(target(endpoint), until_ms);
    }

    /// A connection came about after all.
    pub fn reinstate(&mut self, endpoint: &Endpoint) {
        if !self.set_aside.is_empty() {
            self.set_aside.remove(&target(endpoint));
        }
    }

    /// Forgets what is no longer set aside. Call now and then.
    pub fn expire(&mut self, now_ms: u64) {
        self.set_aside.retain(|_, until_ms| *until_ms > now_ms);
    }

    fn is_set_aside(&self, endpoint: &Endpoint, now_ms: u64) -> bool {
        !self.set_aside.is_empty() && self.set_aside.get(&target(endpoint)).is_some_and(|until_ms| *until_ms > now_ms)
    }
}

/// Chooses within the lowest rank, by weight. The candidates are walked three times and never collected.
fn weighted<'a, I: Iterator<Item = &'a Arc<Endpoint>>>(
    candidates: impl Fn() -> I,
    random: u64,
) -> Option<&'a Arc<Endpoint>> {
    let rank = candidates().map(|endpoint| endpoint.rank).min()?;
    let in_rank = || candidates().filter(move |endpoint| endpoint.rank == rank);
    let total: u64 = in_rank().map(|endpoint| weight(endpoint)).sum();
    let mut left = random % total;
    in_rank().find(|endpoint| {
        let share = weight(endpoint);
        let hit = left < share;
        left = left.saturating_sub(share);
        hit
    })
}

fn weight(endpoint: &Endpoint) -> u64 {
    u64::from(endpoint.weight.max(1))
}

fn target(endpoint: &Endpoint) -> Target {
    (endpoint.addr, endpoint.tunnel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_the_lowest_rank_with_an_untried_healthy_endpoint() {
        let mut groups = Groups::new();
        groups.put(group([near("a"), Endpoint { healthy: false, ..near("b") }, far("c")]));
        for random in 0..8 {
            assert_eq!(id(groups.pick("g", &[], 0, random)), "a");
        }
        let a = endpoint(groups.pick("g", &[], 0, 0));
        assert_eq!(id(groups.pick("g", std::slice::from_ref(&a), 0, 0)), "c");
        let c = endpoint(groups.pick("g", std::slice::from_ref(&a), 0, 0));
        assert_eq!(groups.pick("g", &[a, c], 0, 0), Pick::Exhausted);
    }

    #[test]
    fn tells_an_unknown_group_from_an_empty_one() {
        let mut groups = Groups::new();
        groups.put(group([Endpoint { healthy: false, ..near("a") }]));
        assert_eq!(groups.pick("other", &[], 0, 0), Pick::Unknown);
        assert_eq!(groups.pick("g", &[], 0, 0), Pick::Empty);
        groups.remove("g");
        assert_eq!(groups.pick("g", &[], 0, 0), Pick::Unknown);
    }

    #[test]
    fn picks_by_weight() {
        let mut groups = Groups::new();
        groups.put(group([Endpoint { weight: 3, ..near("a") }, near("b")]));
        let hits = (0..400).filter(|random| id(groups.pick("g", &[], 0, *random)) == "a").count();
        assert_eq!(hits, 300);
    }

    #[test]
    fn avoids_what_failed_unless_nothing_else_is_left() {
        let mut groups = Groups::new();
        groups.put(group([near("a"), far("b")]));
        let a = endpoint(groups.pick("g", &[], 0, 0));
        groups.set_aside(&a, 100);
        assert_eq!(id(groups.pick("g", &[], 50, 0)), "b");
        assert_eq!(id(groups.pick("g", &[], 100, 0)), "a");
        let b = endpoint(groups.pick("g", &[], 50, 0));
        groups.set_aside(&b, 100);
        assert_eq!(id(groups.pick("g", &[], 50, 0)), "a");
        groups.reinstate(&b);
        assert_eq!(id(groups.pick("g", &[], 50, 0)), "b");
        groups.expire(100);
        assert!(groups.set_aside.is_empty());
    }

    #[test]
    fn edits_in_place_and_keeps_equal_endpoints() {
        let mut groups = Groups::new();
        groups.put(group([near("a"), near("b")]));
        let before = endpoint(groups.pick("g", &[], 0, 0));
        groups.put(group([near("a"), far("c")]));
        assert!(Arc::ptr_eq(&before, &endpoint(groups.pick("g", &[], 0, 0))));
        assert_eq!(groups.len(), 1);
    }

    fn group<const N: usize>(endpoints: [Endpoint; N]) -> EndpointGroup {
        EndpointGroup { id: "g".into(), endpoints: endpoints.into() }
    }

    fn near(id: &str) -> Endpoint {
        Endpoint {
            id: id.into(),
            addr: SocketAddr::from(([10, 0, 0, id.as_bytes()[0]], 80)),
            tunnel: None,
            authority: String::new(),
            identities: vec![],
            weight: 1,
            rank: 0,
            healthy: true,
            labels: String::new(),
            log: String::new(),
        }
    }

    fn far(id: &str) -> Endpoint {
        Endpoint { rank: 1, ..near(id) }
    }

    fn endpoint(pick: Pick) -> Arc<Endpoint> {
        let Pick::Endpoint(endpoint) = pick else { panic!("{pick:?}") };
        endpoint
    }

    fn id(pick: Pick) -> String {
        endpoint(pick).id.clone()
    }
}
