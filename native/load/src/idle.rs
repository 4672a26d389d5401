//! Many connections that do nothing: what does one cost?
use crate::client::exchange;
use crate::server::ECHO;
use crate::{Options, socket};
use std::io::{self, Read, Write};

/// Opens the connections (one exchange each, so that they exist at both ends), says so, and holds them until standard
/// input ends.
pub fn run(options: &Options) -> io::Result<String> {
    let wanted = options.number("connections", 1000)?;
    let mut held = Vec::new();
    let mut errors = 0;
    for _ in 0..wanted {
        match socket::connect(options).and_then(|stream| {
            (&stream).write_all(&[ECHO])?;
            exchange(&stream, &[1; 64], &mut [0; 64]).map(|()| stream)
        }) {
            Ok(stream) => held.push(stream),
            Err(_) => errors += 1,
        }
    }
    println!("{{\"open\":{},\"errors\":{errors}}}", held.len());
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    let mut broken = 0;
    for stream in &held {
        broken += u64::from(exchange(stream, &[1; 64], &mut [0; 64]).is_err());
    }
    Ok(format!("{{\"closed\":{},\"broken\":{broken}}}", held.len()))
}
