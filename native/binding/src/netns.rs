//! Sockets and policy routing inside a pod's network namespace, see netns.ts.
use crate::input::ip;
use crate::output::{EngineFdResult, EngineResult};
use meltemi_core::netns_sockets;
use meltemi_core::netns_watch;
use meltemi_core::routing::{self, Routing};
use napi::bindgen_prelude::*;
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi_derive::napi;
use std::net::SocketAddr;
use std::os::fd::{IntoRawFd, OwnedFd};

#[napi(object, object_to_js = false)]
pub struct EngineRouting {
    pub mark: u32,
    pub mask: u32,
    pub table: u32,
    pub priority: u32,
    pub ipv6: bool,
}

#[napi(catch_unwind)]
pub fn open_udp(netns: String, address: String, port: u16, mark: u32) -> EngineFdResult {
    opened("UDP socket on", &netns, &address, port, |target| netns_sockets::open_udp(&netns, target, mark))
}

#[napi(catch_unwind)]
pub fn open_tcp_listener(netns: String, address: String, port: u16) -> EngineFdResult {
    opened("TCP listener on", &netns, &address, port, |target| netns_sockets::open_tcp_listener(&netns, target))
}

#[napi(catch_unwind)]
pub fn open_tcp_connection(netns: String, address: String, port: u16, mark: u32) -> EngineFdResult {
    opened("TCP connection to", &netns, &address, port, |target| {
        netns_sockets::open_tcp_connection(&netns, target, mark)
    })
}

#[napi(catch_unwind)]
pub fn add_routing(netns: String, routing: EngineRouting) -> EngineResult {
    routed("adding", &netns, &routing, routing::add(&netns, &parse(&routing)))
}

#[napi(catch_unwind)]
pub fn remove_routing(netns: String, routing: EngineRouting) -> EngineResult {
    routed("removing", &netns, &routing, routing::remove(&netns, &parse(&routing)))
}

/// `missing` says whether something had to be added.
#[napi(object, object_from_js = false)]
pub struct EngineRoutingResult {
    pub ok: bool,
    pub error: String,
    pub missing: bool,
}

#[napi(catch_unwind)]
pub fn ensure_routing(netns: String, routing: EngineRouting) -> EngineRoutingResult {
    let result = routing::ensure(&netns, &parse(&routing));
    let missing = *result.as_ref().unwrap_or(&false);
    let EngineResult { ok, error } = routed("looking after", &netns, &routing, result.map(drop));
    EngineRoutingResult { ok, error, missing }
}

/// See `NetnsWatch` in netns.ts.
#[napi]
pub struct NetnsWatch {
    watch: Option<netns_watch::NetnsWatch>,
}

/// Weak: it does not keep the event loop alive.
type Changed = ThreadsafeFunction<String, (), String, Status, false, true>;

#[napi]
impl NetnsWatch {
    #[napi(constructor, catch_unwind)]
    pub fn new(changed: Function<String, ()>) -> Result<Self> {
        let changed: Changed = changed.build_threadsafe_function().weak::<true>().build()?;
        let tell = move |key| {
            changed.call(key, ThreadsafeFunctionCallMode::NonBlocking);
        };
        let watch = netns_watch::NetnsWatch::new(tell).map_err(|why| Error::from_reason(why.to_string()))?;
        Ok(Self { watch: Some(watch) })
    }

    #[napi(catch_unwind)]
    pub fn add(&self, key: String, netns: String) -> EngineResult {
        let added = self.watch.as_ref().map_or(Ok(()), |watch| watch.add(&key, &netns));
        added.map_err(|why| format!("changes in the network namespace {netns} cannot be heard of: {why}")).into()
    }

    #[napi(catch_unwind)]
    pub fn remove(&self, key: String) {
        if let Some(watch) = &self.watch {
            watch.remove(&key);
        }
    }

    #[napi(catch_unwind)]
    pub fn close(&mut self) {
        self.watch = None;
    }
}

/// `DEVICE:INODE`, or empty when the path is no file.
#[napi(catch_unwind)]
pub fn netns_id(path: String) -> String {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).map_or(String::new(), |meta| format!("{}:{}", meta.dev(), meta.ino()))
}

fn opened(
    what: &str,
    netns: &str,
    address: &str,
    port: u16,
    open: impl FnOnce(SocketAddr) -> std::io::Result<OwnedFd>,
) -> EngineFdResult {
    let describe = |why: String| format!("{what} {address} port {port} in the network namespace {netns}: {why}");
    let result = ip(address).and_then(|ip| open(SocketAddr::new(ip, port)).map_err(|why| why.to_string()));
    match result {
        Ok(fd) => EngineFdResult { ok: true, error: String::new(), fd: fd.into_raw_fd() },
        Err(why) => EngineFdResult { ok: false, error: describe(why), fd: -1 },
    }
}

fn routed(what: &str, netns: &str, routing: &EngineRouting, result: std::io::Result<()>) -> EngineResult {
    let table = routing.table;
    let describe = |why| format!("{what} rule and route of table {table} in the network namespace {netns}: {why}");
    result.map_err(describe).into()
}

fn parse(routing: &EngineRouting) -> Routing {
    let EngineRouting { mark, mask, table, priority, ipv6 } = *routing;
    Routing { mark, mask, table, priority, ipv6 }
}
