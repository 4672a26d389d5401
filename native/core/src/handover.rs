//! Listeners pass from an old engine to a new one as descriptors over a Unix socket, so that no connection in a backlog
//! is lost. Both have them for a while: the old engine accepts until the new one says that it does, and keeps them even
//! then, in case that the new one dies. The connection between the two stays as long as both live.
use crate::api::Direction;
use crate::net::Netns;
use std::io::{Error, ErrorKind, Result};
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A socket that passes to a successor.
#[derive(Clone, Debug)]
pub(crate) struct Handed {
    pub what: What,
    pub fd: Arc<OwnedFd>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// One listener of a pod, by the pod's uid.
    Listener { uid: String, kind: Direction },
    /// A socket in a pod's network namespace that somebody else uses (netns_sockets.rs), by its key there.
    Socket(String),
}

impl What {
    pub fn of_listener(self) -> Option<(String, Direction)> {
        match self {
            What::Listener { uid, kind } => Some((uid, kind)),
            What::Socket(_) => None,
        }
    }
}

/// What a predecessor has to give.
pub(crate) trait Estate {
    /// All of it.
    fn all(&self) -> Vec<Handed>;
    /// The successor serves: from now on nothing is accepted here.
    fn taken(&self);
    /// Whether to give up waiting.
    fn is_over(&self) -> bool;
}

/// A successor that has taken over. It is gone when this connection ends.
pub(crate) struct Successor {
    peer: OwnedFd,
    /// It runs in the network namespace of this process: the ports of its own pages are the same.
    pub shares_network: bool,
}

/// Waits at `path` for a successor of a higher generation, hands it everything, and goes on as before until that one
/// says that it serves; one that goes away before has taken nothing. None when `estate` is over.
pub(crate) fn offer(path: &Path, generation: u64, estate: &impl Estate) -> Result<Option<Successor>> {
    let mut door = Door::open(path, generation)?;
    loop {
        if estate.is_over() {
            return Ok(None);
        }
        // A successor that died before it served may have left its own.
        if !door.is_there() && !is_offered(path) {
            door = Door::open(path, generation)?;
        }
        if !wait_readable(door.socket.as_raw_fd(), POLL_MS)? {
            continue;
        }
        let Ok(peer) = accept(door.socket.as_raw_fd()) else { continue };
        // Whoever fails to behave as a successor is forgotten; the next may come.
        if let Ok(Some(successor)) = hand(peer, generation, estate) {
            return Ok(Some(successor));
        }
    }
}

/// Serves a successor for what it still asks until it is gone (true) or the estate is over.
pub(crate) fn accompany(successor: &Successor, estate: &impl Estate) -> bool {
    loop {
        match answer(&successor.peer, estate, POLL_MS) {
            Ok(Said::Nothing) if estate.is_over() => return false,
            Ok(Said::Goodbye) | Err(_) => return true,
            Ok(_) => {}
        }
    }
}

/// Whether an engine offers its listeners at `path`.
pub(crate) fn is_offered(path: &Path) -> bool {
    let Ok(fd) = seqpacket(libc::SOCK_NONBLOCK) else { return false };
    match connect(&fd, path) {
        Ok(()) => true,
        // Its queue is full: somebody else is being served.
        Err(why) => why.kind() == ErrorKind::WouldBlock,
    }
}

/// A predecessor that has handed over and still serves, until it is told that it need not.
pub(crate) struct Predecessor {
    peer: OwnedFd,
}

