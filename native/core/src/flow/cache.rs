//! One pod's cached flows: a tuple space. Each set of fields in use (a mask) is tried; the key holds just those fields.
use crate::api::{Direction, OfferFacts, field};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// The facts that count, others None.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    dst_ip: Option<IpAddr>,
    dst_port: Option<u16>,
    src_ip: Option<IpAddr>,
    peer_identity: Option<Arc<str>>,
    authority: Option<Arc<str>>,
}

impl Key {
    pub(super) fn masked(facts: &OfferFacts, fields: u8) -> Self {
        let counts = |bit| fields & bit != 0;
        Self {
            dst_ip: counts(field::DST_IP).then(|| facts.dst.ip()),
            dst_port: counts(field::DST_PORT).then(|| facts.dst.port()),
            src_ip: counts(field::SRC_IP).then_some(facts.src_ip),
            peer_identity: counts(field::PEER_IDENTITY).then(|| facts.peer_identity.clone()),
            authority: counts(field::AUTHORITY).then(|| facts.authority.clone()),
        }
    }

    pub(super) fn whole(facts: &OfferFacts) -> Self {
        Self::masked(facts, u8::MAX)
    }

    fn mask(&self) -> u8 {
        let bit = |present, bit| if present { bit } else { 0 };
        bit(self.dst_ip.is_some(), field::DST_IP)
            | bit(self.dst_port.is_some(), field::DST_PORT)
            | bit(self.src_ip.is_some(), field::SRC_IP)
            | bit(self.peer_identity.is_some(), field::PEER_IDENTITY)
            | bit(self.authority.is_some(), field::AUTHORITY)
    }
}

#[derive(Default)]
pub(super) struct Cache {
    flows: HashMap<(Direction, Key), Cached>,
    /// Masks in use and how many flows have each.
    masks: Vec<Mask>,
    /// Keys by the tick of their last use.
    used: BTreeMap<u64, (Direction, Key)>,
    tick: u64,
}

struct Cached {
    id: u64,
    tick: u64,
}

struct Mask {
    direction: Direction,
    fields: u8,
    flows: usize,
}

impl Cache {
    /// The flow that covers these facts; it is the most recently used now.
    pub(super) fn find(&mut self, facts: &OfferFacts) -> Option<u64> {
        for mask in self.masks.iter().filter(|mask| mask.direction == facts.direction) {
            let key = (facts.direction, Key::masked(facts, mask.fields));
            let Some(cached) = self.flows.get_mut(&key) else { continue };
            self.tick += 1;
            self.used.remove(&cached.tick);
            cached.tick = self.tick;
            self.used.insert(self.tick, key);
            return Some(cached.id);
        }
        None
    }

    /// Returns the flow that was under the same key.
    pub(super) fn insert(&mut self, direction: Direction, key: Key, id: u64) -> Option<u64> {
        let replaced = self.remove(direction, &key);
        let fields = key.mask();
        match self.masks.iter_mut().find(|mask| mask.direction == direction && mask.fields == fields) {
            Some(mask) => mask.flows += 1,
            None => self.masks.push(Mask { direction, fields, flows: 1 }),
        }
        self.tick += 1;
        self.used.insert(self.tick, (direction, key.clone()));
        self.flows.insert((direction, key), Cached { id, tick: self.tick });
        replaced
    }

    pub(super) fn remove(&mut self, direction: Direction, key: &Key) -> Option<u64> {
        let (key, cached) = self.flows.remove_entry(&(direction, key.clone()))?;
        self.used.remove(&cached.tick);
        let fields = key.1.mask();
        let at = self.masks.iter().position(|mask| mask.direction == direction && mask.fields == fields)?;
        self.masks[at].flows -= 1;
        if self.masks[at].flows == 0 {
            self.masks.swap_remove(at);
        }
        Some(cached.id)
    }

    pub(super) fn pop_least_recently_used(&mut self) -> Option<u64> {
        let (direction, key) = self.used.first_key_value()?.1.clone();
        self.remove(direction, &key)
    }

    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }
}
