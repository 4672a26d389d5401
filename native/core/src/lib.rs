//! The switch of a node agent: accepts, matches a flow table, encrypts, tunnels, copies and counts. On a miss it asks
//! once (an [`api::Offer`]) and caches the answer exactly as widely as the answer allows.
pub mod api;
mod conn;
pub mod engine;
pub mod flow;
pub mod group;
pub mod h2;
mod handover;
pub mod hpack;
mod inbound;
pub mod keys;
pub mod net;
pub mod netns_sockets;
mod outbound;
mod pool;
pub mod record;
mod relay;
pub mod report;
pub mod request;
pub mod routing;
mod shared;
mod slab;
pub mod spiffe;
mod stage;
pub mod stats;
pub mod tls;
mod tunnel;
mod worker;
