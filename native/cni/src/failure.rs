use std::fmt;

use crate::config::version_of;

/// What went wrong, as a CNI error: what happened to whom in `message`, what to do about it in `details`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub code: u32,
    pub message: String,
    pub details: String,
}

impl Failure {
    pub fn new(code: u32, message: impl Into<String>, details: impl Into<String>) -> Failure {
        Failure { code, message: message.into(), details: details.into() }
    }

    /// As the specification wants it on standard output, in the version of `input` if that can be told.
    pub fn to_json(&self, input: &[u8]) -> String {
        let version = version_of(input).unwrap_or_else(|| LATEST.to_owned());
        let (code, msg, details) = (self.code, &self.message, &self.details);
        format!("{}\n", serde_json::json!({ "cniVersion": version, "code": code, "msg": msg, "details": details }))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{} ({}; code {})", self.message, self.details, self.code)
    }
}

/// Codes of the specification.
pub const VERSION: u32 = 1;
pub const ENVIRONMENT: u32 = 4;
pub const INPUT: u32 = 5;
pub const DECODE: u32 = 6;
pub const CONFIG: u32 = 7;
pub const TRY_LATER: u32 = 11;
pub const UNAVAILABLE: u32 = 50;
/// Our own, from 100 on.
pub const NOT_ENROLLED: u32 = 100;

/// Versions of the specification that are spoken; the results of all of them are passed on, not made.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
pub const LATEST: &str = VERSIONS[VERSIONS.len() - 1];
