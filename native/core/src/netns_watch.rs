//! Hears when somebody changes the packet filter or the policy routing of a pod: what we put there may be gone.
use crate::net::in_netns;
use std::collections::HashMap;
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Calls back, on a thread of its own, with the key of each namespace in which something changed. Changes that follow
/// closely upon another are told together, so that nobody keeps us busy by changing things.
pub struct NetnsWatch {
    shared: Arc<Shared>,
}

struct Shared {
    wake: OwnedFd,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    closed: bool,
    sockets: HashMap<String, Arc<Pair>>,
}

/// One for the packet filter, one for routing.
struct Pair([OwnedFd; 2]);

impl NetnsWatch {
    pub fn new(changed: impl Fn(String) + Send + 'static) -> Result<Self> {
        let wake = own(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        let shared = Arc::new(Shared { wake, state: Mutex::default() });
        let watcher = shared.clone();
        let thread = std::thread::Builder::new().name("netns-watch".into()).stack_size(128 << 10);
        thread.spawn(move || watcher.run(&changed))?;
        Ok(Self { shared })
    }

    /// Watches the namespace at `netns`, in place of what was watched under this key.
    pub fn add(&self, key: &str, netns: &str) -> Result<()> {
        let pair = in_netns(netns, || {
            let filter = listen(libc::NETLINK_NETFILTER, 1 << (NFNLGRP_NFTABLES - 1))?;
            let groups = [RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_ROUTE, RTNLGRP_IPV6_RULE];
            let routing = listen(libc::NETLINK_ROUTE, groups.iter().map(|group| 1 << (group - 1)).sum())?;
            Ok(Pair([filter, routing]))
        })?;
        self.change(|state| {
            state.sockets.insert(key.to_owned(), Arc::new(pair));
        });
        Ok(())
    }

    pub fn remove(&self, key: &str) {
        self.change(|state| {
            state.sockets.remove(key);
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.wake();
    }
}

impl Drop for NetnsWatch {
    fn drop(&mut self) {
        self.change(|state| {
            state.closed = true;
            state.sockets.clear();
        });
    }
}

impl Shared {
    fn run(&self, changed: &impl Fn(String)) {
        loop {
            let Some(watched) = self.watched() else { return };
            let fds = watched.iter().flat_map(|(_, pair)| pair.0.iter().map(AsRawFd::as_raw_fd));
            let mut polls: Vec<_> = std::iter::once(self.wake.as_raw_fd()).chain(fds).map(poll_fd).collect();
            if unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, -1) } < 0 {
                if Error::last_os_error().raw_os_error() == Some(libc::EINTR) {
                    continue;
                }
                return;
            }
            if polls[0].revents != 0 {
                drain(self.wake.as_raw_fd());
            }
            let mut told = false;
            for ((key, _), pair) in watched.iter().zip(polls[1..].chunks(2)) {
                if pair.iter().any(|poll| poll.revents != 0) {
                    pair.iter().for_each(|poll| drain(poll.fd));
                    changed(key.clone());
                    told = true;
                }
            }
            if told {
                std::thread::sleep(PAUSE);
            }
        }
    }

    fn watched(&self) -> Option<Vec<(String, Arc<Pair>)>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (!state.closed).then(|| state.sockets.iter().map(|(key, pair)| (key.clone(), pair.clone())).collect())
    }

    fn wake(&self) {
        let one = 1u64;
        unsafe { libc::write(self.wake.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
    }
}

fn listen(protocol: libc::c_int, groups: u32) -> Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let fd = own(unsafe { libc::socket(libc::AF_NETLINK, kind, protocol) })?;
    let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    address.nl_groups = groups;
    let length = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
    if unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) } < 0 {
        return Err(Error::last_os_error());
    }
    Ok(fd)
}

/// What was said does not matter, only that something was; also that too much was said to keep (ENOBUFS).
fn drain(fd: RawFd) {
    let mut buffer = [0u8; 4096];
    for _ in 0..MAX_MESSAGES {
        let read = unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
        if read < 0 && Error::last_os_error().raw_os_error() != Some(libc::ENOBUFS) {
            return;
        }
    }
}

fn poll_fd(fd: RawFd) -> libc::pollfd {
    libc::pollfd { fd, events: libc::POLLIN, revents: 0 }
}

fn own(fd: libc::c_int) -> Result<OwnedFd> {
    if fd < 0 { Err(Error::last_os_error()) } else { Ok(unsafe { OwnedFd::from_raw_fd(fd) }) }
}

const NFNLGRP_NFTABLES: u32 = 7;
const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTNLGRP_IPV4_RULE: u32 = 8;
const RTNLGRP_IPV6_ROUTE: u32 = 11;
const RTNLGRP_IPV6_RULE: u32 = 19;
const MAX_MESSAGES: usize = 10_000;
/// Between two rounds of telling.
const PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::sync::mpsc::{RecvTimeoutError, channel};

    #[test]
    fn tells_a_change_of_rules_and_of_routing_until_removed() {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                    eprintln!("skipped: may not make a network namespace");
                    return;
                }
                let path = format!("/proc/self/task/{}/ns/net", unsafe { libc::gettid() });
                let (sender, receiver) = channel();
                let watch = NetnsWatch::new(move |key| drop(sender.send(key))).unwrap();
                watch.add("pod", &path).unwrap();
                for command in ["nft add table inet ours", "ip rule add fwmark 1 lookup 100", "nft flush ruleset"] {
                    run(command);
                    assert_eq!(receiver.recv_timeout(Duration::from_secs(5)).as_deref(), Ok("pod"), "{command}");
                    while receiver.recv_timeout(PAUSE * 3).is_ok() {}
                }
                watch.remove("pod");
                run("nft add table inet ours");
                assert_eq!(receiver.recv_timeout(PAUSE * 3), Err(RecvTimeoutError::Timeout));
                assert!(watch.add("pod", "/nonexistent").is_err());
                drop(watch);
                assert_eq!(receiver.recv_timeout(Duration::from_secs(5)), Err(RecvTimeoutError::Disconnected));
            });
        });
    }

    /// A child of this thread, so in its namespace.
    fn run(command: &str) {
        let mut words = command.split(' ');
        let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
        assert!(status.success(), "{command}");
    }
}
