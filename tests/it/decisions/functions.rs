//! What each merge function promises, whatever the values: it stays within its bounds, loses nothing that was added, and the
//! same change again changes nothing.

use backroom::domain::merge;
use backroom::domain::record::Content;
use backroom::domain::rules::{Granularity, TableRules};
use serde_json::{Value, json};

use super::Dice;

fn rules(function: &Value) -> TableRules {
    let merge = serde_json::from_value(json!({ "v": function })).unwrap();
    TableRules { granularity: Granularity::Field, merge, ..TableRules::default() }
}

fn content(value: &Option<Value>) -> Content {
    let record = value.as_ref().map_or(json!({}), |value| json!({ "v": value }));
    Content::from_value(&record).unwrap()
}

/// The field after both edits, and whether it is in conflict.
fn merged(rules: &TableRules, base: &Option<Value>, client: &Option<Value>, server: &Option<Value>) -> (Option<Value>, bool) {
    let merge = merge::three_way(rules, Some(&content(base)), &content(client), &content(server), true);
    let record: Value = serde_json::from_str(merge.result.text()).unwrap();
    (record.get("v").cloned(), !merge.conflicts.is_empty())
}

const TIMES: usize = 6_000;

/// Numbers as text: 64-bit integers, and decimals that a double holds to the last of their digits.
fn number(dice: &mut Dice, big: bool) -> String {
    let sign = if dice.one_in(3) { "-" } else { "" };
    if big {
        let part = |dice: &mut Dice| dice.roll(1 << 20) as i64;
        return format!("{sign}{}", (part(dice) << 40) | (part(dice) << 20) | part(dice));
    }
    let (digits, places) = (dice.roll(1_000_000), dice.roll(7));
    let text = format!("{digits:07}");
    let text = format!("{}.{}", &text[..7 - places], &text[7 - places..]);
    let text = text.trim_start_matches('0').trim_end_matches('0').trim_end_matches('.');
    let whole = if text.is_empty() || text.starts_with('.') { format!("0{text}") } else { text.to_owned() };
    if whole == "0" { whole } else { format!("{sign}{whole}") }
}

/// In millionths.
fn millionths(text: &str) -> i128 {
    let text = if text.contains('e') { &format!("{:.6}", text.parse::<f64>().unwrap()) } else { text };
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    format!("{whole}{rest:0<6}").parse().unwrap()
}

#[test]
fn a_sum_is_the_servers_number_moved_exactly() {
    let (rules, mut dice) = (rules(&json!("sum")), Dice(1));
    for round in 0..TIMES {
        let numbers = [(); 3].map(|()| number(&mut dice, round % 2 == 0));
        let [base, client, server] = [0, 1, 2].map(|at| Some(serde_json::from_str::<Value>(&numbers[at]).unwrap()));
        let (result, conflict) = merged(&rules, &base, &client, &server);
        let expected = if base == client {
            millionths(&numbers[2])
        } else {
            millionths(&numbers[2]) + millionths(&numbers[1]) - millionths(&numbers[0])
        };
        let result = result.unwrap().to_string();
        assert!(!conflict && millionths(&result) == expected, "{numbers:?}: {result} is not {expected} millionths");
    }
    // The classic one.
    assert_eq!(merged(&rules, &Some(json!(0)), &Some(json!(0.1)), &Some(json!(0.2))).0, Some(json!(0.3)));
    // Missing counts as nothing.
    assert_eq!(merged(&rules, &None, &Some(json!(3)), &Some(json!(4))).0, Some(json!(7)));
    assert_eq!(merged(&rules, &Some(json!(5)), &None, &Some(json!(7))).0, Some(json!(2)));
}

#[test]
fn max_and_min_are_never_below_or_above_either_side() {
    let (greatest, least, mut dice) = (rules(&json!("max")), rules(&json!("min")), Dice(2));
    for round in 0..TIMES {
        let numbers = [(); 3].map(|()| number(&mut dice, round % 3 == 0));
        let [base, client, server] = [0, 1, 2].map(|at| Some(serde_json::from_str::<Value>(&numbers[at]).unwrap()));
        let (mine, theirs) = (millionths(&numbers[1]), millionths(&numbers[2]));
        // A value that only one side changed is taken, lower or not.
        let both = base != client && base != server;
        for (rules, expected) in [(&greatest, mine.max(theirs)), (&least, mine.min(theirs))] {
            let (result, conflict) = merged(rules, &base, &client, &server);
            let number = millionths(&result.as_ref().unwrap().to_string());
            assert!(!conflict && (!both || number == expected), "{numbers:?}: {number}");
            assert_eq!(merged(rules, &base, &client, &result).0, result, "again: {numbers:?}");
            if both {
                assert_eq!(merged(rules, &base, &server, &client).0, result, "the other way round: {numbers:?}");
            }
        }
    }
    // Times by their moment, whatever their zone.
    let times = ["2025-01-01T00:30:00+02:00", "2024-12-31T23:00:00Z"].map(|text| Some(json!(text)));
    assert_eq!(merged(&greatest, &None, &times[0], &times[1]).0, times[1]);
    assert_eq!(merged(&least, &None, &times[1], &times[0]).0, times[0]);
    // What cannot be compared is in conflict.
    assert!(merged(&greatest, &None, &Some(json!(1)), &Some(json!("one"))).1);
}

fn letters(dice: &mut Dice, most: usize) -> Vec<Value> {
    let element = |dice: &mut Dice| dice.pick(&[json!("k"), json!("l"), json!("m"), json!(1), json!({"id": 1}), json!(null), json!(true)]);
    (0..dice.roll(most + 1)).map(|_| element(dice)).collect()
}

