//! Listeners pass from an old engine to a new one as descriptors over a Unix socket, so that no connection in a backlog
//! is lost. One message carries some listeners; an empty one is the last.
use crate::api::Direction;
use std::io::{Error, ErrorKind, Result};
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// One listener of a pod, by the pod's uid.
#[derive(Clone, Debug)]
pub(crate) struct Handed {
    pub uid: String,
    pub kind: Direction,
    pub fd: Arc<OwnedFd>,
}

/// Waits for one successor of a higher generation and hands it `listeners`. `is_over` is asked now and then whether to
/// give up. True when a successor has taken them.
pub(crate) fn offer(
    path: &Path,
    generation: u64,
    listeners: impl Fn() -> Vec<Handed>,
    is_over: impl Fn() -> bool,
) -> Result<bool> {
    let _ = std::fs::remove_file(path);
    let door = bind(path)?;
    loop {
        if is_over() {
            let _ = std::fs::remove_file(path);
            return Ok(false);
        }
        if !wait_readable(door.as_raw_fd(), POLL_MS)? {
            continue;
        }
        let Ok(peer) = accept(door.as_raw_fd()) else { continue };
        // Whoever fails to behave as a successor is forgotten; the next may come.
        if let Ok(true) = hand(&peer, generation, &listeners()) {
            let _ = std::fs::remove_file(path);
            return Ok(true);
        }
    }
}

/// Takes the listeners of the engine at `path`; empty when there is none.
pub(crate) fn take(path: &Path, generation: u64) -> Result<Vec<Handed>> {
    let peer = match connect(path) {
        Ok(peer) => peer,
        Err(why) if matches!(why.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => return Ok(vec![]),
        Err(why) => return Err(why),
    };
    send_message(peer.as_raw_fd(), format!("{HELLO}{generation}").as_bytes(), &[])?;
    let mut taken = vec![];
    loop {
        let (text, fds) = receive_message(peer.as_raw_fd())?;
        let text = String::from_utf8_lossy(&text).into_owned();
        if let Some(why) = text.strip_prefix(REFUSED) {
            return Err(Error::other(format!("the predecessor keeps its listeners: {why}")));
        }
        if text == END {
            break;
        }
        if text.is_empty() || text.lines().count() != fds.len() {
            return Err(Error::other("the predecessor went away while handing over"));
        }
        for (line, fd) in text.lines().zip(fds) {
            let (kind, uid) =
                line.split_once(' ').ok_or_else(|| Error::other("the predecessor speaks another language"))?;
            let kind = kind_of(kind).ok_or_else(|| Error::other(format!("an unknown kind of listener: {kind}")))?;
            taken.push(Handed { uid: uid.to_owned(), kind, fd: Arc::new(fd) });
        }
    }
    send_message(peer.as_raw_fd(), TAKEN, &[])?;
    Ok(taken)
}

fn hand(peer: &OwnedFd, generation: u64, listeners: &[Handed]) -> Result<bool> {
    let fd = peer.as_raw_fd();
    if !is_same_user(fd) || !wait_readable(fd, HELLO_MS)? {
        return Ok(false);
    }
    let (hello, _) = receive_message(fd)?;
    let theirs = std::str::from_utf8(&hello).ok().and_then(|text| text.strip_prefix(HELLO)?.parse::<u64>().ok());
    let Some(theirs) = theirs else { return Ok(false) };
    if theirs <= generation {
        let why = format!("{REFUSED}generation {theirs} does not take from generation {generation}");
        send_message(fd, why.as_bytes(), &[])?;
        return Ok(false);
    }
    for chunk in listeners.chunks(PER_MESSAGE) {
        let lines: Vec<String> = chunk.iter().map(|one| format!("{} {}", name_of(one.kind), one.uid)).collect();
        let fds: Vec<RawFd> = chunk.iter().map(|one| one.fd.as_raw_fd()).collect();
        send_message(fd, lines.join("\n").as_bytes(), &fds)?;
    }
    send_message(fd, END.as_bytes(), &[])?;
    if !wait_readable(fd, TAKEN_MS)? {
        return Ok(false);
    }
    Ok(receive_message(fd)?.0 == TAKEN)
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
    let fd = seqpacket()?;
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

fn connect(path: &Path) -> Result<OwnedFd> {
    let fd = seqpacket()?;
    let (address, length) = unix_address(path)?;
    match unsafe { libc::connect(fd.as_raw_fd(), (&raw const address).cast(), length) } {
        0 => Ok(fd),
        _ => Err(Error::last_os_error()),
    }
}

fn accept(door: RawFd) -> Result<OwnedFd> {
    let fd = unsafe { libc::accept4(door, std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC) };
    if fd < 0 { Err(Error::last_os_error()) } else { Ok(unsafe { OwnedFd::from_raw_fd(fd) }) }
}

fn seqpacket() -> Result<OwnedFd> {
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0) };
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

const HELLO: &str = "meltemi listeners 1 generation ";
const REFUSED: &str = "refused ";
const END: &str = "end";
const TAKEN: &[u8] = b"taken";
const PER_MESSAGE: usize = 60;
const CONTROL: usize = 512;
const MAX_TEXT: usize = 64 << 10;
const POLL_MS: i32 = 100;
const HELLO_MS: i32 = 2000;
const TAKEN_MS: i32 = 10_000;
