//! How tunnels end: drained when their certificate, their root or their peer is no more, idle, overdue, or broken.
use super::{Tunnel, TunnelPhase};
use crate::api::Direction;
use crate::conn::{Close, Failure, Far, Phase};
use crate::h2::{self, Code};
use crate::record::ALERT;
use crate::spiffe::{PeerEnd, PeerError};
use crate::worker::Worker;
use rustls::pki_types::UnixTime;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

impl Worker {
    /// The tunnel ends at the end of this turn (its slot may be in use right now).
    pub(crate) fn doom(&mut self, slot: u32, why: Failure) {
        if !self.doomed.iter().any(|(other, _)| *other == slot) {
            self.doomed.push((slot, why));
        }
    }

    /// No new streams: out of the pool, and the peer is told.
    pub(crate) fn drain_tunnel(&mut self, slot: u32) {
        let refuse_at_ms = self.now_ms + GOAWAY_GRACE_MS;
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        if tunnel.is_draining {
            return;
        }
        if !tunnel.is_open() {
            tunnel.drain_when_open = true;
            return;
        }
        let is_client = tunnel.is_client();
        if is_client {
            self.stop_streams(slot);
            self.after_stream_left(slot);
        } else if tunnel.refuse_at_ms == u64::MAX {
            tunnel.refuse_at_ms = refuse_at_ms;
            self.put(slot, &h2::goaway(i32::MAX as u32, Code::NoError));
        }
    }

    pub(super) fn stop_streams(&mut self, slot: u32) {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        tunnel.is_draining = true;
        if let Some(key) = &tunnel.key {
            self.pool.remove(key, slot);
        }
    }

    pub(crate) fn close_tunnel(&mut self, slot: u32, why: &Failure) {
        let is_open = self.tunnels.get(slot).is_some_and(Tunnel::is_open);
        if is_open {
            self.own(slot);
            if let Some(keys) = self.tunnels.get_mut(slot).and_then(|tunnel| tunnel.tx.as_mut()) {
                if !self.stage.has_slot() {
                    // A full stage has no room for a goodbye; the FIN will do.
                } else {
                    self.stage.push_record(keys, ALERT, &CLOSE_NOTIFY);
                }
            }
            self.flush();
        }
        let Some(tunnel) = self.tunnels.remove(slot) else { return };
        // A server that does not take our certificate says so only after the handshake.
        let was_good = is_open && tunnel.reader.is_settled();
        self.shared.tunnels.fetch_sub(1, Relaxed);
        self.shared.handshakes.fetch_sub(usize::from(!is_open && !tunnel.is_client()), Relaxed);
        tunnel.pod.tunnels.fetch_sub(usize::from(!tunnel.is_client()), Relaxed);
        if let Some(key) = &tunnel.key {
            self.pool.remove(key, slot);
        } else if !is_open {
            self.report_failed_tunnel(&tunnel, why);
        }
        for conn in tunnel.streams.values() {
            self.tunnel_lost(*conn, why, was_good);
        }
        for id in &tunnel.waiting {
            let conn = crate::shared::slot_of(*id);
            if self.conns.get(conn).is_some_and(|conn| conn.id == *id) {
                self.tunnel_lost(conn, why, was_good);
            }
        }
    }

    /// The tunnel of a connection is gone.
    pub(super) fn tunnel_lost(&mut self, slot: u32, why: &Failure, was_good: bool) {
        let Some(conn) = self.conns.get_mut(slot) else { return };
        match conn.phase {
            Phase::AwaitingTunnel | Phase::AwaitingResponse if conn.facts.direction == Direction::Outbound => {
                conn.far = Far::None;
                self.try_next(slot, why.clone(), !was_good);
            }
            _ => self.finish(slot, Close::Reset, Some(why.clone())),
        }
    }

    /// A CONNECT was not answered: a tunnel that was silent all the while is not offered to others.
    pub(crate) fn leave_silent_tunnel(&mut self, slot: u32) {
        let silent_since = self.now_ms.saturating_sub(self.shared.options.connect_timeout_ms);
        let Some(tunnel) = self.conns.get_mut(slot).and_then(|conn| conn.leg()).map(|leg| leg.tunnel) else { return };
        if self.tunnels.get(tunnel).is_some_and(|tunnel| tunnel.heard_ms < silent_since) {
            self.stop_streams(tunnel);
        }
    }

