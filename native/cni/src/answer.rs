use serde::Deserialize;

/// What the agent answers: HTTP/1.1 with one JSON object.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// `enrolled`, `not-captured`, `ok`; empty for a failure.
    pub result: String,
    /// Why that is so, or what went wrong.
    pub because: String,
    /// What to do about it.
    pub remedy: String,
    /// Ask again in a moment: this agent cannot answer now (it is starting, going, or has too much to do).
    pub retry: bool,
}

/// Why bytes are no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unreadable {
    /// It ended too early: the agent went away while it wrote.
    Short,
    /// Not what an agent says.
    Wrong(&'static str),
}

/// Reads a whole response, as far as it came until the connection ended. Gives the status, too.
pub fn parse(response: &[u8]) -> Result<(u16, Answer), Unreadable> {
    if response.len() > MAX_ANSWER_BYTES {
        return Err(Unreadable::Wrong("the answer is too large"));
    }
    let Some(end) = response.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Err(Unreadable::Short);
    };
    let head =
        std::str::from_utf8(&response[..end]).map_err(|_| Unreadable::Wrong("the head of the answer is no text"))?;
    let mut lines = head.split("\r\n");
    let status = status_of(lines.next().unwrap_or_default()).ok_or(Unreadable::Wrong("the answer is no HTTP"))?;
    let mut length = None;
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(Unreadable::Wrong("a header of the answer has no name"))?;
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(Unreadable::Wrong("the answer comes in chunks"));
        }
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.trim().parse::<usize>().map_err(|_| Unreadable::Wrong("its length is no number"))?);
        }
    }
    let body = &response[end + 4..];
    let length = length.ok_or(Unreadable::Wrong("the answer does not say how long it is"))?;
    if length > MAX_ANSWER_BYTES {
        return Err(Unreadable::Wrong("the answer is too large"));
    }
    let body = body.get(..length).ok_or(Unreadable::Short)?;
    // A list would be read as an object's fields in their order.
    let is_object = body.trim_ascii_start().starts_with(b"{");
    let answer = serde_json::from_slice(body).ok().filter(|_| is_object);
    let answer = answer.ok_or(Unreadable::Wrong("the answer is not the JSON it should be"))?;
    Ok((status, answer))
}

fn status_of(line: &str) -> Option<u16> {
    let code = line.strip_prefix("HTTP/1.1 ")?.split(' ').next()?;
    code.parse().ok().filter(|status| (100..600).contains(status) && code.len() == 3)
}

pub const MAX_ANSWER_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn response(body: &str) -> Vec<u8> {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).into_bytes()
    }

    #[test]
    fn an_answer_is_read() {
        let bytes = response(r#"{"result":"enrolled","because":"namespace-label","more":1}"#);
        let (status, answer) = parse(&bytes).expect("good");
        assert_eq!((status, answer.result.as_str(), answer.because.as_str()), (200, "enrolled", "namespace-label"));
    }

    #[test]
    fn every_shorter_piece_of_an_answer_is_short() {
        let bytes = response(r#"{"result":"enrolled"}"#);
        for length in 0..bytes.len() {
            assert_eq!(parse(&bytes[..length]), Err(Unreadable::Short), "{length}");
        }
    }

    #[test]
    fn what_an_agent_does_not_say_is_refused() {
        for bad in [
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]]",
            "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{\"result\":1}",
        ] {
            assert!(matches!(parse(bad.as_bytes()), Err(Unreadable::Wrong(_))), "{bad}");
        }
        assert!(matches!(parse(&vec![b' '; MAX_ANSWER_BYTES + 1]), Err(Unreadable::Wrong(_))));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_not(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