/// Takes what the engine at `path` has; None when there is no engine.
pub(crate) fn take(path: &Path, generation: u64) -> Result<Option<(Predecessor, Vec<Handed>)>> {
    let peer = seqpacket(0)?;
    limit_waits(&peer, TAKE_SECONDS)?;
    match connect(&peer, path) {
        Ok(()) => {}
        Err(why) if matches!(why.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => return Ok(None),
        Err(why) => return Err(why),
    }
    let hello = format!("{HELLO}{generation} {NETWORK}{}", own_network());
    send_message(peer.as_raw_fd(), hello.as_bytes(), &[])?;
    let taken = receive_all(&peer)?;
    limit_waits(&peer, ANSWER_SECONDS)?;
    Ok(Some((Predecessor { peer }, taken)))
}

impl Predecessor {
    /// What it has opened for a pod since.
    pub fn ask(&self, uid: &str) -> Result<Vec<Handed>> {
        send_message(self.peer.as_raw_fd(), format!("{ASK}{uid}").as_bytes(), &[])?;
        receive_all(&self.peer)
    }

    /// This engine serves; the predecessor accepts nothing more.
    pub fn relieve(&self) -> Result<()> {
        send_message(self.peer.as_raw_fd(), TAKEN, &[])?;
        match receive_message(self.peer.as_raw_fd())? {
            (text, _) if text == YOURS => Ok(()),
            _ => Err(Error::other("the predecessor went away")),
        }
    }
}

fn receive_all(peer: &OwnedFd) -> Result<Vec<Handed>> {
    let mut taken = vec![];
    loop {
        let (text, fds) = receive_message(peer.as_raw_fd())?;
        let text = String::from_utf8_lossy(&text).into_owned();
        if let Some(why) = text.strip_prefix(REFUSED) {
            return Err(Error::other(format!("the predecessor keeps its listeners: {why}")));
        }
        if text == END {
            return Ok(taken);
        }
        if text.is_empty() || text.lines().count() != fds.len() {
            return Err(Error::other("the predecessor went away while handing over"));
        }
        // What another version hands over besides is closed.
        taken.extend(text.lines().zip(fds).filter_map(|(line, fd)| {
            let (name, rest) = line.split_once(' ')?;
            let what = match kind_of(name) {
                Some(kind) => What::Listener { uid: rest.to_owned(), kind },
                None if name == SOCKET => What::Socket(rest.to_owned()),
                None => return None,
            };
            Some(Handed { what, fd: Arc::new(fd) })
        }));
    }
}

/// Hands over to one that may be a successor, and waits until it serves.
fn hand(peer: OwnedFd, generation: u64, estate: &impl Estate) -> Result<Option<Successor>> {
    let fd = peer.as_raw_fd();
    limit_waits(&peer, ANSWER_SECONDS)?;
    if !is_same_user(fd) || !wait_readable(fd, HELLO_MS)? {
        return Ok(None);
    }
    let (hello, _) = receive_message(fd)?;
    let words = std::str::from_utf8(&hello).ok().and_then(|text| text.strip_prefix(HELLO)).unwrap_or_default();
    let mut words = words.split(' ');
    let Some(theirs) = words.next().and_then(|word| word.parse::<u64>().ok()) else { return Ok(None) };
    let network = words.find_map(|word| word.strip_prefix(NETWORK));
    if theirs <= generation {
        let why = format!("{REFUSED}generation {theirs} does not take from generation {generation}");
        send_message(fd, why.as_bytes(), &[])?;
        return Ok(None);
    }
    send_all(fd, &estate.all())?;
    let until = Instant::now() + SERVE_WAIT;
    while Instant::now() < until && !estate.is_over() {
        match answer(&peer, estate, POLL_MS)? {
            Said::Taken => {
                let shares_network = network.is_none_or(|network| network == own_network());
                return Ok(Some(Successor { peer, shares_network }));
            }
            Said::Goodbye => return Ok(None),
            Said::Nothing | Said::Question => {}
        }
    }
    Ok(None)
}

enum Said {
    Nothing,
    Question,
    Taken,
    Goodbye,
}

/// Answers one message of a successor.
fn answer(peer: &OwnedFd, estate: &impl Estate, wait_ms: i32) -> Result<Said> {
    let fd = peer.as_raw_fd();
    if !wait_readable(fd, wait_ms)? {
        return Ok(Said::Nothing);
    }
    let (text, _) = receive_message(fd)?;
    if text.is_empty() {
        return Ok(Said::Goodbye);
    }
    if text == TAKEN {
        estate.taken();
        send_message(fd, YOURS, &[])?;
        return Ok(Said::Taken);
    }
    let of_pod = std::str::from_utf8(&text).ok().and_then(|text| text.strip_prefix(ASK)).unwrap_or_default();
    let is_asked = |handed: &Handed| matches!(&handed.what, What::Listener { uid, .. } if uid == of_pod);
    let asked: Vec<Handed> = estate.all().into_iter().filter(is_asked).collect();
    send_all(fd, &asked)?;
    Ok(Said::Question)
}

fn send_all(fd: RawFd, all: &[Handed]) -> Result<()> {
    for chunk in all.chunks(PER_MESSAGE) {
        let lines: Vec<String> = chunk.iter().map(line).collect();
        let fds: Vec<RawFd> = chunk.iter().map(|one| one.fd.as_raw_fd()).collect();
        send_message(fd, lines.join("\n").as_bytes(), &fds)?;
    }
    send_message(fd, END.as_bytes(), &[])
}

fn line(handed: &Handed) -> String {
    match &handed.what {
        What::Listener { uid, kind } => format!("{} {uid}", name_of(*kind)),
        What::Socket(key) => format!("{SOCKET} {key}"),
    }
}

/// The socket at a path, taken over from whoever had it by renaming and left behind only to a later one.
struct Door {
    socket: OwnedFd,
    path: PathBuf,
    id: (u64, u64),
}

impl Door {
    fn open(path: &Path, generation: u64) -> Result<Self> {
        // No longer than the path itself: the kernel limits it.
        let new = path.with_file_name(format!("h{generation:x}"));
        let _ = std::fs::remove_file(&new);
        let socket = bind(&new)?;
        let meta = std::fs::symlink_metadata(&new)?;
        std::fs::rename(&new, path)?;
        Ok(Self { socket, path: path.to_owned(), id: (meta.dev(), meta.ino()) })
    }

    fn is_there(&self) -> bool {
        std::fs::symlink_metadata(&self.path).is_ok_and(|meta| (meta.dev(), meta.ino()) == self.id)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if self.is_there() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Empty when it cannot be known.
fn own_network() -> String {
    Netns::open("/proc/self/ns/net").map_or(String::new(), |netns| netns.id())
}

/// Neither a read nor a write of this socket, nor its connect, takes longer.
fn limit_waits(fd: &OwnedFd, seconds: i64) -> Result<()> {
    let limit = libc::timeval { tv_sec: seconds, tv_usec: 0 };
    for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
        let (value, length) = ((&raw const limit).cast(), size_of::<libc::timeval>() as libc::socklen_t);
        if unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, option, value, length) } != 0 {
            return Err(Error::last_os_error());
        }
    }
    Ok(())
}

