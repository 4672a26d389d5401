//! One access-log line per connection: a flat JSON object whose constant parts were rendered with the verdict.
use crate::api::Direction;
use std::fmt::Write;
use std::net::SocketAddr;

/// What a line says. `verdict_log` and `endpoint_log` are JSON members without braces (`"a":"b","c":"d"`) or empty.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Wall clock at the end of the connection, milliseconds since 1970.
    pub unix_ms: u64,
    pub direction: Direction,
    pub src: SocketAddr,
    pub dst: SocketAddr,
    /// CONNECT authority, for a tunnelled connection.
    pub hbone: Option<&'a str>,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub duration_ms: u64,
    /// False when the connection never came about.
    pub established: bool,
    pub error: Option<&'a str>,
    pub because: &'a str,
    pub verdict_log: &'a str,
    pub endpoint_log: &'a str,
}

/// Appends the record and a newline.
pub fn render(out: &mut String, record: &Record) {
    let (level, message) = match (record.established, record.error) {
        (true, None) => ("info", "connection complete"),
        (true, Some(_)) => ("error", "connection complete"),
        (false, _) => ("warn", "connection failed"),
    };
    out.push_str("{\"time\":\"");
    push_time(out, record.unix_ms);
    push(out, format_args!("\",\"level\":\"{level}\",\"scope\":\"access\",\"message\":\"{message}\""));
    push(out, format_args!(",\"src.addr\":\"{}\",\"dst.addr\":\"{}\"", record.src, record.dst));
    if let Some(authority) = record.hbone {
        out.push_str(",\"dst.hbone_addr\":");
        push_json(out, authority);
    }
    for members in [record.verdict_log, record.endpoint_log] {
        if !members.is_empty() {
            out.push(',');
            out.push_str(members);
        }
    }
    push(out, format_args!(",\"direction\":\"{}\"", direction(record.direction)));
    push(out, format_args!(",\"bytes_sent\":{},\"bytes_recv\":{}", record.bytes_sent, record.bytes_received));
    push(out, format_args!(",\"duration\":\"{}ms\",\"because\":", record.duration_ms));
    push_json(out, record.because);
    if let Some(error) = record.error {
        out.push_str(",\"error\":");
        push_json(out, error);
    }
    out.push_str("}\n");
}

/// Appends `text` as a JSON string. Untouched runs are copied whole.
pub fn push_json(out: &mut String, text: &str) {
    out.push('"');
    let mut copied = 0;
    for (i, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&text[copied..i]);
        copied = i + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            _ => push(out, format_args!("\\u{byte:04x}")),
        }
    }
    out.push_str(&text[copied..]);
    out.push('"');
}

/// RFC 3339 in UTC with milliseconds, `2026-11-21T09:05:40.123Z`.
pub fn push_time(out: &mut String, unix_ms: u64) {
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    push(out, format_args!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1000));
}

/// Gregorian date of a day number since 1970-01-01. Counts from 0000-03-01 in eras of 400 years, so that a leap day is
/// the last day of its year.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted_month + 2) / 5 + 1)
}

fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Outbound => "outbound",
        Direction::Inbound => "inbound",
        Direction::InboundPlaintext => "inbound-plaintext",
    }
}

fn push(out: &mut String, arguments: std::fmt::Arguments) {
    let _ = out.write_fmt(arguments);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn renders_a_complete_connection() {
        let mut out = String::new();
        render(&mut out, &record());
        assert_eq!(
            out,
            concat!(
                r#"{"time":"2026-11-21T09:05:40.123Z","level":"info","scope":"access","message":"connection complete","#,
                r#""src.addr":"10.0.0.1:4000","dst.addr":"[fd00::2]:80","dst.hbone_addr":"10.0.0.2:80","#,
                r#""src.workload":"client","dst.workload":"server","#,
                r#""direction":"outbound","bytes_sent":5,"bytes_recv":7,"duration":"12ms","because":"service-endpoint"}"#,
                "\n"
            )
        );
    }

    #[test]
    fn tells_a_failed_connection_by_level_message_and_error() {
        let mut out = String::new();
        let failed =
            Record { established: false, error: Some("no \"route\""), hbone: None, verdict_log: "", ..record() };
        render(&mut out, &failed);
        assert!(out.contains(r#""level":"warn","scope":"access","message":"connection failed""#), "{out}");
        assert!(out.ends_with(",\"error\":\"no \\\"route\\\"\"}\n"), "{out}");
        assert!(!out.contains("hbone"));
        out.clear();
        render(&mut out, &Record { error: Some("reset"), ..record() });
        assert!(out.contains(r#""level":"error","scope":"access","message":"connection complete""#), "{out}");
    }

    #[test]
    fn escapes_json() {
        let mut out = String::new();
        push_json(&mut out, "a\"b\\c\nd\u{1}é");
        assert_eq!(out, "\"a\\\"b\\\\c\\nd\\u0001é\"");
    }

    #[test]
    fn knows_the_calendar() {
        for (unix_ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_799_999, "2000-02-29T23:59:59.999Z"),
            (1_709_164_800_000, "2024-02-29T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            let mut out = String::new();
            push_time(&mut out, unix_ms);
            assert_eq!(out, text);
        }
    }

    proptest! {
        #[test]
        fn escaped_text_has_no_raw_control_characters_and_reads_back(text in ".*") {
            let mut out = String::new();
            push_json(&mut out, &text);
            prop_assert!(out.bytes().all(|byte| byte >= 0x20));
            prop_assert_eq!(unescape(&out[1..out.len() - 1]), text);
        }
    }

    fn unescape(text: &str) -> String {
        let mut out = String::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            out.push(match c {
                '\\' => match chars.next().unwrap() {
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'u' => {
                        let hex: String = chars.by_ref().take(4).collect();
                        char::from_u32(u32::from_str_radix(&hex, 16).unwrap()).unwrap()
                    }
                    other => other,
                },
                other => other,
            });
        }
        out
    }

    fn record() -> Record<'static> {
        Record {
            unix_ms: 1_795_251_940_123,
            direction: Direction::Outbound,
            src: "10.0.0.1:4000".parse().unwrap(),
            dst: "[fd00::2]:80".parse().unwrap(),
            hbone: Some("10.0.0.2:80"),
            bytes_sent: 5,
            bytes_received: 7,
            duration_ms: 12,
            established: true,
            error: None,
            because: "service-endpoint",
            verdict_log: "\"src.workload\":\"client\"",
            endpoint_log: "\"dst.workload\":\"server\"",
        }
    }
}
