//! What must hold for whatever a container runtime, the plugins before us or an agent give the CNI plugin;
//! `cni/tests/fuzz.rs` replays the corpus with the same function.
use std::net::IpAddr;

use meltemi_cni::answer::{self, Unreadable};
use meltemi_cni::call::Call;
use meltemi_cni::config::{Config, version_of};

/// The first byte says which of them is meant.
pub fn cni(data: &[u8]) {
    let Some((kind, text)) = data.split_first() else { return };
    match kind % 3 {
        0 => configuration(text),
        1 => answer(text),
        _ => arguments(text),
    }
}

/// What is a configuration has a version that is spoken and short waits, and passes the former result on as it is.
fn configuration(text: &[u8]) {
    let version = version_of(text);
    let Ok(config) = Config::parse(text) else { return };
    assert_eq!(version.as_deref(), Some(config.cni_version.as_str()));
    assert!(config.away().as_secs() <= 200 && config.answer().as_secs() <= 200);
    let Ok(previous) = config.previous_result() else {
        assert!(config.pod_ips().is_err());
        return;
    };
    assert!(text.windows(previous.len().max(1)).any(|piece| piece == previous.as_bytes()));
    let addresses = config.pod_ips().unwrap_or_default();
    assert!(addresses.len() <= 16 && addresses.iter().all(|address| address.parse::<IpAddr>().is_ok()));
}

/// A whole answer stays what it is however much follows, and its beginnings are short or the same; never another.
fn answer(text: &[u8]) {
    let Ok(whole) = answer::parse(text) else { return };
    for cut in [text.len() / 2, text.len() - text.len() / 4, text.len() - 1] {
        let piece = answer::parse(&text[..cut]);
        assert!(piece == Err(Unreadable::Short) || piece.as_ref() == Ok(&whole), "{piece:?}");
    }
    let more = [text, b"more"].concat();
    assert!(more.len() > answer::MAX_ANSWER_BYTES || answer::parse(&more) == Ok(whole));
}

/// A pod has a namespace and a name, and no value reaches over the end of its own.
fn arguments(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    let call = Call::from_environment(|name| (name == "CNI_ARGS").then(|| text.to_owned()));
    for value in [&call.namespace, &call.name, &call.uid, &call.infra_container_id] {
        assert!(!value.contains(';') && value.trim() == value && text.contains(value.as_str()));
    }
    assert_eq!(call.is_pod(), !call.namespace.is_empty() && !call.name.is_empty());
    assert_eq!(call.subject().starts_with("pod "), call.is_pod());
}
