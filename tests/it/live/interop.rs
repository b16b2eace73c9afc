//! Clients that are not ours: two of Python, and a browser's own.
//!
//! Where a machine has none of them these tests say that they are skipped; under `tests/run.sh`, which installs them, they fail.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use backroom::domain::actor::Role;
use futures_util::{SinkExt, StreamExt};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::{RULES, listening};
use crate::support::socket::{PATIENCE, ticket};
use crate::support::{Appliance, PASSWORD};

/// Set where nothing may be missing.
const WHOLE: &str = "BACKROOM_TEST_WHOLE";
/// The Python to use, where it is not the system's.
const PYTHON: &str = "BACKROOM_TEST_PYTHON";

/// Says that a test cannot run here.
#[allow(clippy::print_stderr, reason = "whoever runs it is to know")]
fn skip(what: &str) {
    assert!(std::env::var_os(WHOLE).is_none(), "{what} is missing");
    eprintln!("skipped: {what} is missing");
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The next line of a process, as JSON.
async fn line(lines: &mut tokio::sync::mpsc::UnboundedReceiver<String>, kind: &str) -> Value {
    let line =
        tokio::time::timeout(PATIENCE, lines.recv()).await.expect("it says nothing").unwrap_or_else(|| panic!("it ended before {kind}"));
    let said: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(said[0], kind, "{said}");
    said[1].clone()
}

/// A process's lines as they come.
fn lines(from: impl std::io::Read + Send + 'static) -> tokio::sync::mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || BufReader::new(from).lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    receiver
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_python_are_told_and_see_the_end() {
    let python = std::env::var(PYTHON).unwrap_or_else(|_| "python3".into());
    let has = Command::new(&python).args(["-c", "import websocket, websockets"]).stderr(Stdio::null()).status();
    if !has.is_ok_and(|status| status.success()) {
        return skip("Python with websocket-client and websockets");
    }
    let office = Appliance::with(RULES).await;
    let (boss, ben, cleo) = (office.boss("anna").await, office.clerk("ben", "A").await, office.clerk("cleo", "A").await);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/live/follow.py");
    let arguments = [script, &office.address.to_string(), &ben.token, &ticket(&cleo, None).await];
    let mut child = Running(Command::new(&python).args(arguments).stdout(Stdio::piped()).spawn().unwrap());
    let mut said = lines(child.0.stdout.take().unwrap());
    assert!(line(&mut said, "hello").await["cursor"].is_string());
    assert_eq!(line(&mut said, "pong").await, json!({ "type": "pong", "id": "p", "payload": {} }));
    assert_eq!(line(&mut said, "pushed").await, 1);
    for (no, device) in [&ben, &cleo].into_iter().enumerate() {
        if no == 1 {
            line(&mut said, "hello").await;
        }
        line(&mut said, "ready").await;
        let id = format!("v{no}");
        boss.push_one("visits", json!({ "id": id, "store_id": "A" })).await.applied("visits", &id);
        assert_eq!(line(&mut said, "hint").await, json!({ "visits": [{ "id": id, "operation": "create", "version": 1 }] }));
        boss.call(Method::DELETE, &format!("/api/v1/sync/devices/{}", device.id), None).await.ok();
        assert_eq!(line(&mut said, "closed").await, 4401);
    }
    listening(&office, 0).await;
    assert!(child.0.wait().unwrap().success());
    assert_eq!(boss.record("visits", "python").await.ok()["record"]["note"], "schön");
}

/// A browser with one page, driven by its DevTools protocol.
struct Browser {
    tools: WebSocketStream<TcpStream>,
    session: Value,
    count: u64,
    _process: Running,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts one; `None` where there is none.
    async fn start() -> Option<Browser> {
        let profile = tempfile::tempdir().unwrap();
        let start = |name: &str| {
            Command::new(name)
                .args([
                    "--headless",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--disable-quic",
                    "--no-first-run",
                    "--disable-background-networking",
                ])
                .args(["--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-port=0"])
                .arg(format!("--user-data-dir={}", profile.path().display()))
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .ok()
        };
        let mut process = Running(["chromium", "chromium-browser", "google-chrome"].into_iter().find_map(start)?);
        let mut said = lines(process.0.stderr.take().unwrap());
        let tools = loop {
            let line = tokio::time::timeout(PATIENCE, said.recv()).await.expect("the browser does not start").expect("the browser ended");
            if let Some((_, url)) = line.split_once("DevTools listening on ") {
                break url.trim().to_owned();
            }
        };
        let address: SocketAddr = tools.trim_start_matches("ws://").split('/').next().unwrap().parse().unwrap();
        let (tools, _) = tokio_tungstenite::client_async(tools, TcpStream::connect(address).await.unwrap()).await.unwrap();
        Some(Browser { tools, session: Value::Null, count: 0, _process: process, _profile: profile })
    }

    async fn command(&mut self, method: &str, params: Value) -> Value {
        self.count += 1;
        let mut command = json!({ "id": self.count, "method": method, "params": params });
        if !self.session.is_null() {
            command["sessionId"] = self.session.clone();
        }
        self.tools.send(Message::text(command.to_string())).await.unwrap();
        loop {
            let answer = tokio::time::timeout(PATIENCE, self.tools.next())
                .await
                .unwrap_or_else(|_| panic!("no answer to {command}"))
                .unwrap()
                .unwrap();
            let Message::Text(text) = answer else { continue };
            let answer: Value = serde_json::from_str(&text).unwrap();
            if answer["id"] == self.count {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }

    async fn visit(&mut self, url: &str) {
        let target = self.command("Target.createTarget", json!({ "url": url })).await["targetId"].clone();
        self.session = self.command("Target.attachToTarget", json!({ "targetId": target, "flatten": true })).await["sessionId"].clone();
        // The page that is shown first is an empty one.
        let ready = "document.readyState == 'complete' && location.href";
        while self.run(ready).await != url {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The value of an expression in the page.
    async fn run(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let result = self.command("Runtime.evaluate", params).await;
        assert!(result.get("exceptionDetails").is_none(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Opens a live connection by a ticket, which is fetched with these headers.
    async fn listen(&mut self, headers: Value) {
        let open = format!(
            "(async () => {{
                const answer = await fetch('/api/v1/auth/ticket', {{ method: 'POST', headers: {headers} }});
                const {{ ticket }} = await answer.json();
                window.told = []; window.asked = [];
                const tell = what => asked.length ? asked.shift()(what) : told.push(what);
                window.live = new WebSocket('ws://' + location.host + '/api/v1/sync/ws?ticket=' + ticket);
                live.onmessage = event => tell(JSON.parse(event.data));
                live.onclose = event => tell({{ closed: event.code, clean: event.wasClean }});
                window.next = () => new Promise(done => told.length ? done(told.shift()) : asked.push(done));
            }})()"
        );
        self.run(&open).await;
        assert_eq!(self.run("next()").await["type"], "hello");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_listens_with_its_session_or_a_token_and_sees_the_end() {
    let Some(mut browser) = Browser::start().await else { return skip("chromium") };
    let office = Appliance::with(RULES).await;
    office.user("mia", Role::Store, &["A"]).await;
    let (boss, ben) = (office.boss("anna").await, office.clerk("ben", "A").await);
    browser.visit(&format!("http://{}/", office.address)).await;
    let body = json!({ "username": "mia", "password": PASSWORD });
    let login = format!(
        "fetch('/api/v1/auth/login', {{ method: 'POST', headers: {{ 'content-type': 'application/json' }}, body: {} }}).then(answer => answer.status)",
        json!(body.to_string())
    );
    assert_eq!(browser.run(&login).await, 204);
    browser.listen(json!({})).await;
    boss.push_one("visits", json!({ "id": "hidden", "store_id": "B" })).await.applied("visits", "hidden");
    boss.push_one("visits", json!({ "id": "seen", "store_id": "A" })).await.applied("visits", "seen");
    let hint = browser.run("next()").await;
    assert_eq!(hint["payload"]["tables"], json!({ "visits": [{ "id": "seen", "operation": "create", "version": 1 }] }));
    browser.run("live.send(JSON.stringify({ type: 'ping', id: 'b' }))").await;
    assert_eq!(browser.run("next()").await, json!({ "type": "pong", "id": "b", "payload": {} }));
    assert_eq!(browser.run("fetch('/api/v1/auth/logout', { method: 'POST' }).then(answer => answer.status)").await, 204);
    assert_eq!(browser.run("next()").await, json!({ "closed": 4401, "clean": true }));

    browser.listen(json!({ "authorization": format!("Bearer {}", ben.token) })).await;
    ben.push_one("visits", json!({ "id": "own" })).await.applied("visits", "own");
    boss.push_one("visits", json!({ "id": "other", "store_id": "A" })).await.applied("visits", "other");
    assert_eq!(browser.run("next()").await["payload"]["tables"]["visits"][0]["id"], "other");
    browser.run("live.send(new Uint8Array(3))").await;
    assert_eq!(browser.run("next()").await, json!({ "closed": 1003, "clean": true }));
    // A page from elsewhere gets no connection, even with a ticket that is good.
    let given = ticket(&ben, None).await;
    browser.session = Value::Null;
    browser.visit("about:blank").await;
    let foreign = format!(
        "new Promise(done => {{ const live = new WebSocket('ws://{}/api/v1/sync/ws?ticket={given}');
            live.onopen = () => done('open'); live.onclose = event => done(event.code); }})",
        office.address
    );
    assert_eq!(browser.run(&foreign).await, 1006);
    listening(&office, 0).await;
}
