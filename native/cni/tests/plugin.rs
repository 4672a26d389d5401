//! The program itself, as a runtime runs it, beside an agent that a test plays on a socket.
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const PREVIOUS: &str = r#"{ "cniVersion":"1.0.0", "interfaces":[{"name":"eth0","sandbox":"/n"}],"ips":[{"address":"10.1.2.3/24","interface":0}], "dns":{"x":1.50}}"#;
const POD: &str =
    "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=ab;K8S_POD_UID=u-1";

#[test]
fn add_passes_the_former_result_on_when_the_pod_is_enrolled() {
    for result in ["enrolled", "not-captured"] {
        let home = Home::new();
        let agent = agent(&home.socket(), vec![answer(200, json!({ "result": result }))]);
        let output = home.run("ADD", POD, &home.entry(PREVIOUS));
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), format!("{PREVIOUS}\n")));
        let (head, asked) = agent.recv().expect("asked");
        assert!(head.starts_with("POST /v1/add HTTP/1.1\r\n"), "{head}");
        let wait_ms = asked["waitMs"].as_u64().expect("a number");
        assert!((1000..2000).contains(&wait_ms), "{wait_ms}");
        let expected = json!({
            "containerId": "ab", "infraContainerId": "ab", "netns": "/run/netns/x", "namespace": "shop", "name": "web-0",
            "uid": "u-1", "ips": ["10.1.2.3"], "waitMs": wait_ms,
        });
        assert_eq!(asked, expected);
    }
}

#[test]
fn a_pod_does_not_start_when_the_agent_could_not_enrol_it() {
    let home = Home::new();
    let refusal = json!({ "because": "redirection: nft is missing", "remedy": "install nft" });
    let _agent = agent(&home.socket(), vec![answer(500, refusal)]);
    let output = home.run("ADD", POD, &home.entry(PREVIOUS));
    assert_eq!(output.status.code(), Some(1));
    let error: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let message = "pod shop/web-0 waits for the mesh: redirection: nft is missing";
    assert_eq!(error, json!({ "cniVersion": "1.0.0", "code": 100, "msg": message, "details": "install nft" }));
}

#[test]
fn an_answer_that_does_not_say_that_the_pod_may_start_lets_none_start() {
    for strange in [json!({}), json!({ "result": "ok" }), json!({ "result": "Enrolled" })] {
        let home = Home::new();
        let _agent = agent(&home.socket(), vec![answer(200, strange)]);
        assert_eq!(home.code("ADD", POD, &home.entry(PREVIOUS)), 100);
    }
    for strange in ["HTTP/1.1 200 OK\r\n\r\n{}", "what?\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno"] {
        let home = Home::new();
        let _agent = agent(&home.socket(), vec![strange.as_bytes().to_vec()]);
        assert_eq!(home.code("ADD", POD, &home.entry(PREVIOUS)), 11, "{strange}");
    }
}

#[test]
fn an_endless_answer_is_not_read_to_its_end() {
    let home = Home::new();
    let endless = format!("HTTP/1.1 200 OK\r\nContent-Length: 9999\r\nX: {}", "y".repeat(1 << 20));
    let _agent = agent(&home.socket(), vec![endless.into_bytes()]);
    assert_eq!(home.code("ADD", POD, &home.entry(PREVIOUS)), 11);
}

#[test]
fn without_an_agent_a_pod_fails_after_its_time_and_is_told_what_to_do() {
    let home = Home::new();
    let started = Instant::now();
    let output = home.run("ADD", POD, &home.entry(PREVIOUS));
    assert!(started.elapsed() >= Duration::from_millis(500));
    let error: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(error["code"], 11);
    assert_eq!(error["msg"], "pod shop/web-0 waits for the mesh agent of this node, which is not running");
    let details = error["details"].as_str().expect("text");
    for part in ["cni.sock", "kubectl -n mesh describe daemonset node-agent", "pods of mesh, kube-system start"] {
        assert!(details.contains(part), "{part}: {details}");
    }
}

#[test]
fn a_socket_that_nobody_listens_on_any_more_is_an_agent_away() {
    let home = Home::new();
    drop(UnixListener::bind(home.socket()).expect("bound"));
    assert_eq!(home.code("ADD", POD, &home.entry(PREVIOUS)), 11);
}

