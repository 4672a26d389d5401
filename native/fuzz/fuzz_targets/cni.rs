#![no_main]
#[path = "../targets_cni.rs"]
mod targets_cni;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets_cni::cni(data));
