//! A CONNECT request: what of its headers matters. All of it is a peer's word.
use std::net::SocketAddr;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub method: Vec<u8>,
    pub authority: Vec<u8>,
    /// Pseudo-headers that a CONNECT may not have, or had twice.
    pub malformed: bool,
}

impl Request {
    /// Takes note of one decoded field.
    pub fn add(&mut self, name: &[u8], value: &[u8]) {
        match name {
            b":method" if self.method.is_empty() => self.method = value.to_vec(),
            b":authority" if self.authority.is_empty() => self.authority = value.to_vec(),
            _ if name.starts_with(b":") => self.malformed = true,
            _ => {}
        }
    }

    /// The port of an authority `ip:port`, `[ip]:port` or `name:port`; None for anything else.
    pub fn port(&self) -> Option<u16> {
        let text = std::str::from_utf8(&self.authority).ok().filter(|text| text.len() <= MAX_AUTHORITY)?;
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Some(address.port()).filter(|port| *port != 0);
        }
        let (host, port) = text.rsplit_once(':')?;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'*');
        if host.is_empty() || !host.bytes().all(is_name) || !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        port.parse().ok().filter(|port| *port != 0)
    }
}

pub const MAX_AUTHORITY: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_port_of_an_authority() {
        for (text, port) in [("10.0.0.1:80", 80), ("[fd00::1]:8080", 8080), ("reviews.shop.svc:9080", 9080)] {
            assert_eq!(to(text).port(), Some(port), "{text}");
        }
        for bad in [
            "",
            "10.0.0.1",
            ":80",
            "a:0",
            "a:65536",
            "a:+80",
            "a b:80",
            "user@a:80",
            "fd00::1:80",
            "[fd00::1]",
            "a:",
            "\u{e9}:80",
        ] {
            assert_eq!(to(bad).port(), None, "{bad}");
        }
    }

    #[test]
    fn a_connect_has_no_other_pseudo_headers() {
        let mut request = Request::default();
        request.add(b":method", b"CONNECT");
        request.add(b":authority", b"a:80");
        request.add(b"baggage", b"x");
        assert!(!request.malformed);
        request.add(b":path", b"/");
        assert!(request.malformed);
    }

    fn to(authority: &str) -> Request {
        Request { authority: authority.into(), ..Request::default() }
    }
}
