//! The presets of `backroom init`, each with the story of the app that it is for: devices that edit offline, push in any
//! order, and pull what came of it.

use std::collections::BTreeSet;

use backroom::domain::actor::Role;
use serde_json::{Value, json};

use crate::support::quick::at;
use crate::support::replica::Replica;
use crate::support::{Appliance, Device, Pushed, process};

/// An appliance with the file that `backroom init --preset NAME` writes.
async fn preset(name: &str) -> Appliance {
    let directory = tempfile::tempdir().unwrap();
    let written = process::run(directory.path(), &["init", "--preset", name], "");
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    Appliance::with(&std::fs::read_to_string(directory.path().join("backroom.toml")).unwrap()).await
}

/// A device with an app on it: its copy, and its edits that wait for a connection.
struct Phone {
    copy: Replica,
    waiting: Vec<(String, Value)>,
}

impl Phone {
    fn of(device: Device) -> Phone {
        Phone { copy: Replica::new(device), waiting: Vec::new() }
    }

    /// An edit over what the app shows, with the version that the copy has of it.
    fn edit(&mut self, table: &str, id: &str, updated_at: &str, fields: &Value) {
        let key = (table.to_owned(), id.to_owned());
        let shown = self.waiting.iter().rev().find(|(known, record)| *known == table && record["id"] == id).map(|(_, record)| record);
        let mut record = shown.or_else(|| self.copy.mirror.get(&key)).cloned().unwrap_or_else(|| json!({ "id": id, "version": 0 }));
        for (name, value) in fields.as_object().unwrap() {
            record[name] = value.clone();
        }
        record["updated_at"] = updated_at.into();
        self.waiting.push((table.to_owned(), record));
    }

    async fn push(&mut self) -> Pushed {
        let mut changes = json!({});
        for (table, record) in self.waiting.drain(..) {
            match changes[&table].as_array_mut() {
                Some(records) => records.push(record),
                None => changes[&table] = json!([record]),
            }
        }
        self.copy.device.push(json!({ "changes": changes })).await
    }

    /// Pushes one edit at once.
    async fn write(&mut self, table: &str, id: &str, updated_at: &str, fields: Value) -> Pushed {
        self.edit(table, id, updated_at, &fields);
        self.push().await
    }

    async fn pull(&mut self) {
        self.copy.pull().await;
    }

    /// The copy of a record.
    #[track_caller]
    fn record(&self, table: &str, id: &str) -> &Value {
        self.copy.mirror.get(&(table.to_owned(), id.to_owned())).unwrap_or_else(|| panic!("{} has no {table}/{id}", self.copy.device.id))
    }

    /// Some fields of the copy of a record.
    #[track_caller]
    fn shows(&self, table: &str, id: &str, fields: &Value) {
        let record = self.record(table, id);
        for (name, value) in fields.as_object().unwrap() {
            assert_eq!(&record[name], value, "{name} of {record}");
        }
    }

    /// The tables of which it holds anything.
    fn tables(&self) -> BTreeSet<&str> {
        self.copy.mirror.keys().map(|(table, _)| table.as_str()).collect()
    }
}

/// Both push what waits, one after the other, then both pull; the answers in the devices' order.
async fn meet(one: &mut Phone, other: &mut Phone, other_first: bool) -> (Pushed, Pushed) {
    let answers = if other_first {
        let second = other.push().await;
        (one.push().await, second)
    } else {
        (one.push().await, other.push().await)
    };
    one.pull().await;
    other.pull().await;
    assert_eq!(one.copy.mirror, other.copy.mirror, "both hold the same after pulling");
    answers
}

#[track_caller]
fn calm(pushed: &Pushed) {
    assert_eq!((&pushed.0["conflicts"], &pushed.0["rejected"]), (&json!([]), &json!([])), "{}", pushed.0);
}

/// A conflict's winner, reason and fields.
#[track_caller]
fn settled(pushed: &Pushed, id: &str, winner: &str, reason: &str, fields: &[&str]) {
    let conflict = pushed.conflict(id);
    assert_eq!(
        (&conflict["winner"], &conflict["reason"], &conflict["fields"]),
        (&json!(winner), &json!(reason), &json!(fields)),
        "{conflict}"
    );
    assert_eq!(conflict["status"], if winner == "none" { "open" } else { "resolved" });
}

