use std::io::{Read, Write};
use std::process::ExitCode;

use meltemi_cni::call::Call;
use meltemi_cni::config::MAX_CONFIG_BYTES;
use meltemi_cni::failure::{Failure, INPUT};
use meltemi_cni::verbs::run;

/// The runtime's side of it: variables and standard input in, a result or an error on standard output. What is said to
/// people goes to standard error, which runtimes put into their log.
fn main() -> ExitCode {
    let call = Call::from_environment(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()));
    let mut input = Vec::new();
    let read = std::io::stdin().lock().take(MAX_CONFIG_BYTES as u64 + 1).read_to_end(&mut input);
    let outcome = match read {
        Ok(_) => run(&call, &input, &mut |note| eprintln!("meltemi-cni: {note}")),
        Err(error) => Err(Failure::new(INPUT, "standard input cannot be read", error.to_string())),
    };
    let (text, code) = match outcome {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(failure) => {
            eprintln!("meltemi-cni: {} of {}: {failure}", call.verb, call.subject());
            (failure.to_json(&input), ExitCode::FAILURE)
        }
    };
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}
