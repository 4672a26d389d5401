//! Plain sockets inside a pod's network namespace, for someone else to use: DNS mostly.
use crate::net::{in_netns, to_raw};
use libc::{c_int, c_void, sockaddr, socklen_t};
use std::io::{Error, Result};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// A bound, non-blocking UDP socket. `mark` 0 sets none. Another process of ours may bind the same port, so that a
/// successor can take over.
pub fn open_udp(netns: &str, address: SocketAddr, mark: u32) -> Result<OwnedFd> {
    in_netns(netns, || {
        let fd = open(address, libc::SOCK_DGRAM, mark)?;
        // With any port, sharing would let two queries under way get the same one.
        if address.port() != 0 {
            set(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        }
        bind(fd.as_raw_fd(), address)?;
        Ok(fd)
    })
}

/// A listening, non-blocking TCP socket. The port may be shared as with UDP.
pub fn open_tcp_listener(netns: &str, address: SocketAddr) -> Result<OwnedFd> {
    in_netns(netns, || {
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

const BACKLOG: c_int = 128;
