//! Bringing two edits of one record together: the three-way comparison and JSON Merge Patch.
//!
//! Merge functions per field (`max`, `sum`, `union`, …) will live here; today every table compares whole records.

use serde_json::{Map, Value};

use super::record::Content;

/// What came of laying a change over the server's record.
#[derive(Debug, PartialEq, Eq)]
pub struct Merge {
    /// The record, with the server's value in every conflicting field.
    pub result: Content,
    /// Fields in conflict, in canonical order.
    pub conflicts: Vec<String>,
}

/// Lays the client's content over the server's.
///
/// `base` is what the client's edit began from, `None` where that is unknown. `others`: somebody else changed the record since.
/// At record granularity every differing field is then in conflict; otherwise a field that the client left alone keeps
/// the server's value, and one that the client changed is in conflict only if the server's is neither the base nor the same.
pub fn three_way(base: Option<&Content>, client: &Content, server: &Content, others: bool) -> Merge {
    let differing = client.differences(server);
    let Some(base) = base.filter(|_| !others) else {
        return Merge { result: server.clone(), conflicts: differing };
    };
    let (mut result, mut conflicts) = (server.clone(), Vec::new());
    for name in differing {
        let (ours, theirs, began) = (client.field(&name), server.field(&name), base.field(&name));
        if ours == began {
            continue;
        }
        if theirs == began { result = take(&result, &name, ours) } else { conflicts.push(name) }
    }
    Merge { result, conflicts }
}

/// Content with one field set to a canonical value, or removed.
pub fn take(content: &Content, name: &str, value: Option<&str>) -> Content {
    match value {
        Some(value) => content.with(name, value),
        None => {
            let quoted = super::record::quote(name);
            Content::from_fields(content.fields().filter(|(n, _)| *n != quoted))
        }
    }
}

/// RFC 7396: null removes, objects merge, everything else replaces.
pub fn patch(target: &Content, patch: &Content) -> Result<Content, String> {
    let read = |content: &Content| serde_json::from_str::<Value>(content.text()).map_err(|e| e.to_string());
    let mut value = read(target)?;
    apply(&mut value, read(patch)?);
    Content::from_value(&value)
}

fn apply(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(&name);
        } else {
            apply(target.entry(name).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(json: &str) -> Content {
        Content::from_value(&serde_json::from_str(json).unwrap()).unwrap()
    }

    /// The examples of RFC 7396, appendix A, that have an object on both sides.
    #[test]
    fn merge_patch() {
        for (target, change, expected) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"a":1,"e":null}"#),
            ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ] {
            assert_eq!(patch(&content(target), &content(change)).unwrap().text(), expected);
        }
    }

    #[test]
    fn three_ways() {
        let (base, client, server) = (content(r#"{"a":1,"b":1}"#), content(r#"{"a":2}"#), content(r#"{"a":1,"b":1,"c":1}"#));
        let alone = three_way(Some(&base), &client, &server, false);
        assert_eq!((alone.result.text(), alone.conflicts.len()), (r#"{"a":2,"c":1}"#, 0));
        let others = three_way(Some(&base), &client, &server, true);
        assert_eq!((others.result.text(), others.conflicts), (server.text(), vec!["a".into(), "b".into(), "c".into()]));
        assert_eq!(three_way(None, &client, &server, false).conflicts.len(), 3);
    }
}
