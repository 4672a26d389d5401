//! What a tunnel sends: staged as records, sent at the end of the turn, kept when the socket is full.
use super::{CONNECTION_WINDOW, Tunnel};
use crate::conn::Failure;
use crate::h2;
use crate::net;
use crate::worker::Worker;

impl Worker {
    /// Makes the stage this tunnel's, with keys that are fresh enough.
    pub(crate) fn own(&mut self, slot: u32) {
        if self.stage.owner().is_some_and(|owner| owner != slot) {
            self.flush();
        }
        self.stage.own(slot);
        let limit = self.shared.options.rekey_after_records.clamp(MIN_REKEY, MAX_REKEY);
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        if let Some(keys) = &mut tunnel.tx
            && (tunnel.update_due || keys.sequence() >= limit)
        {
            tunnel.update_due = false;
            self.stage.update_keys(keys);
            // Room for another, should the peer ask for it in this very turn.
            if !self.stage.has_slot() {
                self.flush();
                self.stage.own(slot);
            }
        }
    }

    /// Records that may still be sealed under the present key.
    pub(crate) fn records_left(&self, slot: u32) -> usize {
        let limit = self.shared.options.rekey_after_records.clamp(MIN_REKEY, MAX_REKEY);
        let sequence = self.tunnels.get(slot).and_then(|tunnel| tunnel.tx.as_ref()).map_or(0, |keys| keys.sequence());
        limit.saturating_sub(sequence).max(1) as usize
    }

    pub(crate) fn seal(&mut self) {
        let Some(owner) = self.stage.owner() else { return };
        if let Some(keys) = self.tunnels.get_mut(owner).and_then(|tunnel| tunnel.tx.as_mut()) {
            self.stage.seal(keys);
        }
    }

    /// Appends frames to what this tunnel sends at the end of the turn; nothing for one that is not open.
    pub(crate) fn put(&mut self, slot: u32, mut bytes: &[u8]) {
        if !self.tunnels.get(slot).is_some_and(Tunnel::is_open) {
            return;
        }
        self.own(slot);
        while !bytes.is_empty() {
            if self.stage.room() == 0 {
                self.seal();
            }
            if !self.stage.has_slot() {
                self.flush();
                self.own(slot);
            }
            let count = self.stage.room().min(bytes.len());
            self.stage.push(&bytes[..count]);
            bytes = &bytes[count..];
        }
    }

    /// Sends what is staged; keeps what the socket does not take.
    pub(crate) fn flush(&mut self) {
        let Some(owner) = self.stage.owner() else { return };
        self.seal();
        let bytes = self.stage.take();
        let Some(tunnel) = self.tunnels.get_mut(owner) else { return };
        let mut sent = 0;
        while tunnel.out.is_empty() && sent < bytes.len() {
            let count = net::send(tunnel.raw(), &bytes[sent..]);
            if count <= 0 {
                break;
            }
            sent += count as usize;
        }
        if sent < bytes.len() {
            tunnel.out.extend_from_slice(&bytes[sent..]);
            if tunnel.out.len() - tunnel.out_at > MAX_UNSENT {
                self.doom(owner, Failure::closed("the peer asks for more than it reads"));
            }
        }
    }

    pub(super) fn drain_out(&mut self, slot: u32) {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        if tunnel.out.is_empty() {
            return;
        }
        while tunnel.out_at < tunnel.out.len() {
            let count = net::send(tunnel.raw(), &tunnel.out[tunnel.out_at..]);
            if count <= 0 {
                return;
            }
            tunnel.out_at += count as usize;
        }
        (tunnel.out, tunnel.out_at) = (vec![], 0);
        self.kick(slot);
    }

    /// Whoever waited to send may try again.
    pub(super) fn kick(&mut self, slot: u32) {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        for conn in std::mem::take(&mut tunnel.ready) {
            if let Some(leg) = self.conns.get_mut(conn).and_then(|conn| conn.leg()) {
                leg.waiting = false;
                self.queue_pump(conn);
            }
        }
    }

    /// Lists a connection to be kicked when its tunnel can send again.
    pub(crate) fn wait_for_tunnel(&mut self, slot: u32, conn: u32) {
        let Some(leg) = self.conns.get_mut(conn).and_then(|conn| conn.leg()) else { return };
        if !leg.waiting {
            leg.waiting = true;
            if let Some(tunnel) = self.tunnels.get_mut(slot) {
                tunnel.ready.push_back(conn);
            }
        }
    }

    /// Gives the connection's window back as bytes arrive, unless too much waits for slow readers.
    pub(crate) fn credit_connection(&mut self, slot: u32) {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        if tunnel.unacknowledged < CONNECTION_WINDOW / 4 || tunnel.backlog > MAX_BACKLOG || !tunnel.is_open() {
            return;
        }
        let credit = std::mem::take(&mut tunnel.unacknowledged);
        tunnel.receive_window += i64::from(credit);
        self.put(slot, &h2::number_frame(h2::kind::WINDOW_UPDATE, 0, credit));
    }
}

/// Undelivered bytes of one tunnel above which the connection's window is not given back.
const MAX_BACKLOG: usize = 32 << 20;
/// Sealed bytes a peer may leave unread while it goes on asking.
const MAX_UNSENT: usize = 2 << 20;
const MIN_REKEY: u64 = 64;
/// RFC 8446, section 5.5.
const MAX_REKEY: u64 = 1 << 24;
