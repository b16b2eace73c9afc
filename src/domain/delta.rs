//! What differs between a record as a client has it and as the server has it, field by field, and what both sides changed.

use std::borrow::Cow;

use super::record::{Content, compare, unquote};

/// A field that differs. Values are canonical JSON; absent and null are the same.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference<'a> {
    /// The field's plain name.
    pub name: Cow<'a, str>,
    /// The client's value.
    pub client: Option<&'a str>,
    /// The server's value.
    pub server: Option<&'a str>,
    /// Both sides changed it, each in its own way.
    pub conflict: bool,
}

/// Compares the fields that a client sent with the server's record, in canonical order.
///
/// `base` is what the client began from, `None` where that is unknown. A field that the client did not send is as it was
/// there. Without a base nobody can say who changed what: what was sent and differs is in conflict, and what was not sent
/// is given as the server has it.
pub fn differences<'a>(base: Option<&'a Content>, client: &'a Content, server: &'a Content) -> Vec<Difference<'a>> {
    let mut sides = [Some(client), Some(server), base].map(|side| side.into_iter().flat_map(Content::fields).peekable());
    let mut found = Vec::new();
    loop {
        let next = sides.iter_mut().filter_map(|side| side.peek().map(|field| field.0));
        let Some(name) = next.min_by(|a, b| compare(a, b)) else { return found };
        let [sent, theirs, began] = sides.each_mut().map(|side| side.next_if(|field| field.0 == name).map(|field| field.1));
        let [theirs, began] = [theirs, began].map(value);
        let ours = if sent.is_some() { value(sent) } else { began };
        if ours != theirs {
            let conflict = sent.is_some() && (base.is_none() || (ours != began && theirs != began));
            found.push(Difference { name: unquote(name), client: ours, server: theirs, conflict });
        }
    }
}

fn value(text: Option<&str>) -> Option<&str> {
    text.filter(|text| *text != "null")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(json: &str) -> Content {
        Content::from_value(&serde_json::from_str(json).unwrap()).unwrap()
    }

    /// Name, client, server, conflict; one field a line.
    fn lines(base: Option<&str>, client: &str, server: &str) -> Vec<String> {
        let (base, client, server) = (base.map(content), content(client), content(server));
        let line = |one: Difference<'_>| {
            let text = |value: Option<&str>| value.unwrap_or("-").to_owned();
            format!("{} {} {}{}", one.name, text(one.client), text(one.server), if one.conflict { " !" } else { "" })
        };
        differences(base.as_ref(), &client, &server).into_iter().map(line).collect()
    }

    #[test]
    fn who_changed_what() {
        for (base, client, server, expected) in [
            // Alike.
            (Some("{}"), "{}", "{}", &[][..]),
            (Some(r#"{"a":1}"#), r#"{"a":2}"#, r#"{"a":2}"#, &[]),
            (None, r#"{"a":[1,{"b":2}]}"#, r#"{"a":[1,{"b":2}]}"#, &[]),
            // Absent and null are one.
            (Some("{}"), r#"{"a":null}"#, "{}", &[]),
            (Some(r#"{"a":null}"#), r#"{"a":null}"#, "{}", &[]),
            (Some(r#"{"a":null}"#), "{}", r#"{"a":null}"#, &[]),
            // One side, the other, both.
            (Some(r#"{"a":1}"#), r#"{"a":2}"#, r#"{"a":1}"#, &["a 2 1"]),
            (Some(r#"{"a":1}"#), r#"{"a":1}"#, r#"{"a":2}"#, &["a 1 2"]),
            (Some(r#"{"a":1}"#), r#"{"a":3}"#, r#"{"a":2}"#, &["a 3 2 !"]),
            // Removed by one, changed by the other.
            (Some(r#"{"a":1}"#), r#"{"a":null}"#, r#"{"a":1}"#, &["a - 1"]),
            (Some(r#"{"a":1}"#), r#"{"a":null}"#, r#"{"a":2}"#, &["a - 2 !"]),
            (Some(r#"{"a":1}"#), r#"{"a":2}"#, "{}", &["a 2 - !"]),
            (Some(r#"{"a":1}"#), r#"{"a":null}"#, "{}", &[]),
            // Not sent.
            (Some(r#"{"a":1}"#), "{}", r#"{"a":1}"#, &[]),
            (Some(r#"{"a":1}"#), "{}", r#"{"a":2}"#, &["a 1 2"]),
            (Some(r#"{"a":1}"#), "{}", "{}", &["a 1 -"]),
            (Some("{}"), "{}", r#"{"a":2}"#, &["a - 2"]),
            // Nothing is known.
            (None, r#"{"a":1}"#, r#"{"a":2,"b":3,"c":null}"#, &["a 1 2 !", "b - 3"]),
            (None, r#"{"a":1}"#, "{}", &["a 1 - !"]),
        ] {
            assert_eq!(lines(base, client, server), expected, "{base:?} {client} {server}");
        }
    }

    #[test]
    fn canonical_order_over_all_three() {
        let found = lines(Some(r#"{"ﬀ":1,"b":1}"#), r#"{"😀":1,"a":1}"#, r#"{"b":2,"c":1}"#);
        assert_eq!(found, ["a 1 -", "b 1 2", "c - 1", "😀 1 -", "ﬀ 1 -"]);
    }
}
