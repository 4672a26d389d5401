use std::time::Duration;

use serde_json::json;

use crate::agent::{Asked, Patience, ask};
use crate::call::Call;
use crate::config::Config;
use crate::failure::{ENVIRONMENT, Failure, LATEST, NOT_ENROLLED, TRY_LATER, UNAVAILABLE, VERSIONS};

/// Does what the runtime asks for. Gives what belongs on standard output; `note` is for people.
pub fn run(call: &Call, input: &[u8], note: &mut dyn FnMut(&str)) -> Result<String, Failure> {
    match call.verb.as_str() {
        "ADD" => add(call, &Config::parse(input)?, note),
        "DEL" => Ok(delete(call, input, note)),
        "CHECK" => check(call, &Config::parse(input)?, note),
        "STATUS" => status(&Config::parse(input)?),
        // Nothing is kept per attachment: what an agent knows of sandboxes it knows from the kernel and the API.
        "GC" => Config::parse(input).map(|_| String::new()),
        "VERSION" => Ok(format!("{}\n", json!({ "cniVersion": LATEST, "supportedVersions": VERSIONS }))),
        other => {
            let message = format!("CNI_COMMAND is {other:?}, which is no verb of CNI");
            Err(Failure::new(ENVIRONMENT, message, "this program is for container runtimes; see docs/cni.md"))
        }
    }
}

/// Waits until the pod is enrolled, or is not to be. Never lets a pod through of which that is not known, but for those
/// of exempt namespaces, without which there would be no agent to ask.
fn add(call: &Call, config: &Config, note: &mut dyn FnMut(&str)) -> Result<String, Failure> {
    let previous = config.previous_result()?;
    for (name, value) in [("CNI_CONTAINERID", &call.container_id), ("CNI_NETNS", &call.netns)] {
        if value.is_empty() {
            let message = format!("ADD without {name}");
            return Err(Failure::new(ENVIRONMENT, message, "the container runtime has to set it"));
        }
    }
    if call.is_pod() {
        let ips = config.pod_ips()?;
        hold(call, config, "/v1/add", &ips, note)?;
    } else {
        note(&format!("{} is no pod: passed", call.subject()));
    }
    Ok(format!("{previous}\n"))
}

fn check(call: &Call, config: &Config, note: &mut dyn FnMut(&str)) -> Result<String, Failure> {
    config.previous_result()?;
    if call.is_pod() {
        hold(call, config, "/v1/check", &config.pod_ips()?, note)?;
    }
    Ok(String::new())
}

/// Asks the agent, and gives nothing when the pod may go on.
fn hold(call: &Call, config: &Config, path: &str, ips: &[String], note: &mut dyn FnMut(&str)) -> Result<(), Failure> {
    let exempt = config.is_exempt(&call.namespace);
    let patience = match exempt {
        true => Patience { away: Duration::ZERO, answer: EXEMPT_WAIT.min(config.answer()) },
        false => Patience { away: config.away(), answer: config.answer() },
    };
    let asked = ask(&config.socket, path, patience, |left| body(call, ips, left));
    let failure = match asked {
        Asked::Answered(200, answer) if MAY_START.contains(&answer.result.as_str()) => return Ok(()),
        Asked::Answered(status, answer) => {
            let because = if answer.because.is_empty() { format!("status {status}") } else { answer.because };
            Failure::new(NOT_ENROLLED, format!("{} waits for the mesh: {because}", call.subject()), answer.remedy)
        }
        Asked::Away(seen) => Failure::new(TRY_LATER, away_message(call), away_details(config, &seen)),
        Asked::Silent(seen) | Asked::Foreign(seen) => {
            let message = format!("{} waits for the mesh: the agent of this node does not answer", call.subject());
            Failure::new(TRY_LATER, message, away_details(config, &seen))
        }
    };
    if exempt {
        note(&format!("{} passes, as its namespace is exempt: {failure}", call.subject()));
        return Ok(());
    }
    Err(failure)
}

/// Tells the agent, which does not have to be there: no pod's removal waits for us.
fn delete(call: &Call, input: &[u8], note: &mut dyn FnMut(&str)) -> String {
    let config = match Config::parse(input) {
        Ok(config) => config,
        Err(failure) => {
            note(&format!("DEL of {} with a configuration that is no good: {failure}", call.subject()));
            return String::new();
        }
    };
    if call.is_pod() {
        let patience = Patience { away: Duration::ZERO, answer: DELETE_WAIT };
        match ask(&config.socket, "/v1/del", patience, |left| body(call, &[], left)) {
            Asked::Answered(200, _) => {}
            other => note(&format!("DEL of {} goes on without the agent: {other:?}", call.subject())),
        }
    }
    String::new()
}

/// Ready, unless the entry asks for more: a node whose STATUS fails is NotReady, and starts no pod with a network of its
/// own then, not even the agent. Pods of namespaces that are not exempt are held by ADD.
fn status(config: &Config) -> Result<String, Failure> {
    if !config.status_needs_agent {
        return Ok(String::new());
    }
    let patience = Patience { away: Duration::ZERO, answer: STATUS_WAIT };
    match ask(&config.socket, "/v1/status", patience, |_| "{}".to_owned()) {
        Asked::Answered(200, _) => Ok(String::new()),
        Asked::Answered(_, answer) => Err(Failure::new(UNAVAILABLE, answer.because, answer.remedy)),
        Asked::Away(seen) | Asked::Silent(seen) | Asked::Foreign(seen) => {
            let message = "the mesh agent of this node is not there, and pods would wait for it";
            Err(Failure::new(UNAVAILABLE, message, away_details(config, &seen)))
        }
    }
}

/// What the agent is told. It gets a little less time than we have, so that it can say itself what it waits for.
fn body(call: &Call, ips: &[String], left: Duration) -> String {
    let wait_ms = left.saturating_sub((left / 10).min(ANSWER_MARGIN)).as_millis() as u64;
    json!({
        "containerId": call.container_id,
        "infraContainerId": call.infra_container_id,
        "netns": call.netns,
        "namespace": call.namespace,
        "name": call.name,
        "uid": call.uid,
        "ips": ips,
        "waitMs": wait_ms,
    })
    .to_string()
}

fn away_message(call: &Call) -> String {
    format!("{} waits for the mesh agent of this node, which is not running", call.subject())
}

fn away_details(config: &Config, seen: &str) -> String {
    let (namespace, name) = config.agent.split_once('/').unwrap_or(("istio-system", &config.agent));
    format!(
        "{seen}; nothing is to be done when the agent is being started, the kubelet tries again; else look at \
         kubectl -n {namespace} get pods -o wide, and kubectl -n {namespace} describe daemonset {name}; pods of {} start \
         without it",
        config.exempt_namespaces.join(", ")
    )
}

const MAY_START: [&str; 2] = ["enrolled", "not-captured"];
/// How long the pod of an exempt namespace waits for an agent that is there and does not answer.
const EXEMPT_WAIT: Duration = Duration::from_secs(2);
const DELETE_WAIT: Duration = Duration::from_secs(1);
const STATUS_WAIT: Duration = Duration::from_secs(2);
const ANSWER_MARGIN: Duration = Duration::from_secs(1);
