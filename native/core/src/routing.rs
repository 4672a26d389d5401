//! Policy routing inside a pod: what `ip rule` and `ip route` would do, by netlink.
use crate::net::in_netns;
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Packets with `mark`/`mask` are looked up in `table`, where everything is local: that is what makes a transparent
/// socket receive packets for foreign addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routing {
    pub mark: u32,
    pub mask: u32,
    pub table: u32,
    pub priority: u32,
    pub ipv6: bool,
}

/// Adds rule and route, for v4 and if asked v6. What is there already stays.
pub fn add(netns: &str, routing: &Routing) -> Result<()> {
    in_netns(netns, || {
        let mut netlink = Netlink::open()?;
        for family in families(routing) {
            let create = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
            accept(netlink.request(libc::RTM_NEWRULE, create, &rule(family, routing)), &[libc::EEXIST])?;
            let replace = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
            accept(netlink.request(libc::RTM_NEWROUTE, replace, &route(family, routing)?), &[libc::EEXIST])?;
        }
        Ok(())
    })
}

/// Adds what of it is missing, and leaves alone what is there. True: something was missing.
pub fn ensure(netns: &str, routing: &Routing) -> Result<bool> {
    in_netns(netns, || {
        let mut netlink = Netlink::open()?;
        let mut missing = false;
        for family in families(routing) {
            let create = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
            missing |= created(netlink.request(libc::RTM_NEWRULE, create, &rule(family, routing)))?;
            missing |= created(netlink.request(libc::RTM_NEWROUTE, create, &route(family, routing)?))?;
        }
        Ok(missing)
    })
}

/// Removes them. What is not there is no error.
pub fn remove(netns: &str, routing: &Routing) -> Result<()> {
    in_netns(netns, || {
        let mut netlink = Netlink::open()?;
        for family in families(routing) {
            let gone = [libc::ENOENT, libc::ESRCH, libc::EAFNOSUPPORT];
            accept(netlink.request(libc::RTM_DELRULE, 0, &rule(family, routing)), &gone)?;
            accept(netlink.request(libc::RTM_DELROUTE, 0, &route(family, routing)?), &gone)?;
        }
        Ok(())
    })
}

fn families(routing: &Routing) -> impl Iterator<Item = u8> {
    let both = [libc::AF_INET as u8, libc::AF_INET6 as u8];
    both.into_iter().take(if routing.ipv6 { 2 } else { 1 })
}

fn created(result: Result<()>) -> Result<bool> {
    match result {
        Err(why) if why.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        other => other.map(|()| true),
    }
}

fn accept(result: Result<()>, codes: &[i32]) -> Result<()> {
    match result {
        Err(why) if why.raw_os_error().is_some_and(|code| codes.contains(&code)) => Ok(()),
        other => other,
    }
}

/// `fib_rule_hdr` and attributes.
fn rule(family: u8, routing: &Routing) -> Vec<u8> {
    let mut message = vec![family, 0, 0, 0, short_table(routing), 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0];
    push_attribute(&mut message, FRA_PRIORITY, routing.priority);
    push_attribute(&mut message, FRA_FWMARK, routing.mark);
    push_attribute(&mut message, FRA_FWMASK, routing.mask);
    push_attribute(&mut message, FRA_TABLE, routing.table);
    message
}

/// `rtmsg` and attributes of `local default dev lo`.
fn route(family: u8, routing: &Routing) -> Result<Vec<u8>> {
    let lo = unsafe { libc::if_nametoindex(c"lo".as_ptr()) };
    if lo == 0 {
        return Err(Error::last_os_error());
    }
    let (protocol, scope, kind) = (libc::RTPROT_STATIC, libc::RT_SCOPE_HOST, libc::RTN_LOCAL);
    let mut message = vec![family, 0, 0, 0, short_table(routing), protocol, scope, kind, 0, 0, 0, 0];
    push_attribute(&mut message, libc::RTA_TABLE, routing.table);
    push_attribute(&mut message, libc::RTA_OIF, lo);
    Ok(message)
}

/// Tables above 255 are told by attribute only.
fn short_table(routing: &Routing) -> u8 {
    u8::try_from(routing.table).unwrap_or(libc::RT_TABLE_UNSPEC)
}

fn push_attribute(message: &mut Vec<u8>, kind: u16, value: u32) {
    message.extend_from_slice(&8u16.to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&value.to_ne_bytes());
}

struct Netlink {
    fd: OwnedFd,
    sequence: u32,
}

