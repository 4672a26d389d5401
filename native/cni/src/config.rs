use std::net::IpAddr;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::failure::{CONFIG, DECODE, Failure, VERSION, VERSIONS};

/// Our entry of the node's conflist as the runtime gives it, with the result of the plugins before us.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    #[serde(default)]
    pub cni_version: String,
    /// Path of the agent's socket.
    #[serde(default = "default_socket")]
    pub socket: String,
    /// Pods of these start also while the agent is away: the agent itself, DNS, the CNI's own.
    #[serde(default = "default_exempt_namespaces")]
    pub exempt_namespaces: Vec<String>,
    /// How long a pod waits for an agent that is away before it fails, and is tried again by the kubelet.
    #[serde(default = "default_away_seconds")]
    away_seconds: f64,
    /// How long it waits for the answer of an agent that is there.
    #[serde(default = "default_answer_seconds")]
    answer_seconds: f64,
    /// Report an absent agent by STATUS. Off, as the node would become NotReady, and start no agent then.
    #[serde(default)]
    pub status_needs_agent: bool,
    /// Name of the DaemonSet, `namespace/name`, for messages.
    #[serde(default = "default_agent")]
    pub agent: String,
    #[serde(default)]
    prev_result: Option<Box<RawValue>>,
}

impl Config {
    /// Error: the input is too large, no JSON, of a version that is not spoken, or has a field that is no good.
    pub fn parse(input: &[u8]) -> Result<Config, Failure> {
        if input.len() > MAX_CONFIG_BYTES {
            let message = format!("the configuration on standard input is larger than {MAX_CONFIG_BYTES} bytes");
            return Err(Failure::new(DECODE, message, "something other than a container runtime is calling"));
        }
        let config: Config = serde_json::from_slice(input).map_err(|error| {
            let details = "look at the entry meltemi-cni of the conflist; the agent puts it right when it is removed";
            Failure::new(DECODE, format!("the configuration on standard input cannot be read: {error}"), details)
        })?;
        if !input.trim_ascii_start().starts_with(b"{") {
            return Err(Failure::new(
                DECODE,
                "the configuration on standard input is no object",
                "the runtime is at fault",
            ));
        }
        if !VERSIONS.contains(&config.cni_version.as_str()) {
            let message = format!("CNI version {:?} is not spoken by meltemi-cni", config.cni_version);
            return Err(Failure::new(VERSION, message, format!("spoken are {}", VERSIONS.join(", "))));
        }
        for (name, seconds) in [("awaySeconds", config.away_seconds), ("answerSeconds", config.answer_seconds)] {
            if !(0.0..=MAX_WAIT_SECONDS).contains(&seconds) {
                let message = format!("{name} of meltemi-cni is {seconds}, not from 0 to {MAX_WAIT_SECONDS}");
                return Err(Failure::new(CONFIG, message, "correct it in the agent's settings (cni)"));
            }
        }
        Ok(config)
    }

    pub fn away(&self) -> Duration {
        Duration::from_secs_f64(self.away_seconds)
    }

    pub fn answer(&self) -> Duration {
        Duration::from_secs_f64(self.answer_seconds)
    }

    pub fn is_exempt(&self, namespace: &str) -> bool {
        self.exempt_namespaces.iter().any(|each| each == namespace)
    }

    /// The result of the plugins before us, byte for byte. Error: there is none.
    pub fn previous_result(&self) -> Result<&str, Failure> {
        self.prev_result.as_deref().map(RawValue::get).filter(|text| *text != "null").ok_or_else(|| {
            let message = "meltemi-cni is not the first plugin of a chain: it was given no prevResult";
            Failure::new(CONFIG, message, "put it behind the plugin that makes the interface, in a .conflist")
        })
    }

    /// The pod's addresses in that result, without prefix lengths. What is no address is passed over.
    pub fn pod_ips(&self) -> Result<Vec<String>, Failure> {
        let previous: Previous = serde_json::from_str(self.previous_result()?).map_err(|error| {
            let message = format!("the result of the plugin before meltemi-cni cannot be read: {error}");
            Failure::new(DECODE, message, "that plugin, or its version, is to be looked at")
        })?;
        let inside = |ip: &PreviousIp| match ip.interface.and_then(|at| usize::try_from(at).ok()) {
            Some(at) => previous.interfaces.get(at).is_none_or(|interface| !interface.sandbox.is_empty()),
            None => true,
        };
        let addresses = previous.ips.iter().filter(|ip| inside(ip)).filter_map(|ip| {
            let text = ip.address.split_once('/').map_or(ip.address.as_str(), |(address, _)| address);
            text.parse::<IpAddr>().ok().map(|address| address.to_string())
        });
        Ok(addresses.take(MAX_IPS).collect())
    }
}

