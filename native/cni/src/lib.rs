//! `meltemi-cni`: the last plugin of the node's CNI chain. It hands the runtime's call to the agent over a Unix socket
//! and lets the pod start only when the agent says that the pod is enrolled, or not to be captured.
//!
//! What the runtime gave as the result of the plugins before it is passed on as it is. See docs/cni.md.
pub mod agent;
pub mod answer;
pub mod call;
pub mod config;
pub mod failure;
pub mod verbs;
