//! Spinning before parking.
use std::time::{Duration, Instant};

/// Polls for a while before parking, as waking a halted CPU costs more than a ping; only while few events come, as a
/// busy loop would lose by it.
pub(super) struct Spin {
    spin: Duration,
    until: Option<Instant>,
    window: Instant,
    events: u32,
    per_ms: u32,
}

impl Spin {
    pub(super) fn new(spin_us: u64) -> Self {
        Self { spin: Duration::from_micros(spin_us), until: None, window: Instant::now(), events: 0, per_ms: 0 }
    }

    pub(super) fn is_on(&self) -> bool {
        self.until.is_some()
    }

    /// Nothing happened: gives way to others, unless it is time to park.
    pub(super) fn goes_on(&mut self) -> bool {
        let Some(until) = self.until else { return false };
        if Instant::now() >= until {
            self.until = None;
            return false;
        }
        unsafe { libc::sched_yield() };
        true
    }

    pub(super) fn after_turn(&mut self, events: u32, is_bulk: bool) {
        if self.spin.is_zero() {
            return;
        }
        let now = Instant::now();
        self.events += events;
        let elapsed = now.duration_since(self.window).as_micros() as u64;
        if elapsed >= 1000 {
            self.per_ms = (u64::from(self.events) * 1000 / elapsed) as u32;
            (self.window, self.events) = (now, 0);
        }
        let is_quiet = self.per_ms <= SPIN_BELOW_PER_MS && self.events <= SPIN_BELOW_PER_MS && !is_bulk;
        self.until = (events > 0 && is_quiet).then(|| now + self.spin);
    }
}

const SPIN_BELOW_PER_MS: u32 = 30;
