//! What time does: deadlines, and log lines that wait to be taken.
use super::Clock;
use crate::conn::{Failure, Phase};
use crate::shared::{lock, worker_of};
use crate::worker::{Command, Worker};

impl Worker {
    pub(super) fn timeout_ms(&self) -> i32 {
        let is_idle = self.conns.is_empty() && self.tunnels.is_empty() && !self.has_deadlines();
        if is_idle {
            -1
        } else {
            (self.last_tick_ms + self.tick_ms()).saturating_sub(self.now_ms).clamp(1, 1000) as i32
        }
    }

    pub(super) fn tick_ms(&self) -> u64 {
        if self.has_deadlines() { 50 } else { 1000 }
    }

    pub(super) fn has_deadlines(&self) -> bool {
        !self.pending.is_empty() || !self.parked.is_empty() || self.log_waits || self.paused > 0
    }

    pub(super) fn tick(&mut self) {
        self.last_tick_ms = self.now_ms;
        let due: Vec<u32> = self.pending.iter().copied().filter(|slot| self.is_overdue(*slot)).collect();
        for slot in due {
            self.overdue(slot);
        }
        if self.index == 0 {
            let expired = lock(&self.shared.flows).expire(self.now_ms);
            for (index, mailbox) in self.shared.mailboxes.iter().enumerate() {
                let of_worker: Vec<u64> = expired.iter().copied().filter(|id| worker_of(*id) == index).collect();
                if !of_worker.is_empty() {
                    mailbox.send(Command::Expired(of_worker));
                }
            }
        }
        self.unpark();
        self.resume_listeners();
        if self.log_waits {
            self.log_waits = false;
            self.last_log_wake_ms = self.now_ms;
            self.shared.wake();
        }
        if self.now_ms >= self.last_second_ms + 1000 {
            self.last_second_ms = self.now_ms;
            self.clock = Clock::at(self.now_ms);
            self.tunnels_tick();
            if self.has_set_aside {
                self.shared.groups.write().unwrap_or_else(|poisoned| poisoned.into_inner()).expire(self.now_ms);
            }
        }
    }

    pub(super) fn is_overdue(&self, slot: u32) -> bool {
        self.conns.get(slot).is_some_and(|conn| conn.deadline_ms <= self.now_ms)
    }

    pub(super) fn overdue(&mut self, slot: u32) {
        let Some(conn) = self.conns.get(slot) else { return };
        match conn.phase {
            Phase::Open => {}
            Phase::Deciding => self.refuse(slot, 503, Failure::new("CONNECT", "no decision came in time")),
            Phase::Parked => {
                self.refuse(slot, 503, Failure::new("CONNECT", "too many connections of this pod wait for a decision"))
            }
            Phase::AwaitingCertificate => {
                let why = format!("no certificate of {} came in time", conn.pod.identity);
                self.refuse(slot, 503, Failure::new("IDENTITY_ERROR", why));
            }
            Phase::Dialing => self.dial_failed(slot, libc::ETIMEDOUT),
            // The tunnel's own deadline, or a peer that does not answer our CONNECT.
            Phase::AwaitingTunnel | Phase::AwaitingResponse => {
                self.leave_silent_tunnel(slot);
                self.try_next(
                    slot,
                    Failure::new("CONNECT", "the tunnel's end did not answer the CONNECT in time"),
                    true,
                );
            }
        }
    }

    pub(super) fn hand_over_log(&mut self) {
        let mut log = lock(&self.shared.log);
        if log.text.len() + self.log.len() > self.shared.options.max_log_bytes {
            log.dropped += self.log.bytes().filter(|byte| *byte == b'\n').count() as u64;
        } else {
            log.text.push_str(&self.log);
        }
        let length = log.text.len();
        drop(log);
        self.log.clear();
        if length > LOG_WAKE_BYTES || self.now_ms >= self.last_log_wake_ms + LOG_WAKE_MS {
            self.last_log_wake_ms = self.now_ms;
            self.shared.wake();
        } else {
            self.log_waits = true;
        }
    }
}

const LOG_WAKE_BYTES: usize = 64 << 10;
const LOG_WAKE_MS: u64 = 50;
