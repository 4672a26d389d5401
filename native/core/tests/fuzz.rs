//! The fuzz targets of native/fuzz in short: their corpora, and a bounded number of mutations of them, always the same.
#[path = "../../fuzz/replay.rs"]
mod replay;
#[path = "../../fuzz/targets.rs"]
mod targets;

use replay::replay;

#[test]
fn header_blocks() {
    replay("hpack", targets::hpack);
}

#[test]
fn frames() {
    replay("frames", targets::frames);
}

#[test]
fn requests() {
    replay("requests", targets::requests);
}

#[test]
fn records() {
    replay("records", targets::records);
}

#[test]
fn post_handshake_messages() {
    replay("post_handshake", targets::post_handshake);
}

#[test]
fn authorities() {
    replay("authority", targets::authority);
}

#[test]
fn certificates() {
    replay("certificate", targets::certificate);
}
