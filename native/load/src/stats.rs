//! Latencies of one run, and numbers as JSON.
use std::time::Duration;

#[derive(Default)]
pub struct Latencies {
    nanos: Vec<u32>,
    pub errors: u64,
}

impl Latencies {
    pub fn add(&mut self, latency: Duration) {
        self.nanos.push(u32::try_from(latency.as_nanos()).unwrap_or(u32::MAX));
    }

    pub fn merge(&mut self, other: Latencies) {
        self.nanos.extend(other.nanos);
        self.errors += other.errors;
    }

    /// `{"count":…,"errors":…,"seconds":…,"rate":…,"p50_us":…,"p99_us":…}`
    pub fn into_json(mut self, elapsed: Duration) -> String {
        self.nanos.sort_unstable();
        let seconds = elapsed.as_secs_f64();
        format!(
            "{{\"count\":{},\"errors\":{},\"seconds\":{seconds:.3},\"rate\":{:.1},\"p50_us\":{:.1},\"p99_us\":{:.1}}}",
            self.nanos.len(),
            self.errors,
            self.nanos.len() as f64 / seconds,
            self.quantile(0.5),
            self.quantile(0.99),
        )
    }

    fn quantile(&self, share: f64) -> f64 {
        let last = self.nanos.len().saturating_sub(1);
        let at = (last as f64 * share).round() as usize;
        self.nanos.get(at).map_or(0.0, |nanos| f64::from(*nanos) / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_sorted_latencies() {
        let mut latencies = Latencies::default();
        for micros in (1..=100).rev() {
            latencies.add(Duration::from_micros(micros));
        }
        let json = latencies.into_json(Duration::from_secs(2));
        assert_eq!(
            json,
            "{\"count\":100,\"errors\":0,\"seconds\":2.000,\"rate\":50.0,\"p50_us\":51.0,\"p99_us\":99.0}"
        );
    }

    #[test]
    fn an_empty_run_has_a_result() {
        assert!(Latencies::default().into_json(Duration::from_secs(1)).contains("\"p50_us\":0.0"));
    }
}
