//! What the engine's owner tells a loop.
use super::{Command, Listener};
use crate::api::{Action, ConnectionInfo, Direction, Level};
use crate::conn::{Close, Conn, Failure, Phase};
use crate::flow::Resolved;
use crate::shared::{Pod, slot_of};
use crate::worker::Worker;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

impl Worker {
    pub(super) fn commands(&mut self) {
        let shared = self.shared.clone();
        for command in shared.mailboxes[self.index].take() {
            self.command(command);
        }
    }

    pub(super) fn command(&mut self, command: Command) {
        match command {
            Command::Listen { pod, kind, fd } => self.listen(pod, kind, fd),
            Command::RemovePod { pod, why } => self.remove_pod(&pod, &why),
            Command::Resolved(list) => list.into_iter().for_each(|resolved| self.resolved(resolved)),
            Command::Expired(list) => list.into_iter().for_each(|id| self.expired(id)),
            Command::Certificate(identity) => self.certificate_changed(&identity),
            Command::Trust => self.trust_changed(),
            Command::Snapshot(answer) => {
                let _ = answer.try_send(self.conns.iter().map(|(_, conn)| self.describe(conn)).collect());
            }
            Command::StopAccepting => {
                for slot in self.listeners.slots_of(|_| true) {
                    self.drop_listener(slot);
                }
            }
            Command::Drain => {
                for slot in self.tunnels.slots_of(|_| true) {
                    self.drain_tunnel(slot);
                }
            }
            Command::CloseAll { why } => {
                for slot in self.conns.slots_of(|_| true) {
                    self.finish(slot, Close::Reset, Some(Failure::closed(why)));
                }
                for slot in self.tunnels.slots_of(|_| true) {
                    self.doom(slot, Failure::closed(why));
                }
            }
            Command::Stop => self.closed = true,
        }
    }

    pub(super) fn listen(&mut self, pod: Arc<Pod>, kind: Direction, fd: Arc<OwnedFd>) {
        let raw = fd.as_raw_fd();
        let slot = self.listeners.insert(Listener { pod, kind, fd, paused_until_ms: 0 });
        self.watch_listener(raw, slot);
    }

    pub(super) fn drop_listener(&mut self, slot: u32) {
        if let Some(listener) = self.listeners.remove(slot) {
            self.paused -= usize::from(listener.paused_until_ms != 0);
            self.unwatch(listener.fd.as_raw_fd());
        }
    }

    pub(super) fn remove_pod(&mut self, pod: &Pod, why: &str) {
        for slot in self.listeners.slots_of(|listener| listener.pod.uid == pod.uid) {
            self.drop_listener(slot);
        }
        for slot in self.conns.slots_of(|conn| conn.pod.uid == pod.uid) {
            self.finish(slot, Close::Reset, Some(Failure::closed(why.to_owned())));
        }
        for slot in self.tunnels.slots_of(|tunnel| tunnel.pod.uid == pod.uid) {
            self.doom(slot, Failure::closed(why.to_owned()));
        }
        if let Err(why) = self.netns.leave(&pod.netns) {
            self.shared.notice(Level::Error, "netns", format!("the namespace of pod {} is not let go: {why}", pod.uid));
        }
    }

    pub(super) fn resolved(&mut self, resolved: Resolved) {
        let slot = slot_of(resolved.conn);
        let Some(conn) = self.conns.get_mut(slot).filter(|conn| conn.id == resolved.conn) else { return };
        if conn.phase == Phase::Deciding {
            return self.decided(slot, resolved.flow);
        }
        let denied = matches!(resolved.flow.verdict.action, Action::Deny(_));
        let unreachable = matches!(resolved.flow.verdict.action, Action::Deny(503));
        if unreachable && conn.phase == Phase::Open && conn.facts.direction == Direction::Outbound {
            // It has its endpoint, which may be on its way out: that there is none for others does not concern it.
            return;
        }
        let why = format!("connection closed due to policy change: {}", resolved.flow.verdict.because);
        conn.flow = Some(resolved.flow);
        if denied {
            self.refuse(slot, 401, Failure::new("DENY", why));
        }
    }

    pub(super) fn expired(&mut self, id: u64) {
        let slot = slot_of(id);
        if self.conns.get(slot).is_some_and(|conn| conn.id == id && conn.phase == Phase::Deciding) {
            self.refuse(slot, 503, Failure::new("CONNECT", "no decision came in time"));
        }
    }

    pub(super) fn describe(&self, conn: &Conn) -> ConnectionInfo {
        let (bytes_sent, bytes_received) = conn.sent_received();
        ConnectionInfo {
            id: conn.id,
            pod: conn.pod.uid.to_string(),
            direction: conn.facts.direction,
            src: conn.src(),
            dst: conn.facts.dst,
            peer_identity: conn.facts.peer_identity.to_string(),
            endpoint: conn.endpoint.as_ref().map_or(String::new(), |endpoint| endpoint.id.clone()),
            because: conn.because().to_owned(),
            state: conn.state(),
            bytes_sent,
            bytes_received,
            open_ms: self.now_ms.saturating_sub(conn.started_ms),
        }
    }
}