#[test]
fn exempt_namespaces_start_without_an_agent_and_with_one_that_hangs() {
    let exempt = POD.replace("shop", "kube-system");
    let home = Home::new();
    let output = home.run("ADD", &exempt, &home.entry(PREVIOUS));
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), format!("{PREVIOUS}\n")));
    assert!(text(&output.stderr).contains("its namespace is exempt"), "{}", text(&output.stderr));
    let _agent = agent(&home.socket(), vec![Vec::new()]);
    assert_eq!(home.run("ADD", &exempt, &home.entry(PREVIOUS)).status.code(), Some(0));
}

#[test]
fn an_agent_that_hangs_fails_the_pod_after_its_time() {
    let home = Home::new();
    let _agent = agent(&home.socket(), vec![Vec::new()]);
    let output = home.run("ADD", POD, &home.entry(PREVIOUS));
    let error: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(error["code"], 11);
    assert!(error["msg"].as_str().expect("text").ends_with("the agent of this node does not answer"), "{error}");
}

#[test]
fn a_queue_that_nobody_empties_is_no_reason_to_hang() {
    let home = Home::new();
    let listener = UnixListener::bind(home.socket()).expect("bound");
    // The smallest queue there is, and filled.
    unsafe { libc::listen(std::os::fd::AsRawFd::as_raw_fd(&listener), 0) };
    let _filled = std::os::unix::net::UnixStream::connect(home.socket()).expect("connected");
    let started = Instant::now();
    assert_eq!(home.code("ADD", POD, &home.entry(PREVIOUS)), 11);
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn an_agent_that_goes_away_half_way_is_asked_again_and_so_is_its_successor() {
    let home = Home::new();
    let busy = answer(503, json!({ "retry": true, "because": "starting" }));
    let half = b"HTTP/1.1 200 OK\r\nContent-Le".to_vec();
    let agent = agent(&home.socket(), vec![busy, half, answer(200, json!({ "result": "enrolled" }))]);
    let output = home.run("ADD", POD, &home.entry(PREVIOUS));
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(agent.iter().take(3).count(), 3);
}

#[test]
fn an_agent_that_comes_while_a_pod_waits_is_found() {
    let home = Home::new();
    let entry = home.entry(PREVIOUS).replace("0.5", "20");
    let child = home.start("ADD", POD, &entry);
    thread::sleep(Duration::from_millis(200));
    let _agent = agent(&home.socket(), vec![answer(200, json!({ "result": "enrolled" }))]);
    assert_eq!(child.wait_with_output().expect("ends").status.code(), Some(0));
}

#[test]
fn del_succeeds_whatever_the_agent_does() {
    let home = Home::new();
    for input in [home.entry(PREVIOUS), home.entry("null"), "{".to_owned(), String::new()] {
        let output = home.run("DEL", POD, &input);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), String::new()), "{input}");
    }
    let _hangs = agent(&home.socket(), vec![Vec::new()]);
    let started = Instant::now();
    assert_eq!(home.run("DEL", POD, &home.entry(PREVIOUS)).status.code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn del_tells_the_agent() {
    let home = Home::new();
    let agent = agent(&home.socket(), vec![answer(200, json!({ "result": "ok" }))]);
    assert_eq!(home.run("DEL", POD, &home.entry("null")).status.code(), Some(0));
    let (head, asked) = agent.recv().expect("asked");
    assert!(head.starts_with("POST /v1/del "), "{head}");
    assert_eq!((&asked["uid"], &asked["containerId"]), (&json!("u-1"), &json!("ab")));
}

#[test]
fn check_says_what_the_agent_says() {
    let home = Home::new();
    let lost = json!({ "because": "the table inet meltemi is gone", "remedy": "wait" });
    let agent = agent(&home.socket(), vec![answer(200, json!({ "result": "enrolled" })), answer(409, lost)]);
    let output = home.run("CHECK", POD, &home.entry(PREVIOUS));
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), String::new()));
    assert!(agent.recv().expect("asked").0.starts_with("POST /v1/check "));
    assert_eq!(home.code("CHECK", POD, &home.entry(PREVIOUS)), 100);
    assert_eq!(home.code("CHECK", POD, &home.entry("null")), 7);
}

#[test]
fn status_tells_of_an_absent_agent_only_where_that_is_asked_for() {
    let home = Home::new();
    let output = home.run("STATUS", "", &home.entry("null"));
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), String::new()));
    let strict = home.entry("null").replace("\"awaySeconds\"", "\"statusNeedsAgent\":true,\"awaySeconds\"");
    assert_eq!(home.code("STATUS", "", &strict), 50);
    let _agent = agent(&home.socket(), vec![answer(200, json!({ "result": "ok" }))]);
    assert_eq!(home.run("STATUS", "", &strict).status.code(), Some(0));
}

