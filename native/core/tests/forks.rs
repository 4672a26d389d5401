//! The process that the engine is part of starts programs. From its fork to its exec a child has every socket, too: what
//! is closed here stays open there, and goes on making events.
mod support;
use meltemi_core::net::{self, Dial, SourcePorts};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use support::*;

#[test]
fn what_becomes_of_a_connection_that_a_child_still_has_concerns_no_later_one() {
    if !is_root() {
        return;
    }
    let mesh = Mesh::new();
    let app = mesh.world.listen('b', "0.0.0.0:8080");
    let mut former = mesh.connect();
    let of_former = app.accept().unwrap().0;
    former.write_all(b"x").unwrap();
    (&of_former).read_exact(&mut [0]).unwrap();
    let child = Child::new();
    reset(&former);
    mesh.server.await_log(&["inbound", "connection complete"]);

    let _in_queue = fill_queue(&mesh.world, &app);
    let mut later = mesh.connect();
    await_true("the later one waits for the app", || {
        mesh.server.engine.connections(9).iter().any(|connection| connection.state == "connecting")
    });
    reset(&of_former);
    drop(child);
    app.set_nonblocking(true).unwrap();
    let accept = || await_some("the app is asked", || app.accept().ok()).unwrap().0;
    accept();
    let mut of_later = accept();
    of_later.write_all(b"hello").unwrap();
    later.read_exact(&mut [0; 5]).unwrap();
}

/// The app's queue takes no more once this one is in it.
fn fill_queue(world: &World, app: &TcpListener) -> OwnedFd {
    assert_eq!(unsafe { libc::listen(app.as_raw_fd(), 0) }, 0);
    let target = format!("{B_IP}:8080").parse().unwrap();
    let dial = Dial { target, source: None, ports: SourcePorts::Any, mark: 0x539, congestion_control: "" };
    net::in_netns(&world.netns('b'), || net::dial(&dial)).unwrap()
}

/// Also when a child has it, too.
fn reset(stream: &TcpStream) {
    let nowhere = libc::sockaddr { sa_family: libc::AF_UNSPEC as u16, sa_data: [0; 14] };
    let length = size_of_val(&nowhere) as u32;
    assert_eq!(unsafe { libc::connect(stream.as_raw_fd(), &raw const nowhere, length) }, 0);
}

/// A copy of this process that does nothing.
struct Child(i32);

impl Child {
    fn new() -> Self {
        match unsafe { libc::fork() } {
            0 => loop {
                unsafe { libc::pause() };
            },
            child => Self(child),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}
