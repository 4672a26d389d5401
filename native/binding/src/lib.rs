//! The thin border between Node and the engine: values are checked and converted here, nothing is decided. A panic
//! becomes a JavaScript error and never crosses.
// Exports are registered in a real build only, so that under `cargo test` nothing seems to use them.
#![cfg_attr(test, allow(dead_code))]
mod background;
mod engine;
mod input;
mod memory;
mod netns;
mod output;