    /// Once a second: deadlines, idleness, expiry, floods.
    pub(crate) fn tunnels_tick(&mut self) {
        let (now_ms, unix_seconds) = (self.now_ms, self.unix_ms() / 1000);
        let idle_ms = self.shared.options.pool_idle_ms;
        for slot in self.tunnels.slots_of(|_| true) {
            let Some(tunnel) = self.tunnels.get_mut(slot) else { continue };
            tunnel.reader.tick();
            match tunnel.phase {
                TunnelPhase::Connecting if tunnel.deadline_ms <= now_ms => {
                    self.tunnel_dial_failed(slot, libc::ETIMEDOUT)
                }
                TunnelPhase::AwaitingCertificate if tunnel.deadline_ms <= now_ms => {
                    let why = format!("no certificate of {} came in time", tunnel.pod.identity);
                    self.doom(slot, Failure::new("IDENTITY_ERROR", why));
                }
                TunnelPhase::Handshaking if tunnel.deadline_ms <= now_ms => {
                    self.doom(slot, Failure::new("TLS_FAILURE", "the TLS handshake took too long"));
                }
                TunnelPhase::Open => {
                    if tunnel.refuse_at_ms <= now_ms && !tunnel.is_draining {
                        tunnel.is_draining = true;
                        let last = tunnel.stream;
                        self.put(slot, &h2::goaway(last, Code::NoError));
                        self.after_stream_left(slot);
                    } else if tunnel.not_after <= unix_seconds {
                        self.drain_tunnel(slot);
                    } else if tunnel.is_client()
                        && tunnel.streams.is_empty()
                        && tunnel.idle_since_ms + idle_ms <= now_ms
                    {
                        self.doom(slot, Failure::closed("idle"));
                    }
                }
                _ => {}
            }
        }
    }

    /// Tunnels under a former certificate take no new streams; whoever waited for the new one goes on.
    pub(crate) fn certificate_changed(&mut self, identity: &str) {
        let current = self.shared.certificate(identity);
        for slot in self.tunnels.slots_of(|tunnel| *tunnel.pod.identity == *identity) {
            let Some(tunnel) = self.tunnels.get(slot) else { continue };
            match (&tunnel.certificate, &current) {
                (None, Some(_)) if tunnel.phase == TunnelPhase::AwaitingCertificate => self.start_handshake(slot),
                (Some(used), Some(current)) if Arc::ptr_eq(used, current) => {}
                (Some(_), _) => self.drain_tunnel(slot),
                (None, _) => {}
            }
        }
        if current.is_some() {
            for slot in
                self.conns.slots_of(|conn| conn.phase == Phase::AwaitingCertificate && *conn.pod.identity == *identity)
            {
                self.send_out(slot);
            }
        }
    }

    /// Tunnels of peers that are now revoked end at once; those of peers whose root is gone take no new streams.
    pub(crate) fn trust_changed(&mut self) {
        let trust = self.shared.trust();
        for slot in self.tunnels.slots_of(Tunnel::is_open) {
            let Some(tunnel) = self.tunnels.get(slot) else { continue };
            let Some((leaf, intermediates)) = tunnel.peer_chain.split_first() else { continue };
            let end = if tunnel.is_client() { PeerEnd::Server } else { PeerEnd::Client };
            let then = UnixTime::since_unix_epoch(Duration::from_secs(tunnel.shaken_at));
            match trust.verify(leaf, intermediates, then, end) {
                Ok(_) => {}
                Err(PeerError::Revoked(_)) => {
                    self.doom(slot, Failure::new("CERT_REVOKED", "peer certificate revoked by CRL"));
                }
                Err(_) => self.drain_tunnel(slot),
            }
        }
    }
}

const GOAWAY_GRACE_MS: u64 = 1000;
const CLOSE_NOTIFY: [u8; 2] = [1, 0];