#[test]
fn a_union_has_what_either_side_has_in_the_servers_order() {
    let (rules, mut dice) = (rules(&json!("union")), Dice(3));
    for _ in 0..TIMES {
        let [base, client, server] = [(); 3].map(|()| letters(&mut dice, 5));
        if base == client || base == server {
            continue;
        }
        let [base, mine, theirs] = [&base, &client, &server].map(|list| Some(json!(list)));
        let (result, conflict) = merged(&rules, &base, &mine, &theirs);
        let all = result.as_ref().unwrap().as_array().unwrap();
        assert!(!conflict && all.starts_with(&server), "{base:?} {client:?} {server:?}: {all:?}");
        assert!(client.iter().all(|element| all.contains(element)), "{base:?} {client:?} {server:?}: {all:?}");
        assert!(all[server.len()..].iter().all(|element| client.contains(element) && !server.contains(element)));
        // Who only added may say it again. (What both sides removed something of, may by chance be what it was before.)
        let before = base.as_ref().unwrap().as_array().unwrap();
        if before.iter().all(|element| client.contains(element)) && client.iter().any(|element| !before.contains(element)) {
            assert_eq!(merged(&rules, &base, &mine, &result).0, result, "again: {base:?} {client:?} {server:?}");
        }
    }
}

#[test]
fn a_union_of_objects_has_every_object_once_with_what_either_side_added_to_it() {
    let (rules, mut dice) = (rules(&json!({ "function": "union", "by": "id" })), Dice(4));
    for _ in 0..TIMES {
        let objects = |dice: &mut Dice, side: &str| {
            let ids: Vec<usize> = (0..4).filter(|_| dice.one_in(2)).collect();
            ids.into_iter().map(|id| json!({ "id": id, "of": "all", side: dice.roll(3) })).collect::<Vec<_>>()
        };
        let base: Vec<Value> = (0..3).filter(|_| dice.one_in(2)).map(|id| json!({ "id": id, "of": "all" })).collect();
        let (client, server) = (objects(&mut dice, "mine"), objects(&mut dice, "theirs"));
        if base == client || base == server {
            continue;
        }
        let [base, mine, theirs] = [&base, &client, &server].map(|list| Some(json!(list)));
        let (result, conflict) = merged(&rules, &base, &mine, &theirs);
        let all = result.as_ref().unwrap().as_array().unwrap();
        let ids = |list: &[Value]| list.iter().map(|object| object["id"].as_u64().unwrap()).collect::<Vec<_>>();
        assert!(!conflict && ids(all).starts_with(&ids(&server)), "{base:?} {client:?} {server:?}: {all:?}");
        for object in client.iter().chain(&server) {
            let found: Vec<&Value> = all.iter().filter(|other| other["id"] == object["id"]).collect();
            assert_eq!(found.len(), 1, "{object}: {all:?}");
            assert!(object.as_object().unwrap().iter().all(|(name, value)| found[0][name] == *value), "{object}: {all:?}");
        }
        assert_eq!(merged(&rules, &base, &mine, &result).0, result, "again: {base:?} {client:?} {server:?}");
    }
}

#[test]
fn append_keeps_the_servers_list_and_puts_what_was_added_behind_it() {
    let (rules, mut dice) = (rules(&json!("append")), Dice(5));
    for _ in 0..TIMES {
        let (base, server, added) = (letters(&mut dice, 4), letters(&mut dice, 5), letters(&mut dice, 3));
        let client = [base.clone(), added.clone()].concat();
        let (result, conflict) = merged(&rules, &Some(json!(base)), &Some(json!(client)), &Some(json!(server)));
        assert!(!conflict);
        assert_eq!(result, Some(json!([server.clone(), added].concat())), "{base:?} {client:?}");
        // A list that does not begin with its base appends nothing.
        if !base.is_empty() && server != base {
            let (kept, conflict) = merged(&rules, &Some(json!(base)), &Some(json!(client[1..])), &Some(json!(server)));
            let still = client[1..].starts_with(&base);
            assert!(conflict != still && (still || kept == Some(json!(server))), "{base:?} {client:?} {server:?}");
        }
    }
}

#[test]
fn a_text_loses_no_line_that_either_side_wrote() {
    let (rules, mut dice) = (rules(&json!("text")), Dice(6));
    let mut contested = 0;
    for round in 0..TIMES {
        let words =
            |dice: &mut Dice, most: usize| (0..dice.roll(most)).map(|_| dice.pick(&["a", "b", "c", "d"]).to_owned()).collect::<Vec<_>>();
        let base = words(&mut dice, 7);
        let mut edit = |side: &str| {
            let mut lines = base.clone();
            for place in 0..1 + dice.roll(3) {
                let at = dice.roll(lines.len() + 1);
                let end = (at + dice.roll(3)).min(lines.len());
                let new: Vec<String> = if dice.one_in(4) { Vec::new() } else { vec![format!("{side} {round} {place}")] };
                lines.splice(at..end, new);
            }
            lines
        };
        let (client, server) = (edit("mine"), edit("theirs"));
        let [base_text, mine, theirs] = [&base, &client, &server].map(|lines| Some(json!(lines.join("\n"))));
        let (result, conflict) = merged(&rules, &base_text, &mine, &theirs);
        let text = result.as_ref().unwrap().as_str().unwrap();
        let lines: Vec<&str> = text.split('\n').collect();
        assert!(!conflict);
        for line in client.iter().chain(&server).filter(|line| !base.contains(line)) {
            assert!(lines.contains(&line.as_str()), "{line:?} is lost: {base:?} {client:?} {server:?} → {text:?}");
        }
        assert_eq!(merged(&rules, &base_text, &mine, &result).0, result, "again: {base:?} {client:?} {server:?}");
        contested += usize::from(client != base && server != base && client != server);
    }
    assert!(contested > TIMES / 2, "{contested}");
}
