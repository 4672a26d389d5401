//! Giving memory back, see memory.ts of the agent.
use napi_derive::napi;

#[napi(catch_unwind)]
pub fn release_memory() -> u32 {
    u32::try_from(meltemi_core::memory::release()).unwrap_or(u32::MAX)
}
