//! Bytes: from an app's socket into a tunnel's records, and from a tunnel's records to an app's socket. Half-close goes
//! through both ways; a slow reader's credit is withheld.
use crate::conn::{Close, Conn, Failure, Far, Phase};
use crate::h2::{self, FRAME_HEADER};
use crate::net;
use crate::tunnel::STREAM_WINDOW;
use crate::worker::{Job, Worker};
use libc::{c_void, iovec};
use std::sync::atomic::Ordering::Relaxed;

impl Worker {
    pub(crate) fn app_event(&mut self, slot: u32, bits: i32) {
        let Some(conn) = self.conns.get_mut(slot) else { return };
        if conn.app.connecting {
            if bits & (libc::EPOLLERR | libc::EPOLLHUP) != 0 {
                let error = net::take_error(conn.app.fd());
                return self.dial_failed(slot, error);
            }
            if bits & libc::EPOLLOUT != 0 {
                conn.app.connecting = false;
                conn.app.readable = true;
                self.app_connected(slot);
            }
        } else if bits & libc::EPOLLOUT != 0 && conn.app.has_unsent() {
            self.drain_app(slot);
        }
        let Some(conn) = self.conns.get_mut(slot) else { return };
        if bits & (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) != 0 {
            conn.app.readable = true;
            conn.app.hangup |= bits & (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) != 0;
            let is_waiting = !matches!(conn.phase, Phase::Open | Phase::AwaitingResponse);
            if is_waiting && bits & libc::EPOLLERR != 0 {
                return self.finish(slot, Close::Reset, Some(Failure::closed("the client reset the connection")));
            }
            self.pump(slot);
        }
    }

    pub(crate) fn queue_pump(&mut self, slot: u32) {
        if let Some(conn) = self.conns.get_mut(slot).filter(|conn| !conn.queued) {
            conn.queued = true;
            self.run.push_back(Job::Pump(slot));
        }
    }

    pub(crate) fn pump_queued(&mut self, slot: u32) {
        if let Some(conn) = self.conns.get_mut(slot) {
            conn.queued = false;
            self.pump(slot);
        }
    }

    /// Moves what can be moved.
    pub(crate) fn pump(&mut self, slot: u32) {
        let Some(conn) = self.conns.get(slot) else { return };
        match (&conn.far, conn.phase) {
            (Far::Stream(_), Phase::Open | Phase::AwaitingResponse) => self.pump_to_tunnel(slot),
            (Far::Socket(_), Phase::Open) => self.pump_sockets(slot),
            _ => {}
        }
    }

    /// Reads the app's bytes straight to where they will be sealed.
    fn pump_to_tunnel(&mut self, slot: u32) {
        loop {
            if !self.replay(slot) {
                return;
            }
            let max_held = self.shared.options.max_held_bytes;
            let Some(conn) = self.conns.get_mut(slot) else { return };
            let Far::Stream(leg) = &conn.far else { return };
            if conn.app.read_done {
                return self.end_stream(slot);
            }
            if !conn.app.readable {
                return;
            }
            let (tunnel, stream, window, fd) = (leg.tunnel, leg.stream, leg.window, conn.app.fd());
            // Before the 200 as much as can be kept for another try.
            let limit = match &conn.trial {
                Some(trial) if conn.phase == Phase::AwaitingResponse => max_held.saturating_sub(trial.held.len()),
                _ => usize::MAX,
            };
            let Some(of_tunnel) = self.tunnels.get(tunnel).filter(|tunnel| tunnel.is_open()) else { return };
            if of_tunnel.is_blocked() || of_tunnel.window <= 0 {
                return self.wait_for_tunnel(tunnel, slot);
            }
            if window <= 0 || limit == 0 {
                return;
            }
            let most = (window.min(of_tunnel.window) as usize).min(limit);
            self.own(tunnel);
            if self.stage.room() < FRAME_HEADER + SMALLEST_PIECE {
                self.seal();
            }
            if !self.stage.has_slot() {
                self.flush();
                continue;
            }
            let count = match self.read_pieces(tunnel, fd, most) {
                Ok(count) => count,
                Err(()) if net::would_block() => {
                    if let Some(conn) = self.conns.get_mut(slot) {
                        conn.app.readable = false;
                    }
                    return;
                }
                Err(()) => return self.app_broke(slot),
            };
            let asked: usize = self.pieces.iter().map(|(_, length)| length).sum();
            if count == 0 {
                if let Some(conn) = self.conns.get_mut(slot) {
                    conn.app.read_done = true;
                }
                return self.end_stream(slot);
            }
            self.keep_for_replay(slot, count);
            self.frame_pieces(stream, count);
            if let Some(tunnel) = self.tunnels.get_mut(tunnel) {
                tunnel.window -= count as i64;
            }
            let Some(conn) = self.conns.get_mut(slot) else { return };
            if let Some(leg) = conn.leg() {
                leg.window -= count as i64;
            }
            count_app_bytes(conn, count);
            self.is_bulk |= count > BULK_BYTES;
            if count < asked {
                if !conn.app.hangup {
                    conn.app.readable = false;
                    return;
                }
            } else if count >= FLUSH_BYTES {
                self.flush();
                return self.queue_pump(slot);
            }
        }
    }

