//! Is every byte there, and does each side's end reach the other? Both ends make the same streams and compare.
use crate::stream::Stream;
use crate::{Options, socket};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Both ways at once: N bytes each.
const BOTH: u8 = b'H';
/// The client ends first; the server sends only after that.
const CLIENT_FIRST: u8 = b'Z';
/// The server ends first; the client sends only after that. What arrived is asked for on another connection.
const SERVER_FIRST: u8 = b'Y';
const ASK: u8 = b'Q';

/// `{"ok":true,"bytes":…,"seconds":…}`; an error names the first wrong byte or what was missing.
pub fn transfer(options: &Options) -> io::Result<String> {
    let bytes = options.number("bytes", 1 << 30)?;
    let pause = Duration::from_micros(options.number("read-pause-us", 0)?);
    let stream = open(options, BOTH, bytes, 0)?;
    let started = Instant::now();
    let sender = stream.try_clone()?;
    let sending = std::thread::spawn(move || send(&sender, bytes, TO_SERVER));
    receive(&stream, bytes, TO_CLIENT, pause)?;
    sending.join().map_err(|_| io::Error::other("the sender panicked"))??;
    let verdict = verdict(&stream)?;
    if verdict != bytes {
        return Err(io::Error::other(format!("the server got {verdict} right bytes of {bytes}")));
    }
    Ok(format!("{{\"ok\":true,\"bytes\":{bytes},\"seconds\":{:.3}}}", started.elapsed().as_secs_f64()))
}

/// `{"ok":true,"bytes":…}`: each side ended first once, and the other side's bytes still came.
pub fn half_close(options: &Options) -> io::Result<String> {
    let bytes = options.number("bytes", 1 << 20)?;
    let stream = open(options, CLIENT_FIRST, bytes, 0)?;
    send(&stream, bytes, TO_SERVER)?;
    receive(&stream, bytes, TO_CLIENT, Duration::ZERO)?;

    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let token = (u64::from(std::process::id()) << 32) | u64::from(since_epoch.subsec_nanos());
    let stream = open(options, SERVER_FIRST, bytes, token)?;
    receive(&stream, bytes, TO_CLIENT, Duration::ZERO)?;
    expect_end(&stream)?;
    send(&stream, bytes, TO_SERVER)?;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let arrived = verdict(&open(options, ASK, 0, token)?)?;
        if arrived == bytes {
            return Ok(format!("{{\"ok\":true,\"bytes\":{bytes}}}"));
        }
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("the server got {arrived} right bytes of {bytes} after its own end")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The server's side, after the mode byte.
pub fn serve(mut stream: TcpStream, mode: u8) -> io::Result<()> {
    let mut head = [0; 16];
    stream.read_exact(&mut head)?;
    let bytes = u64::from_be_bytes(head[..8].try_into().unwrap_or_default());
    let token = u64::from_be_bytes(head[8..].try_into().unwrap_or_default());
    match mode {
        BOTH => {
            let sender = stream.try_clone()?;
            let sending = std::thread::spawn(move || send_open(&sender, bytes, TO_CLIENT));
            let right = receive(&stream, bytes, TO_SERVER, Duration::ZERO).map_or(0, |()| bytes);
            sending.join().map_err(|_| io::Error::other("the sender panicked"))??;
            stream.write_all(&right.to_be_bytes())
        }
        CLIENT_FIRST => {
            receive(&stream, bytes, TO_SERVER, Duration::ZERO)?;
            expect_end(&stream)?;
            send(&stream, bytes, TO_CLIENT)
        }
        SERVER_FIRST => {
            send(&stream, bytes, TO_CLIENT)?;
            receive(&stream, bytes, TO_SERVER, Duration::ZERO)?;
            expect_end(&stream)?;
            arrived(|all| all.insert(token, bytes));
            Ok(())
        }
        ASK => stream.write_all(&arrived(|all| all.get(&token).copied().unwrap_or(0)).to_be_bytes()),
        _ => Err(io::Error::other("no such mode")),
    }
}

fn open(options: &Options, mode: u8, bytes: u64, token: u64) -> io::Result<TcpStream> {
    let mut stream = socket::connect(options)?;
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    let mut head = vec![mode];
    head.extend(bytes.to_be_bytes());
    head.extend(token.to_be_bytes());
    stream.write_all(&head)?;
    Ok(stream)
}

fn send(stream: &TcpStream, bytes: u64, seed: u64) -> io::Result<()> {
    send_open(stream, bytes, seed)?;
    stream.shutdown(Shutdown::Write)
}

fn send_open(mut stream: &TcpStream, bytes: u64, seed: u64) -> io::Result<()> {
    let mut content = Stream::new(seed);
    let mut buffer = vec![0; CHUNK];
    while content.position < bytes {
        let count = (bytes - content.position).min(CHUNK as u64) as usize;
        content.fill(&mut buffer[..count]);
        stream.write_all(&buffer[..count])?;
    }
    Ok(())
}

fn receive(mut stream: &TcpStream, bytes: u64, seed: u64, pause: Duration) -> io::Result<()> {
    let mut content = Stream::new(seed);
    let (mut buffer, mut scratch) = (vec![0; CHUNK], vec![0; CHUNK]);
    while content.position < bytes {
        let most = (bytes - content.position).min(CHUNK as u64) as usize;
        let count = stream.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::Error::other(format!("the stream ended at byte {} of {bytes}", content.position)));
        }
        content.check(&buffer[..count], &mut scratch)?;
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
    Ok(())
}

fn expect_end(mut stream: &TcpStream) -> io::Result<()> {
    match stream.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(io::Error::other("more bytes than were sent")),
    }
}

fn verdict(mut stream: &TcpStream) -> io::Result<u64> {
    let mut word = [0; 8];
    stream.read_exact(&mut word)?;
    Ok(u64::from_be_bytes(word))
}

fn arrived<T>(run: impl FnOnce(&mut HashMap<u64, u64>) -> T) -> T {
    static ARRIVED: Mutex<Option<HashMap<u64, u64>>> = Mutex::new(None);
    let mut all = ARRIVED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    run(all.get_or_insert_default())
}

const TO_SERVER: u64 = 1;
const TO_CLIENT: u64 = 2;
const CHUNK: usize = 256 * 1024;
