//! Each rule in a small case that shows it: without the rule the case ends otherwise.

use backroom::domain::actor::Role;
use backroom::domain::change::Position;
use backroom::domain::rules::{Granularity, Rule, Scope, Stale, TableRules};
use serde_json::{Value, json};

use super::decided;
use super::reference::{self, Asked, Began, Case, Fields, Outcome, Row, Said, Written};

fn data(value: Value) -> Fields {
    serde_json::from_value(value).unwrap()
}

fn table(rule: Rule, granularity: Granularity, merge: Value) -> TableRules {
    TableRules { rule, granularity, merge: serde_json::from_value(merge).unwrap(), ..TableRules::default() }
}

fn by_field() -> TableRules {
    let merge = json!({ "n": "sum", "x": "max", "y": "min", "u": "union", "l": "append" });
    table(Rule::LatestWins, Granularity::Field, merge)
}

fn of_stores() -> TableRules {
    TableRules { scope: Scope::Store, ..by_field() }
}

/// A version by another store's device, made at that time.
fn theirs(version: i64, at: i64, value: Value) -> Row {
    let data = data(value);
    let scope = data.get("store_id").and_then(Value::as_str).unwrap_or_default().to_owned();
    Row { seq: version * 10, version, deleted: false, data, scope, own: false, clean: true, role: Role::Store, edited: at, received: 200 }
}

fn mine(version: i64, at: i64, value: Value) -> Row {
    Row { own: true, ..theirs(version, at, value) }
}

fn managers(version: i64, at: i64, value: Value) -> Row {
    Row { role: Role::Manager, ..theirs(version, at, value) }
}

fn said(row: &Row, value: Value) -> Option<Said> {
    Some(Said { data: Some(data(value)), when: row.edited, version: row.version, seq: row.seq, clean: row.clean })
}

/// A store's device of store A sends a whole record at 500. It names the operation, and never pulled.
fn whole(rules: TableRules, history: Vec<Row>, began: Began, to: Value) -> Case {
    let cut = history.first().is_some_and(|row| row.version > 1);
    Case {
        rules,
        role: Role::Store,
        user: "ben",
        stores: vec!["A"],
        history,
        cut,
        said: None,
        asked: Asked::Whole(data(to)),
        began,
        when: Some(500),
        edited: 500,
        position: Position::Never,
        purged: false,
        named: true,
        horizon: 100,
    }
}

fn patch(rules: TableRules, history: Vec<Row>, began: Began, to: Value) -> Case {
    Case { asked: Asked::Patch(data(to)), ..whole(rules, history, began, json!({})) }
}

fn written(written: &Written) -> String {
    let place = if written.scope.is_empty() { String::new() } else { format!(" in {}", written.scope) };
    format!("{}{place}{}", json!(written.data), if written.deleted { " deleted" } else { "" })
}

fn shown(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Noop => "noop".into(),
        Outcome::Applied(write) => format!("applied {}", written(write)),
        Outcome::Merged(write) => format!("merged {}", written(write)),
        Outcome::Rejected(refusal) => format!("rejected {refusal}"),
        Outcome::Conflict { why, fields, written: write, .. } => {
            let fields: Vec<String> = fields.iter().map(|(path, winner)| format!("{path} to {winner}")).collect();
            let writes = write.as_ref().map_or_else(String::new, |write| format!(", writes {}", written(write)));
            format!("{why}: {}{writes}", fields.join(", "))
        }
    }
}

#[track_caller]
fn check(name: &str, cases: Vec<(Case, &str)>) {
    for (case, expected) in cases {
        let got = decided(&case);
        assert_eq!(shown(&got), expected, "{name}\n{}", super::story(&case));
        assert_eq!(got, reference::decide(&case).0, "{name}: the reference\n{}", super::story(&case));
    }
}

