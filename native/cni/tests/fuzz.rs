//! The fuzz target of native/fuzz for this plugin in short.
#[path = "../../fuzz/replay.rs"]
mod replay;
#[path = "../../fuzz/targets_cni.rs"]
mod targets_cni;

#[test]
fn configurations_answers_and_arguments() {
    replay::replay("cni", targets_cni::cni);
}
