//! From a tunnel's socket to its frames: records are opened in place, in the thread's receive buffer.
use super::TunnelPhase;
use crate::conn::Failure;
use crate::net;
use crate::record::{ALERT, APPLICATION_DATA, HANDSHAKE, HEADER, MAX_CIPHERTEXT, PostHandshake};
use crate::worker::{Job, Worker};

impl Worker {
    pub(super) fn read_tunnel(&mut self, slot: u32) {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        if matches!(tunnel.phase, TunnelPhase::Connecting | TunnelPhase::AwaitingCertificate) {
            return;
        }
        let mut rx = std::mem::take(&mut self.rx);
        let before = tunnel.partial.len();
        rx[..before].copy_from_slice(&tunnel.partial);
        let count = net::recv(tunnel.raw(), &mut rx[before..]);
        let capacity = rx.len() - before;
        let hangup = tunnel.hangup;
        tunnel.heard_ms = self.now_ms;
        let mut outcome = Ok(());
        if count > 0 {
            self.is_bulk |= count > BULK_BYTES;
            outcome = self.records(slot, &mut rx[..before + count as usize]);
        } else if count == 0 {
            outcome = Err(Failure::closed("the peer closed the tunnel"));
        } else if !net::would_block() {
            outcome = Err(Failure::closed(format!("the tunnel broke: {}", std::io::Error::last_os_error())));
        }
        self.rx = rx;
        match outcome {
            Err(why) => self.doom(slot, why),
            Ok(()) if count > 0 && (count as usize == capacity || hangup) => {
                if let Some(tunnel) = self.tunnels.get_mut(slot).filter(|tunnel| !tunnel.queued) {
                    tunnel.queued = true;
                    self.run.push_back(Job::Read(slot));
                }
            }
            Ok(()) => {}
        }
    }

    /// Opens each whole record of `input`; keeps what is left of a partial one.
    pub(super) fn records(&mut self, slot: u32, input: &mut [u8]) -> Result<(), Failure> {
        let mut at = 0;
        let outcome = loop {
            let rest = &mut input[at..];
            let Some(header) = rest.first_chunk::<HEADER>().copied() else { break Ok(()) };
            let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
            if length > MAX_CIPHERTEXT || length == 0 {
                break Err(Failure::new("TLS_FAILURE", "the peer sent no TLS record"));
            }
            if rest.len() < HEADER + length {
                break Ok(());
            }
            let body = at + HEADER..at + HEADER + length;
            at = body.end;
            if let Err(why) = self.record(slot, header, input, body) {
                break Err(why);
            }
        };
        self.deliver(slot, input);
        if let Some(tunnel) = self.tunnels.get_mut(slot) {
            tunnel.partial.clear();
            tunnel.partial.extend_from_slice(&input[at..]);
            if at == input.len() {
                tunnel.partial = vec![];
            }
        }
        outcome
    }

    pub(super) fn record(
        &mut self,
        slot: u32,
        header: [u8; HEADER],
        input: &mut [u8],
        body: std::ops::Range<usize>,
    ) -> Result<(), Failure> {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return Ok(()) };
        let Some(keys) = &mut tunnel.rx else {
            return self.handshake_record(slot, &input[body.start - HEADER..body.end]);
        };
        let opened = keys.open(header, &mut input[body.clone()]);
        let (content_type, length) =
            opened.map_err(|_| Failure::new("TLS_FAILURE", "a TLS record is not authentic"))?;
        let content = body.start..body.start + length;
        if content_type != HANDSHAKE && !tunnel.post_handshake.is_between_messages() {
            return Err(Failure::new("TLS_FAILURE", "a TLS handshake message is interrupted"));
        }
        match content_type {
            APPLICATION_DATA => {
                tunnel.updates_in_a_row = 0;
                self.frames(slot, &input[..content.end], content.start)
            }
            HANDSHAKE => self.post_handshake(slot, &input[content]),
            ALERT => Err(alert(&input[content])),
            _ => Err(Failure::new("TLS_FAILURE", "a TLS record of unknown type")),
        }
    }

    pub(super) fn post_handshake(&mut self, slot: u32, content: &[u8]) -> Result<(), Failure> {
        let bad = |what| Failure::new("TLS_FAILURE", what);
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return Ok(()) };
        let message = tunnel.post_handshake.read(content).map_err(|_| bad("a TLS message that cannot be"))?;
        let PostHandshake::KeyUpdate { answer } = message else { return Ok(()) };
        tunnel.updates_in_a_row += 1;
        if tunnel.updates_in_a_row > MAX_UPDATES_IN_A_ROW {
            return Err(bad("a flood of key updates"));
        }
        tunnel.rx.as_mut().and_then(|keys| keys.update()).ok_or_else(|| bad("no further TLS keys"))?;
        tunnel.update_due |= answer;
        if answer {
            // Our own update goes out now, not with the next data.
            self.own(slot);
        }
        Ok(())
    }
}

fn alert(content: &[u8]) -> Failure {
    match content {
        [_, 0] => Failure::closed("the peer closed the tunnel"),
        [_, code] => Failure::new(
            if *code == CERTIFICATE_REVOKED { "CERT_REVOKED" } else { "TLS_FAILURE" },
            format!("the peer refused the tunnel: TLS alert {code} ({})", alert_name(*code)),
        ),
        _ => Failure::new("TLS_FAILURE", "a TLS alert that cannot be"),
    }
}

fn alert_name(code: u8) -> &'static str {
    match code {
        20 => "bad record",
        40 => "handshake failure",
        42 => "bad certificate",
        CERTIFICATE_REVOKED => "certificate revoked",
        45 => "certificate expired",
        46 => "certificate unknown",
        48 => "unknown CA",
        49 => "access denied",
        116 => "certificate required",
        120 => "no application protocol",
        _ => "other",
    }
}

const CERTIFICATE_REVOKED: u8 = 44;
const MAX_UPDATES_IN_A_ROW: u8 = 4;
const BULK_BYTES: isize = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_finds_us_revoked_is_told_from_one_that_breaks_tls() {
        assert_eq!(alert(&[2, CERTIFICATE_REVOKED]).flag, "CERT_REVOKED");
        assert_eq!(alert(&[2, 40]).flag, "TLS_FAILURE");
        assert_eq!(alert(&[2]).flag, "TLS_FAILURE");
    }
}
