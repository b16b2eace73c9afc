//! In which paths contents differ: what a person looks at before deciding a conflict, and what a version changed.

use crate::domain::merge;
use crate::domain::path;
use crate::domain::record::{Content, unquote};
use crate::domain::rules::TableRules;

/// The paths in which two contents differ, in canonical order. Objects that both have are compared by what is in them; lists
/// are one value.
pub fn paths(one: &Content, other: &Content) -> Vec<String> {
    let mut found = Vec::new();
    walk("", one, other, &mut found);
    found
}

fn walk(outer: &str, one: &Content, other: &Content, found: &mut Vec<String>) {
    for (name, here, there, _) in one.beside(other, None) {
        if here == there {
            continue;
        }
        let path = path::join(outer, &unquote(name));
        match (object(here), object(there)) {
            (Some(here), Some(there)) => walk(&path, &here, &there, found),
            _ => found.push(path),
        }
    }
}

fn object(value: Option<&str>) -> Option<Content> {
    value.filter(|text| text.starts_with('{')).map(|text| Content::trusted(text.to_owned()))
}

/// What differs at a path: canonical values, `None` where a side has nothing there.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference {
    /// The path.
    pub path: String,
    /// What the edit began from.
    pub base: Option<String>,
    /// The change's value.
    pub client: Option<String>,
    /// The server's value.
    pub server: Option<String>,
    /// `client`, `server` or `both`.
    pub changed_by: &'static str,
    /// Its place among the paths in conflict.
    pub conflict: Option<usize>,
}

/// What two sides made of a base, for the paths in conflict and for all others that differ. A side without content was
/// deleted: then it is shown what the other one made of the base. On an unknown base both count as having changed what
/// differs.
pub fn between(
    rules: &TableRules,
    base: Option<&Content>,
    client: Option<&Content>,
    server: Option<&Content>,
    conflicts: &[String],
) -> Vec<Difference> {
    let nothing = Content::default();
    let mut all: Vec<String> = conflicts.iter().filter(|path| *path != path::WHOLE).cloned().collect();
    let others = match (client, server) {
        (Some(client), Some(server)) => paths(client, server),
        (Some(one), None) | (None, Some(one)) => paths(base.unwrap_or(&nothing), one),
        (None, None) => Vec::new(),
    };
    // What lies within a path in conflict is shown there.
    let within = |path: &str| path::outer(path).chain([path]).any(|path| conflicts.iter().any(|conflict| conflict == path));
    all.extend(others.into_iter().filter(|path| !within(path)));
    let value = |side: Option<&Content>, path: &str| side.and_then(|content| merge::at(rules, content, path));
    let difference = |path: String| {
        let [began, ours, theirs] = [base, client, server].map(|side| value(side, &path));
        let changed = |side: Option<&Content>, value: &Option<String>| side.is_some() && (base.is_none() || *value != began);
        let changed_by = match (changed(client, &ours), changed(server, &theirs)) {
            (true, false) => "client",
            (false, true) => "server",
            _ => "both",
        };
        let conflict = conflicts.iter().position(|conflict| *conflict == path);
        Difference { base: began, client: ours, server: theirs, changed_by, conflict, path }
    };
    all.into_iter().map(difference).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(json: &str) -> Content {
        Content::from_value(&serde_json::from_str(json).unwrap()).unwrap()
    }

    #[test]
    fn by_path() {
        for (one, other, expected) in [
            ("{}", "{}", ""),
            (r#"{"a":1,"b":2}"#, r#"{"a":1,"c":2}"#, "b c"),
            (r#"{"o":{"x":1,"y":{"z":1}}}"#, r#"{"o":{"x":1,"y":{"z":2}}}"#, "o.y.z"),
            (r#"{"o":{"x":1}}"#, r#"{"o":1}"#, "o"),
            (r#"{"l":[{"x":1}]}"#, r#"{"l":[{"x":2}]}"#, "l"),
            (r#"{"a.b":1,"*":1}"#, "{}", r"\* a\.b"),
            (r#"{"o":{}}"#, r#"{"o":{"x":null}}"#, "o.x"),
        ] {
            assert_eq!(paths(&content(one), &content(other)).join(" "), expected, "{one} {other}");
        }
    }

    /// A line for each difference: path, base, client, server, who changed it, whether it is in conflict.
    fn lines(base: &str, client: &str, server: &str, conflicts: &[&str]) -> Vec<String> {
        let [base, client, server] = [base, client, server].map(|text| (!text.is_empty()).then(|| content(text)));
        let conflicts: Vec<String> = conflicts.iter().map(ToString::to_string).collect();
        let all = between(&TableRules::default(), base.as_ref(), client.as_ref(), server.as_ref(), &conflicts);
        let text = |value: Option<String>| value.unwrap_or_else(|| "-".into());
        let line = |one: Difference| {
            let mark = if one.conflict.is_some() { " !" } else { "" };
            format!("{} {} {} {} {}{mark}", one.path, text(one.base), text(one.client), text(one.server), one.changed_by)
        };
        all.into_iter().map(line).collect()
    }

    #[test]
    fn who_changed_what() {
        let base = r#"{"a":1,"b":1,"o":{"x":1,"y":1}}"#;
        let found =
            lines(base, r#"{"a":2,"b":2,"o":{"x":2,"y":1}}"#, r#"{"a":3,"b":1,"c":9007199254740993,"o":{"x":3,"y":2}}"#, &["a", "o.x"]);
        assert_eq!(found, ["a 1 2 3 both !", "o.x 1 2 3 both !", "b 1 2 1 client", "c - - 9007199254740993 server", "o.y 1 1 2 server"]);
        // A whole that is in conflict shows what lies in it once.
        assert_eq!(lines(base, r#"{"o":{"x":2}}"#, r#"{"o":{"x":3}}"#, &["o"]), [r#"o {"x":1,"y":1} {"x":2} {"x":3} both !"#]);
        // An unknown base.
        assert_eq!(lines("", r#"{"a":1,"b":1}"#, r#"{"a":1,"b":2}"#, &["b"]), ["b - 1 2 both !"]);
        // A delete, and what it would lose.
        assert_eq!(lines(r#"{"a":1,"b":1}"#, "", r#"{"a":1,"b":2}"#, &["*"]), ["b 1 - 2 server"]);
        assert_eq!(lines("", r#"{"a":1}"#, "", &["*"]), ["a - 1 - client"]);
    }
}
