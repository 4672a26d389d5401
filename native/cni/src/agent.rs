use std::ffi::CString;
use std::io::{self, Read, Write};
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::answer::{self, Answer, MAX_ANSWER_BYTES, Unreadable};

/// What came of asking the agent.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    Answered(u16, Answer),
    /// Nobody was there, or nobody who could answer: what was seen last.
    Away(String),
    /// The agent took the call and did not answer in time.
    Silent(String),
    /// Somebody answered who is no agent.
    Foreign(String),
}

/// How long to wait for whom.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    pub away: Duration,
    pub answer: Duration,
}

/// Asks until there is an answer: an agent that is away, starting, or going (its successor has the socket in a moment)
/// is asked again. `body` is made anew each time, from the time that is left for the answer.
pub fn ask(socket: &str, path: &str, patience: Patience, body: impl Fn(Duration) -> String) -> Asked {
    let started = Instant::now();
    let (away_until, answer_until) = (started + patience.away, started + patience.answer.max(patience.away));
    loop {
        let why = match once(socket, path, answer_until, &body) {
            Err(Trouble::Away(why)) => Asked::Away(why),
            Ok((_, answer)) if answer.retry => Asked::Away(answer.because),
            Ok((status, answer)) => return Asked::Answered(status, answer),
            Err(Trouble::Silent(why)) => return Asked::Silent(why),
            Err(Trouble::Foreign(why)) => return Asked::Foreign(why),
        };
        let pause = RETRY_PAUSE.min(away_until.saturating_duration_since(Instant::now()));
        if pause.is_zero() {
            return why;
        }
        std::thread::sleep(pause);
    }
}

enum Trouble {
    Away(String),
    Silent(String),
    Foreign(String),
}

fn once(
    socket: &str,
    path: &str,
    until: Instant,
    body: &impl Fn(Duration) -> String,
) -> Result<(u16, Answer), Trouble> {
    let left = |until: Instant| until.saturating_duration_since(Instant::now());
    let mut stream = connect(socket).map_err(|error| Trouble::Away(format!("{socket}: {error}")))?;
    let body = body(left(until));
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: agent\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    // An agent that went away in between has not done anything that must not be done again.
    set_timeouts(&stream, left(until)).map_err(|error| Trouble::Away(error.to_string()))?;
    stream.write_all(request.as_bytes()).map_err(|error| Trouble::Away(format!("{socket}: {error}")))?;
    let mut response = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        // The agent is told a little less, so that it can say itself what it waits for.
        let wait = left(until);
        if wait.is_zero() {
            return Err(Trouble::Silent(format!("{socket}: no answer in time")));
        }
        set_timeouts(&stream, wait).map_err(|error| Trouble::Away(error.to_string()))?;
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => response.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(Trouble::Away(format!("{socket}: {error}"))),
        }
        match answer::parse(&response) {
            Ok(answered) => return Ok(answered),
            Err(Unreadable::Short) if response.len() <= MAX_ANSWER_BYTES => {}
            Err(Unreadable::Short) => return Err(Trouble::Foreign(format!("{socket}: the answer is too large"))),
            Err(Unreadable::Wrong(why)) => return Err(Trouble::Foreign(format!("{socket}: {why}"))),
        }
    }
    Err(Trouble::Away(format!("{socket}: the agent went away before it answered")))
}

/// Without waiting: a blocking connect waits for ever when the agent hangs and its queue is full.
fn connect(path: &str) -> io::Result<UnixStream> {
    let text = CString::new(path)?;
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = text.as_bytes_with_nul();
    if bytes.len() > address.sun_path.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path is longer than Linux takes"));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let fd = unsafe { libc::socket(libc::AF_UNIX, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let stream = unsafe { UnixStream::from_raw_fd(fd) };
    let length = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    if unsafe { libc::connect(fd, (&raw const address).cast(), length) } < 0 {
        return Err(io::Error::last_os_error());
    }
    stream.set_nonblocking(false)?;
    Ok(stream)
}

fn set_timeouts(stream: &UnixStream, left: Duration) -> io::Result<()> {
    let left = Some(left.max(Duration::from_millis(1)));
    stream.set_read_timeout(left)?;
    stream.set_write_timeout(left)
}

const RETRY_PAUSE: Duration = Duration::from_millis(100);
