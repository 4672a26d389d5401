//! Sockets as every part wants them: no delay, the chosen congestion control, enough descriptors.
use crate::Options;
use std::io;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

pub fn connect(options: &Options) -> io::Result<TcpStream> {
    let target = options.required("connect")?;
    let stream = TcpStream::connect(target)?;
    tune(&stream, options.congestion());
    Ok(stream)
}

/// With SO_REUSEPORT, so that each thread can have a listener of its own.
pub fn listen(address: &str, congestion: &str) -> io::Result<TcpListener> {
    let address =
        address.to_socket_addrs()?.next().ok_or_else(|| io::Error::other(format!("{address} is no address")))?;
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let fd = check(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    let listener = unsafe { TcpListener::from_raw_fd(fd) };
    set(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    set(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    set_congestion(fd, congestion);
    bind(fd, &address)?;
    check(unsafe { libc::listen(fd, 4096) })?;
    Ok(listener)
}

pub fn tune(stream: &TcpStream, congestion: &str) {
    let _ = stream.set_nodelay(true);
    set_congestion(stream.as_raw_fd(), congestion);
}

pub fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
    }
}

pub fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn set(fd: RawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let length = size_of::<i32>() as libc::socklen_t;
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), length) }).map(|_| ())
}

fn set_congestion(fd: RawFd, name: &str) {
    if name.is_empty() {
        return;
    }
    let length = name.len() as libc::socklen_t;
    unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_CONGESTION, name.as_ptr().cast(), length) };
}

fn bind(fd: RawFd, address: &std::net::SocketAddr) -> io::Result<()> {
    match address {
        std::net::SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as u16,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            check(unsafe { libc::bind(fd, (&raw const raw).cast(), length) })?;
        }
        std::net::SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as u16,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            let length = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            check(unsafe { libc::bind(fd, (&raw const raw).cast(), length) })?;
        }
    }
    Ok(())
}