    /// One readv into the payload of as many records as may be filled.
    fn read_pieces(&mut self, tunnel: u32, fd: i32, most: usize) -> Result<usize, ()> {
        self.pieces.clear();
        let slots = self.records_left(tunnel).min(MAX_PIECES);
        self.stage.pieces(FRAME_HEADER, slots, most, &mut self.pieces);
        let mut vectors: [iovec; MAX_PIECES] = unsafe { std::mem::zeroed() };
        let buffer = self.stage.bytes_mut();
        for (vector, (at, length)) in vectors.iter_mut().zip(&self.pieces) {
            *vector = iovec { iov_base: buffer[*at..at + length].as_mut_ptr().cast::<c_void>(), iov_len: *length };
        }
        let count = unsafe { libc::readv(fd, vectors.as_ptr(), self.pieces.len() as i32) };
        usize::try_from(count).map_err(|_| ())
    }

    /// Puts frame headers before what `read_pieces` filled, and seals all but the last record.
    fn frame_pieces(&mut self, stream: u32, mut left: usize) {
        for number in 0..self.pieces.len() {
            let length = left.min(self.pieces[number].1);
            left -= length;
            self.stage.claim(&h2::frame_header(length, h2::kind::DATA, 0, stream), length);
            if left == 0 {
                break;
            }
            self.seal();
        }
    }

    fn keep_for_replay(&mut self, slot: u32, count: usize) {
        let Some(conn) = self.conns.get_mut(slot).filter(|conn| conn.phase == Phase::AwaitingResponse) else { return };
        let Some(trial) = &mut conn.trial else { return };
        let mut left = count;
        for (at, length) in &self.pieces {
            let length = left.min(*length);
            trial.held.extend_from_slice(self.stage.bytes(*at, length));
            left -= length;
        }
        trial.replayed = trial.held.len();
    }

    /// Sends again what another stream took and nobody answered. True when there is nothing (more) of it.
    fn replay(&mut self, slot: u32) -> bool {
        loop {
            let Some(conn) = self.conns.get_mut(slot) else { return false };
            let Some(trial) = &mut conn.trial else { return true };
            if trial.replayed >= trial.held.len() {
                if conn.phase == Phase::Open {
                    conn.trial = None;
                }
                return true;
            }
            let Far::Stream(leg) = &mut conn.far else { return false };
            let (tunnel, stream) = (leg.tunnel, leg.stream);
            let Some(of_tunnel) = self.tunnels.get_mut(tunnel).filter(|tunnel| tunnel.is_open()) else { return false };
            if of_tunnel.is_blocked() || of_tunnel.window <= 0 {
                self.wait_for_tunnel(tunnel, slot);
                return false;
            }
            let most = leg.window.min(of_tunnel.window).min(REPLAY_BYTES);
            if most <= 0 {
                return false;
            }
            let rest = &trial.held[trial.replayed..];
            let piece = rest[..rest.len().min(most as usize)].to_vec();
            trial.replayed += piece.len();
            leg.window -= piece.len() as i64;
            of_tunnel.window -= piece.len() as i64;
            self.put(tunnel, &h2::frame_header(piece.len(), h2::kind::DATA, 0, stream));
            self.put(tunnel, &piece);
        }
    }

    /// The app has nothing more to say.
    fn end_stream(&mut self, slot: u32) {
        let Some(leg) = self.conns.get_mut(slot).and_then(|conn| conn.leg()) else { return };
        if !leg.end_sent {
            leg.end_sent = true;
            let (tunnel, stream) = (leg.tunnel, leg.stream);
            self.put(tunnel, &h2::frame_header(0, h2::kind::DATA, h2::flag::END_STREAM, stream));
        }
        self.reap(slot);
    }

    fn app_broke(&mut self, slot: u32) {
        let error = std::io::Error::last_os_error();
        let who = match self.conns.get(slot).map(|conn| conn.facts.direction) {
            Some(crate::api::Direction::Outbound) => "client",
            _ => "app",
        };
        self.finish(slot, Close::Reset, Some(Failure::closed(format!("the {who} reset the connection ({error})"))));
    }

    /// Writes collected pieces to their sockets, neighbours of one stream in one call.
    pub(crate) fn deliver(&mut self, tunnel: u32, input: &[u8]) {
        let segments = std::mem::take(&mut self.segments);
        let mut rest = &segments[..];
        while let Some(first) = rest.first() {
            if first.end {
                rest = &rest[1..];
                self.reap(first.conn);
                continue;
            }
            let mut vectors: [iovec; MAX_PIECES] = unsafe { std::mem::zeroed() };
            let (mut count, mut total) = (0, 0);
            while let Some(next) =
                rest.get(count).filter(|next| next.conn == first.conn && !next.end && count < MAX_PIECES)
            {
                let bytes = &input[next.at..next.at + next.length];
                vectors[count] = iovec { iov_base: bytes.as_ptr().cast_mut().cast::<c_void>(), iov_len: bytes.len() };
                total += bytes.len();
                count += 1;
            }
            self.deliver_pieces(tunnel, first.conn, &vectors[..count], total);
            rest = &rest[count..];
        }
        self.segments = segments;
        self.segments.clear();
    }

