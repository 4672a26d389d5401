//! Sockets: what libc is needed for. Addresses are normalised: an IPv4-mapped IPv6 address never leaves this file.
use libc::{c_int, c_void, sockaddr, sockaddr_in, sockaddr_in6, sockaddr_storage, socklen_t};
use std::io::{Error, Result};
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// What a dialled socket should be like.
#[derive(Clone, Copy, Debug)]
pub struct Dial<'a> {
    pub target: SocketAddr,
    /// A source address to keep, possibly foreign. Best effort: without it when the kernel refuses.
    pub source: Option<IpAddr>,
    /// Which port of `source` to use.
    pub ports: SourcePorts,
    pub mark: u32,
    pub congestion_control: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourcePorts {
    /// The kernel's choice.
    Any,
    /// Below those that clients use, first by this random number. A client that is imitated may have a connection to
    /// the same address from the very port that the kernel would choose; connection tracking would take the two for one.
    BelowClients(u64),
}

/// A listener on all addresses of the current network namespace: `[::]` for both families, or v4 where v6 is off.
pub fn listen(port: u16, backlog: i32, congestion_control: &str) -> Result<OwnedFd> {
    let everywhere = [SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))];
    listen_on(everywhere[0], backlog, congestion_control).or_else(|first| {
        match listen_on(everywhere[1], backlog, congestion_control) {
            Err(_) if first.raw_os_error() == Some(libc::EADDRINUSE) => Err(first),
            other => other,
        }
    })
}

/// Starts a non-blocking connect. `Ok` also while it is under way.
pub fn dial(options: &Dial) -> Result<OwnedFd> {
    if let (SourcePorts::BelowClients(random), Some(_)) = (options.ports, options.source) {
        for attempt in 0..LOW_PORT_ATTEMPTS {
            let port = LOW_PORTS.start + (random.wrapping_add(attempt * LOW_PORT_STEP) % LOW_PORTS.len() as u64) as u16;
            match dial_from(options, port) {
                // Somebody listens there, or the same four-tuple has just been in use.
                Err(why) if matches!(why.raw_os_error(), Some(libc::EADDRINUSE | libc::EADDRNOTAVAIL)) => {}
                other => return other,
            }
        }
    }
    dial_from(options, 0)
}

/// From this port of the source, or from any (0).
fn dial_from(options: &Dial, port: u16) -> Result<OwnedFd> {
    let fd = stream_socket(options.target)?;
    let raw = fd.as_raw_fd();
    if options.mark != 0 {
        set_option(raw, libc::SOL_SOCKET, libc::SO_MARK, options.mark as c_int)?;
    }
    tune(raw, options.congestion_control);
    if let Some(source) = options.source.filter(|source| source.is_ipv4() == options.target.is_ipv4()) {
        let bound = bind_source(raw, SocketAddr::new(source, port));
        if port != 0 {
            bound?;
        }
    }
    let (address, length) = to_raw(options.target);
    let result = unsafe { libc::connect(raw, (&raw const address).cast::<sockaddr>(), length) };
    match result {
        0 => Ok(fd),
        _ if errno() == libc::EINPROGRESS => Ok(fd),
        _ => Err(Error::last_os_error()),
    }
}

/// One connection from the backlog, non-blocking, or None when there is none (or it is gone already).
pub fn accept(listener: RawFd) -> Result<Option<(OwnedFd, SocketAddr)>> {
    let mut address: sockaddr_storage = unsafe { zeroed() };
    let mut length = size_of::<sockaddr_storage>() as socklen_t;
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let fd = unsafe { libc::accept4(listener, (&raw mut address).cast::<sockaddr>(), &raw mut length, flags) };
    if fd >= 0 {
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        return Ok(from_raw(&address).map(|peer| (fd, peer)));
    }
    match errno() {
        libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM => Err(Error::last_os_error()),
        _ => Ok(None),
    }
}

/// Where a redirected connection wanted to go; for one that was not redirected, the address it reached.
pub fn original_destination(fd: RawFd, peer: SocketAddr) -> Option<SocketAddr> {
    let (level, option) =
        if peer.is_ipv4() { (libc::SOL_IP, SO_ORIGINAL_DST) } else { (libc::SOL_IPV6, SO_ORIGINAL_DST) };
    let mut address: sockaddr_storage = unsafe { zeroed() };
    let mut length = size_of::<sockaddr_storage>() as socklen_t;
    let result = unsafe { libc::getsockopt(fd, level, option, (&raw mut address).cast::<c_void>(), &raw mut length) };
    if result == 0 { from_raw(&address) } else { local_address(fd) }
}

