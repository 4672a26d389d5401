//! Listeners: accepting, and not accepting for a while when a pod has enough.
use super::Token;
use crate::api::{Direction, Level};
use crate::net;
use crate::shared::{Pod, lock};
use crate::worker::Worker;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

impl Worker {
    pub(super) fn watch_listener(&self, fd: RawFd, slot: u32) {
        let exclusive = if self.shared.mailboxes.len() > 1 { libc::EPOLLEXCLUSIVE } else { 0 };
        if let Err(why) = self.watch(fd, Token::Listener(slot), libc::EPOLLIN | exclusive) {
            self.shared.notice(Level::Error, "listen", format!("a listener cannot be watched: {why}"));
        }
    }

    pub(super) fn accept(&mut self, slot: u32) {
        for _ in 0..self.accepts_per_event() {
            let Some(listener) = self.listeners.get(slot).filter(|listener| listener.paused_until_ms == 0) else {
                return;
            };
            let (pod, kind, fd) = (listener.pod.clone(), listener.kind, listener.fd.as_raw_fd());
            if pod.load() >= self.shared.options.max_connections_per_pod {
                self.shared.reached.connections.fetch_add(1, Relaxed);
                return self.pause_pod(&pod, self.now_ms + PAUSE_MS);
            }
            match net::accept(fd) {
                Ok(None) => return,
                Ok(Some((fd, peer))) => match kind {
                    Direction::Outbound => self.accept_outbound(&pod, fd, peer),
                    Direction::Inbound => self.accept_tunnel(&pod, fd, peer),
                    Direction::InboundPlaintext => self.accept_plaintext(&pod, fd, peer),
                },
                Err(why) => {
                    self.shared.notice(
                        Level::Error,
                        "accept",
                        format!("pod {}: nothing can be accepted: {why}", pod.uid),
                    );
                    return self.pause_pod(&pod, self.now_ms + PAUSE_MS);
                }
            }
        }
    }

    /// Several loops share a listener: one at a time spreads better.
    pub(super) fn accepts_per_event(&self) -> usize {
        if self.shared.mailboxes.len() > 1 { 1 } else { 16 }
    }

    /// The backlog is the queue; other pods do not notice.
    pub(super) fn pause_pod(&mut self, pod: &Arc<Pod>, until_ms: u64) {
        for slot in self.listeners.slots_of(|listener| Arc::ptr_eq(&listener.pod, pod) && listener.paused_until_ms == 0)
        {
            let Some(listener) = self.listeners.get_mut(slot) else { continue };
            listener.paused_until_ms = until_ms.max(1);
            self.paused += 1;
            let fd = listener.fd.as_raw_fd();
            self.unwatch(fd);
        }
    }

    pub(super) fn resume_listeners(&mut self) {
        if self.paused == 0 {
            return;
        }
        for slot in self.listeners.slots_of(|listener| listener.paused_until_ms != 0) {
            let Some(listener) = self.listeners.get(slot) else { continue };
            let has_room = lock(&self.shared.flows).has_room(&listener.pod.uid)
                && listener.pod.load() < self.shared.options.max_connections_per_pod;
            if !has_room && self.now_ms < listener.paused_until_ms {
                continue;
            }
            let fd = listener.fd.as_raw_fd();
            if let Some(listener) = self.listeners.get_mut(slot) {
                listener.paused_until_ms = 0;
                self.paused -= 1;
            }
            self.watch_listener(fd, slot);
        }
    }
}

const PAUSE_MS: u64 = 100;
