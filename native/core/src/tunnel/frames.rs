//! What a peer's frames do to a tunnel and its streams.
use super::Tunnel;
use crate::api::Level;
use crate::conn::{Close, Failure, Phase};
use crate::h2::{self, Code, Event, Settings, Violation};
use crate::worker::{Segment, Worker};
use std::sync::atomic::Ordering::Relaxed;

impl Worker {
    /// Application data in `input[at..]`.
    pub(super) fn frames(&mut self, slot: u32, input: &[u8], mut at: usize) -> Result<(), Failure> {
        loop {
            let Some(tunnel) = self.tunnels.get_mut(slot) else { return Ok(()) };
            match tunnel.reader.next(input, &mut at) {
                Ok(None) => return Ok(()),
                Ok(Some(event)) => {
                    if let Err(violation) = self.frame(slot, input, event) {
                        return Err(self.violated(slot, violation));
                    }
                }
                Err(violation) => return Err(self.violated(slot, violation)),
            }
        }
    }

    pub(super) fn frame(&mut self, slot: u32, input: &[u8], event: Event) -> Result<(), Violation> {
        if let Event::Data { stream, bytes, flow, end } = event {
            return self.data_frame(slot, stream, bytes, flow, end);
        }
        // What came before is delivered before, so that a reset does not overtake data.
        if matches!(event, Event::Headers { .. } | Event::Reset { .. }) {
            self.deliver(slot, input);
        }
        match event {
            Event::Data { .. } | Event::SettingsAck => Ok(()),
            Event::Headers { stream, end } => self.headers_frame(slot, stream, end),
            Event::Reset { stream, code } => self.reset_frame(slot, stream, code),
            Event::Settings(settings) => self.settings_frame(slot, settings),
            Event::Ping(payload) => {
                self.put(slot, &h2::frame_header(8, h2::kind::PING, h2::flag::ACK, 0));
                self.put(slot, &payload);
                Ok(())
            }
            Event::Goaway { last, code } => {
                self.goaway_frame(slot, last, code);
                Ok(())
            }
            Event::Window { stream, increment } => self.window_frame(slot, stream, increment),
        }
    }

