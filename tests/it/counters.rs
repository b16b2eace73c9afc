//! Merge functions through the whole push: totals that stay right whatever is lost and sent again, dry runs that say what then
//! happens, batches that are applied whole or not at all, and the three stories that merge functions are there for.

use std::collections::BTreeMap;

use backroom::domain::actor::Role;
use backroom::domain::clock;
use serde_json::{Value, json};

use crate::decisions::Dice;
use crate::support::quick::at;
use crate::support::{Appliance, Device};

const STOCK: &str = r#"
[tables.stock]
rule = "manual"
[tables.stock.merge]
sold = "sum"
takings = "sum"
"#;

/// What a till knows of the record, and what it has sent without an answer.
struct Till {
    device: Device,
    version: i64,
    sold: i64,
    cents: i64,
    waiting: Option<Value>,
    sent: Vec<Value>,
}

fn euros(cents: i64) -> Value {
    serde_json::from_str(&format!("{}.{:02}", cents / 100, cents % 100)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_lost_repeated_and_doubled_pushes_add_up_to_the_true_total() {
    let mut office = Appliance::with(STOCK).await;
    let mut tills = Vec::new();
    for name in ["ada", "ben", "cid", "dan", "eva"] {
        let device = office.clerk(name, "A").await;
        tills.push(Till { device, version: 1, sold: 0, cents: 0, waiting: None, sent: Vec::new() });
    }
    tills[0].device.push_one("stock", json!({ "id": "tea", "sold": 0, "takings": 0 })).await.applied("stock", "tea");
    let (mut dice, mut sold, mut cents, mut pushes) = (Dice(11), 0, 0, 0);
    let mut seen = BTreeMap::<String, usize>::new();
    let mut count = |what: &str| *seen.entry(what.into()).or_default() += 1;
    // Until a thousand were sent, and then until everybody has an answer.
    while pushes < 1_000 || tills.iter().any(|till| till.waiting.is_some()) {
        if [300, 600, 900].contains(&pushes) {
            office = office.restart(STOCK).await;
            tills.iter_mut().for_each(|till| till.device.address = office.address);
        }
        let who = dice.roll(tills.len());
        let till = &mut tills[who];
        pushes += 1;
        if !till.sent.is_empty() && dice.one_in(8) {
            // A copy that was on its way for long.
            let copy = dice.pick(&till.sent);
            count("doubled");
            till.device.push(copy).await.applied("stock", "tea");
            continue;
        }
        if till.waiting.is_some() {
            count("sent again");
        } else if pushes > 1_000 {
            continue;
        }
        let body = till.waiting.take().unwrap_or_else(|| {
            // One tea, or some given back, at a price with cents.
            let (more, price) = (dice.roll(6) as i64 - 1, 10 + dice.roll(300) as i64);
            (sold, cents) = (sold + more, cents + price);
            let record = json!({ "sold": till.sold + more, "takings": euros(till.cents + price) });
            let now = clock::text(office.clock.now());
            match dice.roll(3) {
                // Whole and unnamed, as an app without a queue sends it; or with a name, whole or as a patch.
                0 => json!({ "changes": { "stock": [{
                    "id": "tea", "version": till.version, "updated_at": now, "sold": record["sold"], "takings": record["takings"],
                }] } }),
                form => json!({ "operations": [{
                    "op_id": format!("{who}-{pushes}"), "table": "stock", "id": "tea", "op": "update", "updated_at": now,
                    "base": { "version": till.version }, ["data", "patch"][form - 1]: record,
                }] }),
            }
        });
        till.sent.push(body.clone());
        let answer = till.device.push(body.clone()).await;
        let entry = answer.applied("stock", "tea");
        count(entry["status"].as_str().unwrap());
        if dice.one_in(3) {
            // The answer does not arrive. The till sells on when it has one.
            till.waiting = Some(body);
            continue;
        }
        let sent =
            body["changes"]["stock"].get(0).or_else(|| body["operations"][0].get("data")).or_else(|| body["operations"][0].get("patch"));
        let now = entry.get("data").unwrap_or_else(|| sent.unwrap());
        till.version = entry["version"].as_i64().unwrap();
        till.sold = now["sold"].as_i64().unwrap();
        till.cents = (now["takings"].as_f64().unwrap() * 100.0).round() as i64;
    }
    let record = tills[0].device.record("stock", "tea").await.ok();
    let record = &record["record"];
    assert_eq!((record["sold"].as_i64(), record["takings"].to_string()), (Some(sold), euros(cents).to_string()), "{seen:?}");
    assert_eq!(office.ask::<i64>("SELECT count(*) FROM conflicts").await, 0);
    for what in ["applied", "merged", "sent again", "doubled"] {
        assert!(seen.get(what).is_some_and(|times| *times > 20), "{what}: {seen:?}");
    }
}

const MIXED: &str = r#"
[tables.fields]
rule = "latest_wins"
[tables.fields.merge]
n = "sum"
x = "max"
y = "min"
u = "union"
l = "append"
t = "text"
m = { function = "union", by = "id" }
s = "server"
q = "manual"
[tables.records]
rule = "manager_wins"
granularity = "record"
[tables.records.merge]
n = "sum"
x = "max"
[tables.shops]
rule = "client_wins"
scope = "store"
stale = "server_wins"
required = ["a"]
[tables.shops.merge]
n = "sum"
[tables.people]
rule = "manual"
unique = ["a"]
[tables.people.merge]
x = "max"
"#;

/// Everything that an undone push must leave as it was.
async fn traces(office: &Appliance) -> String {
    office
        .ask(
            "SELECT json_array((SELECT count(*) FROM changes), (SELECT max(seq) FROM changes), (SELECT count(*) FROM receipts),
                (SELECT json_group_array(c.fields || c.status || c.winner) FROM conflicts c), (SELECT count(*) FROM rejections),
                (SELECT count(*) FROM unique_keys), (SELECT count(*) FROM feeds), (SELECT count(*) FROM evictions))",
        )
        .await
}

fn some_fields(dice: &mut Dice, null: bool) -> Value {
    let mut fields = json!({});
    for name in ["a", "n", "x", "y", "u", "l", "t", "m", "s", "q"] {
        if dice.one_in(2) {
            continue;
        }
        let letter = dice.pick(&["k", "l", "m"]);
        fields[name] = match name {
            _ if null && dice.one_in(5) => Value::Null,
            "n" if dice.one_in(15) => json!("seven"),
            "n" => {
                let few = json!(dice.roll(9));
                dice.pick(&[few, json!(0.1), json!(9_007_199_254_740_993_i64)])
            }
            "u" | "l" => json!(["k", "l", "m"][..dice.roll(4)]),
            "t" => json!(format!("one\n{letter}\nthree")),
            "m" => json!([{ "id": dice.roll(3), "s": letter }]),
            "x" | "y" => json!(dice.roll(9)),
            _ => json!(dice.roll(3)),
        };
    }
    fields
}

/// Several changes, some of one and the same record.
fn batch(dice: &mut Dice, office: &Appliance, round: usize) -> Value {
    let operations = (0..1 + dice.roll(4)).map(|place| {
        let table = dice.pick(&["fields", "fields", "records", "shops", "people"]);
        let mut operation =
            json!({ "table": table, "id": format!("r{}", dice.roll(3)), "updated_at": at(office, -1 - dice.roll(2_000) as i64) });
        if dice.one_in(2) {
            operation["op_id"] = json!(format!("{round}-{place}"));
        }
        match dice.roll(8) {
            0 => operation["op"] = json!("delete"),
            1 | 2 => (operation["op"], operation["patch"]) = (json!("update"), some_fields(dice, true)),
            _ => (operation["op"], operation["data"]) = (json!("update"), some_fields(dice, false)),
        }
        match dice.roll(8) {
            0 => operation["base"] = Value::Null,
            1 => operation["base"] = json!({ "data": some_fields(dice, false) }),
            2 => {}
            _ => operation["base"] = json!({ "version": 1 + dice.roll(3 + round / 20) }),
        }
        operation
    });
    json!({ "operations": operations.collect::<Vec<_>>() })
}

fn comparable(mut answer: Value) -> Value {
    for name in ["dry_run", "timestamp", "head"] {
        answer.as_object_mut().unwrap().remove(name);
    }
    for conflict in answer["conflicts"].as_array_mut().unwrap() {
        conflict["conflict_id"] = Value::Null;
    }
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn random_pushes_do_what_their_dry_run_said_and_atomic_ones_all_or_nothing() {
    let office = Appliance::with(MIXED).await;
    let devices =
        [office.clerk("one", "A").await, office.clerk("two", "A").await, office.clerk("far", "B").await, office.boss("boss").await];
    let (mut dice, mut seen) = (Dice(3), BTreeMap::<String, usize>::new());
    for round in 0..400 {
        let device = dice.pick(&devices);
        let with = |body: &Value, name: &str| {
            let mut body = body.clone();
            body[name] = json!(true);
            body
        };
        let body = batch(&mut dice, &office, round);
        let before = traces(&office).await;
        let said = device.push(with(&body, "dry_run")).await.0;
        assert_eq!(traces(&office).await, before, "a dry run left something: {body}");
        let lost = !said["rejected"].as_array().unwrap().is_empty()
            || said["conflicts"].as_array().unwrap().iter().any(|conflict| conflict["winner"] != "client");
        if dice.one_in(2) {
            let answer = device.try_push(with(&body, "atomic")).await;
            if lost {
                answer.refused(409, "batch_refused");
                assert_eq!(traces(&office).await, before, "a refused batch left something: {body}");
                for list in ["conflicts", "rejected"] {
                    assert_eq!(comparable(answer.body.clone())[list], comparable(said.clone())[list], "{body}");
                }
                *seen.entry("refused".into()).or_default() += 1;
                continue;
            }
            assert_eq!(comparable(answer.ok()), comparable(said.clone()), "{body}");
            *seen.entry("whole".into()).or_default() += 1;
        } else {
            let done = device.push(body.clone()).await.0;
            assert_eq!(comparable(done), comparable(said.clone()), "{body}");
        }
        for entry in said["applied"].as_object().unwrap().values().flat_map(|list| list.as_array().unwrap()) {
            *seen.entry(entry["status"].as_str().unwrap().into()).or_default() += 1;
        }
        for entry in said["conflicts"].as_array().unwrap() {
            *seen.entry(format!("{} by {}", entry["winner"].as_str().unwrap(), entry["reason"].as_str().unwrap())).or_default() += 1;
        }
        for entry in said["rejected"].as_array().unwrap() {
            *seen.entry(entry["code"].as_str().unwrap().into()).or_default() += 1;
        }
    }
    for what in [
        "refused",
        "whole",
        "applied",
        "merged",
        "noop",
        "client by rule",
        "server by rule",
        "none by rule",
        "none by gap",
        "server by late",
        "server by stale",
        "server by unique",
        "invalid_record",
        "gone",
        "forbidden",
    ] {
        assert!(seen.contains_key(what), "{what} never occurs: {seen:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_half_done_and_older_does_not_undo_what_is_further() {
    let rules = r#"
[tables.progress]
rule = "latest_wins"
stale = "server_wins"
merge.completion_percentage = "max"
"#;
    let office = Appliance::with(rules).await;
    let (one, two) = (office.clerk("one", "A").await, office.clerk("two", "A").await);
    let at = |seconds| at(&office, seconds);
    one.push_one("progress", json!({ "id": "p", "updated_at": at(-60), "completion_percentage": 75 })).await.applied("progress", "p");
    let late = json!({ "id": "p", "updated_at": at(-600), "completion_percentage": 50 });
    let pushed = two.push_one("progress", late).await;
    let conflict = pushed.conflict("p");
    assert_eq!((&conflict["winner"], &conflict["reason"]), (&json!("server"), &json!("stale")));
    assert_eq!(conflict["fields"], json!(["completion_percentage"]));
    assert_eq!(two.record("progress", "p").await.ok()["record"]["completion_percentage"], 75);
    // Even where it says more: it is not known what of.
    let more = json!({ "id": "p", "updated_at": at(-500), "completion_percentage": 90 });
    assert_eq!(two.push_one("progress", more).await.conflict("p")["reason"], "stale");
    // With its base, it counts.
    let known = json!({ "id": "p", "version": 1, "updated_at": at(-50), "completion_percentage": 90 });
    assert_eq!(two.push_one("progress", known).await.applied("progress", "p")["status"], "applied");
    assert_eq!(one.record("progress", "p").await.ok()["record"]["completion_percentage"], 90);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_attempt_at_a_quiz_counts_once() {
    let office = Appliance::with("[tables.attempts]\nscope = \"user\"\nunique = [\"quiz_id\", \"attempt_number\"]\n").await;
    let phone = office.someone("ben", Role::Store, &["A"]).await;
    let laptop = office.enrolled("ben", "2").await;
    let attempt = |id: &str, score: i64| json!({ "id": id, "quiz_id": "q1", "attempt_number": 1, "score": score });
    phone.push_one("attempts", attempt("a1", 80)).await.applied("attempts", "a1");
    // From the other device under an id of its own, better, equal or worse: the first is kept.
    for (id, score) in [("a2", 95), ("a3", 80)] {
        let pushed = laptop.push_one("attempts", attempt(id, score)).await;
        let conflict = pushed.conflict(id);
        assert_eq!((&conflict["winner"], &conflict["reason"]), (&json!("server"), &json!("unique")));
        assert_eq!(conflict["server_data"]["id"], "a1");
        laptop.record("attempts", id).await.refused(404, "not_found");
    }
    // The same again is nothing new, from either device.
    for device in [&phone, &laptop] {
        let again =
            json!({ "id": "a1", "updated_at": at(&office, 0), "quiz_id": "q1", "attempt_number": 1, "score": 80, "user_id": "ben" });
        assert_eq!(device.push_one("attempts", again).await.applied("attempts", "a1")["status"], "noop");
    }
    let kept = phone.record("attempts", "a1").await.ok()["record"].clone();
    assert_eq!((&kept["version"], &kept["score"]), (&json!(1), &json!(80)));
    // Another person's attempt is another one.
    let eva = office.someone("eva", Role::Store, &["A"]).await;
    eva.push_one("attempts", attempt("a4", 10)).await.applied("attempts", "a4");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_devices_at_one_course_end_with_the_further_progress_and_all_the_time() {
    let rules = r#"
[tables.courses]
rule = "manual"
[tables.courses.merge]
completion_percentage = "max"
time_spent = "sum"
"#;
    let office = Appliance::with(rules).await;
    let (phone, laptop) = (office.clerk("ben", "A").await, office.enrolled("ben", "2").await);
    for (id, order) in [("c1", [0, 1]), ("c2", [1, 0])] {
        let start = json!({ "id": id, "completion_percentage": 20, "time_spent": 100 });
        phone.push_one("courses", start).await.applied("courses", id);
        // Both go on from the same state, offline: 40 % after 30 minutes here, 60 % after 45 there.
        let edits = [(&phone, 40, 130), (&laptop, 60, 145)];
        for place in order {
            let (device, percent, time) = edits[place];
            let edit = json!({ "id": id, "version": 1, "completion_percentage": percent, "time_spent": time });
            device.push_one("courses", edit).await.applied("courses", id);
        }
        let now = laptop.record("courses", id).await.ok()["record"].clone();
        assert_eq!((&now["completion_percentage"], &now["time_spent"], &now["version"]), (&json!(60), &json!(175), &json!(3)), "{order:?}");
    }
    assert_eq!(office.ask::<i64>("SELECT count(*) FROM conflicts").await, 0);
}
