//! What schemas accept and say, and that each check ends.

use serde_json::json;

use super::*;
use crate::domain::incoming::Incoming;

fn content(json: &Value) -> Content {
    Incoming::parse(&json.to_string()).unwrap().content
}

fn check(schema: &Value, record: &Value) -> Result<(), String> {
    Schema::compile(schema).unwrap().check(&content(record))
}

/// A list within a list, and so on.
fn nested(depth: usize, inner: Value) -> Value {
    (0..depth).fold(inner, |inner, _| json!([inner]))
}

const TOO_LONG: &str = "the record takes too long to be held against its schema";

#[test]
fn reasons_have_paths() {
    let schema = json!({
        "type": "object",
        "required": ["title"],
        "properties": {
            "age": { "type": "integer", "minimum": 0 },
            "title": { "type": "string", "maxLength": 10, "pattern": "^[A-Z]" },
            "address": { "$ref": "#/$defs/address" },
            "tags": { "items": { "enum": ["a", "b"] }, "uniqueItems": true },
            "day": { "type": "string", "format": "date" },
            "a.b": { "const": [1, { "x": null }] }
        },
        "additionalProperties": false,
        "$defs": { "address": { "properties": { "city": { "type": "string" } }, "required": ["city"] } }
    });
    let schema = Schema::compile(&schema).unwrap();
    for (record, expected) in [
        (json!({"title": "A", "age": 3, "tags": ["a", "b"], "day": "2025-12-18", "a.b": [1.0, {"x": null}]}), None),
        (json!({"title": "A", "age": -1}), Some("age: -1 is less than the minimum of 0")),
        (json!({"title": "a"}), Some("title: \"a\" does not match \"^[A-Z]\"")),
        (json!({"title": "A", "address": {}}), Some("address: \"city\" is a required property")),
        (json!({"title": "A", "address": {"city": 7}}), Some("address.city: 7 is not of type \"string\"")),
        (json!({"title": "A", "address": [1]}), None),
        (json!({"title": "A", "tags": ["a", "c"]}), Some("tags.1: \"c\" is not one of \"a\" or \"b\"")),
        (json!({"title": "A", "tags": ["a", "a"]}), Some("tags: the list has non-unique elements")),
        (json!({"title": "A", "day": "2025-13-18"}), Some("day: \"2025-13-18\" is not a \"date\"")),
        (json!({"title": "A", "a.b": [1, {"x": 0}]}), Some("a\\.b: [1,{\"x\":null}] was expected")),
        (json!({}), Some("the record: \"title\" is a required property")),
        (json!({"title": "A", "other": 1}), Some("the record: Additional properties are not allowed ('other' was unexpected)")),
        (json!({"title": "B".repeat(100)}), Some("title: the text is longer than 10 characters")),
        (json!({"title": 7, "age": 1.5}), Some("age: 1.5 is not of type \"integer\"; title: 7 is not of type \"string\"")),
    ] {
        assert_eq!(schema.check(&content(&record)).err().as_deref(), expected, "{record}");
    }
    let three = schema.check(&content(&json!({"title": 1, "age": "x", "address": {"city": 1}, "tags": [1, 2], "day": 5}))).unwrap_err();
    assert_eq!(three.split("; ").count(), 3, "{three}");
    let many: serde_json::Map<String, Value> = (0..10_000).map(|n| (format!("{n}"), json!(n))).collect();
    assert!(schema.check(&content(&many.into())).unwrap_err().chars().count() < 1_000);
    fn shared<T: Send + Sync + fmt::Debug>(_: &T) {}
    shared(&schema);
}