/// A list as a set of texts.
fn set(list: &Value) -> BTreeSet<String> {
    let list = list.as_array().unwrap();
    let set: BTreeSet<String> = list.iter().map(ToString::to_string).collect();
    assert_eq!(set.len(), list.len(), "something stands twice in {list:?}");
    set
}

/// A learner with two devices, and another learner.
struct Class {
    office: Appliance,
    boss: Phone,
    phone: Phone,
    tablet: Phone,
    other: Phone,
}

async fn class(name: &str) -> Class {
    let office = preset(name).await;
    let boss = Phone::of(office.boss("anna").await);
    let phone = Phone::of(office.someone("ben", Role::Store, &[]).await);
    let tablet = Phone::of(office.enrolled("ben", "2").await);
    let other = Phone::of(office.someone("cleo", Role::Store, &[]).await);
    Class { office, boss, phone, tablet, other }
}

impl Class {
    fn at(&self, seconds: i64) -> String {
        at(&self.office, seconds)
    }

    /// A record of the learner that both devices have.
    async fn begin(&mut self, table: &str, id: &str, fields: Value) {
        let long_ago = self.at(-7_200);
        calm(&self.phone.write(table, id, &long_ago, fields).await);
        self.phone.pull().await;
        self.tablet.pull().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn learning_material_is_the_managers_and_mastery_the_programs() {
    let mut c = class("learning").await;
    let mut program = Phone::of(c.office.someone("grader", Role::Service, &[]).await);
    let now = c.at(-60);
    let material = ["courses", "lessons", "quizzes", "achievements"];
    for table in material {
        for device in [&mut c.phone, &mut program] {
            assert_eq!(device.write(table, "m1", &now, json!({ "title": "Mine" })).await.rejected("m1"), "forbidden");
        }
        calm(&c.boss.write(table, "m1", &now, json!({ "title": "Fractions" })).await);
    }
    // Mastery is written by programs alone, not by managers either, and for one learner.
    for device in [&mut c.phone, &mut c.boss] {
        assert_eq!(device.write("skill_mastery", "s1", &now, json!({ "user_id": "ben", "level": 9 })).await.rejected("s1"), "forbidden");
    }
    calm(&program.write("skill_mastery", "s1", &now, json!({ "user_id": "ben", "skill": "fractions", "level": 3 })).await);
    for device in [&mut c.phone, &mut c.tablet, &mut c.other] {
        device.pull().await;
        device.shows("courses", "m1", &json!({ "title": "Fractions" }));
    }
    c.phone.shows("skill_mastery", "s1", &json!({ "level": 3, "user_id": "ben" }));
    assert_eq!(c.tablet.tables(), BTreeSet::from(["courses", "lessons", "quizzes", "achievements", "skill_mastery"]));
    assert_eq!(c.other.tables(), BTreeSet::from(material));
    // Two managers edit the same lesson offline: the first to arrive stays, the other is kept with the conflict.
    let mut second = Phone::of(c.office.boss("olga").await);
    for device in [&mut c.boss, &mut second] {
        device.pull().await;
    }
    let (early, late) = (c.at(-30), c.at(-20));
    c.boss.edit("lessons", "m1", &early, &json!({ "title": "Halves" }));
    second.edit("lessons", "m1", &late, &json!({ "title": "Thirds", "pages": 3 }));
    calm(&c.boss.push().await);
    let late = second.push().await;
    settled(&late, "m1", "server", "rule", &["title"]);
    assert_eq!(late.conflict("m1")["client_data"]["title"], "Thirds");
    c.phone.pull().await;
    c.phone.shows("lessons", "m1", &json!({ "title": "Halves", "pages": 3 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn learning_on_two_devices_loses_nothing_in_either_order() {
    for tablet_first in [false, true] {
        let mut c = class("learning").await;
        let (early, late) = (c.at(-300), c.at(-100));
        c.begin("progress", "p1", json!({ "progress": 30, "lessons_completed": 3, "total_time_spent": 1_000, "current_lesson": "l3" }))
            .await;
        c.begin("notes", "n1", json!({ "content": "halves\nthirds\nfifths", "pinned": false })).await;
        c.begin("settings", "ui", json!({ "theme": "light", "sound": true, "font": 12 })).await;
        c.begin("learning_sessions", "l1", json!({ "began": "09:00", "ended": null })).await;
        c.begin("responses", "r1", json!({ "question": "q1", "answer": "a" })).await;
        // Both are offline.
        c.phone.edit("progress", "p1", &early, &json!({ "progress": 40, "lessons_completed": 5, "total_time_spent": 1_600 }));
        c.tablet.edit(
            "progress",
            "p1",
            &late,
            &json!({ "progress": 55, "lessons_completed": 4, "total_time_spent": 1_300, "current_lesson": "l5" }),
        );
        c.phone.edit("notes", "n1", &early, &json!({ "content": "halves!\nthirds\nfifths", "pinned": true }));
        c.tablet.edit("notes", "n1", &late, &json!({ "content": "halves\nthirds\nfifths\nsixths" }));
        c.phone.edit("settings", "ui", &early, &json!({ "theme": "dark", "sound": false }));
        c.tablet.edit("settings", "ui", &late, &json!({ "theme": "sepia", "font": 14 }));
        c.phone.edit("learning_sessions", "l1", &late, &json!({ "ended": "10:30" }));
        c.tablet.edit("learning_sessions", "l1", &early, &json!({ "ended": "09:45" }));
        c.phone.edit("responses", "r1", &late, &json!({ "answer": "b" }));
        c.tablet.edit("responses", "r1", &early, &json!({ "answer": "c" }));
        let (phone, tablet) = meet(&mut c.phone, &mut c.tablet, tablet_first).await;
        let (first, second) = if tablet_first { (&tablet, &phone) } else { (&phone, &tablet) };
        calm(first);
        // What has a function of its own, or was changed by one device alone, is no conflict.
        assert_eq!(second.applied("progress", "p1")["status"], "merged");
        assert_eq!(second.applied("notes", "n1")["status"], "merged");
        settled(second, "ui", if tablet_first { "server" } else { "client" }, "rule", &["theme"]);
        settled(second, "l1", if tablet_first { "client" } else { "server" }, "rule", &["ended"]);
        settled(second, "r1", "client", "rule", &["answer"]);
        for device in [&c.phone, &c.tablet] {
            let progress = json!({ "progress": 55, "lessons_completed": 5, "total_time_spent": 1_900, "current_lesson": "l5" });
            device.shows("progress", "p1", &progress);
            device.shows("notes", "n1", &json!({ "content": "halves!\nthirds\nfifths\nsixths", "pinned": true }));
            device.shows("settings", "ui", &json!({ "theme": "sepia", "sound": false, "font": 14 }));
            device.shows("learning_sessions", "l1", &json!({ "ended": "10:30" }));
            // What a device sends holds, so the last to arrive.
            device.shows("responses", "r1", &json!({ "answer": if tablet_first { "b" } else { "c" } }));
        }
        c.other.pull().await;
        c.boss.pull().await;
        assert_eq!(c.other.tables(), BTreeSet::new(), "another learner's");
        assert_eq!(c.boss.tables().len(), 5);
        let into = c.other.write("notes", "n1", &late, json!({ "content": "mine" })).await;
        assert_eq!(into.rejected("n1"), "forbidden");
        assert_eq!(c.other.write("notes", "n2", &late, json!({ "user_id": "ben", "text": "mine" })).await.rejected("n2"), "forbidden");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lesson_progress_of_two_devices_is_the_furthest_and_all_the_time_in_either_order() {
    for tablet_first in [false, true] {
        let mut c = class("course").await;
        let (early, late, before) = (c.at(-300), c.at(-100), c.at(-7_200));
        c.begin("lesson_progress", "p1", json!({ "completion_percentage": 20, "time_spent": 100, "last_accessed_at": before })).await;
        c.phone.edit("lesson_progress", "p1", &late, &json!({ "completion_percentage": 40, "time_spent": 150, "last_accessed_at": late }));
        c.tablet.edit(
            "lesson_progress",
            "p1",
            &early,
            &json!({ "completion_percentage": 60, "time_spent": 170, "last_accessed_at": early }),
        );
        let (phone, tablet) = meet(&mut c.phone, &mut c.tablet, tablet_first).await;
        calm(&phone);
        calm(&tablet);
        let second = if tablet_first { &phone } else { &tablet };
        assert_eq!(second.applied("lesson_progress", "p1")["status"], "merged");
        let both = json!({ "completion_percentage": 60, "time_spent": 220, "last_accessed_at": late, "status": "in_progress" });
        c.phone.shows("lesson_progress", "p1", &both);
        let conflicts: i64 = c.office.ask("SELECT count(*) FROM conflicts").await;
        assert_eq!(conflicts, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_half_does_not_touch_the_three_quarters_that_are_here() {
    // One device has pulled before, the other never.
    for pulled in [true, false] {
        let mut c = class("course").await;
        c.begin("lesson_progress", "p1", json!({ "completion_percentage": 20, "time_spent": 100, "place": "a" })).await;
        let late = c.at(-100);
        calm(
            &c.tablet.write("lesson_progress", "p1", &late, json!({ "completion_percentage": 75, "time_spent": 300, "place": "c" })).await,
        );
        let device = if pulled { c.phone.copy.device.clone() } else { c.office.enrolled("ben", "3").await };
        let (old, new) = (c.at(-200), c.at(-50));
        let without_base = |when: &str, time: i64| {
            let data = json!({ "completion_percentage": 50, "time_spent": time, "place": "b" });
            json!({ "table": "lesson_progress", "id": "p1", "op": "update", "updated_at": when, "data": data })
        };
        let pushed = device.operate(without_base(&old, 200)).await;
        let conflict = pushed.conflict("p1");
        assert_eq!((&conflict["winner"], &conflict["reason"]), (&json!("server"), &json!("stale")), "{conflict}");
        assert_eq!(
            (&conflict["client_data"]["completion_percentage"], &conflict["server_data"]["completion_percentage"]),
            (&json!(50), &json!(75))
        );
        c.phone.pull().await;
        c.phone.shows("lesson_progress", "p1", &json!({ "completion_percentage": 75, "time_spent": 300, "place": "c" }));
        // A later one is not stale, but how much time it adds cannot be known.
        let later = device.operate(without_base(&new, 250)).await;
        let conflict = later.conflict("p1");
        assert_eq!((&conflict["winner"], &conflict["reason"]), (&json!("none"), &json!("gap")), "{conflict}");
        c.phone.pull().await;
        c.phone.shows("lesson_progress", "p1", &json!({ "completion_percentage": 75, "time_spent": 300, "place": "c" }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_at_a_quiz_is_made_once() {
    let mut c = class("course").await;
    let now = c.at(-60);
    let attempt = |number: i64, score: i64| json!({ "quiz_id": "q1", "attempt_number": number, "score": score });
    calm(&c.phone.write("quiz_attempts", "a1", &now, attempt(1, 8)).await);
    // Word for word again it is the same operation; made again, on the learner's other device too, it changes nothing.
    let repeated = c.phone.write("quiz_attempts", "a1", &now, attempt(1, 8)).await;
    assert_eq!(repeated.applied("quiz_attempts", "a1")["version"], 1);
    let later = c.at(-30);
    for device in [&mut c.phone, &mut c.tablet] {
        assert_eq!(device.write("quiz_attempts", "a1", &later, attempt(1, 8)).await.applied("quiz_attempts", "a1")["status"], "noop");
    }
    // Another id under the same number, and other content under the same id.
    let twice = c.tablet.write("quiz_attempts", "a2", &now, attempt(1, 10)).await;
    settled(&twice, "a2", "server", "unique", &["quiz_id", "attempt_number"]);
    let conflict = twice.conflict("a2");
    assert_eq!(
        (&conflict["server_data"]["id"], &conflict["server_data"]["score"], &conflict["version"]),
        (&json!("a1"), &json!(8), &Value::Null)
    );
    let mut third = Phone::of(c.office.enrolled("ben", "3").await);
    let other_score = third.write("quiz_attempts", "a1", &now, attempt(1, 10)).await;
    settled(&other_score, "a1", "server", "rule", &["score"]);
    assert_eq!(other_score.conflict("a1")["client_data"]["score"], 10);
    for device in [&mut c.phone, &mut c.tablet] {
        device.pull().await;
        assert_eq!(device.copy.mirror.len(), 1);
        device.shows("quiz_attempts", "a1", &attempt(1, 8));
        assert_eq!(device.record("quiz_attempts", "a1")["version"], 1);
    }
    // The next number is another attempt, and every learner has a first one.
    calm(&c.tablet.write("quiz_attempts", "a3", &now, attempt(2, 9)).await);
    calm(&c.other.write("quiz_attempts", "a4", &now, attempt(1, 5)).await);
    let nameless = c.other.write("quiz_attempts", "a5", &now, json!({ "quiz_id": "q1", "score": 1 })).await;
    assert_eq!(nameless.rejected("a5"), "invalid_record");
    c.other.pull().await;
    assert_eq!(c.other.copy.mirror.len(), 1, "a learner sees the own attempts alone");
    c.boss.pull().await;
    assert_eq!(c.boss.copy.mirror.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_has_the_messages_of_both_devices() {
    for tablet_first in [false, true] {
        let mut c = class("course").await;
        let (early, late) = (c.at(-300), c.at(-100));
        let (m1, m2, m3) =
            (json!({ "id": "m1", "text": "Hello" }), json!({ "id": "m2", "text": "Why?" }), json!({ "id": "m3", "text": "How?" }));
        c.begin("conversations", "c1", json!({ "title": "Fractions", "messages": [m1] })).await;
        c.begin("mastery", "halves", json!({ "estimate": 0.25 })).await;
        c.phone.edit("conversations", "c1", &early, &json!({ "messages": [m1, m2] }));
        c.tablet.edit("conversations", "c1", &late, &json!({ "title": "Halves", "messages": [m1, m3] }));
        c.phone.edit("mastery", "halves", &late, &json!({ "estimate": 0.5 }));
        c.tablet.edit("mastery", "halves", &early, &json!({ "estimate": 0.75 }));
        let (phone, tablet) = meet(&mut c.phone, &mut c.tablet, tablet_first).await;
        let second = if tablet_first { &phone } else { &tablet };
        assert_eq!(second.applied("conversations", "c1")["status"], "merged");
        settled(second, "halves", if tablet_first { "client" } else { "server" }, "rule", &["estimate"]);
        c.phone.shows("conversations", "c1", &json!({ "title": "Halves" }));
        assert_eq!(set(&c.phone.record("conversations", "c1")["messages"]), set(&json!([m1, m2, m3])));
        c.phone.shows("mastery", "halves", &json!({ "estimate": 0.5 }));
        // Both correct one message: that text alone is in conflict.
        let messages = c.phone.record("conversations", "c1")["messages"].as_array().unwrap().clone();
        let with = |text: &str| {
            let mut messages = messages.clone();
            messages.iter_mut().find(|message| message["id"] == "m1").unwrap()["text"] = text.into();
            json!({ "messages": messages })
        };
        let (early, late) = (c.at(-50), c.at(-20));
        c.phone.edit("conversations", "c1", &late, &with("Hello!"));
        c.tablet.edit("conversations", "c1", &early, &with("Hello?"));
        let (phone, tablet) = meet(&mut c.phone, &mut c.tablet, tablet_first).await;
        let second = if tablet_first { &phone } else { &tablet };
        settled(second, "c1", if tablet_first { "client" } else { "server" }, "rule", &["messages.m1.text"]);
        assert_eq!(set(&c.tablet.record("conversations", "c1")["messages"]), set(&with("Hello!")["messages"]));
        c.other.pull().await;
        assert_eq!(c.other.tables(), BTreeSet::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_are_written_once_and_for_all() {
    let mut c = class("course").await;
    c.begin("xapi_statements", "x1", json!({ "verb": "answered", "object": "q1" })).await;
    let again = json!({ "id": "x1", "version": 0, "verb": "answered", "object": "q1", "user_id": "ben" });
    assert_eq!(c.tablet.copy.device.push_one("xapi_statements", again).await.applied("xapi_statements", "x1")["status"], "noop");
    let now = c.at(-60);
    assert_eq!(c.phone.write("xapi_statements", "x1", &now, json!({ "verb": "guessed" })).await.rejected("x1"), "immutable");
    assert_eq!(c.boss.write("xapi_statements", "x1", &now, json!({ "deleted": true })).await.rejected("x1"), "immutable");
    c.tablet.pull().await;
    c.tablet.shows("xapi_statements", "x1", &json!({ "verb": "answered", "version": 1 }));
    c.other.pull().await;
    assert_eq!(c.other.tables(), BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn teachers_share_posts_and_keep_messages_to_themselves() {
    for tom_first in [false, true] {
        let office = preset("teacher-hub").await;
        let mut boss = Phone::of(office.boss("anna").await);
        let mut mara = Phone::of(office.someone("mara", Role::Store, &[]).await);
        let mut tom = Phone::of(office.someone("tom", Role::Store, &[]).await);
        let (long_ago, early, late) = (at(&office, -7_200), at(&office, -300), at(&office, -100));
        assert_eq!(tom.write("communities", "maths", &long_ago, json!({ "name": "Tom's" })).await.rejected("maths"), "forbidden");
        calm(&boss.write("communities", "maths", &long_ago, json!({ "name": "Maths" })).await);
        mara.edit("posts", "p1", &long_ago, &json!({ "title": "Fractions", "body": "How?", "community": "maths" }));
        mara.edit("posts", "p2", &long_ago, &json!({ "title": "Decimals", "body": "Why?" }));
        mara.edit("comments", "c1", &long_ago, &json!({ "post": "p1", "text": "I wonder" }));
        mara.edit("resources", "r1", &long_ago, &json!({ "title": "Sheet", "level": 5 }));
        mara.edit("media_attachments", "f1", &long_ago, &json!({ "resource": "r1", "caption": "Page 1" }));
        let lists = json!({ "subjects": ["maths"], "badges": ["founder"], "grade_levels": [5], "languages": ["en"], "city": "Ulm" });
        mara.edit("user_profiles", "mara", &long_ago, &lists);
        calm(&mara.push().await);
        mara.pull().await;
        tom.pull().await;
        assert_eq!(mara.copy.mirror, tom.copy.mirror, "all of this is the hub's");
        // Both are offline.
        mara.edit("posts", "p1", &early, &json!({ "title": "Fractions?" }));
        tom.edit("posts", "p1", &late, &json!({ "body": "How do you teach them?" }));
        mara.edit("posts", "p2", &late, &json!({ "title": "Decimals!" }));
        tom.edit("posts", "p2", &early, &json!({ "title": "Decimal numbers" }));
        mara.edit("comments", "c1", &early, &json!({ "text": "I wonder!" }));
        tom.edit("comments", "c1", &late, &json!({ "text": "I do not" }));
        mara.edit("resources", "r1", &early, &json!({ "title": "Worksheet" }));
        tom.edit("resources", "r1", &late, &json!({ "title": "Exercises", "level": 6 }));
        mara.edit("media_attachments", "f1", &early, &json!({ "caption": "Front" }));
        tom.edit("media_attachments", "f1", &late, &json!({ "caption": "Cover" }));
        mara.edit(
            "user_profiles",
            "mara",
            &early,
            &json!({ "subjects": ["maths", "physics"], "badges": ["founder", "helper"], "city": "Bonn" }),
        );
        let other_lists =
            json!({ "subjects": ["maths", "music"], "badges": ["founder", "host"], "languages": ["en", "fr"], "city": "Kiel" });
        tom.edit("user_profiles", "mara", &late, &other_lists);
        let (of_mara, of_tom) = meet(&mut mara, &mut tom, tom_first).await;
        let (first, second) = if tom_first { (&of_tom, &of_mara) } else { (&of_mara, &of_tom) };
        calm(first);
        assert_eq!(second.applied("posts", "p1")["status"], "merged");
        settled(second, "p2", if tom_first { "client" } else { "server" }, "rule", &["title"]);
        settled(second, "c1", "client", "rule", &["text"]);
        settled(second, "r1", "server", "rule", &["title"]);
        settled(second, "f1", "server", "rule", &["caption"]);
        settled(second, "mara", if tom_first { "server" } else { "client" }, "rule", &["city"]);
        tom.shows("posts", "p1", &json!({ "title": "Fractions?", "body": "How do you teach them?", "community": "maths" }));
        tom.shows("posts", "p2", &json!({ "title": "Decimals!", "body": "Why?" }));
        tom.shows("comments", "c1", &json!({ "text": if tom_first { "I wonder!" } else { "I do not" } }));
        // The first title stays, and the level that Tom alone changed is his.
        tom.shows("resources", "r1", &json!({ "title": if tom_first { "Exercises" } else { "Worksheet" }, "level": 6 }));
        tom.shows("media_attachments", "f1", &json!({ "caption": if tom_first { "Cover" } else { "Front" } }));
        let profile = tom.record("user_profiles", "mara");
        assert_eq!(set(&profile["subjects"]), set(&json!(["maths", "physics", "music"])));
        assert_eq!(set(&profile["badges"]), set(&json!(["founder", "helper", "host"])));
        assert_eq!(
            (&profile["languages"], &profile["grade_levels"], &profile["city"]),
            (&json!(["en", "fr"]), &json!([5]), &json!("Kiel"))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_is_its_teachers_and_a_managers_program_delivers() {
    let office = preset("teacher-hub").await;
    let mut post = Phone::of(office.boss("post").await);
    let (mut mara, mut other_device) =
        (Phone::of(office.someone("mara", Role::Store, &[]).await), Phone::of(office.enrolled("mara", "2").await));
    let mut tom = Phone::of(office.someone("tom", Role::Store, &[]).await);
    let (early, late) = (at(&office, -300), at(&office, -100));
    calm(&mara.write("messages", "m1", &early, json!({ "to": "tom", "text": "Lunch?" })).await);
    let message = json!({ "user_id": "tom", "from": "mara", "text": "Lunch?" });
    assert_eq!(mara.write("messages", "m1-tom", &early, message.clone()).await.rejected("m1-tom"), "forbidden");
    for device in [&mut mara, &mut other_device, &mut tom, &mut post] {
        device.pull().await;
    }
    other_device.shows("messages", "m1", &json!({ "text": "Lunch?", "user_id": "mara" }));
    post.shows("messages", "m1", &json!({ "to": "tom" }));
    assert_eq!(tom.tables(), BTreeSet::new());
    assert_eq!(tom.copy.device.record("messages", "m1").await.status, 404);
    calm(&post.write("messages", "m1-tom", &early, message).await);
    tom.pull().await;
    tom.shows("messages", "m1-tom", &json!({ "from": "mara", "text": "Lunch?" }));
    mara.pull().await;
    assert_eq!(mara.copy.mirror.len(), 1);
    // What a device sends holds: the last to arrive, whatever the time.
    mara.edit("messages", "m1", &late, &json!({ "text": "Lunch at one?" }));
    other_device.edit("messages", "m1", &early, &json!({ "text": "Lunch at two?" }));
    let (_, second) = meet(&mut mara, &mut other_device, false).await;
    settled(&second, "m1", "client", "rule", &["text"]);
    mara.shows("messages", "m1", &json!({ "text": "Lunch at two?" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_waits_while_everything_else_of_a_project_goes_on() {
    for lee_first in [false, true] {
        let office = preset("tracks").await;
        let boss = office.boss("anna").await;
        let mut kim = Phone::of(office.someone("kim", Role::Store, &[]).await);
        let mut lee = Phone::of(office.someone("lee", Role::Store, &[]).await);
        let (long_ago, early, late) = (at(&office, -7_200), at(&office, -300), at(&office, -100));
        let project =
            json!({ "title": "Rain", "bpm": 90, "key": "a", "approved_version": "v1", "notes": "intro\nverse", "tags": ["slow"] });
        kim.edit("projects", "p1", &long_ago, &project);
        kim.edit("track_versions", "v2", &long_ago, &json!({ "project": "p1", "mix_decision": null, "gain": 0 }));
        kim.edit("playlists", "l1", &long_ago, &json!({ "name": "Demo", "tracks": [{ "id": "t1", "volume": 5 }] }));
        calm(&kim.push().await);
        kim.pull().await;
        lee.pull().await;
        // Both are offline. They approve different versions, and one changes the key, the other adds a note.
        kim.edit("projects", "p1", &late, &json!({ "approved_version": "v2", "bpm": 96, "key": "b", "tags": ["slow", "piano"] }));
        lee.edit(
            "projects",
            "p1",
            &early,
            &json!({ "approved_version": "v3", "bpm": 88, "notes": "intro\nverse\nbridge", "tags": ["slow", "live"] }),
        );
        kim.edit("track_versions", "v2", &early, &json!({ "mix_decision": "master", "gain": -1 }));
        lee.edit("track_versions", "v2", &late, &json!({ "mix_decision": "again", "length": 201 }));
        kim.edit("playlists", "l1", &early, &json!({ "tracks": [{ "id": "t1", "volume": 5 }, { "id": "t2" }] }));
        lee.edit("playlists", "l1", &late, &json!({ "name": "For the label", "tracks": [{ "id": "t3" }, { "id": "t1", "volume": 7 }] }));
        let (of_kim, of_lee) = meet(&mut kim, &mut lee, lee_first).await;
        let (first, second) = if lee_first { (&of_lee, &of_kim) } else { (&of_kim, &of_lee) };
        calm(first);
        settled(second, "p1", "none", "rule", &["approved_version", "bpm"]);
        let conflict = second.conflict("p1");
        assert_eq!(conflict["winners"], json!(["none", if lee_first { "client" } else { "server" }]));
        // Kim's edit is the later one, wherever it stands.
        assert_eq!(conflict["suggested_resolution"], if lee_first { "use_client" } else { "use_server" });
        settled(second, "v2", "none", "rule", &["mix_decision"]);
        assert_eq!(second.applied("playlists", "l1")["status"], "merged");
        let project = json!({ "title": "Rain", "bpm": 96, "key": "b", "notes": "intro\nverse\nbridge", "approved_version": if lee_first { "v3" } else { "v2" } });
        kim.shows("projects", "p1", &project);
        assert_eq!(set(&kim.record("projects", "p1")["tags"]), set(&json!(["slow", "piano", "live"])));
        kim.shows(
            "track_versions",
            "v2",
            &json!({ "gain": -1, "length": 201, "mix_decision": if lee_first { "again" } else { "master" } }),
        );
        kim.shows("playlists", "l1", &json!({ "name": "For the label" }));
        assert_eq!(
            set(&kim.record("playlists", "l1")["tracks"]),
            set(&json!([{ "id": "t1", "volume": 7 }, { "id": "t2" }, { "id": "t3" }]))
        );
        assert_eq!(boss.get("/api/v1/sync/status").await.ok()["counts"]["open_conflicts"], 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn comments_on_tracks_stay_as_they_were_written() {
    let office = preset("tracks").await;
    let boss = office.boss("anna").await;
    let mut kim = Phone::of(office.someone("kim", Role::Store, &[]).await);
    let mut lee = Phone::of(office.someone("lee", Role::Store, &[]).await);
    let now = at(&office, -60);
    let comment = json!({ "of": "v2", "second": 61.5, "text": "Too loud" });
    calm(&kim.write("comments", "c1", &now, comment.clone()).await);
    lee.pull().await;
    lee.shows("comments", "c1", &json!({ "text": "Too loud", "second": 61.5 }));
    assert_eq!(lee.write("comments", "c1", &now, json!({ "text": "Too soft" })).await.rejected("c1"), "immutable");
    kim.pull().await;
    assert_eq!(kim.write("comments", "c1", &now, json!({ "text": "Fine" })).await.rejected("c1"), "immutable");
    assert_eq!(boss.push_one("comments", json!({ "id": "c1", "version": 1, "deleted": true })).await.rejected("c1"), "immutable");
    calm(&lee.write("comments", "c2", &now, json!({ "text": "Not for me" })).await);
    kim.pull().await;
    kim.shows("comments", "c1", &json!({ "text": "Too loud" }));
    kim.shows("comments", "c2", &json!({ "text": "Not for me" }));
    assert_eq!(boss.get("/api/v1/sync/status").await.ok()["counts"]["open_conflicts"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_a_lesson_follows_from_its_percentage() {
    let mut c = class("course").await;
    let now = c.at(-60);
    for (id, sent, status) in [
        ("p0", json!({ "completion_percentage": 0, "status": "completed" }), "not_started"),
        ("p1", json!({ "completion_percentage": 1 }), "in_progress"),
        ("p2", json!({ "completion_percentage": 99.5 }), "in_progress"),
        ("p3", json!({ "completion_percentage": 100 }), "completed"),
        ("p4", json!({ "completion_percentage": 120, "status": "not_started" }), "completed"),
        ("p5", json!({ "lesson_id": "l5" }), "not_started"),
    ] {
        let pushed = c.phone.write("lesson_progress", id, &now, sent).await;
        calm(&pushed);
        assert_eq!(pushed.applied("lesson_progress", id)["data"]["status"], status);
        c.tablet.pull().await;
        c.tablet.shows("lesson_progress", id, &json!({ "status": status }));
    }
    // Both devices are offline, and say each what it thinks: the status is that of what both make together.
    c.phone.pull().await;
    let (early, late) = (c.at(-50), c.at(-20));
    c.phone.edit("lesson_progress", "p0", &late, &json!({ "completion_percentage": 40, "status": "completed" }));
    c.tablet.edit("lesson_progress", "p0", &early, &json!({ "completion_percentage": 60, "status": "not_started" }));
    c.phone.edit("lesson_progress", "p1", &early, &json!({ "completion_percentage": 100 }));
    c.tablet.edit("lesson_progress", "p1", &late, &json!({ "completion_percentage": 2 }));
    let (phone, tablet) = meet(&mut c.phone, &mut c.tablet, true).await;
    calm(&phone);
    calm(&tablet);
    c.phone.shows("lesson_progress", "p0", &json!({ "completion_percentage": 60, "status": "in_progress" }));
    c.phone.shows("lesson_progress", "p1", &json!({ "completion_percentage": 100, "status": "completed" }));
}
