//! Plaintext, from one socket to another: what comes in past the tunnels, and what goes out to whoever has none.
use crate::api::Direction;
use crate::conn::{Close, Failure, Far, Phase, Side};
use crate::net::{self, SourcePorts};
use crate::outbound::{connect_failure, facts};
use crate::relay::{BULK_BYTES, count_app_bytes, count_far_bytes};
use crate::shared::Pod;
use crate::worker::{Token, Worker};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

impl Worker {
    /// A plaintext connection from outside was redirected to us.
    pub(crate) fn accept_plaintext(&mut self, pod: &Arc<Pod>, fd: OwnedFd, peer: SocketAddr) {
        let raw = fd.as_raw_fd();
        let wanted = net::original_destination(raw, peer);
        let dst = wanted.unwrap_or(SocketAddr::new(peer.ip(), 0));
        let slot = self.new_conn(pod, facts(pod, Direction::InboundPlaintext, dst, peer.ip()), peer.port());
        if let Some(conn) = self.conns.get_mut(slot) {
            conn.app = Side::accepted(fd);
        }
        self.watch_socket(raw, Token::App(slot));
        if wanted.is_none() || self.is_own_port(dst.port()) {
            return self.refuse(slot, 400, Failure::new("CONNECT", "attempted recursive call to ourselves"));
        }
        self.judge(slot);
    }

    /// Connects a socket of its own for this connection. The source address is not kept: it is the pod's anyway.
    pub(crate) fn dial_out(&mut self, slot: u32, target: SocketAddr) {
        let Some(conn) = self.conns.get(slot) else { return };
        let pod = conn.pod.clone();
        if self.is_own_port(target.port()) && self.is_local(&pod, target.ip()) {
            return self.refuse(slot, 503, Failure::new("CONNECT", "attempted recursive call to ourselves"));
        }
        match self.dial(&pod, target, None, SourcePorts::Any) {
            Ok(fd) => self.dialled_far(slot, fd),
            Err(why) => self.try_next(slot, connect_failure(target, &why), true),
        }
    }

    pub(crate) fn dialled_far(&mut self, slot: u32, fd: OwnedFd) {
        let raw = fd.as_raw_fd();
        let Some(conn) = self.conns.get_mut(slot) else { return };
        conn.far = Far::Socket(Side::dialled(fd));
        self.await_phase(slot, Phase::Dialing, self.shared.options.connect_timeout_ms);
        self.watch_socket(raw, Token::Far(slot));
    }

    pub(crate) fn far_connected(&mut self, slot: u32) {
        self.established(slot);
        self.reinstate(slot);
        if let Some(conn) = self.conns.get_mut(slot) {
            conn.trial = None;
        }
        self.pump(slot);
    }

    pub(crate) fn far_event(&mut self, slot: u32, bits: i32) {
        let Some(conn) = self.conns.get_mut(slot) else { return };
        let Far::Socket(far) = &mut conn.far else { return };
        if far.connecting {
            if bits & (libc::EPOLLERR | libc::EPOLLHUP) != 0 {
                let error = net::take_error(far.fd());
                return self.dial_failed(slot, error);
            }
            if bits & libc::EPOLLOUT == 0 {
                return;
            }
            far.connecting = false;
            far.readable = true;
            return self.far_connected(slot);
        }
        if bits & (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) != 0 {
            far.readable = true;
            far.hangup |= bits & (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) != 0;
        }
        self.pump(slot);
    }

    pub(crate) fn pump_sockets(&mut self, slot: u32) {
        let mut rx = std::mem::take(&mut self.rx);
        let outcome = self.relay_sockets(slot, &mut rx[..PLAIN_BYTES]);
        self.rx = rx;
        match outcome {
            Err(why) => self.finish(slot, Close::Reset, Some(Failure::closed(why))),
            Ok(true) => self.queue_pump(slot),
            Ok(false) => {}
        }
    }

    /// True when there is more to do at once.
    pub(crate) fn relay_sockets(&mut self, slot: u32, buffer: &mut [u8]) -> Result<bool, &'static str> {
        let Some(conn) = self.conns.get_mut(slot) else { return Ok(false) };
        let Far::Socket(far) = &mut conn.far else { return Ok(false) };
        let (client, server) = ("the client reset the connection", "the server reset the connection");
        let reset_by = |broken| if broken == Broken::Reader { (client, server) } else { (server, client) };
        let (out, out_more) = relay(&mut conn.app, far, buffer).map_err(|broken| reset_by(broken).0)?;
        let (back, back_more) = relay(far, &mut conn.app, buffer).map_err(|broken| reset_by(broken).1)?;
        let is_over = conn.app.write_done && far.write_done;
        count_app_bytes(conn, out);
        count_far_bytes(conn, back);
        self.is_bulk |= out + back > BULK_BYTES;
        if is_over {
            self.finish(slot, Close::Clean, None);
            return Ok(false);
        }
        Ok(out_more || back_more)
    }
}

/// Which of two sockets is no more: the one read from, or the one written to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Broken {
    Reader,
    Writer,
}

/// Moves bytes one way: how many were read, and whether there may be more at once.
fn relay(from: &mut Side, to: &mut Side, buffer: &mut [u8]) -> Result<(usize, bool), Broken> {
    to.drain().map_err(|()| Broken::Writer)?;
    let (mut total, mut rounds) = (0, 0);
    while from.readable && !from.read_done && !to.has_unsent() {
        if rounds == PLAIN_ROUNDS {
            return Ok((total, true));
        }
        rounds += 1;
        let count = net::recv(from.fd(), buffer);
        if count < 0 {
            if !net::would_block() {
                return Err(Broken::Reader);
            }
            from.readable = false;
            break;
        }
        if count == 0 {
            from.read_done = true;
            break;
        }
        let bytes = &buffer[..count as usize];
        total += bytes.len();
        let sent = net::send(to.fd(), bytes);
        if sent < 0 && !net::would_block() {
            return Err(Broken::Writer);
        }
        to.unsent.extend_from_slice(&bytes[sent.max(0) as usize..]);
        if bytes.len() < buffer.len() && !from.hangup {
            from.readable = false;
        }
    }
    if from.read_done && !to.has_unsent() && !to.write_done {
        to.write_done = true;
        net::shutdown_write(to.fd());
    }
    Ok((total, false))
}

const PLAIN_BYTES: usize = 128 << 10;
const PLAIN_ROUNDS: u32 = 8;