#[test]
fn both_drafts_and_their_keywords() {
    for (schema, fits, does_not) in [
        (json!(true), json!({}), None),
        (json!({"properties": {"a": false}}), json!({}), Some(json!({"a": 1}))),
        (
            json!({"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"n": {"type": "number"}}, "properties": {"a": {"$ref": "#/definitions/n"}}}),
            json!({"a": 1}),
            Some(json!({"a": ""})),
        ),
        (
            json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://example.com/s", "$ref": "#/$defs/x~1y", "$defs": {"x/y": {"required": ["a"]}}}),
            json!({"a": 1}),
            Some(json!({})),
        ),
        (json!({"$ref": "#n", "$defs": {"n": {"$anchor": "n", "required": ["a"]}}}), json!({"a": 1}), Some(json!({}))),
        (json!({"properties": {"a": {"$ref": "#"}}, "additionalProperties": false}), json!({"a": {"a": {}}}), Some(json!({"a": {"b": 1}}))),
        (json!({"propertyNames": {"pattern": "^[a-z]+$"}}), json!({"abc": 1}), Some(json!({"a1": 1}))),
        (json!({"patternProperties": {"^n_": {"type": "number"}}}), json!({"n_a": 1, "b": ""}), Some(json!({"n_a": ""}))),
        (json!({"if": {"required": ["a"]}, "then": {"required": ["b"]}}), json!({"c": 1}), Some(json!({"a": 1}))),
        (json!({"allOf": [{"properties": {"a": {}}}], "unevaluatedProperties": false}), json!({"a": 1}), Some(json!({"b": 1}))),
        (
            json!({"properties": {"l": {"prefixItems": [{"type": "null"}], "unevaluatedItems": false}}}),
            json!({"l": [null]}),
            Some(json!({"l": [null, 1]})),
        ),
        (
            json!({"properties": {"l": {"contains": {"const": 9007199254740993_i64}, "minContains": 2}}}),
            json!({"l": [9007199254740993_i64, 9007199254740993_i64]}),
            { Some(json!({"l": [9007199254740993_i64, 9007199254740992_i64]})) },
        ),
        (json!({"properties": {"n": {"multipleOf": 0.01, "exclusiveMaximum": 10}}}), json!({"n": 9.99}), Some(json!({"n": 9.999}))),
        (json!({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}), json!({"a": 1}), Some(json!({"a": 1, "b": 1}))),
        (
            json!({"dependentSchemas": {"a": {"required": ["b"]}}, "dependentRequired": {"c": ["d"]}}),
            json!({"b": 1}),
            Some(json!({"c": 1})),
        ),
        (json!({"not": {"required": ["a"]}, "maxProperties": 2}), json!({"b": 1}), Some(json!({"a": 1}))),
        (json!({"properties": {"t": {"maxLength": 2}}}), json!({"t": "é😀"}), Some(json!({"t": "abc"}))),
    ] {
        assert_eq!(check(&schema, &fits), Ok(()), "{schema}");
        if let Some(record) = does_not {
            let error = check(&schema, &record).unwrap_err();
            assert!(!error.contains("too long"), "{schema}: {error}");
        }
    }
}

#[test]
fn schemas_that_are_none_are_refused() {
    let chain = |n: usize| {
        let defs: serde_json::Map<String, Value> =
            (0..n).map(|i| (format!("d{i}"), json!({"allOf": [{"$ref": format!("#/$defs/d{}", i + 1)}]}))).collect();
        let mut defs = Value::Object(defs);
        defs[format!("d{n}")] = json!({});
        json!({"$ref": "#/$defs/d0", "$defs": defs})
    };
    let doubling = |part: &str| {
        let defs: serde_json::Map<String, Value> = (0..14)
            .map(|i| {
                let next = json!({"$ref": format!("#/$defs/d{}", i + 1)});
                (
                    format!("d{i}"),
                    if part == "not" { json!({"not": next.clone(), "if": next}) } else { json!({part: [next.clone(), next]}) },
                )
            })
            .collect();
        let mut defs = Value::Object(defs);
        defs["d14"] = json!(true);
        json!({"$ref": "#/$defs/d0", "$defs": defs})
    };
    let many: Vec<Value> = (0..limits::SCHEMA_NODES).map(|_| json!(true)).collect();
    let patterns: serde_json::Map<String, Value> = (0..=limits::SCHEMA_PATTERNS).map(|n| (format!("^{n}"), json!(true))).collect();
    for (schema, reason) in [
        (json!(7), "the schema is wrong at the record"),
        (json!({"type": "strin"}), "the schema is wrong at type"),
        (json!({"properties": {"a": {"minimum": "x"}}}), "the schema is wrong at properties.a.minimum"),
        (json!({"pattern": "("}), "pattern"),
        (json!({"pattern": "(?=a)b"}), "pattern"),
        (json!({"pattern": "(a)\\1"}), "pattern"),
        (json!({"pattern": "((a{100}){100}){100}"}), "pattern"),
        (json!({"patternProperties": {"(?!a)": true}}), "(?!a)"),
        (json!({"patternProperties": patterns}), "at most 100 patterns"),
        (json!({"$ref": "https://example.com/other.json"}), "is no schema within this document"),
        (json!({"$ref": "file:///etc/passwd"}), "is no schema within this document"),
        (json!({"$ref": "other.json"}), "is no schema within this document"),
        (json!({"$ref": "#/$defs/none"}), "is no schema within this document"),
        (json!({"$ref": "#/enum/0", "enum": [{}]}), "is no schema within this document"),
        (json!({"$ref": 7}), "a $ref is a text"),
        (json!({"$schema": "https://example.com/mine"}), "is neither of"),
        (json!({"$dynamicRef": "#a"}), "$dynamicRef is not supported"),
        (json!({"items": {"$id": "b"}}), "/items: only the whole schema"),
        (json!({"properties": {"a": {"format": "regex"}}}), "/properties/a: the format"),
        (json!({"not": {"enum": ["x".repeat(3_000)]}}), "at most 2048 bytes"),
        (json!({"description": "x".repeat(limits::SCHEMA_BYTES)}), "at most 262144 bytes"),
        (json!({"anyOf": many}), "at most 5000 schemas"),
        (json!({"allOf": (0..2_001).map(|_| json!(true)).collect::<Vec<_>>()}), "at most 2000 schemas"),
        ((0..70).fold(json!(true), |inner, _| json!({"items": inner})), "at most 64 deep"),
        (json!({"$ref": "#"}), "in a circle"),
        (json!({"allOf": [{"anyOf": [{"$ref": "#"}]}]}), "in a circle"),
        (json!({"$ref": "#/$defs/a", "$defs": {"a": {"not": {"$ref": "#/$defs/b"}}, "b": {"if": {"$ref": "#/$defs/a"}}}}), "in a circle"),
        (chain(20), "more than 32 deep"),
        (chain(2_000), "more than 32 deep"),
        (doubling("allOf"), "at most 2000 schemas"),
        (doubling("anyOf"), "at most 2000 schemas"),
        (doubling("oneOf"), "at most 2000 schemas"),
        (doubling("not"), "at most 2000 schemas"),
    ] {
        match Schema::compile(&schema) {
            Err(error) => assert!(error.contains(reason), "{:.200}: {error}", schema.to_string()),
            Ok(_) => panic!("{:.200}", schema.to_string()),
        }
    }
    assert!(Schema::compile(&chain(10)).is_ok());
}

#[test]
fn references_of_parts_may_be_long_and_circular() {
    let defs = |n: usize, keyword: &str| {
        let part = |i: usize| {
            let next = json!({"$ref": format!("#/$defs/d{}", (i + 1) % n)});
            if keyword == "items" { json!({"items": next}) } else { json!({"properties": {"x": next.clone(), "y": next}}) }
        };
        (0..n).map(|i| (format!("d{i}"), part(i))).collect::<serde_json::Map<String, Value>>()
    };
    let run = move || {
        for keyword in ["items", "properties"] {
            let schema = json!({"properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": defs(1_500, keyword)});
            let schema = Schema::compile(&schema).unwrap();
            assert_eq!(schema.check(&content(&json!({"a": nested(60, json!(1))}))), Ok(()));
        }
    };
    std::thread::Builder::new().stack_size(limits::RULES_STACK_BYTES).spawn(run).unwrap().join().unwrap();
}

/// Each of these would take hours, or all memory.
#[test]
fn hostile_schemas_end() {
    let tree = |keyword: &str, leaf: Value, only_lists: bool| {
        let branch =
            if only_lists { json!({"type": "array", "items": {"$ref": "#/$defs/a"}}) } else { json!({"items": {"$ref": "#/$defs/a"}}) };
        let mut list = vec![branch; 8];
        list.push(leaf);
        json!({"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {keyword: list}}})
    };
    let deep = json!({"a": nested(62, json!(1))});
    let wide = json!({"a": (0..20_000).collect::<Vec<u32>>()});
    let objects = json!({"a": vec![json!({"x": 1_999}); 2_000]});
    let members: serde_json::Map<String, Value> = (0..20_000).map(|n| (format!("member{n}"), json!(n))).collect();
    let members = Value::Object(members);
    let text = json!({"a": "a".repeat(500_000)});
    let options: Vec<Value> = (0..2_000).map(|n| json!({"x": n})).collect();
    let silent: Vec<Value> = (0..1_900).map(|_| json!({})).collect();
    let unevaluated: Vec<Value> = (0..300).map(|n| json!({"properties": {format!("p{n}"): true}})).collect();
    let patterns: serde_json::Map<String, Value> = (0..100).map(|n| (format!("^(m.*){{1,9}}{n}$"), json!(true))).collect();
    let ends = |schema: Value, record: &Value, expected: &[&str]| {
        let result = check(&schema, record);
        let found = result.as_ref().err().map_or("fits", String::as_str);
        assert!(expected.iter().any(|expected| found.contains(expected)), "{:.200}: {found}", schema.to_string());
    };
    let run = move || {
        for keyword in ["anyOf", "oneOf", "allOf"] {
            let fits = if keyword == "anyOf" { "fits" } else { "a" };
            ends(tree(keyword, json!({"type": "string"}), false), &deep, &[TOO_LONG, fits]);
            ends(tree(keyword, json!(true), false), &deep, &[TOO_LONG, if keyword == "oneOf" { "a" } else { "fits" }]);
            // Without a branch that fits, reasons are collected from all of them.
            ends(tree(keyword, json!(false), true), &deep, &[TOO_LONG, "a"]);
        }
        ends(json!({"properties": {"a": {"items": {"enum": options.clone()}}}}), &objects, &[TOO_LONG]);
        ends(json!({"properties": {"a": {"items": {"allOf": silent}}}}), &wide, &[TOO_LONG, "fits"]);
        ends(json!({"allOf": unevaluated, "unevaluatedProperties": false}), &members, &[TOO_LONG, "the record"]);
        ends(json!({"patternProperties": patterns.clone(), "additionalProperties": false}), &members, &[TOO_LONG, "the record"]);
        ends(
            json!({"propertyNames": {"anyOf": patterns.keys().map(|p| json!({"pattern": p})).collect::<Vec<_>>()}}),
            &members,
            &[TOO_LONG, "the record"],
        );
        ends(
            json!({"properties": {"a": {"anyOf": patterns.keys().map(|p| json!({"pattern": p})).collect::<Vec<_>>()}}}),
            &text,
            &[TOO_LONG, "a"],
        );
        ends(json!({"properties": {"a": {"pattern": "^(a|aa)+$"}}}), &text, &["fits"]);
        ends(json!({"properties": {"a": {"pattern": "(a.*){1,50}b$"}}}), &text, &["a: the text does not match"]);
        ends(json!({"properties": {"a": {"items": {"type": "string"}}}}), &wide, &["a.0: 0 is not of type"]);
        ends(json!({"properties": {"a": {"items": false}}}), &wide, &["a"]);
        let contains: Vec<Value> = (0..500).map(|n| json!({"contains": {"const": -1 - n}})).collect();
        ends(json!({"properties": {"a": {"allOf": contains}}}), &wide, &[TOO_LONG, "a"]);
    };
    std::thread::Builder::new().stack_size(limits::RULES_STACK_BYTES).spawn(run).unwrap().join().unwrap();
}

#[test]
fn unique_items_is_not_fooled() {
    let schema = Schema::compile(&json!({"properties": {"l": {"uniqueItems": true}}})).unwrap();
    // All these have the same leaves, and so the same hash where structure is not hashed.
    let mut shapes: Vec<Value> = vec![json!(1)];
    while shapes.len() < 20_000 {
        let grown: Vec<Value> = shapes.iter().flat_map(|shape| [json!([shape]), json!([[], shape])]).collect();
        shapes = grown;
    }
    let mut list = json!({"l": shapes});
    assert_eq!(schema.check(&content(&list)), Ok(()));
    list["l"][0] = list["l"][9].clone();
    assert_eq!(schema.check(&content(&list)), Err("l: the list has non-unique elements".into()));
    for (list, unique) in [
        (json!([1, 1.0]), false),
        (json!([1, "1", true, null, [], {}]), true),
        (json!([{"a": 1, "b": 2}, {"b": 2, "a": 1}]), false),
        (json!([9007199254740993_i64, 9007199254740992_i64]), true),
        (json!([0, -0.0]), false),
        (json!([]), true),
    ] {
        assert_eq!(schema.check(&content(&json!({"l": list}))).is_ok(), unique, "{list}");
    }
}

#[test]
fn an_honest_record_of_any_size_is_checked() {
    let line = json!({"sku": "A-1", "count": 2, "price": 12.5, "note": null});
    let schema = json!({
        "type": "object",
        "required": ["lines"],
        "properties": { "lines": { "type": "array", "items": { "$ref": "#/$defs/line" } }, "text": { "type": "string", "pattern": "^.*$" } },
        "$defs": { "line": {
            "type": "object",
            "properties": {
                "sku": { "type": "string", "pattern": "^[A-Z]-[0-9]+$" },
                "count": { "type": "integer", "minimum": 1 },
                "price": { "oneOf": [{ "type": "null" }, { "type": "number", "minimum": 0 }] },
                "note": { "type": ["string", "null"] }
            },
            "required": ["sku", "count"],
            "additionalProperties": false
        } }
    });
    let schema = Schema::compile(&schema).unwrap();
    let mut record = json!({"lines": vec![line; 19_000]});
    let size = content(&record).text().len();
    assert!((900_000..limits::RECORD_BYTES).contains(&size), "{size}");
    assert_eq!(schema.check(&content(&record)), Ok(()));
    record["lines"][18_999]["count"] = json!(0);
    assert_eq!(schema.check(&content(&record)), Err("lines.18999.count: 0 is less than the minimum of 1".into()));
    assert_eq!(schema.check(&content(&json!({"lines": [], "text": "x".repeat(1_000_000)}))), Ok(()));
    let numbers = Schema::compile(&json!({"properties": {"l": {"items": {"type": "integer", "minimum": 0, "maximum": 9}}}})).unwrap();
    assert_eq!(numbers.check(&content(&json!({"l": vec![0; 500_000]}))), Ok(()));
    assert!(numbers.check(&content(&json!({"l": vec![10; 300_000]}))).unwrap_err().starts_with("l.0: 10 is greater than the maximum of 9"));
}