#[test]
fn version_and_gc_need_no_agent() {
    let home = Home::new();
    let output = home.run("VERSION", "", r#"{"cniVersion":"0.3.1"}"#);
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(said["supportedVersions"], json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
    let attachments = home.entry("null").replace("{\"cniVersion\"", "{\"cni.dev/valid-attachments\":[],\"cniVersion\"");
    assert_eq!(home.run("GC", "", &attachments).status.code(), Some(0));
    assert_eq!(home.code("NONSENSE", "", &home.entry("null")), 4);
}

#[test]
fn what_is_no_pod_passes_without_being_asked_about() {
    let home = Home::new();
    let output = home.run("ADD", "", &home.entry(PREVIOUS));
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), format!("{PREVIOUS}\n")));
}

#[test]
fn a_plugin_that_is_not_chained_says_so_and_a_version_nobody_speaks_too() {
    let home = Home::new();
    assert_eq!(home.code("ADD", POD, &home.entry("null")), 7);
    assert_eq!(home.code("ADD", POD, &home.entry(PREVIOUS).replacen("1.0.0", "9.0.0", 1)), 1);
    assert_eq!(home.code("ADD", POD, "{"), 6);
    let output = home.command("ADD", POD).env_remove("CNI_NETNS").output_with(&home.entry(PREVIOUS));
    let error: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&error["code"], &error["msg"]), (&json!(4), &json!("ADD without CNI_NETNS")));
}

/// A directory of its own for one test.
struct Home(PathBuf);

impl Home {
    fn new() -> Home {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("meltemi-cni-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("made");
        Home(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("cni.sock")
    }

    fn entry(&self, previous: &str) -> String {
        let socket = self.socket();
        format!(
            r#"{{"cniVersion":"1.0.0","name":"net","type":"meltemi-cni","socket":{socket:?},"agent":"mesh/node-agent","exemptNamespaces":["mesh","kube-system"],"awaySeconds":0.5,"answerSeconds":2,"prevResult":{previous}}}"#
        )
    }

    fn command(&self, verb: &str, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meltemi-cni"));
        command.env_clear().env("CNI_COMMAND", verb).env("CNI_CONTAINERID", "ab").env("CNI_NETNS", "/run/netns/x");
        command.env("CNI_IFNAME", "eth0").env("CNI_PATH", "/bin").env("CNI_ARGS", args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn start(&self, verb: &str, args: &str, input: &str) -> std::process::Child {
        let mut child = self.command(verb, args).spawn().expect("starts");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("written");
        child
    }

    fn run(&self, verb: &str, args: &str, input: &str) -> Output {
        self.start(verb, args, input).wait_with_output().expect("ends")
    }

    /// The code of the error that it must end with.
    fn code(&self, verb: &str, args: &str, input: &str) -> u64 {
        let output = self.run(verb, args, input);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let error: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        error["code"].as_u64().expect("a number")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

trait OutputWith {
    fn output_with(&mut self, input: &str) -> Output;
}

impl OutputWith for Command {
    fn output_with(&mut self, input: &str) -> Output {
        let mut child = self.spawn().expect("starts");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("written");
        child.wait_with_output().expect("ends")
    }
}

/// Gives these answers, one per connection; an empty one never comes. What was asked arrives at the receiver.
fn agent(socket: &Path, answers: Vec<Vec<u8>>) -> Receiver<(String, Value)> {
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket).expect("bound");
    let (asked, receiver) = channel();
    thread::spawn(move || {
        let mut hanging = Vec::new();
        for answer in answers {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let (mut request, mut chunk) = (Vec::new(), [0; 4096]);
            let (head, body) = loop {
                let read = stream.read(&mut chunk).expect("read");
                request.extend_from_slice(&chunk[..read]);
                let text = String::from_utf8(request.clone()).expect("text");
                if let Some((head, body)) = text.split_once("\r\n\r\n")
                    && head.contains(&format!("Content-Length: {}\r\n", body.len()))
                {
                    break (head.to_owned(), serde_json::from_str(body).expect("JSON"));
                }
                assert!(read > 0, "the request ends early");
            };
            let _ = asked.send((head, body));
            if answer.is_empty() {
                hanging.push(stream);
            } else {
                let _ = stream.write_all(&answer);
            }
        }
        thread::sleep(Duration::from_secs(10));
    });
    receiver
}

fn answer(status: u16, body: Value) -> Vec<u8> {
    let body = body.to_string();
    format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len()).into_bytes()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
