//! Load for benchmarks and tests: one server for everything, and one client per question. Each client prints one line
//! of JSON. Both ends set their congestion control themselves (cubic unless told otherwise), so that runs on machines
//! with another default can be compared.
mod client;
mod idle;
mod server;
mod socket;
mod stats;
mod stream;
mod transfer;

use std::collections::HashMap;
use std::io;
use std::process::ExitCode;

const USAGE: &str = "usage:
  meltemi-load server    --listen IP:PORT [--greet IP:PORT] [--threads N]
  meltemi-load bulk      --connect HOST:PORT [--connections N] [--seconds S]
  meltemi-load pingpong  --connect HOST:PORT [--connections N] [--seconds S] [--bytes N]
  meltemi-load connects  --connect HOST:PORT [--workers N] [--seconds S] [--bytes N]
  meltemi-load idle      --connect HOST:PORT [--connections N]      holds them until its standard input ends
  meltemi-load transfer  --connect HOST:PORT [--bytes N] [--read-pause-us N]   both ways at once, every byte compared
  meltemi-load half-close --connect HOST:PORT [--bytes N]           each side first, once
every one: [--congestion cubic]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((command, options)) = parse(&arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(command, &options) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{{\"error\":{:?}}}", error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn run(command: &str, options: &Options) -> io::Result<String> {
    socket::raise_descriptor_limit();
    match command {
        "server" => server::run(options),
        "bulk" => client::bulk(options),
        "pingpong" => client::pingpong(options),
        "connects" => client::connects(options),
        "idle" => idle::run(options),
        "transfer" => transfer::transfer(options),
        "half-close" => transfer::half_close(options),
        _ => Err(io::Error::other(format!("no command {command}\n{USAGE}"))),
    }
}

fn parse(arguments: &[String]) -> Option<(&str, Options)> {
    let (command, rest) = arguments.split_first()?;
    let mut values = HashMap::new();
    for pair in rest.chunks(2) {
        let [name, value] = pair else { return None };
        values.insert(name.strip_prefix("--")?.to_owned(), value.clone());
    }
    Some((command, Options { values }))
}

/// The `--name value` pairs of the command line.
pub struct Options {
    values: HashMap<String, String>,
}

impl Options {
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    pub fn required(&self, name: &str) -> io::Result<&str> {
        self.text(name).ok_or_else(|| io::Error::other(format!("--{name} is missing")))
    }

    pub fn number(&self, name: &str, default: u64) -> io::Result<u64> {
        match self.text(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| io::Error::other(format!("--{name} {text} is no number"))),
        }
    }

    pub fn seconds(&self) -> io::Result<std::time::Duration> {
        let text = self.text("seconds").unwrap_or("3");
        let seconds: f64 = text.parse().map_err(|_| io::Error::other(format!("--seconds {text} is no number")))?;
        Ok(std::time::Duration::from_secs_f64(seconds.max(0.01)))
    }

    pub fn congestion(&self) -> &str {
        self.text("congestion").unwrap_or("cubic")
    }
}
