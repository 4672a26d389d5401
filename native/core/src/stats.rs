//! Counters per label set, read at scrape as Prometheus text. A connection holds its series; the registry forgets
//! series that nobody holds and nobody has asked for in a while.
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// The counters of one label set.
#[derive(Debug, Default)]
pub struct Series {
    pub opened: AtomicU64,
    pub closed: AtomicU64,
    pub failed: AtomicU64,
    pub received_bytes: AtomicU64,
    pub sent_bytes: AtomicU64,
}

/// What tells one series from another. The fragments are label pairs without braces (`a="b",c="d"`) or empty.
#[derive(Clone, Copy, Debug)]
pub struct Labels<'a> {
    pub verdict: &'a str,
    pub endpoint: &'a str,
    /// `-`, `DENY`, `CONNECT` …
    pub response_flags: &'a str,
    pub mutual_tls: bool,
}

/// Which side of a connection an open socket is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reporter {
    Source,
    Destination,
}

pub struct Registry {
    series: HashMap<String, Held>,
    max_series: usize,
    /// Takes what does not fit, so that nothing goes uncounted.
    overflow: Arc<Series>,
    overflowed: u64,
    evicted: u64,
    sockets: Arc<Sockets>,
}

/// Open sockets per reporter. Shared with the loops.
#[derive(Debug, Default)]
pub struct Sockets {
    source: AtomicI64,
    destination: AtomicI64,
}

impl Sockets {
    pub fn add(&self, reporter: Reporter, change: i64) {
        self.of(reporter).fetch_add(change, Relaxed);
    }

    fn of(&self, reporter: Reporter) -> &AtomicI64 {
        match reporter {
            Reporter::Source => &self.source,
            Reporter::Destination => &self.destination,
        }
    }
}

struct Held {
    series: Arc<Series>,
    used_ms: u64,
}

impl Registry {
    /// `max_series` bounds memory and the scrape; what goes beyond is summed in one series and counted.
    pub fn new(max_series: usize) -> Self {
        Self {
            series: HashMap::new(),
            max_series,
            overflow: Arc::default(),
            overflowed: 0,
            evicted: 0,
            sockets: Arc::default(),
        }
    }

    pub fn sockets(&self) -> Arc<Sockets> {
        self.sockets.clone()
    }

    /// The series of these labels, made when new. Hold it for the connection's life.
    pub fn series(&mut self, labels: &Labels, now_ms: u64) -> Arc<Series> {
        let key = render_labels(labels);
        if let Some(held) = self.series.get_mut(&key) {
            held.used_ms = now_ms;
            return held.series.clone();
        }
        if self.series.len() >= self.max_series {
            self.overflowed += 1;
            return self.overflow.clone();
        }
        let series = Arc::<Series>::default();
        self.series.insert(key, Held { series: series.clone(), used_ms: now_ms });
        series
    }

    /// Forgets series that no connection holds and that were not asked for since `now_ms - idle_ms`.
    pub fn evict(&mut self, now_ms: u64, idle_ms: u64) {
        let before = self.series.len();
        self.series.retain(|_, held| {
            if Arc::strong_count(&held.series) > 1 {
                held.used_ms = now_ms;
            }
            held.used_ms.saturating_add(idle_ms) > now_ms
        });
        self.evicted += (before - self.series.len()) as u64;
    }

    pub fn len(&self) -> usize {
        self.series.len()
    }

    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// Appends all series in Prometheus text format, sorted by labels so that two scrapes compare.
    pub fn render(&self, out: &mut String) {
        let mut sorted: Vec<(&str, &Series)> =
            self.series.iter().map(|(key, held)| (&key[..], &*held.series)).collect();
        sorted.sort_unstable_by_key(|(key, _)| *key);
        if self.overflowed > 0 {
            sorted.push((OVERFLOW_LABELS, &self.overflow));
        }
        for family in FAMILIES {
            header(out, family.name, family.help, "counter");
            for (labels, series) in &sorted {
                let _ = writeln!(out, "{}{{{labels}}} {}", family.name, (family.counter)(series).load(Relaxed));
            }
        }
        header(out, "istio_tcp_sockets_open", "Sockets of captured connections that are open now.", "gauge");
        for (reporter, label) in [(Reporter::Source, "source"), (Reporter::Destination, "destination")] {
            let open = self.sockets.of(reporter).load(Relaxed);
            let _ = writeln!(out, "istio_tcp_sockets_open{{reporter=\"{label}\"}} {open}");
        }
        header(out, "meltemi_series", "Label sets that are kept now.", "gauge");
        let _ = writeln!(out, "meltemi_series {}", self.series.len());
        header(out, "meltemi_series_evicted_total", "Label sets forgotten because nothing used them.", "counter");
        let _ = writeln!(out, "meltemi_series_evicted_total {}", self.evicted);
        header(
            out,
            "meltemi_series_overflowed_total",
            "Connections counted without labels: too many label sets.",
            "counter",
        );
        let _ = writeln!(out, "meltemi_series_overflowed_total {}", self.overflowed);
    }
}