pub fn local_address(fd: RawFd) -> Option<SocketAddr> {
    let mut address: sockaddr_storage = unsafe { zeroed() };
    let mut length = size_of::<sockaddr_storage>() as socklen_t;
    let result = unsafe { libc::getsockname(fd, (&raw mut address).cast::<sockaddr>(), &raw mut length) };
    if result == 0 { from_raw(&address) } else { None }
}

/// The pending error of a socket, for example why a connect failed; 0 when there is none.
pub fn take_error(fd: RawFd) -> i32 {
    let mut value: c_int = 0;
    let mut length = size_of::<c_int>() as socklen_t;
    unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut value).cast::<c_void>(), &raw mut length)
    };
    value
}

/// Makes the coming close send a RST.
pub fn close_with_reset(fd: RawFd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let value = (&raw const linger).cast::<c_void>();
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, value, size_of::<libc::linger>() as socklen_t) };
}

pub fn shutdown_write(fd: RawFd) {
    unsafe { libc::shutdown(fd, libc::SHUT_WR) };
}

pub fn send(fd: RawFd, bytes: &[u8]) -> isize {
    unsafe { libc::send(fd, bytes.as_ptr().cast::<c_void>(), bytes.len(), libc::MSG_NOSIGNAL) }
}

pub fn recv(fd: RawFd, buffer: &mut [u8]) -> isize {
    unsafe { libc::recv(fd, buffer.as_mut_ptr().cast::<c_void>(), buffer.len(), 0) }
}

pub fn errno() -> i32 {
    unsafe { *libc::__errno_location() }
}

/// True for results of send and recv that mean "later", not "never".
pub fn would_block() -> bool {
    matches!(errno(), libc::EAGAIN | libc::EINTR)
}

/// A network namespace, held open.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    device: u64,
    inode: u64,
}

impl Netns {
    pub fn open(path: &str) -> Result<Self> {
        let file = std::fs::File::open(path)?;
        let meta = std::fs::metadata(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        use std::os::unix::fs::MetadataExt;
        Ok(Self { device: meta.dev(), inode: meta.ino(), fd: file.into() })
    }

    /// Device and inode: what tells it apart.
    pub fn id(&self) -> String {
        format!("{}:{}", self.device, self.inode)
    }

    /// Moves this thread there. The thread should be the engine's own.
    fn enter(&self) -> Result<()> {
        match unsafe { libc::setns(self.fd.as_raw_fd(), libc::CLONE_NEWNET) } {
            0 => Ok(()),
            _ => Err(Error::last_os_error()),
        }
    }

    fn is(&self, other: &Netns) -> bool {
        self.device == other.device && self.inode == other.inode
    }
}

/// Runs `work` inside the namespace at `path` on a thread made for it, so that no other thread ever moves.
pub fn in_netns<T: Send>(path: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let netns = Netns::open(path)?;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).stack_size(256 << 10);
        let handle = thread.spawn_scoped(scope, || netns.enter().and_then(|()| work()))?;
        handle.join().unwrap_or_else(|_| Err(Error::other("the thread inside the network namespace panicked")))
    })
}

/// Which namespace this thread is in; moving to the same again costs nothing.
pub struct ThreadNetns {
    home: Arc<Netns>,
    current: Arc<Netns>,
}

impl ThreadNetns {
    /// This thread's own namespace is its home.
    pub fn here() -> Result<Self> {
        let home = Arc::new(Netns::open("/proc/thread-self/ns/net")?);
        Ok(Self { current: home.clone(), home })
    }

    pub fn enter(&mut self, netns: &Arc<Netns>) -> Result<()> {
        if Arc::ptr_eq(&self.current, netns) || self.current.is(netns) {
            return Ok(());
        }
        netns.enter()?;
        self.current = netns.clone();
        Ok(())
    }

    /// Leaves a namespace whose pod is gone: a thread inside would keep it alive.
    pub fn leave(&mut self, netns: &Netns) -> Result<()> {
        let home = self.home.clone();
        if self.current.is(netns) { self.enter(&home) } else { Ok(()) }
    }
}

pub fn to_raw(address: SocketAddr) -> (sockaddr_storage, socklen_t) {
    let mut storage: sockaddr_storage = unsafe { zeroed() };
    match address {
        SocketAddr::V4(v4) => {
            let raw = unsafe { &mut *(&raw mut storage).cast::<sockaddr_in>() };
            raw.sin_family = libc::AF_INET as u16;
            raw.sin_port = v4.port().to_be();
            raw.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
            (storage, size_of::<sockaddr_in>() as socklen_t)
        }
        SocketAddr::V6(v6) => {
            let raw = unsafe { &mut *(&raw mut storage).cast::<sockaddr_in6>() };
            raw.sin6_family = libc::AF_INET6 as u16;
            raw.sin6_port = v6.port().to_be();
            raw.sin6_addr.s6_addr = v6.ip().octets();
            raw.sin6_scope_id = v6.scope_id();
            (storage, size_of::<sockaddr_in6>() as socklen_t)
        }
    }
}