fn send_message(fd: RawFd, text: &[u8], fds: &[RawFd]) -> Result<()> {
    let mut vector = libc::iovec { iov_base: text.as_ptr().cast_mut().cast(), iov_len: text.len() };
    let mut control = Control { bytes: [0; CONTROL] };
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        let length = size_of_val(fds) as u32;
        message.msg_control = unsafe { control.bytes.as_mut_ptr().cast() };
        message.msg_controllen = unsafe { libc::CMSG_SPACE(length) } as usize;
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(length) as usize;
            std::ptr::copy_nonoverlapping(fds.as_ptr().cast::<u8>(), libc::CMSG_DATA(header), length as usize);
        }
    }
    match unsafe { libc::sendmsg(fd, &raw const message, libc::MSG_NOSIGNAL) } {
        count if count < 0 => Err(Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Empty when the peer has gone.
fn receive_message(fd: RawFd) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut text = vec![0u8; MAX_TEXT];
    let mut vector = libc::iovec { iov_base: text.as_mut_ptr().cast(), iov_len: text.len() };
    let mut control = Control { bytes: [0; CONTROL] };
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = unsafe { control.bytes.as_mut_ptr().cast() };
    message.msg_controllen = CONTROL;
    let count = unsafe { libc::recvmsg(fd, &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let count = usize::try_from(count).map_err(|_| Error::last_os_error())?;
    text.truncate(count);
    let mut fds = vec![];
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*header).cmsg_len - libc::CMSG_LEN(0) as usize;
                for number in 0..bytes / size_of::<RawFd>() {
                    let at = libc::CMSG_DATA(header).cast::<RawFd>().add(number);
                    fds.push(OwnedFd::from_raw_fd(at.read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok((text, fds))
}

fn bind(path: &Path) -> Result<OwnedFd> {
    let fd = seqpacket(0)?;
    let (address, length) = unix_address(path)?;
    if unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) } != 0 {
        return Err(Error::last_os_error());
    }
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    if unsafe { libc::listen(fd.as_raw_fd(), 1) } != 0 {
        return Err(Error::last_os_error());
    }
    Ok(fd)
}

fn connect(fd: &OwnedFd, path: &Path) -> Result<()> {
    let (address, length) = unix_address(path)?;
    match unsafe { libc::connect(fd.as_raw_fd(), (&raw const address).cast(), length) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

fn accept(door: RawFd) -> Result<OwnedFd> {
    let fd = unsafe { libc::accept4(door, std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC) };
    if fd < 0 { Err(Error::last_os_error()) } else { Ok(unsafe { OwnedFd::from_raw_fd(fd) }) }
}

fn seqpacket(flags: i32) -> Result<OwnedFd> {
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | flags, 0) };
    if fd < 0 { Err(Error::last_os_error()) } else { Ok(unsafe { OwnedFd::from_raw_fd(fd) }) }
}

fn unix_address(path: &Path) -> Result<(libc::sockaddr_un, libc::socklen_t)> {
    let mut address: libc::sockaddr_un = unsafe { zeroed() };
    address.sun_family = libc::AF_UNIX as u16;
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= address.sun_path.len() {
        return Err(Error::other(format!("the socket path {} is too long", path.display())));
    }
    for (at, byte) in address.sun_path.iter_mut().zip(bytes) {
        *at = *byte as libc::c_char;
    }
    Ok((address, size_of::<libc::sockaddr_un>() as libc::socklen_t))
}

fn wait_readable(fd: RawFd, timeout_ms: i32) -> Result<bool> {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    match unsafe { libc::poll(&raw mut poll, 1, timeout_ms) } {
        count if count > 0 => Ok(true),
        count if count < 0 && crate::net::errno() != libc::EINTR => Err(Error::last_os_error()),
        _ => Ok(false),
    }
}

fn is_same_user(fd: RawFd) -> bool {
    let mut credentials: libc::ucred = unsafe { zeroed() };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    let value = (&raw mut credentials).cast();
    let result = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, value, &raw mut length) };
    result == 0 && (credentials.uid == 0 || credentials.uid == unsafe { libc::geteuid() })
}

fn name_of(kind: Direction) -> &'static str {
    match kind {
        Direction::Outbound => "outbound",
        Direction::Inbound => "inbound",
        Direction::InboundPlaintext => "inbound-plaintext",
    }
}

fn kind_of(name: &str) -> Option<Direction> {
    [Direction::Outbound, Direction::Inbound, Direction::InboundPlaintext]
        .into_iter()
        .find(|kind| name_of(*kind) == name)
}

#[repr(C)]
union Control {
    bytes: [u8; CONTROL],
    _aligned: libc::cmsghdr,
}

const HELLO: &str = "meltemi listeners 2 generation ";
const NETWORK: &str = "network=";
const REFUSED: &str = "refused ";
const SOCKET: &str = "socket";
const ASK: &str = "pod ";
const END: &str = "end";
const TAKEN: &[u8] = b"taken";
const YOURS: &[u8] = b"yours";
const PER_MESSAGE: usize = 60;
const CONTROL: usize = 512;
const MAX_TEXT: usize = 64 << 10;
const POLL_MS: i32 = 100;
const HELLO_MS: i32 = 2000;
/// How long a successor may take until it serves; after that it must begin again.
const SERVE_WAIT: Duration = Duration::from_secs(60);
/// A successor waits this long for its turn.
const TAKE_SECONDS: i64 = 65;
const ANSWER_SECONDS: i64 = 5;
