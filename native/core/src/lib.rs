//! The switch of a node agent: accepts, matches a flow table, encrypts, tunnels, copies and counts. On a miss it asks
//! once (an [`api::Offer`]) and caches the answer exactly as widely as the answer allows.
pub mod api;
pub mod flow;
pub mod group;
pub mod h2;
pub mod hpack;
pub mod keys;
pub mod net;
pub mod netns_sockets;
pub mod record;
pub mod report;
pub mod routing;
pub mod spiffe;
pub mod stats;
pub mod tls;