fn from_raw(storage: &sockaddr_storage) -> Option<SocketAddr> {
    match c_int::from(storage.ss_family) {
        libc::AF_INET => {
            let raw = unsafe { &*(&raw const *storage).cast::<sockaddr_in>() };
            let ip = Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into())
        }
        libc::AF_INET6 => {
            let raw = unsafe { &*(&raw const *storage).cast::<sockaddr_in6>() };
            let (ip, port) = (Ipv6Addr::from(raw.sin6_addr.s6_addr), u16::from_be(raw.sin6_port));
            match ip.to_ipv4_mapped() {
                Some(v4) => Some(SocketAddrV4::new(v4, port).into()),
                None => Some(SocketAddrV6::new(ip, port, 0, raw.sin6_scope_id).into()),
            }
        }
        _ => None,
    }
}

fn listen_on(address: SocketAddr, backlog: i32, congestion_control: &str) -> Result<OwnedFd> {
    let fd = stream_socket(address)?;
    let raw = fd.as_raw_fd();
    set_option(raw, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if address.is_ipv6() {
        set_option(raw, libc::SOL_IPV6, libc::IPV6_V6ONLY, 0)?;
        set_option(raw, libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1)?;
    }
    // Set on a v6 socket too: it covers v4 clients of a dual-stack listener.
    let v4_transparent = set_option(raw, libc::SOL_IP, libc::IP_TRANSPARENT, 1);
    if address.is_ipv4() {
        v4_transparent?;
    }
    tune(raw, congestion_control);
    let (storage, length) = to_raw(address);
    if unsafe { libc::bind(raw, (&raw const storage).cast::<sockaddr>(), length) } != 0 {
        return Err(Error::last_os_error());
    }
    if unsafe { libc::listen(raw, backlog) } != 0 {
        return Err(Error::last_os_error());
    }
    Ok(fd)
}

/// No delay, keepalive, congestion control. Accepted sockets inherit all of it from their listener.
fn tune(fd: RawFd, congestion_control: &str) {
    let _ = set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
    let _ = set_option(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
    let _ = set_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, KEEPALIVE_SECONDS);
    let _ = set_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, KEEPALIVE_SECONDS);
    let _ = set_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, KEEPALIVE_PROBES);
    if !congestion_control.is_empty() {
        let (name, length) = (congestion_control.as_ptr().cast::<c_void>(), congestion_control.len() as socklen_t);
        unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_CONGESTION, name, length) };
    }
}

fn bind_source(fd: RawFd, source: SocketAddr) -> Result<()> {
    let (level, transparent) = match source {
        SocketAddr::V4(_) => (libc::SOL_IP, libc::IP_TRANSPARENT),
        SocketAddr::V6(_) => (libc::SOL_IPV6, libc::IPV6_TRANSPARENT),
    };
    let _ = set_option(fd, level, transparent, 1);
    // Four-tuples count and not two-tuples: a port left to the kernel is chosen at connect, a given one may be shared.
    let _ = match source.port() {
        0 => set_option(fd, libc::SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1),
        _ => set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1),
    };
    let (storage, length) = to_raw(source);
    let result = unsafe { libc::bind(fd, (&raw const storage).cast::<sockaddr>(), length) };
    if result == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

fn stream_socket(address: SocketAddr) -> Result<OwnedFd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
    if fd < 0 { Err(Error::last_os_error()) } else { Ok(unsafe { OwnedFd::from_raw_fd(fd) }) }
}

fn set_option(fd: RawFd, level: c_int, name: c_int, value: c_int) -> Result<()> {
    let result = unsafe {
        libc::setsockopt(fd, level, name, (&raw const value).cast::<c_void>(), size_of::<c_int>() as socklen_t)
    };
    if result == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

const SO_ORIGINAL_DST: c_int = 80;
const IP_BIND_ADDRESS_NO_PORT: c_int = 24;
/// Linux gives clients 32768 and up, unless told otherwise.
const LOW_PORTS: std::ops::Range<u16> = 10_240..32_768;
const LOW_PORT_ATTEMPTS: u64 = 4;
const LOW_PORT_STEP: u64 = 7919;
const KEEPALIVE_SECONDS: c_int = 180;
const KEEPALIVE_PROBES: c_int = 9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_round_trip() {
        for text in ["10.0.0.1:80", "[fd00::1]:443"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(from_raw(&to_raw(address).0), Some(address));
        }
    }

    #[test]
    fn a_mapped_address_becomes_plain_v4() {
        let (raw, _) = to_raw("[::ffff:10.0.0.1]:80".parse().unwrap());
        assert_eq!(from_raw(&raw), Some("10.0.0.1:80".parse().unwrap()));
    }
}