    pub(super) fn data_frame(
        &mut self,
        slot: u32,
        stream: u32,
        bytes: std::ops::Range<usize>,
        flow: u32,
        end: bool,
    ) -> Result<(), Violation> {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return Ok(()) };
        tunnel.receive_window -= i64::from(flow);
        tunnel.unacknowledged += flow;
        if tunnel.receive_window < 0 {
            return Err(Violation { code: Code::FlowControl, what: "more data than the connection's window" });
        }
        let Some(conn) = tunnel.streams.get(&stream).copied() else {
            if is_idle(tunnel, stream) {
                return Err(Violation { code: Code::Protocol, what: "data on a stream that was never opened" });
            }
            self.credit_connection(slot);
            return Ok(());
        };
        let (is_client, of_conn) = (tunnel.is_client(), self.conns.get_mut(conn));
        let Some(of_conn) = of_conn else { return Ok(()) };
        if is_client && of_conn.phase != Phase::Open {
            return Err(Violation { code: Code::Protocol, what: "data before the answer to its CONNECT" });
        }
        let Some(leg) = of_conn.leg() else { return Ok(()) };
        leg.receive_window -= i64::from(flow);
        if leg.receive_window < 0 {
            return Err(Violation { code: Code::FlowControl, what: "more data than the stream's window" });
        }
        if leg.end_received {
            return Err(Violation { code: Code::StreamClosed, what: "data after the end of its stream" });
        }
        // Padding counts as delivered.
        leg.unacknowledged += flow - bytes.len() as u32;
        leg.end_received |= end;
        if !bytes.is_empty() {
            self.segments.push(Segment { conn, at: bytes.start, length: bytes.len(), end: false });
        }
        if end {
            self.segments.push(Segment { conn, at: 0, length: 0, end: true });
        }
        self.credit_connection(slot);
        Ok(())
    }

    pub(super) fn headers_frame(&mut self, slot: u32, stream: u32, end: bool) -> Result<(), Violation> {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return Ok(()) };
        let block = tunnel.reader.take_block();
        if tunnel.is_client() {
            self.response(slot, stream, end, &block)
        } else {
            self.request(slot, stream, end, &block)
        }
    }

    pub(super) fn reset_frame(&mut self, slot: u32, stream: u32, code: u32) -> Result<(), Violation> {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return Ok(()) };
        let Some(conn) = tunnel.streams.get(&stream).copied() else {
            return match is_idle(tunnel, stream) {
                true => Err(Violation { code: Code::Protocol, what: "a reset of a stream that was never opened" }),
                false => Ok(()),
            };
        };
        let is_client = tunnel.is_client();
        // The peer knows: no reset goes back.
        tunnel.streams.remove(&stream);
        tunnel.idle_since_ms = self.now_ms;
        self.after_stream_left(slot);
        let is_premature = self.conns.get(conn).is_some_and(|conn| conn.phase != Phase::Open);
        if self.ends_politely(slot, conn, code) {
            self.reap(conn);
        } else if is_client {
            self.stream_reset(conn, code);
        } else {
            self.finish(conn, Close::Reset, Some(Failure::closed("the peer reset the connection")));
            if let Some(tunnel) = self.tunnels.get_mut(slot).filter(|_| is_premature) {
                tunnel.reader.premature_reset()?;
            }
        }
        Ok(())
    }

    /// A peer that has said all may say that it wants to hear no more (RFC 9113, section 8.1): what it said is still
    /// delivered.
    pub(super) fn ends_politely(&mut self, slot: u32, conn: u32, code: u32) -> bool {
        let Some(conn) = self.conns.get_mut(conn).filter(|conn| conn.phase == Phase::Open) else { return false };
        let undelivered = conn.app.unsent_length();
        let Some(leg) = conn.leg().filter(|leg| leg.end_received && code == Code::NoError as u32) else { return false };
        leg.end_sent = true;
        leg.tunnel = NO_TUNNEL;
        conn.app.read_done = true;
        if let Some(tunnel) = self.tunnels.get_mut(slot) {
            tunnel.backlog = tunnel.backlog.saturating_sub(undelivered);
        }
        true
    }

    /// A draining tunnel ends with its last stream.
    pub(crate) fn after_stream_left(&mut self, slot: u32) {
        if self.tunnels.get(slot).is_some_and(|tunnel| tunnel.is_draining && tunnel.streams.is_empty()) {
            self.doom(slot, Failure::closed("drained"));
        }
    }

    pub(super) fn settings_frame(&mut self, slot: u32, settings: Settings) -> Result<(), Violation> {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return Ok(()) };
        if let Some(max) = settings.max_streams {
            tunnel.peer_max_streams = max;
        }
        if let Some(window) = settings.initial_window.map(i64::from) {
            let change = window - tunnel.initial_window;
            tunnel.initial_window = window;
            for conn in tunnel.streams.values() {
                let Some(leg) = self.conns.get_mut(*conn).and_then(|conn| conn.leg()) else { continue };
                leg.window += change;
                if leg.window > h2::MAX_WINDOW {
                    return Err(Violation { code: Code::FlowControl, what: "a window that is too large" });
                }
            }
        }
        self.put(slot, &h2::frame_header(0, h2::kind::SETTINGS, h2::flag::ACK, 0));
        self.requeue_streams(slot);
        Ok(())
    }

    pub(super) fn requeue_streams(&mut self, slot: u32) {
        let Some(tunnel) = self.tunnels.get(slot) else { return };
        let conns: Vec<u32> = tunnel.streams.values().copied().collect();
        conns.into_iter().for_each(|conn| self.queue_pump(conn));
    }

    pub(super) fn window_frame(&mut self, slot: u32, stream: u32, increment: u32) -> Result<(), Violation> {
        let too_large = Violation { code: Code::FlowControl, what: "a window that is too large" };
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return Ok(()) };
        if stream == 0 {
            tunnel.window += i64::from(increment);
            if tunnel.window > h2::MAX_WINDOW {
                return Err(too_large);
            }
            self.kick(slot);
            return Ok(());
        }
        let Some(conn) = tunnel.streams.get(&stream).copied() else {
            return match is_idle(tunnel, stream) {
                true => Err(Violation { code: Code::Protocol, what: "a window for a stream that was never opened" }),
                false => Ok(()),
            };
        };
        let Some(leg) = self.conns.get_mut(conn).and_then(|conn| conn.leg()) else { return Ok(()) };
        let was_shut = leg.window <= 0;
        leg.window += i64::from(increment);
        if leg.window > h2::MAX_WINDOW {
            return Err(too_large);
        }
        if was_shut {
            self.queue_pump(conn);
        }
        Ok(())
    }

    pub(super) fn goaway_frame(&mut self, slot: u32, last: u32, code: u32) {
        self.stop_streams(slot);
        let Some(tunnel) = self.tunnels.get(slot) else { return };
        if !tunnel.is_client() {
            return;
        }
        // What the peer will not look at is tried elsewhere.
        let lost: Vec<u32> = tunnel.streams.iter().filter(|(id, _)| **id > last).map(|(_, conn)| *conn).collect();
        for conn in lost {
            self.stream_reset(conn, if code == 0 { Code::RefusedStream as u32 } else { code });
        }
        self.after_stream_left(slot);
    }

    pub(super) fn violated(&mut self, slot: u32, violation: Violation) -> Failure {
        self.shared.reached.peer.fetch_add(1, Relaxed);
        if let Some(tunnel) = self.tunnels.get(slot).filter(|tunnel| tunnel.is_open()) {
            let last = if tunnel.is_client() { 0 } else { tunnel.stream };
            let message = format!("{} ({}): {}", tunnel.peer, tunnel.peer_identity, violation.what);
            self.put(slot, &h2::goaway(last, violation.code));
            self.shared.notice(Level::Warn, "http2-violation", message);
        }
        Failure::new("H2_HANDSHAKE_FAILURE", format!("the peer broke HTTP/2: {}", violation.what))
    }
}

/// True for a stream that nobody has opened yet.
fn is_idle(tunnel: &Tunnel, stream: u32) -> bool {
    let is_ours = stream % 2 == 1;
    if tunnel.is_client() { !is_ours || stream >= tunnel.stream } else { !is_ours || stream > tunnel.stream }
}

/// The tunnel of a stream that has left it.
const NO_TUNNEL: u32 = u32::MAX;
