//! Runs engines with fixed verdicts, for benchmarks by hand. As root:
//!
//!   pair world up|down NAME             two namespaces NAMEa and NAMEb, redirected into the engines
//!   pair ca DIR                         a certificate authority for both sides
//!   pair a|b NAME DIR [THREADS] [SPIN_US] [CONGESTION_CONTROL]   the engine of one side
//!
//! All that leaves side `a` is tunnelled to the same port of 10.77.0.2. `meltemi-load` makes the load: its server inside
//! NAMEb, its clients inside NAMEa, towards 10.78.0.1.
#[path = "../tests/support/mod.rs"]
mod support;
use meltemi_core::api::*;
use meltemi_core::engine::Engine;
use meltemi_core::keys::Key;
use rcgen::{CertificateParams, IsCa, Issuer, KeyPair, SanType};
use std::path::Path;
use support::*;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["world", "up", name] => {
            let world = world(name);
            world.build();
            std::mem::forget(world);
        }
        ["world", "down", name] => drop(world(name)),
        ["ca", directory] => authority(Path::new(directory)),
        ["a" | "b", name, directory, ref rest @ ..] => side(arguments[0], &world(name), Path::new(directory), rest),
        _ => eprintln!("usage: pair world up|down NAME | ca DIR | a|b NAME DIR [THREADS] [SPIN_US] [CC]"),
    }
}

fn world(name: &str) -> World {
    World { a: format!("{name}a"), b: format!("{name}b") }
}

fn authority(directory: &Path) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "pair");
    let root = params.self_signed(&key).unwrap();
    std::fs::create_dir_all(directory).unwrap();
    std::fs::write(directory.join("root.der"), root.der()).unwrap();
    let issuer = Issuer::new(params, key);
    for (name, identity) in [("a", A), ("b", B)] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(identity.try_into().unwrap())];
        let leaf = params.signed_by(&key, &issuer).unwrap();
        std::fs::write(directory.join(format!("{name}.der")), leaf.der()).unwrap();
        std::fs::write(directory.join(format!("{name}.key")), key.serialize_der()).unwrap();
    }
}

fn side(side: &str, world: &World, directory: &Path, rest: &[&str]) {
    let mut options = EngineOptions { audit_one_in: 1000, ..EngineOptions::default() };
    for (number, text) in rest.iter().enumerate() {
        match number {
            0 => options.threads = text.parse().unwrap(),
            1 => options.spin_us = text.parse().unwrap(),
            _ => options.congestion_control = text.to_string(),
        }
    }
    let (bell, rings) = std::sync::mpsc::channel();
    let engine = Engine::new(options, Box::new(move || _ = bell.send(()))).unwrap();
    let read = |name: &str| std::fs::read(directory.join(name)).unwrap();
    let anchor = TrustAnchor { trust_domain: "cluster.local".into(), roots: vec![read("root.der")] };
    engine.set_trust(&[anchor]).unwrap();
    let key = read(&format!("{side}.key"));
    let key = Key::from_der(&key.as_slice().try_into().unwrap()).unwrap();
    engine.install(if side == "a" { A } else { B }, vec![read(&format!("{side}.der"))], &key).unwrap();
    engine.add_pod(&world.pod(side.chars().next().unwrap())).unwrap();
    let mut lines = 0;
    while rings.recv().is_ok() {
        let work = engine.take(256);
        lines += work.access_log.iter().filter(|byte| **byte == b'\n').count();
        for notice in work.notices {
            eprintln!("{notice:?}");
        }
        let verdicts = work.offers.iter().map(|offer| {
            eprintln!("offer {offer:?} after {lines} lines");
            let verdict = if side == "b" {
                to_app(offer)
            } else {
                let port = offer.facts.dst.port();
                let id = format!("port-{port}");
                engine.put_groups(vec![group(&id, vec![endpoint(port)])]);
                verdict(Action::Group(id))
            };
            (offer.id, verdict)
        });
        engine.answer(verdicts.collect());
    }
}
