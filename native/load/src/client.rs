//! The questions of a benchmark: how much, how fast back and forth, how many new connections.
use crate::server::{ECHO, SINK, control};
use crate::stats::Latencies;
use crate::{Options, socket};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// A thread per connection sends as fast as it can; counted is what the server says it got, until it says so.
pub fn bulk(options: &Options) -> io::Result<String> {
    let connections = options.number("connections", 1)?;
    let seconds = options.seconds()?;
    let streams = open(options, connections)?;
    let started = Instant::now();
    let threads: Vec<_> =
        streams.into_iter().map(|stream| std::thread::spawn(move || send_for(stream, started, seconds))).collect();
    let mut bytes = 0;
    for thread in threads {
        bytes += thread.join().map_err(|_| io::Error::other("a client thread panicked"))??;
    }
    let elapsed = started.elapsed().as_secs_f64();
    Ok(format!(
        "{{\"connections\":{connections},\"bytes\":{bytes},\"seconds\":{elapsed:.3},\"gbit_per_s\":{:.3}}}",
        bytes as f64 * 8.0 / elapsed / 1e9
    ))
}

/// One message per connection under way at any time.
pub fn pingpong(options: &Options) -> io::Result<String> {
    let connections = options.number("connections", 1)?;
    let size = options.number("bytes", 64)?.max(1) as usize;
    let seconds = options.seconds()?;
    let streams = open(options, connections)?;
    for stream in &streams {
        (&*stream).write_all(&[ECHO])?;
        exchange(stream, &vec![1; size], &mut vec![0; size])?;
    }
    let started = Instant::now();
    let latencies = match &streams[..] {
        [stream] => one_by_one(stream, size, started, seconds)?,
        streams => all_at_once(streams, size, started, seconds)?,
    };
    Ok(latencies.into_json(started.elapsed()))
}

/// Connect, one exchange, close: as often as each worker can.
pub fn connects(options: &Options) -> io::Result<String> {
    let workers = options.number("workers", 1)?;
    let size = options.number("bytes", 64)?.max(1) as usize;
    let seconds = options.seconds()?;
    let started = Instant::now();
    let latencies = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..workers).map(|_| scope.spawn(|| connect_again(options, size, started, seconds))).collect();
        let mut all = Latencies::default();
        for thread in threads {
            all.merge(thread.join().unwrap_or_default());
        }
        all
    });
    Ok(latencies.into_json(started.elapsed()))
}

pub fn open(options: &Options, connections: u64) -> io::Result<Vec<TcpStream>> {
    (0..connections.max(1)).map(|_| socket::connect(options)).collect()
}

pub fn exchange(mut stream: &TcpStream, message: &[u8], reply: &mut [u8]) -> io::Result<()> {
    stream.write_all(message)?;
    stream.read_exact(reply)
}

fn send_for(mut stream: TcpStream, started: Instant, seconds: Duration) -> io::Result<u64> {
    let chunk = vec![0x5a; 256 * 1024];
    stream.write_all(&[SINK])?;
    while started.elapsed() < seconds {
        stream.write_all(&chunk)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut received = [0; 8];
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.read_exact(&mut received)?;
    Ok(u64::from_be_bytes(received))
}

fn one_by_one(stream: &TcpStream, size: usize, started: Instant, seconds: Duration) -> io::Result<Latencies> {
    let (message, mut reply) = (vec![1; size], vec![0; size]);
    let mut latencies = Latencies::default();
    let mut sent = Instant::now();
    while sent - started < seconds {
        exchange(stream, &message, &mut reply)?;
        let now = Instant::now();
        latencies.add(now - sent);
        sent = now;
    }
    Ok(latencies)
}

fn all_at_once(streams: &[TcpStream], size: usize, started: Instant, seconds: Duration) -> io::Result<Latencies> {
    let message = vec![1; size];
    let mut buffer = vec![0; 64 * 1024];
    let mut latencies = Latencies::default();
    let epoll = socket::check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
    let most = streams.iter().map(AsRawFd::as_raw_fd).max().unwrap_or(0) as usize;
    let mut sent = vec![(started, 0_usize); most + 1];
    let mut by_fd: Vec<Option<&TcpStream>> = vec![None; most + 1];
    for mut stream in streams {
        let fd = stream.as_raw_fd();
        stream.set_nonblocking(true)?;
        control(epoll, libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN)?;
        by_fd[fd as usize] = Some(stream);
        sent[fd as usize] = (Instant::now(), 0);
        stream.write_all(&message)?;
    }
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; 256];
    while started.elapsed() < seconds {
        let count = unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), events.len() as i32, 1000) };
        for event in &events[..count.max(0) as usize] {
            let fd = event.u64 as usize;
            let Some(mut stream) = by_fd[fd] else { continue };
            let got = match stream.read(&mut buffer) {
                Ok(0) => return Err(io::Error::other("the server closed a connection")),
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            };
            let (since, before) = sent[fd];
            if before + got < size {
                sent[fd].1 += got;
                continue;
            }
            let now = Instant::now();
            latencies.add(now - since);
            sent[fd] = (now, 0);
            stream.write_all(&message)?;
        }
    }
    unsafe { libc::close(epoll) };
    Ok(latencies)
}

fn connect_again(options: &Options, size: usize, started: Instant, seconds: Duration) -> Latencies {
    let mut message = vec![1; size + 1];
    message[0] = ECHO;
    let mut reply = vec![0; size];
    let mut latencies = Latencies::default();
    loop {
        let begun = Instant::now();
        if begun - started >= seconds {
            return latencies;
        }
        match socket::connect(options).and_then(|stream| exchange(&stream, &message, &mut reply)) {
            Ok(()) => latencies.add(begun.elapsed()),
            Err(_) => {
                latencies.errors += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}
