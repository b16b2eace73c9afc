//! Cases of `decide`, each with its expected decision.

use super::*;
use crate::domain::actor::{Actor, Role};
use crate::domain::ask::Replies;
use crate::domain::change::{Change, Position};
use crate::domain::clock::Micros;
use crate::domain::ids::{RecordId, StoreId, UserId};
use crate::domain::record::{Hash, unquote};
use crate::domain::rules::{Scope, TableRules};

fn content(json: &str) -> Content {
    Content::from_value(&serde_json::from_str(json).unwrap()).unwrap()
}

/// One decision's surroundings. Times are plain numbers; receipts older than 100 may be gone.
#[derive(Clone)]
struct Case {
    rules: TableRules,
    role: Role,
    stores: &'static [&'static str],
    /// Oldest first.
    history: Vec<Version>,
    /// The oldest version kept is not the record's first.
    cut: bool,
    sent: Option<Sent>,
    edit: Edit,
    base: Base,
    at: Micros,
    position: Position,
    purged: bool,
    derived: bool,
}

fn office(rule: Rule) -> TableRules {
    TableRules { rule, granularity: Granularity::Record, ..TableRules::default() }
}

fn store(rule: Rule) -> TableRules {
    TableRules { scope: Scope::Store, ..office(rule) }
}

/// A version by another device, a store's, stored as sent.
fn other(version: i64, at: Micros, json: &str) -> Version {
    let content = content(json);
    let scope = content.value("store_id").map(|s| unquote(s).into_owned()).unwrap_or_default();
    Version {
        seq: version * 10,
        version,
        deleted: false,
        hash: content.hash(),
        content,
        scope,
        own: false,
        clean: true,
        role: Role::Store,
        edited_at: at,
        updated_at: at,
        received_at: at.max(200),
    }
}

fn own(version: i64, at: Micros, json: &str) -> Version {
    Version { own: true, ..other(version, at, json) }
}

fn managers(version: i64, at: Micros, json: &str) -> Version {
    Version { role: Role::Manager, ..other(version, at, json) }
}

fn dead(version: Version) -> Version {
    Version { deleted: true, ..version }
}

fn whole_record(json: &str, base: Base) -> Case {
    Case {
        rules: office(Rule::LatestWins),
        role: Role::Store,
        stores: &["A"],
        history: Vec::new(),
        cut: false,
        sent: None,
        edit: Edit::Whole(content(json)),
        base,
        at: 500,
        position: Position::Never,
        purged: false,
        derived: false,
    }
}

fn patched(json: &str, base: Base) -> Case {
    Case { edit: Edit::Patch(content(json)), ..whole_record("{}", base) }
}

fn delete(base: Base) -> Case {
    Case { edit: Edit::Delete, ..whole_record("{}", base) }
}

fn lineage(case: &Case) -> Lineage {
    let mut lineage = Lineage::default();
    for version in case.history.iter().rev() {
        match reach(&case.base, case.position, version) {
            Reach::Above => lineage.above.push(version.clone()),
            Reach::Base => {
                lineage.base = Some(version.clone());
                return lineage;
            }
            Reach::Below => {
                lineage.gap = true;
                return lineage;
            }
        }
    }
    let named = matches!(case.base, Base::Version(_) | Base::Hash(_));
    lineage.gap = case.cut || (named && !case.history.is_empty());
    lineage
}

fn written(write: &Write) -> String {
    let mut text = write.content.text().to_owned();
    for (there, word) in
        [(!write.scope.is_empty(), format!(" in {}", write.scope)), (write.filled, " filled".into()), (write.deleted, " deleted".into())]
    {
        if there {
            text += &word;
        }
    }
    text
}

fn shown(decision: &Decision) -> String {
    match decision {
        Decision::Ask(question) => format!("asks {question:?}"),
        Decision::Noop(_) => "noop".into(),
        Decision::Apply(write) => format!("apply {}", written(write)),
        Decision::Merge(write) => format!("merge {}", written(write)),
        Decision::Reject(refusal, sentence) => {
            assert!(sentence.ends_with('.') || sentence.ends_with('-'), "{sentence:?} is no sentence");
            format!("reject {refusal:?}")
        }
        Decision::Conflict(conflict) => {
            let mut text = format!("{} wins by {}: {}", conflict.winner.word(), conflict.why.word(), conflict.fields.join(","));
            if let Some(write) = &conflict.write {
                text += &format!(", writes {}", written(write));
            }
            assert_eq!(conflict.write.is_some(), conflict.winner == Winner::Client);
            text
        }
    }
}

