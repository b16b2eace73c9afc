//! Whatever strangers and broken apps send: a clear problem or a closed connection, bounded memory, and everyone else served.

use std::io::Write;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::flood::{self, Flood};
use crate::support::process::{Serving, run};
use crate::support::wire::{self, Wire};
use crate::support::{Answer, Device};

const PUSH: &str = "/api/v1/sync/push";
const PULL: &str = "/api/v1/sync/pull";
const MIB: usize = 1 << 20;
/// What an answer may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);
/// Resident memory that an appliance may have after a load (APPLIANCE.md).
const MEMORY_KIB: u64 = 64 << 10;

/// An appliance as a process, with a manager's device.
async fn office() -> (Serving, Device, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let serving = Serving::start(directory.path());
    let anna = serving.guest("anna", "manager", &[]).await;
    (serving, anna, directory)
}

/// Posts bytes as they are.
async fn post(device: &Device, path: &str, body: impl Into<reqwest::Body>) -> Answer {
    device.send(device.request(Method::POST, path).header("content-type", "application/json").body(body)).await
}

/// Posts bytes under a content encoding.
async fn post_encoded(device: &Device, encoding: &str, body: Vec<u8>) -> Answer {
    let request = device.request(Method::POST, PUSH).header("content-type", "application/json").header("content-encoding", encoding);
    device.send(request.body(body)).await
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

/// The appliance serves, as if nothing had been.
async fn serves(device: &Device, id: &str) {
    device.push_one("forms", json!({ "id": id, "title": "Opening" })).await.applied("forms", id);
    assert_eq!(device.record("forms", id).await.ok()["record"]["title"], "Opening");
}

fn nested(depth: usize) -> String {
    format!("{}1{}", "[".repeat(depth), "]".repeat(depth))
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_in_without_a_token_that_is_in_force() {
    let (serving, anna, directory) = office().await;
    let till = serving.guest("till", "store", &["A"]).await;
    let away = serving.guest("away", "store", &["A"]).await;
    till.push_one("submissions", json!({ "id": "s1" })).await.applied("submissions", "s1");
    assert_eq!(anna.call(Method::DELETE, "/api/v1/sync/devices/till-1", None).await.ok()["status"], "revoked");
    assert!(run(directory.path(), &["user", "disable", "away"], "").status.success());

    let nobody = Device::stranger(serving.address);
    let with = |token: &str| Device { token: token.into(), ..nobody.clone() };
    let code = |device: Device| async move {
        let mut codes = Vec::new();
        for (method, path) in [
            (Method::POST, PUSH),
            (Method::POST, PULL),
            (Method::GET, "/api/v1/sync/status"),
            (Method::GET, "/api/v1/sync/devices"),
            (Method::GET, "/api/v1/records/submissions/s1"),
            (Method::GET, "/api/v1/records/submissions/s1/history"),
            (Method::POST, "/api/v1/sync/cleanup"),
            (Method::DELETE, "/api/v1/sync/devices/anna-1"),
        ] {
            let body = (method == Method::POST).then(|| json!({ "changes": { "submissions": [{ "id": "s2" }] } }));
            let answer = device.call(method, path, body).await;
            assert_eq!(answer.status, 401, "{path}: {}", answer.text);
            assert!(!answer.text.contains("s1"), "{}", answer.text);
            codes.push(answer.code().to_owned());
        }
        codes.dedup();
        codes
    };
    assert_eq!(code(nobody.clone()).await, ["unauthorized"]);
    assert_eq!(code(with("bkr_dev_0000000000000000000000000000000000000000000")).await, ["unauthorized"]);
    assert_eq!(code(with(&anna.token[..anna.token.len() - 1])).await, ["unauthorized"]);
    assert_eq!(code(with(&"x".repeat(20_000))).await, ["unauthorized"]);
    assert_eq!(code(till.clone()).await, ["device_revoked"]);
    // What another process did is seen within a second.
    let deadline = Instant::now() + Duration::from_secs(5);
    while away.try_pull(json!({})).await.status != 401 {
        assert!(Instant::now() < deadline, "a disabled user's device still syncs");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(code(away).await, ["device_revoked"]);
    for authorization in ["Bearer", "Bearer ", "Basic YTpi", "bkr_dev_x", "Bearer \u{e4}\u{f6}"] {
        let request = nobody.request(Method::POST, PULL).header("authorization", authorization.as_bytes()).body("{}");
        nobody.send(request).await.refused(401, "unauthorized");
    }
    assert_eq!(anna.record("submissions", "s2").await.status, 404, "nothing of it was stored");
    serves(&anna, "f1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_push_is_refused_as_a_whole() {
    let (serving, anna, _directory) = office().await;
    let good = json!({ "changes": { "forms": [{ "id": "f1", "title": "Tür" }] } }).to_string();
    for end in 0..good.len() {
        let answer = post(&anna, PUSH, good.as_bytes()[..end].to_vec()).await;
        answer.refused(400, "invalid_request");
        // The detail is for the app's author: it says what is wrong.
        assert!(answer.body["detail"].as_str().unwrap().len() > 20, "{}", answer.text);
    }
    let record = r#"{"id":"f1","title":"x"}"#;
    let mut bodies: Vec<Vec<u8>> = [
        "null".into(),
        "0".into(),
        "\"push\"".into(),
        format!("[null,null,null,null,{{\"forms\":[{record}]}},null,null,null,null]"),
        format!("{good}{good}"),
        r#"{"changes":[]}"#.into(),
        r#"{"changes":7}"#.into(),
        r#"{"changes":"forms"}"#.into(),
        format!(r#"{{"changes":{{"forms":{record}}}}}"#),
        r#"{"changes":{"forms":null}}"#.into(),
        r#"{"changes":{"forms":true}}"#.into(),
        r#"{"operations":{}}"#.into(),
        r#"{"operations":3}"#.into(),
        format!(r#"{{"changes":{{"forms":[{record}]}},"changes":{{}}}}"#),
        format!(r#"{{"timestamp":"\ud800","changes":{{"forms":[{record}]}}}}"#),
        format!(r#"{{"timestamp":"yesterday","changes":{{"forms":[{record}]}}}}"#),
        format!(r#"{{"timestamp":5,"changes":{{"forms":[{record}]}}}}"#),
        format!(r#"{{"last_sync_timestamp":"never","changes":{{"forms":[{record}]}}}}"#),
        format!(r#"{{"device_id":{{}},"changes":{{"forms":[{record}]}}}}"#),
        format!(r#"{{"dry_run":"yes","changes":{{"forms":[{record}]}}}}"#),
        format!(r#"{{"atomic":1,"changes":{{"forms":[{record}]}}}}"#),
        format!(r#"{{"changes":{},"operations":[]}}"#, nested(100_000)),
        format!(r#"{{"changes":{{"forms":[{record}]}},"operations":{}"#, "[".repeat(100_000)),
        format!(r#"{{"changes":{{"forms":{}}}}}"#, "{\"a\":".repeat(100_000)),
        format!(r#"{}{good}"#, "[".repeat(100_000)),
    ]
    .map(String::into_bytes)
    .to_vec();
    // Not UTF-8: a lone continuation byte, an overlong slash, a surrogate, a character cut off.
    for bad in [&b"\x80"[..], b"\xc0\xaf", b"\xed\xa0\x80", b"\xe2\x82", b"\xff\xfe"] {
        bodies.push([br#"{"changes":{"forms":[{"id":"f1","title":""#, bad, br#""}]}}"#].concat());
        bodies.push([br#"{"changes":{"fo"#, bad, br#"rms":[{"id":"f1"}]}}"#].concat());
        bodies.push([bad, good.as_bytes()].concat());
    }
    for body in bodies {
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        let answer = post(&anna, PUSH, body).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (400, "invalid_request"), "{shown}");
    }
    for cursor in ["", "x", "0", "\u{fffd}", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
        anna.try_push(json!({ "cursor": cursor, "changes": {} })).await.refused(400, "invalid_cursor");
        anna.try_pull(json!({ "cursor": cursor })).await.refused(400, "invalid_cursor");
    }
    for pull in
        ["", "[", "null", r#"{"limit":0}"#, r#"{"limit":-1}"#, r#"{"limit":1.5}"#, r#"{"limit":1e400}"#, r#"{"limit":"all"}"#, "[null]"]
    {
        post(&anna, PULL, pull).await.refused(400, "invalid_request");
    }
    for pull in [r#"{"tables":{}}"#, r#"{"tables":[1]}"#, r#"{"tables":"forms"}"#, r#"{"exclude_own":"no"}"#, r#"{"cursor":7}"#] {
        post(&anna, PULL, pull).await.refused(400, "invalid_request");
    }
    assert_eq!(anna.record("forms", "f1").await.status, 404, "nothing of it was stored");
    serves(&anna, "f1").await;
    drop(serving);
}

/// Bad records, and the code of each one's refusal.
fn bad_records() -> Vec<(String, &'static str)> {
    let field = |name: &str, value: &str| {
        let id = if name == "id" { String::new() } else { r#""id":"bad","#.into() };
        format!(r#"{{{id}"{name}":{value},"title":"x"}}"#)
    };
    let mut bad: Vec<String> =
        ["7", "null", "true", "\"bad\"", "[]", "[{}]", "{}", "1e400", r#"{"title":"no id"}"#].map(str::to_owned).to_vec();
    for value in ["7", "null", "[]", "{}", "\"\"", "\"a b\"", "\"a/b\"", "\"\\u0000\"", "\"\u{fc}\"", "\"\\ud800\"", "1e400"] {
        bad.push(field("id", value));
    }
    bad.push(field("id", &format!("\"{}\"", "i".repeat(129))));
    for value in ["\"x\"", "\"1\"", "-1", "1.5", "1e400", "[]", "{}", "true", "9223372036854775808", "-99999999999999999999999", "1e300"] {
        bad.push(field("version", value));
    }
    let times =
        ["\"x\"", "\"\"", "7", "[]", "{}", "true", "\"2025-13-01T00:00:00Z\"", "\"2025-12-18\"", "\"2025-12-18T10:50:00\"", "1e400"];
    for value in times {
        bad.push(field("updated_at", value));
    }
    for value in ["\"yes\"", "0", "1", "[]", "{}", "1e400"] {
        bad.push(field("deleted", value));
    }
    for value in
        ["1e400", "-1e999", "\"\\ud800\"", "\"\\udc00\\ud800\"", "\"a\\ud800b\"", r#"{"a":1,"a":1}"#, r#"[{"a":{"b":1,"c":2,"b":3}}]"#]
    {
        bad.push(field("note", value));
    }
    for place in ["note", "id", "version", "updated_at", "deleted"] {
        bad.push(field(place, &nested(100_000)));
        bad.push(field(place, &format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000))));
    }
    bad.push(field("note", &nested(65)));
    bad.push(nested(100_000));
    for twice in ["id", "version", "updated_at", "deleted", "title"] {
        bad.push(
            format!(r#"{{"id":"bad","{twice}":null,"title":"x","{twice}":null}}"#)
                .replace(r#""id":"bad","id":null"#, r#""id":"bad","id":"bad2""#),
        );
    }
    let mut bad: Vec<(String, &str)> = bad.into_iter().map(|record| (record, "invalid_record")).collect();
    bad.push((field("note", &format!("\"{}\"", "x".repeat(MIB))), "payload_too_large"));
    bad
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_record_is_refused_by_itself_and_its_neighbours_are_applied() {
    let (serving, anna, _directory) = office().await;
    for (no, (bad, code)) in bad_records().into_iter().enumerate() {
        let shown: String = bad.chars().take(120).collect();
        let (before, after) = (format!("before-{no}"), format!("after-{no}"));
        let body = format!(r#"{{"changes":{{"forms":[{{"id":"{before}"}},{bad},{{"id":"{after}"}}]}}}}"#);
        let answer = post(&anna, PUSH, body).await;
        assert_eq!(answer.status, 200, "{shown}: {}", answer.text);
        let applied = answer.body["applied"]["forms"].as_array().unwrap();
        assert_eq!(applied.iter().map(|entry| entry["id"].as_str().unwrap()).collect::<Vec<_>>(), [&before, &after], "{shown}");
        let rejected = answer.body["rejected"].as_array().unwrap();
        assert_eq!(rejected.iter().map(|entry| entry["code"].as_str().unwrap()).collect::<Vec<_>>(), [code], "{shown}");
        assert_eq!(rejected[0]["table"], "forms", "{shown}");
        assert!(rejected[0]["detail"].as_str().unwrap().len() > 10, "{shown}: {}", rejected[0]);
    }
    assert_eq!(anna.record("forms", "bad").await.status, 404, "nothing of it was stored");
    // A record at the very depth is one.
    let edge = format!(r#"{{"changes":{{"forms":[{{"id":"edge","note":{}}}]}}}}"#, nested(63));
    assert_eq!(post(&anna, PUSH, edge).await.ok()["applied"]["forms"][0]["id"], "edge");
    drop(serving);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_operation_is_refused_by_itself_and_its_neighbours_are_applied() {
    let (serving, anna, _directory) = office().await;
    let with = |rest: &str| format!(r#"{{"op_id":"bad","table":"forms","id":"bad",{rest}}}"#);
    let based = |base: &str| with(&format!(r#""op":"update","data":{{"title":"x"}},"base":{base}"#));
    let mut bad: Vec<String> = ["7", "null", "true", "\"x\"", "[]", "{}", "1e400", r#"{"op_id":"bad"}"#].map(str::to_owned).to_vec();
    // The fields in a row, as a list.
    bad.push(r#"["bad","forms","bad","create",{},null,null,null]"#.into());
    bad.extend(
        [
            r#""op":"upsert","data":{}"#,
            r#""op":7,"data":{}"#,
            r#""data":{}"#,
            r#""op":"create""#,
            r#""op":"update","data":null"#,
            r#""op":"update","data":7"#,
            r#""op":"update","data":[]"#,
            r#""op":"update","patch":"x""#,
            r#""op":"update","data":{},"patch":{}"#,
            r#""op":"update","data":{"id":"other"}"#,
            r#""op":"update","data":{"id":7}"#,
            r#""op":"update","data":{"version":"x"}"#,
            r#""op":"update","data":{"a":1,"a":2}"#,
            r#""op":"update","data":{"a":1e400}"#,
            r#""op":"update","data":{"a":"\udc00"}"#,
            r#""op":"update","data":{},"updated_at":"x""#,
            r#""op":"update","data":{},"updated_at":7"#,
            r#""op":"update","data":{},"op":"update""#,
        ]
        .map(with),
    );
    bad.extend(
        [
            "7",
            "\"x\"",
            "true",
            "[]",
            "{}",
            r#"{"version":"x"}"#,
            r#"{"version":-1}"#,
            r#"{"version":1.5}"#,
            r#"{"version":1e400}"#,
            r#"{"version":99999999999999999999}"#,
            r#"{"hash":7}"#,
            r#"{"hash":"zz"}"#,
            r#"{"data":7}"#,
            r#"{"data":[]}"#,
            r#"{"data":{"a":1,"a":2}}"#,
            r#"{"version":1,"hash":"00000000000000000000000000000000"}"#,
            r#"{"version":1,"seq":1}"#,
            "[1,null,null]",
        ]
        .map(based),
    );
    bad.push(based(&nested(100_000)));
    bad.push(based(&format!(r#"{{"data":{{"a":{}}}}}"#, nested(100_000))));
    bad.push(with(&format!(r#""op":"update","data":{{"a":{}}}"#, nested(100_000))));
    bad.push(with(&format!(r#""op":"update","patch":{{"a":{}}}"#, nested(100_000))));
    bad.push(format!(r#"{{"table":"forms","id":{},"op":"create","data":{{}}}}"#, nested(100_000)));
    for (name, value) in [("op_id", "7"), ("op_id", "\"\""), ("op_id", "[]"), ("id", "7"), ("id", "\"\""), ("id", "null")] {
        let mut fields = json!({ "op_id": "bad", "table": "forms", "id": "bad", "op": "create", "data": {} });
        fields[name] = serde_json::from_str(value).unwrap();
        bad.push(fields.to_string());
    }
    bad.push(json!({ "op_id": "o".repeat(129), "table": "forms", "id": "bad", "op": "create", "data": {} }).to_string());
    let mut bad: Vec<(String, &str)> = bad.into_iter().map(|operation| (operation, "invalid_record")).collect();
    for table in ["nowhere", "Forms", "forms ", "", "forms; DROP TABLE changes", "a\u{0}b"] {
        let operation = json!({ "op_id": "bad", "table": table, "id": "bad", "op": "create", "data": {} });
        bad.push((operation.to_string(), "unknown_table"));
    }
    bad.push((r#"{"op_id":"bad","table":7,"id":"bad","op":"create","data":{}}"#.into(), "invalid_record"));
    let large = json!({ "op_id": "large", "table": "forms", "id": "bad", "op": "create", "data": { "note": "x".repeat(MIB) } });
    bad.push((large.to_string(), "payload_too_large"));

    for (no, (bad, code)) in bad.into_iter().enumerate() {
        let shown: String = bad.chars().take(160).collect();
        let good = |name: &str| json!({ "op_id": format!("{name}-{no}"), "table": "forms", "id": format!("{name}-{no}"), "op": "create", "data": {} });
        // An op_id stands for one operation for ever.
        let bad = bad.replace(r#""op_id":"bad""#, &format!(r#""op_id":"bad-{no}""#));
        let body = format!(r#"{{"operations":[{},{bad},{}]}}"#, good("before"), good("after"));
        let answer = post(&anna, PUSH, body.clone()).await;
        assert_eq!(answer.status, 200, "{shown}: {}", answer.text);
        let applied = answer.body["applied"]["forms"].as_array().unwrap();
        assert_eq!(applied.len(), 2, "{shown}: {}", answer.text);
        let rejected = answer.body["rejected"].as_array().unwrap();
        assert_eq!(rejected.iter().map(|entry| entry["code"].as_str().unwrap()).collect::<Vec<_>>(), [code], "{shown}: {}", answer.text);
        // A retry of it all answers the same.
        let again = post(&anna, PUSH, body).await.ok();
        assert_eq!(again["rejected"], answer.body["rejected"], "{shown}");
        assert_eq!(again["applied"]["forms"].as_array().unwrap().len(), 2, "{shown}");
    }
    assert_eq!(anna.record("forms", "bad").await.status, 404, "nothing of it was stored");
    drop(serving);
}

#[tokio::test(flavor = "multi_thread")]
async fn nine_megabytes_are_too_much_however_they_come() {
    let (serving, anna, _directory) = office().await;
    let padded = |size: usize| {
        let mut body = json!({ "changes": { "forms": [{ "id": format!("f{size}") }] } }).to_string().into_bytes();
        body.resize(size, b' ');
        body
    };
    let before = serving.memory_kib("VmHWM");
    let nine = padded(9 * MIB);
    post(&anna, PUSH, nine.clone()).await.refused(413, "payload_too_large");
    post(&anna, PULL, nine.clone()).await.refused(413, "payload_too_large");
    post_encoded(&anna, "gzip", gzip(&nine)).await.refused(413, "payload_too_large");
    // In pieces, without a length.
    let mut chunked = Wire::open(serving.address).await;
    chunked.send(wire::head(&anna, PUSH, "Transfer-Encoding: chunked\r\n").as_bytes()).await;
    for piece in nine.chunks(60_000) {
        chunked.send(format!("{:x}\r\n", piece.len()).as_bytes()).await;
        chunked.send(piece).await;
        chunked.send(b"\r\n").await;
    }
    chunked.send(b"0\r\n\r\n").await;
    let reply = chunked.reply(SOON).await.expect("an answer");
    assert_eq!((reply.status, reply.code().as_str()), (413, "payload_too_large"));
    // Announced, and far too much to be read at all.
    let mut announced = Wire::open(serving.address).await;
    announced.send(wire::head(&anna, PUSH, "Content-Length: 100000000000\r\n").as_bytes()).await;
    let reply = announced.reply(SOON).await.expect("an answer");
    assert_eq!((reply.status, reply.code().as_str()), (413, "payload_too_large"));
    announced.end(SOON).await;
    // Without an end: the connection closes before 64 MiB are through.
    let mut endless = Wire::open(serving.address).await;
    endless.send(wire::head(&anna, PUSH, "Transfer-Encoding: chunked\r\n").as_bytes()).await;
    let piece = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
    let mut sent = 0;
    while endless.send(&piece).await {
        sent += 1;
        assert!(sent < 1_024, "64 MiB were taken");
    }
    endless.end(SOON).await;
    // Small calls have a small limit, and strangers reach no other.
    let login = json!({ "username": "anna", "password": "x".repeat(100_000) }).to_string();
    post(&Device::stranger(serving.address), "/api/v1/auth/login", login).await.refused(413, "payload_too_large");

    // The limit itself is allowed.
    assert_eq!(post(&anna, PUSH, padded(8 * MIB)).await.ok()["applied"]["forms"][0]["status"], "applied");
    assert_eq!(post_encoded(&anna, "gzip", gzip(&padded(8 * MIB))).await.ok()["applied"]["forms"][0]["version"], 1);
    post(&anna, PUSH, padded(8 * MIB + 1)).await.refused(413, "payload_too_large");
    serves(&anna, "f1").await;
    let grown = serving.memory_kib("VmHWM") - before;
    assert!(grown < MEMORY_KIB, "{grown} KiB more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zip_bomb_is_unpacked_no_further_than_the_limit() {
    let (serving, anna, _directory) = office().await;
    // A gigabyte of zeros, as one megabyte: 64 members of 16 MiB.
    let bomb = gzip(&vec![0; 16 * MIB]).repeat(64);
    assert!(bomb.len() < 8 * MIB, "{} bytes pass as a body", bomb.len());
    let before = serving.memory_kib("VmHWM");
    let eight = (0..8).map(|_| post_encoded(&anna, "gzip", bomb.clone()));
    for answer in futures_util::future::join_all(eight).await {
        answer.refused(413, "payload_too_large");
    }
    let grown = serving.memory_kib("VmHWM") - before;
    assert!(grown < 3 * MEMORY_KIB, "{grown} KiB more for eight bombs at once");

    let good = json!({ "changes": { "forms": [{ "id": "f0" }] } }).to_string().into_bytes();
    let packed = gzip(&good);
    post_encoded(&anna, "gzip", good.clone()).await.refused(400, "invalid_request");
    post_encoded(&anna, "gzip", packed[..packed.len() - 5].to_vec()).await.refused(400, "invalid_request");
    post_encoded(&anna, "gzip", [packed.as_slice(), b"junk"].concat()).await.refused(400, "invalid_request");
    post_encoded(&anna, "gzip", Vec::new()).await.refused(400, "invalid_request");
    post_encoded(&anna, "gzip", gzip(&packed)).await.refused(400, "invalid_request");
    let mut broken = packed.clone();
    let middle = broken.len() / 2;
    broken[middle] ^= 0xff;
    post_encoded(&anna, "gzip", broken).await.refused(400, "invalid_request");
    for encoding in ["br", "zstd", "deflate", "compress", "gzip, gzip", "gzip, br", "rot13", "\u{e4}"] {
        post_encoded(&anna, encoding, packed.clone()).await.refused(415, "unsupported_media_type");
    }
    assert_eq!(anna.record("forms", "f0").await.status, 404, "nothing of it was stored");
    assert_eq!(post_encoded(&anna, "GZIP", packed).await.ok()["applied"]["forms"][0]["id"], "f0");
    serves(&anna, "f1").await;
}

/// JSON that takes far more memory as a tree than as text.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_body_does_not_become_a_large_tree() {
    let (serving, anna, _directory) = office().await;
    let many = |one: &str, bytes: usize| one.repeat(bytes / one.len());
    let full = 8 * MIB - 200;
    let list = format!("[{}1]", many("1,", full));
    let objects = format!("[{}{{}}]", many("{},", full));
    let bodies = [
        (PUSH, format!(r#"{{"changes":{{"forms":{list}}}}}"#)),
        (PUSH, format!(r#"{{"operations":{list}}}"#)),
        (PUSH, format!(r#"{{"changes":{{{}"a":[]}}}}"#, many(r#""a":[],"#, full))),
        (PUSH, format!(r#"{{"changes":{{"forms":[{{"id":{list}}}]}}}}"#)),
        (PUSH, format!(r#"{{"changes":{{"forms":[{{"id":"f1","version":{objects}}}]}}}}"#)),
        (PUSH, format!(r#"{{"operations":[{{"op_id":"o","table":"forms","id":"f1","op":"create","x":{objects}}}]}}"#)),
        (PUSH, format!(r#"{{"operations":[{{"op_id":"p","table":"forms","id":{objects},"op":"create"}}]}}"#)),
        (PUSH, format!(r#"{{"report":{list},"changes":{{}}}}"#)),
        (PULL, format!(r#"{{"tables":[{}"forms"]}}"#, many(r#""","#, full))),
        (PULL, format!(r#"{{"tables":[{}"forms"]}}"#, many(r#""forms","#, full))),
    ];
    for (no, (path, body)) in bodies.iter().cycle().take(20).enumerate() {
        let answer = post(&anna, path, body.clone()).await;
        assert!(answer.status.as_u16() < 500, "{no}: {}", answer.text);
        let after = serving.memory_kib("VmHWM");
        assert!(after < 2 * MEMORY_KIB, "{after} KiB after body {no}");
    }
    serves(&anna, "f1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_strangers_are_let_go_and_nobody_waits_for_them() {
    let (serving, anna, _directory) = office().await;
    let address = serving.address;
    let nobody = Device::stranger(address);
    // When the connection ended, and with what status before that.
    async fn watch(mut wire: Wire, began: Instant, within: u64) -> (u64, u16) {
        let reply = wire.reply(Duration::from_secs(within)).await;
        wire.end(SOON).await;
        (began.elapsed().as_secs(), reply.map_or(0, |reply| reply.status))
    }
    let began = Instant::now();
    // Says nothing. 10 s for the first head.
    let silent = async { watch(Wire::open(address).await, began, 25).await };
    // Half a head, and no more.
    let half = async {
        let mut wire = Wire::open(address).await;
        wire.send(b"POST /api/v1/sync/push HTTP/1.1\r\nHost: x\r\n").await;
        watch(wire, began, 25).await
    };
    // A head that drips: a byte a second would last for minutes.
    let drip = async {
        let mut wire = Wire::open(address).await;
        let line = wire::head(&nobody, PUSH, &format!("X-Slow: {}\r\n", "z".repeat(400)));
        for byte in line.as_bytes() {
            if began.elapsed() > Duration::from_secs(25) || !wire.send(&[*byte]).await {
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        watch(wire, began, 5).await
    };
    // A body that stops after its first bytes. 15 s between two pieces.
    let stopped = async {
        let mut wire = Wire::open(address).await;
        wire.send(format!("{}{{\"chan", wire::head(&anna, PUSH, "Content-Length: 100\r\n")).as_bytes()).await;
        watch(wire, began, 40).await
    };
    // The same from a stranger at the only doors that are open to one.
    let at_the_door = async {
        let mut wire = Wire::open(address).await;
        wire.send(format!("{}{{\"user", wire::head(&nobody, "/api/v1/auth/login", "Content-Length: 100\r\n")).as_bytes()).await;
        watch(wire, began, 40).await
    };
    // A body that drips for ever. 60 s for all of it.
    let forever = async {
        let mut wire = Wire::open(address).await;
        wire.send(wire::head(&anna, PUSH, "Content-Length: 1000\r\n").as_bytes()).await;
        while began.elapsed() < Duration::from_secs(58) {
            assert!(wire.send(b" ").await, "closed after {:?}", began.elapsed());
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
        watch(wire, began, 30).await
    };
    let others = async {
        let (mut served, mut slowest) = (0, Duration::ZERO);
        while began.elapsed() < Duration::from_secs(20) {
            let asked = Instant::now();
            serves(&anna, &format!("f{served}")).await;
            slowest = slowest.max(asked.elapsed());
            served += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        (served, slowest)
    };
    let (silent, half, drip, stopped, at_the_door, forever, (served, slowest)) =
        tokio::join!(silent, half, drip, stopped, at_the_door, forever, others);
    for (name, (seconds, status), least, most) in
        [("silent", silent, 9, 18), ("half a head", half, 9, 18), ("a dripping head", drip, 9, 18), ("a dripping body", forever, 59, 80)]
    {
        assert!((least..=most).contains(&seconds), "{name}: closed after {seconds} s");
        assert!(status == 0 || status == 408, "{name}: {status}");
    }
    for (name, (seconds, status)) in [("a body that stops", stopped), ("a login that stops", at_the_door)] {
        assert!((14..=25).contains(&seconds) && status == 408, "{name}: {status} after {seconds} s");
    }
    assert_eq!(forever.1, 408);
    assert!(served > 50 && slowest < Duration::from_secs(5), "{served} calls, the slowest {slowest:?}");
    serves(&anna, "after").await;
    serving.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_http_is_answered_or_let_go() {
    let (serving, anna, _directory) = office().await;
    let address = serving.address;
    let head = |lines: &str| format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\n{lines}\r\n").into_bytes();
    let garbage: Vec<u8> = (0..20_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut sent: Vec<Vec<u8>> = vec![
        garbage,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03hello, this is TLS".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"GET /\r\n\r\n".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"\r\n\r\n\r\n\r\nSSH-2.0-x\r\n\r\n".to_vec(),
        b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"G\xffT / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        head("No colon here\r\n"),
        head(": no name\r\n"),
        head("X: \0\r\n"),
        head(&format!("X: {}\r\n", "x".repeat(300_000))),
        head(&format!("{}: x\r\n", "x".repeat(300_000))),
        head(&"X: y\r\n".repeat(5_000)),
        format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(100_000)).into_bytes(),
        format!("{} / HTTP/1.1\r\nHost: x\r\n\r\n", "X".repeat(100_000)).into_bytes(),
        wire::head(&anna, PUSH, "Content-Length: -1\r\n").into_bytes(),
        wire::head(&anna, PUSH, "Content-Length: x\r\n").into_bytes(),
        wire::head(&anna, PUSH, "Content-Length: 1\r\nContent-Length: 2\r\n").into_bytes(),
        wire::head(&anna, PUSH, "Content-Length: 99999999999999999999999\r\n").into_bytes(),
        [wire::head(&anna, PUSH, "Transfer-Encoding: chunked\r\n").as_bytes(), b"zz\r\nnot a chunk\r\n"].concat(),
        [wire::head(&anna, PUSH, "Transfer-Encoding: chunked\r\n").as_bytes(), b"ffffffffffffffffff\r\n"].concat(),
        [wire::head(&anna, PUSH, "Transfer-Encoding: gzip\r\n").as_bytes(), b"x"].concat(),
        b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_vec(),
        b"GET http://evil.example/healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_vec(),
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n".to_vec(),
    ];
    // What comes after an unread body must not be taken for a request.
    let smuggled = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    sent.push(wire::head(&anna, PUSH, &format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", smuggled.len())).into_bytes());
    sent.last_mut().unwrap().extend(format!("0\r\n\r\n{smuggled}").into_bytes());
    for bytes in sent {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        let mut wire = Wire::open(address).await;
        wire.send(&bytes).await;
        // Shows the server that no more will come, so that it need not wait for the rest of a head.
        let mut statuses = Vec::new();
        while let Some(reply) = wire.reply(SOON).await {
            statuses.push(reply.status);
            if !(reply.head.to_ascii_lowercase().contains("connection: close")) && reply.status < 500 && reply.status != 400 {
                break;
            }
        }
        assert!(statuses.iter().all(|status| (400..500).contains(status)), "{shown}: {statuses:?}");
        assert_eq!(serving.log.text().matches("panicked").count(), 0, "{shown}");
    }
    for (method, path, status) in [
        (Method::GET, "/api/v1/nothing", 404),
        (Method::GET, "/api/v1/sync/push", 405),
        (Method::DELETE, "/healthz", 405),
        (Method::GET, "/api/v1/records/forms/..%2f..%2fetc%2fpasswd", 404),
        (Method::GET, "/../../etc/passwd", 404),
        (Method::GET, "/%2e%2e/%2e%2e/etc/passwd", 404),
        (Method::GET, "/api/v1/records/%ff%fe/x", 400),
        (Method::GET, "/api/v1/records/forms/%00", 404),
    ] {
        let answer = anna.call(method, path, None).await;
        assert!(answer.status == status || (status == 400 && answer.status.is_client_error()), "{path}: {} {}", answer.status, answer.text);
        assert!(!answer.code().is_empty());
    }
    serves(&anna, "f1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_idle_connections_leave_room_for_devices_old_and_new() {
    const ALL: usize = 10_000;
    let (serving, anna, directory) = office().await;
    // An old device, whose one connection was there before.
    let old = serving.guest("old", "store", &["A"]).await;
    let mut wire = Wire::open(serving.address).await;
    let push = |id: String| json!({ "changes": { "submissions": [{ "id": id }] } });
    let pushed = |reply: Option<wire::Reply>, id: &str| {
        let reply = reply.expect("the old device's connection is closed");
        let body: Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(body["applied"]["submissions"][0]["id"], id, "{} {body}", reply.status);
    };
    pushed(wire.push(&old, &push("before".into())).await, "before");

    let (mut open, mut news, mut most, mut full) = (0, 0, 0, false);
    let mut floods = Vec::new();
    while open < ALL {
        let count = (ALL - open).min(flood::room());
        let mut flood = Flood::start(serving.address, count);
        loop {
            let progress = tokio::task::block_in_place(|| flood.progress());
            // Each time another 500 stand at the door: the old device on its connection, and a new one on a new connection.
            let id = format!("old-{open}-{progress:?}").replace(['(', ')'], "");
            pushed(wire.push(&old, &push(id.clone())).await, &id);
            let held = std::fs::read_dir(format!("/proc/{}/fd", serving.child.id())).unwrap().count();
            full |= held > 2_048;
            assert!(held < 2_048 + 100, "{held} descriptors");
            if progress.is_none_or(|count| count % 2_500 == 500) {
                let new = serving.guest(&format!("new{news}"), "store", &["A"]).await;
                new.push_one("submissions", json!({ "id": format!("new-{news}") })).await.applied("submissions", &format!("new-{news}"));
                news += 1;
            }
            most = most.max(serving.memory_kib("VmRSS"));
            if progress.is_none() {
                break;
            }
        }
        open += count;
        floods.push(flood);
    }
    assert!(news >= 4 && most < MEMORY_KIB, "{news} new devices, {most} KiB");
    assert!(full, "the cap was never reached, so nobody had to make room");
    assert_eq!(anna.pull().await.records("submissions").len(), 1 + news + ALL / 500 + floods.len());
    drop(floods);
    serves(&anna, "f1").await;
    pushed(wire.push(&old, &push("after".into())).await, "after");
    drop(directory);
}

/// The same numbers on every run (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }
}

/// Changes a body here and there: bytes, pieces cut out, doubled or swapped for others that JSON and the protocol know.
fn mutate(body: &[u8], dice: &mut Dice) -> Vec<u8> {
    const VALUES: [&str; 18] = [
        "null",
        "true",
        "0",
        "-1",
        "1.5",
        "1e400",
        "9223372036854775807",
        "-9223372036854775808",
        "18446744073709551616",
        "\"\"",
        "{}",
        "[]",
        "\"s1\"",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "\"0000-00-00T00:00:00Z\"",
        "\"9999-12-31T23:59:59.999999999+14:00\"",
        "\"2025-12-18T11:00:00Z\"",
    ];
    const WORDS: [&str; 20] = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\\u0000",
        "\\ud800",
        "\"version\":2,",
        "\"deleted\":true,",
        "\"base\":null,",
        "\"op\":\"delete\",",
        "\"patch\":{\"title\":null},",
        "\"store_id\":\"B\",",
        "\"email\":\"a@b\",",
        "\"cursor\":\"\",",
        "\"atomic\":true,",
        "\"dry_run\":true,",
    ];
    let mut body = body.to_vec();
    for _ in 0..1 + dice.roll(2) {
        if body.is_empty() {
            break;
        }
        let (a, b) = (dice.roll(body.len()), dice.roll(body.len()));
        let (from, to) = (a.min(b), a.max(b).min(a.min(b) + 40));
        match dice.roll(12) {
            0 => body[a] = dice.roll(256) as u8,
            1 => body[a] ^= 1 << dice.roll(8),
            2 => drop(body.drain(from..to)),
            3 => {
                let piece = body[from..to].to_vec();
                body.splice(to..to, piece);
            }
            4 => body.truncate(body.len().saturating_sub(dice.roll(20))),
            5 => drop(body.splice(a..a, WORDS[dice.roll(WORDS.len())].bytes())),
            // A whole value for another one: what follows a colon, up to the next comma or bracket.
            _ => {
                let colons: Vec<usize> = body.iter().enumerate().filter(|(_, byte)| **byte == b':').map(|(at, _)| at + 1).collect();
                if let Some(start) = (!colons.is_empty()).then(|| colons[dice.roll(colons.len())]) {
                    let length = body[start..].iter().position(|byte| b",}]".contains(byte)).unwrap_or(0);
                    body.splice(start..start + length, VALUES[dice.roll(VALUES.len())].bytes());
                }
            }
        }
    }
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_mutated_bodies_are_each_answered() {
    let (serving, anna, _directory) = office().await;
    let till = serving.guest("till", "store", &["A"]).await;
    till.push_one("submissions", json!({ "id": "s1", "answers": [1, 2.5, { "a": null }] })).await.applied("submissions", "s1");
    let cursor = till.pull().await.cursor();
    let bodies = [
        (
            PUSH,
            json!({
                "device_id": "till-1", "timestamp": "2025-12-18T11:00:00Z", "cursor": cursor,
                "changes": {
                    "submissions": [
                        { "id": "s1", "version": 1, "updated_at": "2025-12-18T10:50:00Z", "status": "done", "n": [1, 2.5, { "deep": [[]] }] },
                        { "id": "s2", "deleted": true },
                    ],
                    "kpi_data": [{ "id": "k1", "store_id": "A", "value": 17 }],
                },
                "report": { "pending": 3, "oldest_pending_s": 1.5, "app_version": "1.0" },
            }),
        ),
        (
            PUSH,
            json!({
                "atomic": false, "dry_run": false,
                "operations": [
                    { "op_id": "o1", "table": "submissions", "id": "s1", "op": "update", "patch": { "status": "x" }, "base": { "version": 1 } },
                    { "op_id": "o2", "table": "submissions", "id": "s3", "op": "create", "data": { "n": 1 }, "base": null },
                    { "op_id": "o3", "table": "submissions", "id": "s1", "op": "delete", "updated_at": "2025-12-18T10:50:00Z",
                      "base": { "data": { "answers": [] } } },
                    { "op_id": "o4", "table": "submissions", "id": "s1", "op": "update", "data": { "id": "s1", "t": "\u{fc}" },
                      "base": { "hash": "00112233445566778899aabbccddeeff" } },
                ],
            }),
        ),
        (
            PULL,
            json!({
                "device_id": "till-1", "cursor": cursor, "tables": ["forms", "submissions"], "limit": 100, "exclude_own": true,
                "timestamp": "2025-12-18T11:00:00Z",
            }),
        ),
        (PULL, json!({ "last_sync_timestamp": "2025-12-18T11:00:00Z", "limit": 3 })),
    ];
    let mut dice = Dice(0x000f_f1ce);
    let mut statuses = std::collections::BTreeMap::<u16, usize>::new();
    for no in 0..2_000 {
        let (path, body) = &bodies[no % bodies.len()];
        let body = mutate(body.to_string().as_bytes(), &mut dice);
        let shown = String::from_utf8_lossy(&body).into_owned();
        let answer = tokio::time::timeout(SOON, post(&till, path, body)).await.unwrap_or_else(|_| panic!("{no}: no answer to {shown}"));
        let status = answer.status.as_u16();
        assert!(status == 200 || (400..500).contains(&status), "{no}: {status} {} to {shown}", answer.text);
        assert!(answer.body.is_object(), "{no}: {} to {shown}", answer.text);
        if status != 200 && status != 409 {
            assert!(!answer.code().is_empty() && answer.body["request_id"].is_string(), "{no}: {} to {shown}", answer.text);
        }
        *statuses.entry(status).or_default() += 1;
    }
    // Both the refused and the understood were met often, or the fuzz would show little.
    assert!(statuses[&200] > 300 && statuses[&400] > 300, "{statuses:?}");
    let log = serving.log.text();
    assert!(!log.contains("panicked") && !log.contains("failed inside"), "{log}");
    serves(&anna, "f1").await;
    // A manager sees all that came of it, and a fresh device can pull it.
    assert!(!anna.pull().await.records("submissions").is_empty());
    serving.stop();
}
