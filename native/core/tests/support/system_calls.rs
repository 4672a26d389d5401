//! System calls of a thread, traced by strace where there is one.
use crate::support::await_true;
use std::collections::BTreeMap;
use std::process::{Child, Command};

/// How many, by name.
pub type Calls = BTreeMap<String, u32>;

/// True when calls can be traced; says so otherwise.
pub fn can_trace() -> bool {
    let is_there = Command::new("strace").arg("-V").output().is_ok();
    if !is_there {
        eprintln!("skipped: there is no strace to count with");
    }
    is_there
}

/// All but those named, and those that wait: how often these return depends on what else the machine does. And without
/// fcntl, with which a debug build checks what it closes.
pub fn total(calls: &Calls, without: &[&str]) -> f64 {
    let counted = |name: &str| !WAITING.contains(&name) && name != "fcntl" && !without.contains(&name);
    calls.iter().filter(|(name, _)| counted(name)).map(|(_, count)| f64::from(*count)).sum()
}

pub struct Trace {
    strace: Child,
    output: String,
}

impl Trace {
    pub fn start(thread: i32) -> Self {
        let output = std::env::temp_dir().join(format!("meltemi-hot-path-{thread}.strace"));
        let output = output.to_str().unwrap().to_owned();
        let arguments = ["-qq", "-e", "signal=none", "-o", &output, "-p", &thread.to_string()];
        let strace = Command::new("strace").args(arguments).spawn().unwrap();
        await_true("strace is attached", || {
            let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap();
            !status.contains("TracerPid:\t0\n")
        });
        Self { strace, output }
    }

    pub fn end(mut self) -> Calls {
        unsafe { libc::kill(self.strace.id() as i32, libc::SIGINT) };
        self.strace.wait().unwrap();
        let lines = std::fs::read_to_string(&self.output).unwrap();
        std::fs::remove_file(&self.output).unwrap();
        let mut calls = Calls::new();
        for name in lines.lines().filter_map(|line| line.split_once('(')).map(|(name, _)| name) {
            *calls.entry(name.to_owned()).or_default() += 1;
        }
        calls
    }
}

const WAITING: [&str; 4] = ["epoll_wait", "epoll_pwait", "futex", "restart_syscall"];