fn decided(case: &Case) -> Decision {
    let actor = Actor {
        device: None,
        user: UserId::trusted("ben"),
        role: case.role,
        stores: case.stores.iter().map(|s| StoreId::trusted(*s)).collect(),
    };
    let change =
        Change { id: RecordId::trusted("r"), edit: case.edit.clone(), base: case.base.clone(), updated_at: Some(case.at), op_id: None };
    decide(&Given {
        table: "t",
        rules: &case.rules,
        finishes: false,
        replies: &Replies::new(),
        actor: &actor,
        change: &change,
        current: case.history.last(),
        lineage: &lineage(case),
        last_sent: case.sent.as_ref(),
        position: case.position,
        purged: case.purged,
        edited_at: case.at,
        derived: case.derived,
        horizon: 100,
    })
}

#[track_caller]
fn check(case: Case, expected: &str) {
    assert_eq!(shown(&decided(&case)), expected);
}

const V1: &str = r#"{"a":1,"b":1}"#;
const V2: &str = r#"{"a":2,"b":1}"#;
const MINE: &str = r#"{"a":1,"b":9}"#;

#[test]
fn no_record() {
    for base in [Base::Nothing, Base::Absent] {
        check(whole_record(V1, base.clone()), r#"apply {"a":1,"b":1}"#);
        check(Case { purged: true, ..whole_record(V1, base) }, "reject Gone");
    }
    for base in [Base::Version(3), Base::Hash(Hash([0; 16])), Base::Data(content(V1))] {
        check(whole_record(V1, base), "reject Gone");
    }
    check(patched(V1, Base::Absent), r#"apply {"a":1,"b":1}"#);
    check(patched(r#"{"a":1,"b":null}"#, Base::Nothing), r#"apply {"a":1}"#);
    check(delete(Base::Version(3)), "noop");
    check(delete(Base::Absent), "noop");
}

#[test]
fn identical_content_and_nobody_else() {
    let one = vec![other(1, 300, V1)];
    for base in [Base::Nothing, Base::Absent, Base::Version(1), Base::Version(7), Base::Data(content(MINE))] {
        check(Case { history: one.clone(), ..whole_record(V1, base) }, "noop");
    }
    for base in [Base::Version(1), Base::Hash(content(V1).hash()), Base::Data(content(V1))] {
        check(Case { history: one.clone(), ..whole_record(MINE, base.clone()) }, r#"apply {"a":1,"b":9}"#);
        check(Case { history: one.clone(), ..whole_record(r#"{"b":1}"#, base.clone()) }, r#"apply {"b":1}"#);
        check(Case { history: one.clone(), ..delete(base.clone()) }, r#"apply {"a":1,"b":1} deleted"#);
        check(Case { history: vec![other(1, 200, V1), dead(other(2, 300, V1))], ..delete(base) }, "noop");
    }
    // Nobody else, by position: what the cursor covers is the base.
    let presented = Position::Presented { seq: 10, finished: true };
    check(Case { history: one.clone(), position: presented, ..whole_record(MINE, Base::Absent) }, r#"apply {"a":1,"b":9}"#);
    check(Case { history: one, position: Position::Remembered { seq: 10 }, ..delete(Base::Absent) }, r#"apply {"a":1,"b":1} deleted"#);
}

#[test]
fn every_rule_between_two_stores_and_by_role() {
    let earlier = vec![other(1, 200, V1), other(2, 499, V2)];
    let same = vec![other(1, 200, V1), other(2, 500, V2)];
    let later = vec![other(1, 200, V1), other(2, 501, V2)];
    let boss = vec![other(1, 200, V1), managers(2, 400, V2)];
    let client = r#"client wins by rule: a,b, writes {"a":1,"b":9}"#;
    let (server, none) = ("server wins by rule: a,b", "none wins by rule: a,b");
    for (rule, history, role, expected) in [
        (Rule::ServerWins, &earlier, Role::Admin, server),
        (Rule::ClientWins, &later, Role::Store, client),
        (Rule::Manual, &earlier, Role::Admin, none),
        (Rule::LatestWins, &earlier, Role::Store, client),
        (Rule::LatestWins, &same, Role::Store, server),
        (Rule::LatestWins, &same, Role::Admin, server),
        (Rule::LatestWins, &later, Role::Admin, server),
        (Rule::LatestWins, &boss, Role::Store, client),
        (Rule::ManagerWins, &later, Role::Manager, client),
        (Rule::ManagerWins, &later, Role::Admin, client),
        (Rule::ManagerWins, &boss, Role::Store, server),
        (Rule::ManagerWins, &boss, Role::Service, server),
        (Rule::ManagerWins, &boss, Role::Admin, client),
        (Rule::ManagerWins, &earlier, Role::Store, client),
        (Rule::ManagerWins, &earlier, Role::Service, client),
        (Rule::ManagerWins, &same, Role::Store, server),
        (Rule::ManagerWins, &later, Role::Store, server),
    ] {
        let case = Case { rules: office(rule), role, history: history.clone(), ..whole_record(MINE, Base::Version(1)) };
        assert_eq!(shown(&decided(&case)), expected, "{rule:?} {role:?} {:?}", history[1].edited_at);
    }
}

#[test]
fn the_other_side_is_the_strongest_since_the_base() {
    let boss_before = vec![other(1, 200, V1), managers(2, 300, V2), other(3, 400, r#"{"a":3,"b":1}"#)];
    let late_before = vec![other(1, 200, V1), other(2, 600, V2), other(3, 400, r#"{"a":3,"b":1}"#)];
    let case =
        |rule, history: &Vec<Version>| Case { rules: office(rule), history: history.clone(), ..whole_record(MINE, Base::Version(1)) };
    check(case(Rule::ManagerWins, &boss_before), "server wins by rule: a,b");
    check(case(Rule::LatestWins, &boss_before), r#"client wins by rule: a,b, writes {"a":1,"b":9}"#);
    check(case(Rule::LatestWins, &late_before), "server wins by rule: a,b");
    // The device's own version on top is not its rival; the foreign one under it is.
    let own_on_top = vec![other(1, 200, V1), other(2, 400, V2), own(3, 600, r#"{"a":3,"b":1}"#)];
    check(case(Rule::LatestWins, &own_on_top), r#"client wins by rule: a,b, writes {"a":1,"b":9}"#);
}

#[test]
fn what_is_suggested_where_nobody_decided() {
    let (mine, theirs) = (r#"{"a":7,"b":1}"#, V2);
    let field = TableRules { granularity: Granularity::Field, ..office(Rule::Manual) };
    let cases = [
        // Both changed the same field: the higher role, then the later edit, then what the office has.
        ("role", whole_record(mine, Base::Version(1)), Role::Manager, other(2, 600, theirs), "use_client by role"),
        ("role", whole_record(mine, Base::Version(1)), Role::Store, managers(2, 400, theirs), "use_server by role"),
        ("equal roles", whole_record(mine, Base::Version(1)), Role::Admin, managers(2, 400, theirs), "use_client by time"),
        ("time", whole_record(mine, Base::Version(1)), Role::Store, other(2, 400, theirs), "use_client by time"),
        ("time", whole_record(mine, Base::Version(1)), Role::Store, other(2, 600, theirs), "use_server by time"),
        ("tie", whole_record(mine, Base::Version(1)), Role::Store, other(2, 500, theirs), "use_server by tie"),
        // They changed different fields: both fit into one record, whoever they are.
        ("fields", whole_record(MINE, Base::Version(1)), Role::Store, managers(2, 600, theirs), r#"use_merged by fields {"a":2,"b":9}"#),
        // A delete has no fields to fit.
        ("delete", delete(Base::Version(1)), Role::Store, other(2, 400, theirs), "use_client by time"),
        ("deleted", whole_record(mine, Base::Version(1)), Role::Store, dead(managers(2, 400, V1)), "use_server by role"),
    ];
    for (name, case, role, version, expected) in cases {
        for rules in [office(Rule::Manual), field.clone()] {
            if name == "fields" && rules.granularity == Granularity::Field {
                continue;
            }
            let case = Case { rules, role, history: vec![other(1, 200, V1), version.clone()], ..case.clone() };
            let Decision::Conflict(conflict) = decided(&case) else { panic!("{name}: no conflict") };
            let Suggestion { resolution, because, merged } = &conflict.suggestion;
            let merged = merged.as_ref().map_or_else(String::new, |content| format!(" {}", content.text()));
            assert_eq!(format!("{} by {}{merged}", resolution.word(), because.word()), expected, "{name}");
            assert_eq!(conflict.winner, Winner::None);
        }
    }
    // What a rule decided is what is suggested.
    for (rule, expected) in [(Rule::ClientWins, Resolution::UseClient), (Rule::ServerWins, Resolution::UseServer)] {
        let history = vec![other(1, 200, V1), other(2, 400, V2)];
        let case = Case { rules: office(rule), history, ..whole_record(MINE, Base::Version(1)) };
        let Decision::Conflict(conflict) = decided(&case) else { panic!("no conflict") };
        assert_eq!((conflict.suggestion.resolution, conflict.suggestion.because), (expected, Because::Decided));
        assert_eq!((conflict.base, conflict.client), (Some(content(V1)), Some(content(MINE))));
    }
    // Where nothing can be measured the office keeps what it has.
    let gone = Case { history: vec![other(5, 200, V1)], cut: true, ..delete(Base::Version(3)) };
    let Decision::Conflict(conflict) = decided(&gone) else { panic!("no conflict") };
    assert_eq!((conflict.suggestion.resolution, conflict.suggestion.because), (Resolution::UseServer, Because::UnknownBase));
}

#[test]
fn deletes_against_edits() {
    let edited = |at| vec![other(1, 200, V1), other(2, at, V2)];
    let deleted = |at| vec![other(1, 200, V1), dead(other(2, at, V1))];
    // A tombstone keeps the last live content.
    check(Case { history: edited(400), ..delete(Base::Version(1)) }, r#"client wins by rule: *, writes {"a":2,"b":1} deleted"#);
    check(Case { history: edited(600), ..delete(Base::Version(1)) }, "server wins by rule: *");
    check(Case { history: deleted(400), ..whole_record(MINE, Base::Version(1)) }, r#"client wins by rule: *, writes {"a":1,"b":9}"#);
    check(Case { history: deleted(600), ..whole_record(MINE, Base::Version(1)) }, "server wins by rule: *");
    for (rule, winner) in [(Rule::ServerWins, "server wins by rule: *"), (Rule::Manual, "none wins by rule: *")] {
        check(Case { rules: office(rule), history: edited(400), ..delete(Base::Version(1)) }, winner);
        check(Case { rules: office(rule), history: deleted(400), ..whole_record(MINE, Base::Version(1)) }, winner);
    }
    let boss_deleted = vec![other(1, 200, V1), dead(managers(2, 300, V1))];
    check(
        Case { rules: office(Rule::ManagerWins), history: boss_deleted, ..whole_record(MINE, Base::Version(1)) },
        "server wins by rule: *",
    );
    // The content that was deleted, sent again by one who did not know, is an edit against a delete too.
    check(Case { history: deleted(600), ..whole_record(V1, Base::Version(1)) }, "server wins by rule: *");
    // Base is the tombstone: a new life.
    check(
        Case { rules: office(Rule::ServerWins), history: deleted(600), ..whole_record(MINE, Base::Version(2)) },
        r#"apply {"a":1,"b":9}"#,
    );
    let presented = Position::Presented { seq: 20, finished: true };
    check(
        Case { rules: office(Rule::ServerWins), position: presented, history: deleted(600), ..whole_record(MINE, Base::Absent) },
        r#"apply {"a":1,"b":9}"#,
    );
    // A delete over the device's own edits is no conflict.
    check(Case { history: vec![other(1, 200, V1), own(2, 300, V2)], ..delete(Base::Version(1)) }, r#"apply {"a":2,"b":1} deleted"#);
}

fn sent(version: i64, at: Micros, json: Option<&str>, clean: bool) -> Option<Sent> {
    Some(Sent { content: json.map(content), updated_at: at, version, seq: version * 10, clean })
}

#[test]
fn own_earlier_edits() {
    let mine = vec![other(1, 200, V1), own(2, 400, V2)];
    let newer = Case { history: mine.clone(), sent: sent(2, 400, Some(V2), true), ..whole_record(r#"{"a":3,"b":1}"#, Base::Version(1)) };
    check(newer.clone(), r#"apply {"a":3,"b":1}"#);
    // Older than the device's own newer one: only where the operation has no name of its own.
    check(Case { at: 399, ..newer.clone() }, r#"apply {"a":3,"b":1}"#);
    check(Case { at: 399, derived: true, ..newer.clone() }, "server wins by late: a");
    check(Case { at: 400, derived: true, ..newer }, r#"apply {"a":3,"b":1}"#);
    // With data or a hash the base is taken exactly as given: the own later version counts as the server's side.
    for base in [Base::Data(content(V1)), Base::Hash(content(V1).hash())] {
        let case = Case { history: mine.clone(), sent: sent(2, 400, Some(V2), true), ..whole_record(MINE, base) };
        check(case, r#"client wins by rule: a,b, writes {"a":1,"b":9}"#);
    }
    // A field that stayed as it was last sent, where the server kept another value, stays the server's.
    let kept = vec![own(1, 200, V1)];
    let case =
        Case { history: kept, sent: sent(1, 300, Some(r#"{"a":7,"b":1}"#), false), ..whole_record(r#"{"a":7,"b":2}"#, Base::Nothing) };
    check(case, r#"merge {"a":1,"b":2}"#);
    // A device that deleted and then puts the record back began from its own tombstone.
    let own_grave = vec![other(1, 200, V1), dead(own(2, 400, V1))];
    let back = Case {
        rules: office(Rule::ServerWins),
        history: own_grave,
        sent: sent(2, 400, None, true),
        ..whole_record(MINE, Base::Version(1))
    };
    check(back.clone(), r#"apply {"a":1,"b":9}"#);
    // An edit from before its own delete, arriving late without a name, resurrects nothing.
    check(Case { at: 399, derived: true, ..back }, "server wins by late: *");
    // Nor does a delete from before its own later edit remove that.
    let late = Case { history: mine, sent: sent(2, 400, Some(V2), true), ..delete(Base::Version(1)) };
    check(Case { at: 399, derived: true, ..late.clone() }, "server wins by late: *");
    check(Case { derived: true, ..late }, r#"apply {"a":2,"b":1} deleted"#);
    let twice = vec![other(1, 200, V1), dead(own(2, 400, V1))];
    check(Case { at: 399, derived: true, history: twice, sent: sent(2, 400, None, true), ..delete(Base::Version(1)) }, "noop");
}

#[test]
fn unknown_bases() {
    let history = vec![other(5, 200, V1)];
    let unknown = |base| Case { history: history.clone(), cut: true, ..whole_record(MINE, base) };
    // A version that was purged, one that never was, a hash that nothing has: all that differs is in conflict.
    for base in [Base::Version(3), Base::Version(9), Base::Hash(Hash([7; 16]))] {
        check(unknown(base.clone()), r#"client wins by rule: b, writes {"a":1,"b":9}"#);
        check(Case { rules: office(Rule::ServerWins), ..unknown(base.clone()) }, "server wins by rule: b");
        // A delete whose base is gone cannot be measured at all.
        check(Case { history: history.clone(), cut: true, ..delete(base) }, "none wins by gap: *");
    }
    // A base that the request carries is known even where history is not.
    check(Case { history: history.clone(), ..whole_record(MINE, Base::Data(content(V1))) }, r#"apply {"a":1,"b":9}"#);
    // The cursor tells nothing where others, or merges, or lost conflicts came after it, or the reset was not finished.
    let at = |seq, finished| Position::Presented { seq, finished };
    let conflict = r#"client wins by rule: b, writes {"a":1,"b":9}"#;
    let absent = |position, history: Vec<Version>| Case { position, history, ..whole_record(MINE, Base::Absent) };
    check(absent(at(49, true), history.clone()), conflict);
    check(absent(at(50, false), history.clone()), conflict);
    check(absent(at(50, true), history.clone()), r#"apply {"a":1,"b":9}"#);
    check(absent(Position::Remembered { seq: 49 }, history.clone()), conflict);
    check(absent(Position::Never, history.clone()), conflict);
    let mine = |clean| vec![Version { clean, ..own(5, 200, V1) }];
    check(Case { sent: sent(5, 200, Some(V1), true), ..absent(at(0, true), mine(true)) }, r#"apply {"a":1,"b":9}"#);
    check(Case { sent: sent(5, 200, Some(V1), false), ..absent(at(0, true), mine(false)) }, conflict);
    let lost = |seq| Case { sent: Some(Sent { seq, ..sent(5, 300, Some(V2), false).unwrap() }), ..absent(at(50, true), history.clone()) };
    check(lost(50), r#"apply {"a":1,"b":9}"#);
    check(lost(51), conflict);
    // A create over a record whose answers may be gone was perhaps sent before: nothing is known of what it began from.
    for (received_at, expected) in [(99, "server wins by rule: b"), (100, r#"apply {"a":1,"b":9}"#)] {
        let mine = vec![Version { received_at, ..own(1, 99, V1) }];
        let again = Case { rules: office(Rule::ServerWins), history: mine, ..whole_record(MINE, Base::Nothing) };
        check(Case { sent: sent(1, 99, Some(V1), true), ..again }, expected);
    }
}

#[test]
fn views_and_scopes() {
    let (a, b) = (r#"{"store_id":"A","x":1}"#, r#"{"store_id":"B","x":1}"#);
    let case = |history, json: &str, base| Case { rules: store(Rule::LatestWins), history, ..whole_record(json, base) };
    // Filled in for a new record; kept where the change does not carry it; never taken from the pusher then.
    check(case(vec![], r#"{"x":1}"#, Base::Nothing), r#"apply {"store_id":"A","x":1} in A filled"#);
    let boss = Case { role: Role::Manager, stores: &[], ..case(vec![other(1, 200, b)], r#"{"x":2}"#, Base::Version(1)) };
    check(boss.clone(), r#"apply {"store_id":"B","x":2} in B filled"#);
    check(Case { stores: &["A"], ..boss }, r#"apply {"store_id":"B","x":2} in B filled"#);
    let two = Case { stores: &["A", "B"], ..case(vec![other(1, 200, b)], r#"{"x":2}"#, Base::Version(1)) };
    check(two, r#"apply {"store_id":"B","x":2} in B filled"#);
    // Several stores or none must name it, and so must a manager.
    for (role, stores) in [(Role::Store, &["A", "B"][..]), (Role::Store, &[]), (Role::Manager, &[]), (Role::Service, &[])] {
        check(Case { role, stores, ..case(vec![], r#"{"x":1}"#, Base::Nothing) }, "reject StoreRequired");
        check(Case { role, stores, ..case(vec![], r#"{"store_id":null}"#, Base::Nothing) }, "reject StoreRequired");
    }
    // So must a manager who edits a record from before the table had a scope; it can be deleted all the same.
    let nobodys = Case { role: Role::Manager, stores: &[], ..case(vec![other(1, 200, V1)], V2, Base::Version(1)) };
    check(nobodys.clone(), "reject StoreRequired");
    check(Case { edit: Edit::Whole(content(a)), ..nobodys.clone() }, r#"apply {"store_id":"A","x":1} in A"#);
    check(Case { edit: Edit::Delete, ..nobodys }, r#"apply {"a":1,"b":1} deleted"#);
    // Into another store's feed: never, whether the id is taken there or not.
    check(case(vec![], b, Base::Nothing), "reject Forbidden");
    check(case(vec![], b, Base::Version(1)), "reject Forbidden");
    check(case(vec![other(1, 200, b)], b, Base::Nothing), "reject Forbidden");
    check(case(vec![other(1, 200, b)], a, Base::Nothing), "reject Forbidden");
    check(case(vec![other(1, 200, b)], a, Base::Version(1)), "reject Forbidden");
    check(case(vec![other(1, 200, a)], b, Base::Version(1)), "reject Forbidden");
    check(Case { edit: Edit::Delete, ..case(vec![other(1, 200, b)], a, Base::Version(1)) }, "reject Forbidden");
    // A manager moves it.
    check(Case { role: Role::Manager, ..case(vec![other(1, 200, a)], b, Base::Version(1)) }, r#"apply {"store_id":"B","x":1} in B"#);
    // What left the view since the base waits for a manager; what was never in it, or not since, is forbidden.
    let moved = vec![other(1, 200, a), managers(2, 300, b)];
    check(case(moved.clone(), a, Base::Version(1)), "none wins by left_view: *");
    check(Case { edit: Edit::Delete, ..case(moved.clone(), a, Base::Version(1)) }, "none wins by left_view: *");
    check(case(moved.clone(), a, Base::Nothing), "none wins by left_view: *");
    check(case(moved, a, Base::Version(2)), "reject Forbidden");
    // Two stores' user: the move itself is in conflict, and that is not the user's to decide.
    let moved = vec![other(1, 200, a), managers(2, 300, b)];
    check(Case { stores: &["A", "B"], ..case(moved, r#"{"store_id":"A","x":2}"#, Base::Version(1)) }, "reject Forbidden");
    for odd in [r#"{"store_id":7}"#, r#"{"store_id":""}"#, r#"{"store_id":"a b"}"#, r#"{"store_id":["A"]}"#] {
        check(case(vec![], odd, Base::Nothing), "reject Invalid");
    }
    // A person's own records, in a field of another name.
    let person = TableRules { scope: Scope::User, scope_field: Some("owner".into()), ..office(Rule::LatestWins) };
    check(Case { rules: person.clone(), ..whole_record("{}", Base::Nothing) }, r#"apply {"owner":"ben"} in ben filled"#);
    check(
        Case { rules: person.clone(), role: Role::Manager, ..whole_record("{}", Base::Nothing) },
        r#"apply {"owner":"ben"} in ben filled"#,
    );
    check(Case { rules: person, ..whole_record(r#"{"owner":"eva"}"#, Base::Nothing) }, "reject Forbidden");
}

#[test]
fn constraints() {
    let required = TableRules { required: vec!["a".into()], ..office(Rule::LatestWins) };
    for json in [r#"{"b":1}"#, r#"{"a":null}"#] {
        check(Case { rules: required.clone(), ..whole_record(json, Base::Nothing) }, "reject Invalid");
    }
    check(Case { rules: required.clone(), ..whole_record(r#"{"a":0}"#, Base::Nothing) }, r#"apply {"a":0}"#);
    check(
        Case { rules: required.clone(), history: vec![other(1, 200, V1)], ..patched(r#"{"a":null}"#, Base::Version(1)) },
        "reject Invalid",
    );
    check(Case { rules: required, history: vec![other(1, 200, V1)], ..delete(Base::Version(1)) }, r#"apply {"a":1,"b":1} deleted"#);

    let log = TableRules { append_only: true, ..office(Rule::ClientWins) };
    let there = |case: Case| Case { rules: log.clone(), history: vec![other(1, 200, V1)], ..case };
    check(Case { rules: log.clone(), ..whole_record(V1, Base::Nothing) }, r#"apply {"a":1,"b":1}"#);
    check(there(whole_record(V1, Base::Nothing)), "noop");
    check(there(whole_record(MINE, Base::Nothing)), "reject Immutable");
    check(there(whole_record(MINE, Base::Version(1))), "reject Immutable");
    check(there(patched(r#"{"b":9}"#, Base::Version(1))), "reject Immutable");
    check(there(delete(Base::Version(1))), "reject Immutable");
}

#[test]
fn patches() {
    let history = vec![other(1, 200, V1), other(2, 400, r#"{"a":1,"b":1,"c":3}"#)];
    let case = |json, base| Case { history: history.clone(), ..patched(json, base) };
    // Laid over what the edit began from, where that is known, and so no newer field is claimed.
    check(case(r#"{"b":9}"#, Base::Version(1)), r#"client wins by rule: b,c, writes {"a":1,"b":9}"#);
    check(case(r#"{"b":9}"#, Base::Version(2)), r#"apply {"a":1,"b":9,"c":3}"#);
    check(case(r#"{"c":null}"#, Base::Version(2)), r#"apply {"a":1,"b":1}"#);
    // Over the record as it is, where it is not known.
    let unknown = Case { cut: true, history: vec![other(5, 200, V1)], ..patched(r#"{"b":9}"#, Base::Version(3)) };
    check(unknown, r#"client wins by rule: b, writes {"a":1,"b":9}"#);
    check(case(r#"{"b":9}"#, Base::Nothing), r#"client wins by rule: b, writes {"a":1,"b":9,"c":3}"#);
    check(case("{}", Base::Version(2)), "noop");
    check(
        Case { history: history.clone(), edit: Edit::Patch(content(r#"{"b":9}"#)), ..whole_record("{}", Base::Data(content(V1))) },
        r#"client wins by rule: b,c, writes {"a":1,"b":9}"#,
    );
}