    fn deliver_pieces(&mut self, tunnel: u32, slot: u32, vectors: &[iovec], total: usize) {
        let Some(conn) = self.conns.get_mut(slot) else { return };
        count_far_bytes(conn, total);
        let mut written = 0;
        if !conn.app.connecting && !conn.app.has_unsent() {
            let count = match vectors {
                [one] => unsafe { libc::send(conn.app.fd(), one.iov_base, one.iov_len, libc::MSG_NOSIGNAL) },
                _ => unsafe { libc::writev(conn.app.fd(), vectors.as_ptr(), vectors.len() as i32) },
            };
            if count < 0 && !net::would_block() {
                return self.app_broke(slot);
            }
            written = count.max(0) as usize;
        }
        if written < total {
            let mut skip = written;
            for vector in vectors {
                let bytes = unsafe { std::slice::from_raw_parts(vector.iov_base.cast::<u8>(), vector.iov_len) };
                let skipped = skip.min(bytes.len());
                conn.app.unsent.extend_from_slice(&bytes[skipped..]);
                skip -= skipped;
            }
            if let Some(tunnel) = self.tunnels.get_mut(tunnel) {
                tunnel.backlog += total - written;
            }
        }
        self.credit_stream(slot, written);
    }

    pub(crate) fn drain_app(&mut self, slot: u32) {
        let Some(conn) = self.conns.get_mut(slot) else { return };
        let Ok(count) = conn.app.drain() else { return self.app_broke(slot) };
        if let Some(tunnel) = conn.leg().map(|leg| leg.tunnel) {
            if let Some(tunnel) = self.tunnels.get_mut(tunnel) {
                tunnel.backlog = tunnel.backlog.saturating_sub(count);
            }
            self.credit_stream(slot, count);
            self.credit_connection(tunnel);
            self.reap(slot);
        } else {
            self.pump(slot);
        }
    }

    /// Gives back the window of what was delivered.
    fn credit_stream(&mut self, slot: u32, count: usize) {
        let Some(leg) = self.conns.get_mut(slot).and_then(|conn| conn.leg()) else { return };
        leg.unacknowledged += count as u32;
        if leg.unacknowledged < STREAM_WINDOW / 4 || leg.end_received {
            return;
        }
        let credit = std::mem::take(&mut leg.unacknowledged);
        leg.receive_window += i64::from(credit);
        let (tunnel, stream) = (leg.tunnel, leg.stream);
        if self.tunnels.get(tunnel).is_some_and(|tunnel| tunnel.is_open()) {
            self.put(tunnel, &h2::number_frame(h2::kind::WINDOW_UPDATE, stream, credit));
        }
    }

    /// Passes an end on, and ends what has ended on both sides.
    pub(crate) fn reap(&mut self, slot: u32) {
        let Some(conn) = self.conns.get_mut(slot) else { return };
        let Far::Stream(leg) = &conn.far else { return };
        if leg.end_received && !conn.app.write_done && !conn.app.connecting && !conn.app.has_unsent() {
            conn.app.write_done = true;
            if !conn.app.read_done {
                net::shutdown_write(conn.app.fd());
            }
        }
        if conn.app.read_done && conn.app.write_done && leg.end_sent && conn.phase == Phase::Open {
            self.finish(slot, Close::Clean, None);
        }
    }
}

pub(crate) fn count_app_bytes(conn: &mut Conn, count: usize) {
    conn.app_to_far += count as u64;
    if let Some(series) = &conn.series {
        let is_request = conn.facts.direction != crate::api::Direction::Inbound;
        let counter = if is_request { &series.received_bytes } else { &series.sent_bytes };
        counter.fetch_add(count as u64, Relaxed);
    }
}

pub(crate) fn count_far_bytes(conn: &mut Conn, count: usize) {
    conn.far_to_app += count as u64;
    if let Some(series) = &conn.series {
        let is_request = conn.facts.direction == crate::api::Direction::Inbound;
        let counter = if is_request { &series.received_bytes } else { &series.sent_bytes };
        counter.fetch_add(count as u64, Relaxed);
    }
}

/// Most records that one call fills or empties.
const MAX_PIECES: usize = 32;
/// A record with less room than that (after a frame header) is sealed instead.
const SMALLEST_PIECE: usize = 256;
/// A read of that size or more goes out at once.
const FLUSH_BYTES: usize = 64 << 10;
pub(crate) const BULK_BYTES: usize = 8192;
/// Largest piece of held bytes in one frame.
const REPLAY_BYTES: i64 = 16_000;