/// The version that an input asks for, whatever else is wrong with it.
pub fn version_of(input: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Versioned {
        cni_version: String,
    }
    serde_json::from_slice(input.get(..MAX_CONFIG_BYTES).unwrap_or(input))
        .ok()
        .map(|Versioned { cni_version }| cni_version)
}

#[derive(Deserialize)]
struct Previous {
    #[serde(default)]
    ips: Vec<PreviousIp>,
    #[serde(default)]
    interfaces: Vec<PreviousInterface>,
}

#[derive(Deserialize)]
struct PreviousIp {
    #[serde(default)]
    address: String,
    interface: Option<i64>,
}

#[derive(Deserialize)]
struct PreviousInterface {
    #[serde(default)]
    sandbox: String,
}

/// What a runtime may give: results of some chains list hundreds of routes.
pub const MAX_CONFIG_BYTES: usize = 1 << 20;
const MAX_IPS: usize = 16;
/// The kubelet gives up a sandbox after four minutes.
const MAX_WAIT_SECONDS: f64 = 200.0;

fn default_socket() -> String {
    "/run/meltemi/cni.sock".to_owned()
}

fn default_exempt_namespaces() -> Vec<String> {
    ["istio-system", "kube-system"].map(str::to_owned).to_vec()
}

fn default_away_seconds() -> f64 {
    15.0
}

fn default_answer_seconds() -> f64 {
    30.0
}

fn default_agent() -> String {
    "istio-system/meltemi-agent".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, Failure> {
        Config::parse(text.as_bytes())
    }

    #[test]
    fn an_empty_entry_has_defaults() {
        let config = parse(r#"{"cniVersion":"1.0.0","name":"any","type":"meltemi-cni"}"#).expect("good");
        assert_eq!((config.away(), config.answer()), (Duration::from_secs(15), Duration::from_secs(30)));
        assert!(config.is_exempt("kube-system") && config.is_exempt("istio-system") && !config.is_exempt("default"));
    }

    #[test]
    fn the_addresses_of_the_pod_are_read_in_every_version() {
        for previous in [
            r#"{"cniVersion":"0.3.1","ips":[{"version":"4","interface":1,"address":"10.0.0.7/24"}],"interfaces":[{"name":"veth","sandbox":""},{"name":"eth0","sandbox":"/n"}]}"#,
            r#"{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.7/24","gateway":"10.0.0.1"},{"address":"nonsense"}]}"#,
            r#"{"ips":[{"address":"10.0.0.1/24","interface":0},{"address":"10.0.0.7","interface":9}],"interfaces":[{"name":"br0"}]}"#,
        ] {
            let config = parse(&format!(r#"{{"cniVersion":"0.3.1","prevResult":{previous}}}"#)).expect("good");
            assert_eq!(config.pod_ips(), Ok(vec!["10.0.0.7".to_owned()]), "{previous}");
            assert_eq!(config.previous_result(), Ok(previous));
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let code = |text: &str| parse(text).map(|_| ()).expect_err(text).code;
        assert_eq!(code("{"), DECODE);
        assert_eq!(code(r#"["1.0.0"]"#), DECODE);
        assert_eq!(code(r#"{"cniVersion":"0.2.0"}"#), VERSION);
        assert_eq!(code(r#"{"name":"x"}"#), VERSION);
        assert_eq!(code(r#"{"cniVersion":"1.0.0","awaySeconds":1e9}"#), CONFIG);
        assert_eq!(code(r#"{"cniVersion":"1.0.0","answerSeconds":-1}"#), CONFIG);
        assert_eq!(code(r#"{"cniVersion":"1.0.0","exemptNamespaces":"kube-system"}"#), DECODE);
        assert_eq!(code(&" ".repeat(MAX_CONFIG_BYTES + 1)), DECODE);
        for none in ["{\"cniVersion\":\"1.0.0\"}", "{\"cniVersion\":\"1.0.0\",\"prevResult\":null}"] {
            assert_eq!(parse(none).expect("good").previous_result().map_err(|failure| failure.code), Err(CONFIG));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_input_is_a_configuration_or_a_failure(input: Vec<u8>) {
            let _ = Config::parse(&input).map(|config| config.pod_ips().is_ok());
            let _ = version_of(&input);
        }

        #[test]
        fn any_previous_result_is_passed_on_byte_for_byte(text in r#"\{"ips":( {0,3})\[\],"x":("[a-z\\\\/n]{0,9}"|[0-9]{1,3}e[0-9])\}"#) {
            if let Ok(config) = Config::parse(format!(r#"{{"cniVersion":"1.1.0","prevResult":{text}}}"#).as_bytes()) {
                proptest::prop_assert_eq!(config.previous_result(), Ok(text.as_str()));
            }
        }
    }
}