impl Netlink {
    fn open() -> Result<Self> {
        let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) };
        if fd < 0 {
            return Err(Error::last_os_error());
        }
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) }, sequence: 0 })
    }

    /// Sends one message and waits for its acknowledgement, which the kernel gives at once.
    fn request(&mut self, kind: u16, flags: i32, body: &[u8]) -> Result<()> {
        self.sequence += 1;
        let length = (HEADER + body.len()) as u32;
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags) as u16;
        let mut message = Vec::with_capacity(length as usize);
        message.extend_from_slice(&length.to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&flags.to_ne_bytes());
        message.extend_from_slice(&self.sequence.to_ne_bytes());
        message.extend_from_slice(&0u32.to_ne_bytes());
        message.extend_from_slice(body);
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
        if sent < 0 {
            return Err(Error::last_os_error());
        }
        let mut reply = [0u8; 4096];
        let received = unsafe { libc::recv(self.fd.as_raw_fd(), reply.as_mut_ptr().cast(), reply.len(), 0) };
        if received < 0 {
            return Err(Error::last_os_error());
        }
        acknowledgement(&reply[..received.unsigned_abs()])
    }
}

fn acknowledgement(reply: &[u8]) -> Result<()> {
    let kind = reply.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let code = reply.get(HEADER..HEADER + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) => Err(Error::from_raw_os_error(-code)),
        _ => Err(Error::other("netlink did not acknowledge")),
    }
}

const HEADER: usize = 16;
const NLMSG_ERROR: u16 = libc::NLMSG_ERROR as u16;
const FR_ACT_TO_TBL: u8 = 1;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns_sockets::{open_tcp_connection, open_tcp_listener, open_udp};
    use std::process::Command;

    #[test]
    fn adds_and_removes_twice_without_error() {
        in_own_netns(|path| {
            for ipv6 in [false, true] {
                let routing = Routing { mark: 0x111, mask: 0xfff, table: 100, priority: 32764, ipv6 };
                for _ in 0..2 {
                    add(path, &routing).unwrap();
                }
                assert!(ip("-4 rule").contains("32764:\tfrom all fwmark 0x111/0xfff lookup 100"), "{}", ip("-4 rule"));
                assert_eq!(ip("-4 rule").matches("0x111").count(), 1);
                assert_eq!(ip("-6 rule").matches("0x111").count(), usize::from(ipv6));
                assert!(ip("-4 route show table 100").starts_with("local default dev lo"));
                assert_eq!(ip("-6 route show table 100").starts_with("local default dev lo"), ipv6);
                assert!(!ensure(path, &routing).unwrap(), "nothing was missing");
                ip("rule del pref 32764");
                assert!(ensure(path, &routing).unwrap());
                ip("route flush table 100");
                assert!(ensure(path, &routing).unwrap());
                assert!(!ensure(path, &routing).unwrap(), "it is back");
                for _ in 0..2 {
                    remove(path, &routing).unwrap();
                }
                assert_eq!(ip("-4 rule").matches("0x111").count() + ip("-6 rule").matches("0x111").count(), 0);
                assert!(!ip("-4 route show table 100").contains("local"));
            }
        });
    }

    #[test]
    fn opens_sockets_that_reach_each_other_inside() {
        in_own_netns(|path| {
            let address = "127.0.0.1:15053".parse().unwrap();
            let listener = std::net::TcpListener::from(open_tcp_listener(path, address).unwrap());
            let stream = std::net::TcpStream::from(open_tcp_connection(path, address, 0x539).unwrap());
            let (_, peer) = listener.accept().unwrap();
            assert_eq!(stream.local_addr().unwrap(), peer);
            let one = std::net::UdpSocket::from(open_udp(path, address, 0x539).unwrap());
            open_udp(path, address, 0).expect("a successor may bind the same port");
            let any = std::net::UdpSocket::from(open_udp(path, "[::1]:0".parse().unwrap(), 0).unwrap());
            assert_ne!(any.local_addr().unwrap().port(), 0);
            assert_eq!(one.local_addr().unwrap(), address);
            assert!(open_udp(path, "10.1.2.3:53".parse().unwrap(), 0).is_err(), "no such address there");
        });
    }

    #[test]
    fn a_path_that_is_no_namespace_is_an_error() {
        let routing = Routing { mark: 1, mask: 1, table: 100, priority: 1, ipv6: false };
        assert!(add("/nonexistent/ns", &routing).is_err());
        assert!(add("/proc/self/status", &routing).is_err());
    }

    /// Runs `work` with the path of a fresh namespace, in a thread that lives there. Does nothing without the right to.
    fn in_own_netns(work: impl FnOnce(&str) + Send) {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                    eprintln!("skipped: may not make a network namespace");
                    return;
                }
                ip("link set lo up");
                let thread = unsafe { libc::gettid() };
                work(&format!("/proc/self/task/{thread}/ns/net"));
            });
        });
    }

    /// A child of this thread, so in its namespace.
    fn ip(arguments: &str) -> String {
        let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}
