//! The server: one epoll loop per thread. The first byte of a connection says what it wants; what is not short or
//! plain bulk (a compared transfer, half-closes) goes to a thread of its own. `--greet` is a port whose server speaks first.
use crate::{Options, socket, transfer};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// Comes back as it was sent; the end is answered with the end.
pub const ECHO: u8 = b'P';
/// Is thrown away; the end is answered with the number of bytes.
pub const SINK: u8 = b'B';
pub const GREETING: &[u8] = b"220 meltemi-load\r\n";

pub fn run(options: &Options) -> io::Result<String> {
    let listen = options.required("listen")?;
    let threads = options.number("threads", 1)?.max(1);
    let mut loops = Vec::new();
    for _ in 0..threads {
        let mut listeners = vec![(socket::listen(listen, options.congestion())?, false)];
        if let Some(greet) = options.text("greet") {
            listeners.push((socket::listen(greet, options.congestion())?, true));
        }
        loops.push(Loop::new(listeners)?);
    }
    println!("{{\"listening\":{listen:?}}}");
    io::stdout().flush()?;
    let threads: Vec<_> = loops.into_iter().map(|mut each| std::thread::spawn(move || each.run())).collect();
    for thread in threads {
        thread.join().map_err(|_| io::Error::other("a server thread panicked"))??;
    }
    Ok("{}".into())
}

struct Loop {
    epoll: i32,
    listeners: Vec<(TcpListener, bool)>,
    connections: HashMap<i32, Connection>,
    buffer: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    mode: Option<u8>,
    received: u64,
    /// Bytes to be sent before more are read.
    unsent: Vec<u8>,
    ended: bool,
}

/// What becomes of a connection after an event.
enum Next {
    Stay,
    Close,
    /// To a thread of its own, with the mode byte read.
    Move(u8),
}

impl Loop {
    fn new(listeners: Vec<(TcpListener, bool)>) -> io::Result<Self> {
        let epoll = socket::check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        for (listener, _) in &listeners {
            listener.set_nonblocking(true)?;
            control(epoll, libc::EPOLL_CTL_ADD, listener.as_raw_fd(), libc::EPOLLIN)?;
        }
        Ok(Loop { epoll, listeners, connections: HashMap::new(), buffer: vec![0; 256 * 1024] })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; 256];
        loop {
            let count = unsafe { libc::epoll_wait(self.epoll, events.as_mut_ptr(), events.len() as i32, -1) };
            if count < 0 {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            }
            for event in &events[..count as usize] {
                let fd = event.u64 as i32;
                match self.listeners.iter().position(|(listener, _)| listener.as_raw_fd() == fd) {
                    Some(at) => self.accept(at),
                    None => self.serve(fd),
                }
            }
        }
    }

    fn accept(&mut self, at: usize) {
        let (listener, greets) = &self.listeners[at];
        let greets = *greets;
        for _ in 0..64 {
            let Ok((stream, _)) = listener.accept() else { return };
            let _ = stream.set_nonblocking(true);
            let _ = stream.set_nodelay(true);
            let fd = stream.as_raw_fd();
            if control(self.epoll, libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN).is_err() {
                continue;
            }
            if greets {
                let _ = (&stream).write_all(GREETING);
            }
            let mode = greets.then_some(ECHO);
            let connection = Connection { stream, mode, received: 0, unsent: Vec::new(), ended: false };
            self.connections.insert(fd, connection);
        }
    }

    fn serve(&mut self, fd: i32) {
        let Some(connection) = self.connections.get_mut(&fd) else { return };
        let blocked = !connection.unsent.is_empty();
        let next = connection.step(&mut self.buffer).unwrap_or(Next::Close);
        match next {
            Next::Stay => {
                let blocks = !connection.unsent.is_empty();
                if blocks != blocked {
                    let interest = if blocks { libc::EPOLLOUT } else { libc::EPOLLIN };
                    let _ = control(self.epoll, libc::EPOLL_CTL_MOD, fd, interest);
                }
            }
            Next::Close => {
                self.connections.remove(&fd);
            }
            Next::Move(mode) => {
                let _ = control(self.epoll, libc::EPOLL_CTL_DEL, fd, 0);
                if let Some(connection) = self.connections.remove(&fd) {
                    std::thread::spawn(move || {
                        let stream = connection.stream;
                        let _ = stream.set_nonblocking(false);
                        let _ = stream.set_read_timeout(Some(Duration::from_secs(120)));
                        let _ = transfer::serve(stream, mode);
                    });
                }
            }
        }
    }
}

impl Connection {
    fn step(&mut self, buffer: &mut [u8]) -> io::Result<Next> {
        if !self.unsent.is_empty() {
            let unsent = std::mem::take(&mut self.unsent);
            self.send(&unsent)?;
            if !self.unsent.is_empty() {
                return Ok(Next::Stay);
            }
            if self.ended {
                return Ok(Next::Close);
            }
        }
        if self.mode.is_none() {
            let mut first = [0];
            if self.stream.read(&mut first)? == 0 {
                return Ok(Next::Close);
            }
            self.mode = Some(first[0]);
            if first[0] != ECHO && first[0] != SINK {
                return Ok(Next::Move(first[0]));
            }
        }
        for _ in 0..16 {
            let count = match self.stream.read(buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Next::Stay),
                Err(error) => return Err(error),
            };
            if count == 0 {
                return self.end();
            }
            self.received += count as u64;
            if self.mode == Some(ECHO) {
                self.send(&buffer[..count])?;
                if !self.unsent.is_empty() {
                    return Ok(Next::Stay);
                }
            }
            if count < buffer.len() {
                return Ok(Next::Stay);
            }
        }
        Ok(Next::Stay)
    }

    fn end(&mut self) -> io::Result<Next> {
        self.ended = true;
        if self.mode == Some(SINK) {
            let received = self.received.to_be_bytes();
            self.send(&received)?;
        }
        Ok(if self.unsent.is_empty() { Next::Close } else { Next::Stay })
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.stream.write(bytes) {
            Ok(sent) => self.unsent = bytes[sent..].to_vec(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.unsent = bytes.to_vec(),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

pub fn control(epoll: i32, operation: i32, fd: i32, interest: i32) -> io::Result<()> {
    let mut event = libc::epoll_event { events: interest as u32, u64: fd as u64 };
    socket::check(unsafe { libc::epoll_ctl(epoll, operation, fd, &raw mut event) }).map(|_| ())
}