#[test]
fn gap_what_counts_from_a_base_is_never_computed_without_one() {
    let later = |value| vec![theirs(5, 200, value)];
    let whole = |server, to| whole(by_field(), later(server), Began::Version(3), to);
    let patch = |server, to| patch(by_field(), later(server), Began::Version(3), to);
    check(
        "gap",
        vec![
            (whole(json!({"n": 9}), json!({"n": 7})), "gap: * to none"),
            (whole(json!({"n": 9}), json!({"n": 9})), "gap: * to none"),
            (whole(json!({"n": 9}), json!({})), "gap: * to none"),
            (whole(json!({"l": [1]}), json!({"l": [1, 2]})), "gap: * to none"),
            (patch(json!({"a": 1, "n": 9}), json!({"n": 9})), "gap: * to none"),
            // Everything else waits with it.
            (whole(json!({"n": 9, "x": 1}), json!({"n": 7, "x": 2})), "gap: * to none"),
            // A patch that does not name it leaves it alone.
            (patch(json!({"a": 1, "n": 9}), json!({"a": 2})), r#"rule: a to client, writes {"a":2,"n":9}"#),
            // Plain fields are in conflict, the others join.
            (whole(json!({"a": 1, "x": 3, "y": 3}), json!({"a": 1, "x": 2, "y": 2})), r#"merged {"a":1,"x":3,"y":2}"#),
            (whole(json!({"u": ["k"]}), json!({"u": ["l"]})), r#"merged {"u":["k","l"]}"#),
            (whole(json!({"a": 1, "b": 1}), json!({"a": 2, "b": 1})), r#"rule: a to client, writes {"a":2,"b":1}"#),
            // A delete cannot be measured either.
            (Case { asked: Asked::Delete, ..whole(json!({"a": 1}), json!({})) }, "gap: * to none"),
        ],
    );
}

#[test]
fn equal_delta_the_same_number_is_not_the_same_deed() {
    let rules = by_field();
    let case = |base, server, to| whole(rules.clone(), vec![theirs(1, 200, base), theirs(2, 300, server)], Began::Version(1), to);
    check(
        "equal_delta",
        vec![
            (case(json!({"n": 5}), json!({"n": 3}), json!({"n": 3})), r#"merged {"n":1}"#),
            (case(json!({"l": []}), json!({"l": [1]}), json!({"l": [1]})), r#"merged {"l":[1,1]}"#),
            // Taken away by one it counts as 0, by both it is gone.
            (case(json!({"n": 5}), json!({"n": 7}), json!({})), r#"merged {"n":2}"#),
            (case(json!({"n": 5}), json!({}), json!({})), "noop"),
            (case(json!({"a": 1}), json!({"a": 1, "n": null}), json!({"a": 1, "n": null})), "noop"),
            (case(json!({"a": 5}), json!({"a": 3}), json!({"a": 3})), "noop"),
            (case(json!({"n": 5, "a": 1}), json!({"n": 5, "a": 2}), json!({"n": 5, "a": 2})), "noop"),
            // Its own edit sent twice under two names is one device's twice: measured against what it said last.
            (
                Case {
                    said: said(&mine(2, 300, json!({})), json!({"n": 3})),
                    ..whole(
                        rules.clone(),
                        vec![theirs(1, 200, json!({"n": 5})), mine(2, 300, json!({"n": 3}))],
                        Began::Version(1),
                        json!({"n": 3}),
                    )
                },
                "noop",
            ),
        ],
    );
}

#[test]
fn own_sent_an_edit_goes_on_from_what_the_device_sent_last() {
    // It said 1, and the office made 7 of it. Now it says 3: two more.
    let own = Row { clean: false, ..mine(3, 400, json!({"a": 1, "n": 7})) };
    let history = vec![theirs(1, 200, json!({"a": 1, "n": 0})), theirs(2, 300, json!({"a": 1, "n": 6})), own.clone()];
    let case = |to| Case { said: said(&own, json!({"a": 1, "n": 1})), ..whole(by_field(), history.clone(), Began::Version(1), to) };
    // A conflict that it lost left no version, and counts as said all the same.
    let lost = Said { data: Some(data(json!({"a": 2, "n": 0}))), when: 400, version: 2, seq: 25, clean: false };
    let two = vec![theirs(1, 200, json!({"a": 1, "n": 0})), theirs(2, 300, json!({"a": 9, "n": 0}))];
    let next = whole(by_field(), two, Began::Version(1), json!({"a": 2, "b": 1, "n": 0}));
    check(
        "own_sent",
        vec![
            (case(json!({"a": 1, "n": 3})), r#"merged {"a":1,"n":9}"#),
            (case(json!({"a": 2, "n": 1})), r#"merged {"a":2,"n":7}"#),
            (Case { said: Some(lost), ..next.clone() }, r#"merged {"a":9,"b":1,"n":0}"#),
            (next, r#"rule: a to client, writes {"a":2,"b":1,"n":0}"#),
        ],
    );
}

#[test]
fn late_own_what_is_older_than_the_devices_own_newer_edit_loses() {
    let own = mine(2, 600, json!({"a": 2}));
    let case = Case {
        said: said(&own, json!({"a": 2})),
        named: false,
        ..whole(by_field(), vec![theirs(1, 200, json!({"a": 1})), own], Began::Version(1), json!({"a": 3}))
    };
    check(
        "late_own",
        vec![
            (case.clone(), "late: a to server"),
            (Case { asked: Asked::Delete, ..case.clone() }, "late: * to server"),
            (Case { named: true, ..case.clone() }, r#"applied {"a":3}"#),
            (Case { when: Some(600), ..case.clone() }, r#"applied {"a":3}"#),
            (Case { when: None, ..case.clone() }, r#"applied {"a":3}"#),
            // Whoever had seen the newer one meant this.
            (Case { began: Began::Version(2), ..case }, r#"applied {"a":3}"#),
        ],
    );
}

#[test]
fn cursor_own_a_position_tells_the_base_only_where_all_since_is_the_devices_own_as_sent() {
    let first = theirs(1, 200, json!({"a": 1, "n": 5}));
    let at = |seq| Position::Presented { seq, finished: true };
    let case = |history: Vec<Row>, position| Case { position, ..whole(by_field(), history, Began::Position, json!({"a": 2, "n": 5})) };
    let own = mine(2, 300, json!({"a": 1, "n": 5}));
    let merged = Row { clean: false, ..own.clone() };
    let last = mine(3, 400, json!({"a": 3, "n": 5}));
    let lost = Said { data: Some(data(json!({"a": 4, "n": 5}))), when: 300, version: 1, seq: 15, clean: false };
    let two = |second: &Row| vec![first.clone(), second.clone()];
    let open = "gap: * to none";
    check(
        "cursor_own",
        vec![
            (case(vec![first.clone()], at(10)), r#"applied {"a":2,"n":5}"#),
            (case(two(&own), at(10)), r#"applied {"a":2,"n":5}"#),
            (case(two(&theirs(2, 300, json!({"a": 1, "n": 5}))), at(10)), open),
            (Case { said: said(&merged, json!({"a": 0, "n": 5})), ..case(two(&merged), at(10)) }, open),
            // Not even where its last word was taken as sent.
            (Case { said: said(&last, json!({"a": 3, "n": 5})), ..case(vec![first.clone(), merged.clone(), last.clone()], at(10)) }, open),
            (Case { said: Some(lost.clone()), ..case(vec![first.clone()], at(10)) }, open),
            (Case { said: Some(lost), ..case(vec![first.clone()], at(15)) }, r#"applied {"a":2,"n":5}"#),
            (case(vec![first.clone()], Position::Presented { seq: 10, finished: false }), open),
            (case(vec![first.clone()], Position::Remembered { seq: 10 }), r#"applied {"a":2,"n":5}"#),
            (case(vec![first.clone()], Position::Never), open),
        ],
    );
}

#[test]
fn resolver_what_a_person_decided_is_nobodys_own_edit() {
    // The manager who pushes decided a conflict in between: that is on the other side, though it is the same person's.
    let history = |decided: Row| vec![mine(1, 200, json!({"a": 1})), decided];
    let decided = managers(2, 600, json!({"a": 9}));
    let case = |row| Case { role: Role::Manager, ..whole(by_field(), history(row), Began::Version(1), json!({"a": 2})) };
    check(
        "resolver",
        vec![
            (case(decided.clone()), "rule: a to server"),
            (Case { said: said(&decided, json!({"a": 9})), ..case(Row { own: true, ..decided }) }, r#"applied {"a":2}"#),
        ],
    );
}

#[test]
fn field_author_each_field_is_contested_with_whom_changed_it() {
    // A manager changed `a`, a store later `b`.
    let history = vec![
        theirs(1, 200, json!({"a": 1, "b": 1, "o": {"p": 1, "q": 1}})),
        managers(2, 300, json!({"a": 2, "b": 1, "o": {"p": 2, "q": 1}})),
        theirs(3, 600, json!({"a": 2, "b": 2, "o": {"p": 2, "q": 2}})),
    ];
    let case = |rule, to| whole(TableRules { rule, ..by_field() }, history.clone(), Began::Version(1), to);
    let o = json!({"p": 1, "q": 1});
    // A whole record is contested with the strongest of all since the base.
    let whole_record = TableRules { granularity: Granularity::Record, ..by_field() };
    let later_before = vec![theirs(1, 200, json!({"a": 1})), theirs(2, 600, json!({"a": 2})), theirs(3, 400, json!({"a": 3}))];
    check(
        "field_author",
        vec![
            (whole(whole_record, later_before.clone(), Began::Version(1), json!({"a": 7})), "rule: a to server"),
            (whole(by_field(), later_before, Began::Version(1), json!({"a": 7})), r#"rule: a to client, writes {"a":7}"#),
            (case(Rule::LatestWins, json!({"a": 7, "b": 1, "o": o})), r#"rule: a to client, writes {"a":7,"b":2,"o":{"p":2,"q":2}}"#),
            (case(Rule::LatestWins, json!({"a": 1, "b": 7, "o": o})), "rule: b to server"),
            (
                case(Rule::LatestWins, json!({"a": 1, "b": 1, "o": {"p": 7, "q": 7}})),
                r#"rule: o.p to client, o.q to server, writes {"a":2,"b":2,"o":{"p":7,"q":2}}"#,
            ),
            (case(Rule::ManagerWins, json!({"a": 7, "b": 7, "o": o})), "rule: a to server, b to server"),
            (
                Case { edited: 700, ..case(Rule::ManagerWins, json!({"a": 7, "b": 7, "o": o})) },
                r#"rule: a to server, b to client, writes {"a":2,"b":7,"o":{"p":2,"q":2}}"#,
            ),
        ],
    );
}

#[test]
fn keep_scope_a_record_stays_whose_it_is() {
    let boss = |case: Case| Case { role: Role::Manager, stores: vec![], ..case };
    let b = vec![theirs(1, 200, json!({"a": 1, "store_id": "B"}))];
    let (at_a, at_b) = (json!({"a": 1, "store_id": "A"}), json!({"a": 1, "store_id": "B"}));
    // Moved and deleted since the device saw it at A.
    let tombstone = Row { deleted: true, ..theirs(3, 400, at_b.clone()) };
    let moved = vec![theirs(1, 200, at_a), managers(2, 300, at_b.clone()), tombstone];
    let whole_record = TableRules { granularity: Granularity::Record, ..of_stores() };
    let revive =
        |rules| Case { stores: vec!["A", "B"], ..whole(rules, moved.clone(), Began::Version(1), json!({"a": 7, "store_id": "A"})) };
    check(
        "keep_scope",
        vec![
            (boss(whole(of_stores(), b.clone(), Began::Version(1), json!({"a": 2}))), r#"applied {"a":2,"store_id":"B"} in B"#),
            (boss(patch(of_stores(), b.clone(), Began::Version(1), json!({"store_id": null}))), "noop"),
            (boss(whole(of_stores(), vec![], Began::Nothing, json!({"a": 2}))), "rejected store_required"),
            (whole(of_stores(), vec![], Began::Nothing, json!({"a": 2})), r#"applied {"a":2,"store_id":"A"} in A"#),
            (
                Case { stores: vec!["A", "B"], ..whole(of_stores(), b, Began::Version(1), json!({"a": 2})) },
                r#"applied {"a":2,"store_id":"B"} in B"#,
            ),
            (revive(of_stores()), r#"rule: * to client, writes {"a":7,"store_id":"B"} in B"#),
            (revive(whole_record), r#"rule: * to client, writes {"a":7,"store_id":"B"} in B"#),
        ],
    );
}

#[test]
fn append_delta_the_servers_list_and_then_what_was_added() {
    let record = TableRules { granularity: Granularity::Record, ..by_field() };
    let case = |rules, server, to| {
        let history = vec![theirs(1, 200, json!({"l": ["k"]})), theirs(2, 300, server)];
        whole(rules, history, Began::Version(1), to)
    };
    check(
        "append_delta",
        vec![
            (case(by_field(), json!({"l": ["k", "s"]}), json!({"l": ["k", "c"]})), r#"merged {"l":["k","s","c"]}"#),
            (case(by_field(), json!({"l": ["s"]}), json!({"l": ["k", "c"]})), r#"merged {"l":["s","c"]}"#),
            (case(by_field(), json!({"l": ["k", "s"]}), json!({"l": ["c"]})), r#"rule: l to client, writes {"l":["c"]}"#),
            (case(by_field(), json!({"l": ["k", "s"]}), json!({"l": []})), r#"rule: l to client, writes {"l":[]}"#),
            // Nobody else touched the list: field by field that is its author's; of a whole record it is no appending.
            (case(by_field(), json!({"a": 1, "l": ["k"]}), json!({"l": []})), r#"merged {"a":1,"l":[]}"#),
            (case(record, json!({"a": 1, "l": ["k"]}), json!({"a": 1, "l": []})), r#"rule: l to client, writes {"a":1,"l":[]}"#),
        ],
    );
}

#[test]
fn revive_merge_an_edit_that_beats_a_delete_is_laid_over_the_last_content() {
    let (first, second) = (theirs(1, 200, json!({"a": 1, "n": 5})), theirs(2, 300, json!({"a": 1, "b": 2, "n": 9})));
    let tombstone = Row { deleted: true, ..theirs(3, 400, json!({"a": 1, "b": 2, "n": 9})) };
    let history = vec![first, second, tombstone];
    let case = |began| whole(by_field(), history.clone(), began, json!({"a": 7, "n": 6}));
    let rule = |rule, at| Case { edited: at, rules: TableRules { rule, ..by_field() }, ..case(Began::Version(1)) };
    check(
        "revive_merge",
        vec![
            (case(Began::Version(1)), r#"rule: * to client, writes {"a":7,"b":2,"n":10}"#),
            (rule(Rule::LatestWins, 400), "rule: * to server"),
            (rule(Rule::Manual, 500), "rule: * to none"),
            // Who saw the tombstone begins a new life.
            (case(Began::Version(3)), r#"applied {"a":7,"n":6}"#),
        ],
    );
}

#[test]
fn left_view_what_moved_away_waits_and_what_was_never_seen_is_forbidden() {
    let (at_a, at_b) = (json!({"a": 1, "store_id": "A"}), json!({"a": 1, "store_id": "B"}));
    let moved = vec![theirs(1, 200, at_a.clone()), managers(2, 300, at_b.clone())];
    let case = |history: &[Row], began| whole(of_stores(), history.to_vec(), began, at_a.clone());
    check(
        "left_view",
        vec![
            (case(&moved, Began::Version(1)), "left_view: * to none"),
            (Case { asked: Asked::Delete, ..case(&moved, Began::Version(1)) }, "left_view: * to none"),
            (case(&moved, Began::Nothing), "left_view: * to none"),
            (case(&moved, Began::Version(2)), "rejected forbidden"),
            (case(&moved[1..], Began::Version(2)), "rejected forbidden"),
            (case(&[theirs(1, 200, at_b)], Began::Nothing), "rejected forbidden"),
        ],
    );
}

#[test]
fn a_null_base_is_not_an_unknown_one() {
    let record = TableRules { granularity: Granularity::Record, ..by_field() };
    let there = |value| vec![theirs(1, 300, value)];
    let case = |rules: TableRules, server, to| whole(rules, there(server), Began::Nothing, to);
    let old = |case: Case| {
        let history = case.history.iter().map(|row| Row { received: 99, ..row.clone() }).collect();
        Case { history, ..case }
    };
    check(
        "null base",
        vec![
            // Both counted from nothing.
            (case(by_field(), json!({"n": 3}), json!({"n": 4})), r#"merged {"n":7}"#),
            (case(by_field(), json!({"n": 4}), json!({"n": 4})), r#"merged {"n":8}"#),
            (case(record, json!({"n": 3}), json!({"n": 4})), r#"merged {"n":7}"#),
            (case(by_field(), json!({"l": [1]}), json!({"l": [2]})), r#"merged {"l":[1,2]}"#),
            // What only one side has is taken, what both have is in conflict.
            (case(by_field(), json!({"a": 1, "b": 1}), json!({"a": 2, "c": 1})), r#"rule: a to client, writes {"a":2,"b":1,"c":1}"#),
            // A record so old that the answer to a first try may be forgotten.
            (old(case(by_field(), json!({"n": 3}), json!({"n": 4}))), "gap: * to none"),
            (
                old(case(by_field(), json!({"a": 1, "b": 1}), json!({"a": 1, "c": 1}))),
                r#"rule: b to client, c to client, writes {"a":1,"c":1}"#,
            ),
            // A patch over nothing says nothing of what it does not name.
            (patch(by_field(), there(json!({"b": 1, "n": 3})), Began::Nothing, json!({"a": 2})), r#"applied {"a":2,"b":1,"n":3}"#),
            (patch(by_field(), there(json!({"a": 1, "n": 3})), Began::Nothing, json!({"n": 4})), r#"merged {"a":1,"n":7}"#),
        ],
    );
}

#[test]
fn stale_what_is_older_and_of_unknown_base_loses_before_anything_joins() {
    let rules = TableRules { stale: Some(Stale::ServerWins), rule: Rule::ClientWins, ..by_field() };
    let server = |at| vec![theirs(1, at, json!({"x": 75}))];
    let case = |at, to| whole(rules.clone(), server(at), Began::Position, to);
    check(
        "stale",
        vec![
            (case(600, json!({"x": 50})), "stale: x to server"),
            (case(600, json!({"x": 90})), "stale: x to server"),
            (case(600, json!({"x": 75})), "noop"),
            (case(500, json!({"x": 90})), r#"applied {"x":90}"#),
            (case(500, json!({"x": 50})), "noop"),
            // Who says what it began from is heard, and so is a table without the rule.
            (Case { began: Began::Nothing, ..case(600, json!({"x": 90})) }, r#"applied {"x":90}"#),
            (Case { rules: by_field(), ..case(600, json!({"x": 90})) }, r#"applied {"x":90}"#),
            (Case { asked: Asked::Delete, ..case(600, json!({})) }, r#"rule: * to client, writes {"x":75} deleted"#),
        ],
    );
}
