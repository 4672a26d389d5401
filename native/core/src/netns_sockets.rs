//! Plain sockets inside a pod's network namespace, for someone else to use: DNS mostly.
use crate::net::{Netns, in_netns, to_raw};
use crate::shared::lock;
use libc::{c_int, c_void, sockaddr, socklen_t};
use std::io::{Error, Result};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex};

/// A bound, non-blocking UDP socket, or that of a predecessor. `mark` 0 sets none. Another process of ours may bind the
/// same port.
pub fn open_udp(netns: &str, address: SocketAddr, mark: u32) -> Result<OwnedFd> {
    shared("udp", netns, address, || {
        let fd = open(address, libc::SOCK_DGRAM, mark)?;
        // With any port, sharing would let two queries under way get the same one.
        if address.port() != 0 {
            set(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        }
        bind(fd.as_raw_fd(), address)?;
        Ok(fd)
    })
}

/// A listening, non-blocking TCP socket, or that of a predecessor. The port may be shared as with UDP.
pub fn open_tcp_listener(netns: &str, address: SocketAddr) -> Result<OwnedFd> {
    shared("tcp", netns, address, || {
        let fd = open(address, libc::SOCK_STREAM, 0)?;
        set(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        set(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        bind(fd.as_raw_fd(), address)?;
        check(unsafe { libc::listen(fd.as_raw_fd(), BACKLOG) })?;
        Ok(fd)
    })
}

/// A non-blocking TCP socket whose connect is under way or done.
pub fn open_tcp_connection(netns: &str, address: SocketAddr, mark: u32) -> Result<OwnedFd> {
    in_netns(netns, || {
        let fd = open(address, libc::SOCK_STREAM, mark)?;
        let (raw, length) = to_raw(address);
        match check(unsafe { libc::connect(fd.as_raw_fd(), (&raw const raw).cast::<sockaddr>(), length) }) {
            Err(why) if why.raw_os_error() != Some(libc::EINPROGRESS) => Err(why),
            _ => Ok(fd),
        }
    })
}

/// The sockets with a known port that are still open, for a successor: a datagram that waits in one of them is read by
/// whoever comes first, and lost with neither.
pub(crate) fn open_sockets() -> Vec<(String, OwnedFd)> {
    let mut opened = lock(&OPENED);
    opened.retain(|socket| socket.duplicate().is_some());
    opened.iter().filter_map(|socket| Some((socket.key.clone(), socket.duplicate()?))).collect()
}

/// A successor has them: they stay open here, to be asked for again if it dies, even when somebody else closes them.
pub(crate) fn keep() {
    let open = open_sockets().into_iter().map(|(key, fd)| (key, Arc::new(fd)));
    *lock(&KEPT) = open.collect();
}

/// The namespace is left: nothing of it is kept.
pub(crate) fn forget_netns(netns: &str) {
    lock(&KEPT).retain(|(key, _)| key.split(' ').nth(1) != Some(netns));
}

/// A predecessor's socket, until it is asked for.
pub(crate) fn inherit(key: String, fd: Arc<OwnedFd>) {
    lock(&INHERITED).push((key, fd));
}

pub(crate) fn forget_inherited() {
    lock(&INHERITED).clear();
}

fn shared(
    kind: &str,
    netns: &str,
    address: SocketAddr,
    make: impl FnOnce() -> Result<OwnedFd> + Send,
) -> Result<OwnedFd> {
    if address.port() == 0 {
        return in_netns(netns, make);
    }
    let key = format!("{kind} {} {address}", Netns::open(netns)?.id());
    let fd = match take_inherited(&key) {
        Some(fd) => fd.try_clone()?,
        None => in_netns(netns, make)?,
    };
    let mut opened = lock(&OPENED);
    opened.retain(|socket| socket.duplicate().is_some());
    opened.extend(socket_number(fd.as_raw_fd()).map(|number| Opened { key, fd: fd.as_raw_fd(), number }));
    Ok(fd)
}

fn take_inherited(key: &str) -> Option<Arc<OwnedFd>> {
    [&KEPT, &INHERITED].into_iter().find_map(|list| {
        let mut list = lock(list);
        let at = list.iter().position(|(other, _)| other == key)?;
        Some(list.swap_remove(at).1)
    })
}

/// A socket that somebody else closes: its descriptor may be another's by now, which its number tells.
struct Opened {
    key: String,
    fd: RawFd,
    number: u64,
}

impl Opened {
    fn duplicate(&self) -> Option<OwnedFd> {
        let copy = unsafe { libc::fcntl(self.fd, libc::F_DUPFD_CLOEXEC, 0) };
        if copy < 0 {
            return None;
        }
        let copy = unsafe { OwnedFd::from_raw_fd(copy) };
        (socket_number(copy.as_raw_fd()) == Some(self.number)).then_some(copy)
    }
}

/// No other socket of this machine has it.
fn socket_number(fd: RawFd) -> Option<u64> {
    let mut meta: libc::stat = unsafe { std::mem::zeroed() };
    let result = unsafe { libc::fstat(fd, &raw mut meta) };
    (result == 0 && meta.st_mode & libc::S_IFMT == libc::S_IFSOCK).then_some(meta.st_ino)
}

fn open(address: SocketAddr, kind: c_int, mark: u32) -> Result<OwnedFd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
    check(fd)?;
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    if mark != 0 {
        set(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MARK, mark.cast_signed())?;
    }
    if address.is_ipv6() {
        set(fd.as_raw_fd(), libc::SOL_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    Ok(fd)
}

fn bind(fd: RawFd, address: SocketAddr) -> Result<()> {
    let (raw, length) = to_raw(address);
    check(unsafe { libc::bind(fd, (&raw const raw).cast::<sockaddr>(), length) })
}

fn set(fd: RawFd, level: c_int, name: c_int, value: c_int) -> Result<()> {
    let size = size_of::<c_int>() as socklen_t;
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast::<c_void>(), size) })
}

fn check(result: c_int) -> Result<()> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

static OPENED: Mutex<Vec<Opened>> = Mutex::new(vec![]);
static INHERITED: Mutex<Vec<(String, Arc<OwnedFd>)>> = Mutex::new(vec![]);
static KEPT: Mutex<Vec<(String, Arc<OwnedFd>)>> = Mutex::new(vec![]);
const BACKLOG: c_int = 128;
