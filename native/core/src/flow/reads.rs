//! Who read what, and what has changed lately.
use crate::api::{Read, ReadKey, Verdict};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::IpAddr;

/// Flow ids by what they read.
#[derive(Default)]
pub(super) struct Readers {
    exact: HashMap<Read, HashSet<u64>>,
    /// Per table, by the address that was looked up.
    prefix: HashMap<String, BTreeMap<IpAddr, HashSet<u64>>>,
}

impl Readers {
    pub(super) fn add(&mut self, id: u64, reads: &[Read]) {
        for read in reads {
            let flows = match read.key {
                ReadKey::Exact(_) => self.exact.entry(read.clone()).or_default(),
                ReadKey::Prefix(ip, _) => self.prefix.entry(read.table.clone()).or_default().entry(ip).or_default(),
            };
            flows.insert(id);
        }
    }

    pub(super) fn remove(&mut self, id: u64, reads: &[Read]) {
        for read in reads {
            match read.key {
                ReadKey::Exact(_) => {
                    let Some(flows) = self.exact.get_mut(read) else { continue };
                    flows.remove(&id);
                    if flows.is_empty() {
                        self.exact.remove(read);
                    }
                }
                ReadKey::Prefix(ip, _) => {
                    let Some(table) = self.prefix.get_mut(&read.table) else { continue };
                    let Some(flows) = table.get_mut(&ip) else { continue };
                    flows.remove(&id);
                    if flows.is_empty() {
                        table.remove(&ip);
                    }
                    if table.is_empty() {
                        self.prefix.remove(&read.table);
                    }
                }
            }
        }
    }

    pub(super) fn of(&self, changed: &[Read]) -> HashSet<u64> {
        let mut found = HashSet::new();
        for read in changed {
            match read.key {
                ReadKey::Exact(_) => found.extend(self.exact.get(read).into_iter().flatten()),
                ReadKey::Prefix(ip, length) => {
                    let Some(table) = self.prefix.get(&read.table) else { continue };
                    let (first, last) = range(ip, length);
                    found.extend(table.range(first..=last).flat_map(|(_, flows)| flows));
                }
            }
        }
        found
    }
}

/// The last invalidations, so that a verdict made before one of them is known as stale. What it no longer reaches back
/// to counts as changed.
pub(super) struct InvalidationLog {
    records: VecDeque<(u64, Vec<Read>)>,
    reads: usize,
    max_reads: usize,
    /// Highest version of a forgotten record.
    forgotten: u64,
}

impl InvalidationLog {
    pub(super) fn new(max_reads: usize) -> Self {
        Self { records: VecDeque::new(), reads: 0, max_reads, forgotten: 0 }
    }

    pub(super) fn push(&mut self, version: u64, reads: &[Read]) {
        if reads.is_empty() {
            return;
        }
        self.reads += reads.len();
        self.records.push_back((version, reads.to_vec()));
        while self.reads > self.max_reads {
            let Some((version, reads)) = self.records.pop_front() else { break };
            self.reads -= reads.len();
            self.forgotten = self.forgotten.max(version);
        }
    }

    /// True when something the verdict read has changed, or may have, since its version.
    pub(super) fn refuses(&self, verdict: &Verdict) -> bool {
        if verdict.reads.is_empty() {
            return false;
        }
        if verdict.version < self.forgotten {
            return true;
        }
        let newer = self.records.iter().rev().filter(|(version, _)| *version > verdict.version);
        let mut changed = newer.flat_map(|(_, reads)| reads).peekable();
        if changed.peek().is_none() {
            return false;
        }
        let mut own = Readers::default();
        own.add(0, &verdict.reads);
        changed.any(|read| !own.of(std::slice::from_ref(read)).is_empty())
    }
}

/// First and last address of a prefix. A length beyond the family's is the address alone.
fn range(ip: IpAddr, length: u8) -> (IpAddr, IpAddr) {
    match ip {
        IpAddr::V4(ip) => {
            let host = u32::MAX.checked_shr(length.into()).unwrap_or(0);
            let bits = u32::from(ip);
            (IpAddr::V4((bits & !host).into()), IpAddr::V4((bits | host).into()))
        }
        IpAddr::V6(ip) => {
            let host = u128::MAX.checked_shr(length.into()).unwrap_or(0);
            let bits = u128::from(ip);
            (IpAddr::V6((bits & !host).into()), IpAddr::V6((bits | host).into()))
        }
    }
}