/// Appends one label pair, value escaped.
pub fn push_label(out: &mut String, name: &str, value: &str) {
    if !out.is_empty() {
        out.push(',');
    }
    out.push_str(name);
    out.push_str("=\"");
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
    out.push('"');
}

fn render_labels(labels: &Labels) -> String {
    let mut key = String::with_capacity(labels.verdict.len() + labels.endpoint.len() + 80);
    key.push_str(labels.verdict);
    if !key.is_empty() && !labels.endpoint.is_empty() {
        key.push(',');
    }
    key.push_str(labels.endpoint);
    push_label(&mut key, "response_flags", labels.response_flags);
    push_label(&mut key, "connection_security_policy", if labels.mutual_tls { "mutual_tls" } else { "unknown" });
    key
}

fn header(out: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

struct Family {
    name: &'static str,
    help: &'static str,
    counter: fn(&Series) -> &AtomicU64,
}

const FAMILIES: [Family; 5] = [
    Family {
        name: "istio_tcp_connections_opened_total",
        help: "TCP connections opened.",
        counter: |series| &series.opened,
    },
    Family {
        name: "istio_tcp_connections_closed_total",
        help: "TCP connections closed.",
        counter: |series| &series.closed,
    },
    Family {
        name: "istio_tcp_connections_failed_total",
        help: "TCP connections that failed to be established.",
        counter: |series| &series.failed,
    },
    Family {
        name: "istio_tcp_received_bytes_total",
        help: "Bytes received with requests over TCP connections.",
        counter: |series| &series.received_bytes,
    },
    Family {
        name: "istio_tcp_sent_bytes_total",
        help: "Bytes sent with responses over TCP connections.",
        counter: |series| &series.sent_bytes,
    },
];

const OVERFLOW_LABELS: &str = "meltemi_overflow=\"true\"";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_the_families_of_istio() {
        let mut registry = Registry::new(10);
        let series = registry.series(&labels("b"), 0);
        registry.series(&labels("a"), 0);
        series.opened.fetch_add(2, Relaxed);
        series.received_bytes.fetch_add(7, Relaxed);
        registry.sockets().add(Reporter::Source, 1);
        let text = render(&registry);
        let labels = r#"reporter="source",destination="b",response_flags="-",connection_security_policy="mutual_tls""#;
        assert!(text.contains("# TYPE istio_tcp_connections_opened_total counter\n"), "{text}");
        assert!(text.contains(&format!("istio_tcp_connections_opened_total{{{labels}}} 2\n")), "{text}");
        assert!(text.contains(&format!("istio_tcp_received_bytes_total{{{labels}}} 7\n")), "{text}");
        assert!(text.contains("istio_tcp_sockets_open{reporter=\"source\"} 1\n"), "{text}");
        assert!(text.find("destination=\"a\"") < text.find("destination=\"b\""));
        for family in FAMILIES {
            assert_eq!(text.matches(&format!("\n{}{{", family.name)).count(), 2, "{}", family.name);
        }
    }

    #[test]
    fn the_same_labels_are_the_same_series() {
        let mut registry = Registry::new(10);
        assert!(Arc::ptr_eq(&registry.series(&labels("a"), 0), &registry.series(&labels("a"), 1)));
        assert_eq!(registry.len(), 1);
    }

    #[test]
    fn forgets_only_what_is_unheld_and_unused() {
        let mut registry = Registry::new(10);
        let held = registry.series(&labels("held"), 0);
        registry.series(&labels("fresh"), 900);
        registry.series(&labels("stale"), 0);
        registry.evict(1000, 500);
        assert_eq!(registry.len(), 2);
        assert!(!render(&registry).contains("stale"));
        drop(held);
        registry.evict(1499, 500);
        assert_eq!(registry.len(), 1);
        registry.evict(1500, 500);
        assert!(registry.is_empty());
        assert!(render(&registry).contains("meltemi_series_evicted_total 3\n"));
    }

    #[test]
    fn counts_what_does_not_fit_in_one_series() {
        let mut registry = Registry::new(1);
        registry.series(&labels("a"), 0);
        registry.series(&labels("b"), 0).opened.fetch_add(1, Relaxed);
        let text = render(&registry);
        assert!(text.contains("istio_tcp_connections_opened_total{meltemi_overflow=\"true\"} 1\n"), "{text}");
        assert!(text.contains("meltemi_series_overflowed_total 1\n"), "{text}");
    }

    #[test]
    fn escapes_label_values() {
        let mut out = String::new();
        push_label(&mut out, "a", "x\"y\\z\n");
        assert_eq!(out, r#"a="x\"y\\z\n""#);
    }

    fn labels(destination: &str) -> Labels<'_> {
        Labels {
            verdict: "reporter=\"source\"",
            endpoint: match destination {
                "a" => "destination=\"a\"",
                "b" => "destination=\"b\"",
                "held" => "destination=\"held\"",
                "fresh" => "destination=\"fresh\"",
                _ => "destination=\"stale\"",
            },
            response_flags: "-",
            mutual_tls: true,
        }
    }

    fn render(registry: &Registry) -> String {
        let mut out = String::new();
        registry.render(&mut out);
        out
    }
}
