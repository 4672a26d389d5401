//! Tunnels that new connections may share: those of the same pod, between the same identities and addresses.
use crate::api::Endpoint;
use crate::shared::Pod;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What a tunnel was made for. Two connections may share one only if all of it is equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PoolKey {
    pub pod: Arc<str>,
    pub identity: Arc<str>,
    /// Identities of which the peer had to present one.
    pub peers: Vec<String>,
    pub source: IpAddr,
    pub target: SocketAddr,
}

impl PoolKey {
    pub fn new(pod: &Pod, source: IpAddr, endpoint: &Endpoint, target: SocketAddr) -> Self {
        let (identity, peers) = (pod.identity.clone(), endpoint.identities.clone());
        Self { pod: pod.uid.clone(), identity, peers, source, target }
    }

    pub fn is_for(&self, pod: &Pod, source: IpAddr, endpoint: &Endpoint, target: SocketAddr) -> bool {
        self.target == target
            && self.source == source
            && self.pod == pod.uid
            && self.identity == pod.identity
            && self.peers == endpoint.identities
    }

    fn hash(&self) -> u64 {
        hash(&self.pod, self.source, self.target)
    }
}

/// Tunnels by a hash of their key; whoever looks compares the key itself.
#[derive(Default)]
pub(crate) struct Pool {
    tunnels: HashMap<u64, Vec<u32>>,
}

impl Pool {
    pub fn add(&mut self, key: &PoolKey, tunnel: u32) {
        self.tunnels.entry(key.hash()).or_default().push(tunnel);
    }

    pub fn remove(&mut self, key: &PoolKey, tunnel: u32) {
        let Some(list) = self.tunnels.get_mut(&key.hash()) else { return };
        list.retain(|other| *other != tunnel);
        if list.is_empty() {
            self.tunnels.remove(&key.hash());
        }
    }

    pub fn candidates(&self, pod: &Pod, source: IpAddr, target: SocketAddr) -> &[u32] {
        self.tunnels.get(&hash(&pod.uid, source, target)).map_or(&[], |list| list)
    }
}

fn hash(pod: &str, source: IpAddr, target: SocketAddr) -> u64 {
    let mut hasher = DefaultHasher::new();
    (pod, source, target).hash(&mut hasher);
    hasher.finish()
}
