//! Bringing two edits of one record together: the three-way merge, field by field, and JSON Merge Patch.
//!
//! What a table's functions do with two values is in `functions`, texts are merged in `lines`. Who wins a conflict is not
//! decided here.

mod functions;
mod lines;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::path;
use super::record::{Content, unquote};
use super::rules::{Function, Granularity, TableRules};

pub use functions::is_number;

/// What came of laying a change over the server's record.
#[derive(Debug, PartialEq, Eq)]
pub struct Merge {
    /// The record, with the server's value in everything that is in conflict.
    pub result: Content,
    /// Paths in conflict, in canonical order.
    pub conflicts: Vec<String>,
}

/// Lays the client's content over the server's.
///
/// `base` is what the client's edit began from, `None` where that is unknown. `others`: somebody else changed the record since.
/// At record granularity every differing field is then in conflict, but for those with a merge function. Otherwise a field that
/// the client left alone keeps the server's value, one that only the client changed takes the client's, and objects that both
/// changed are merged by path. On an unknown base all that differs is in conflict, but for what functions can join without one.
pub fn three_way(rules: &TableRules, base: Option<&Content>, client: &Content, server: &Content, others: bool) -> Merge {
    let whole = others && rules.granularity == Granularity::Record;
    let mut merging = Merging { rules, whole, conflicts: Vec::new() };
    let result = merging.object("", base.map(Some), client, server);
    Merge { result, conflicts: merging.conflicts }
}

/// Did the change move a field whose function counts from the base? A missing value counts as null does. On an unknown base
/// every such field counts that the client has (of a patch those that it names), or that differs from the server's.
pub fn moves_delta(rules: &TableRules, base: Option<&Content>, client: &Content, server: &Content, patch: Option<&Content>) -> bool {
    let value = |content: &Content, path: &str| at(rules, content, path).filter(|value| value != "null");
    let mut deltas = rules.merge.iter().filter(|(_, function)| function.is_delta()).map(|(path, _)| path.as_str());
    deltas.any(|path| {
        let named = || patch.map_or_else(|| value(client, path).is_some(), |patch| at(rules, patch, path).is_some());
        match base {
            Some(base) => value(base, path) != value(client, path),
            None => named() || value(client, path) != value(server, path),
        }
    })
}

/// What the edit began from: `None` unknown, else the value there.
type Began<'a> = Option<Option<&'a str>>;

struct Merging<'a> {
    rules: &'a TableRules,
    /// All that differs is in conflict.
    whole: bool,
    conflicts: Vec<String>,
}

impl Merging<'_> {
    fn object(&mut self, outer: &str, base: Option<Option<&Content>>, client: &Content, server: &Content) -> Content {
        let mut fields: Vec<(&str, Cow<'_, str>)> = Vec::with_capacity(server.len());
        for (name, ours, theirs, began) in client.beside(server, base.flatten()) {
            let began = base.map(|_| began);
            if ours == theirs && (began.is_none() || began == Some(ours)) {
                fields.extend(theirs.map(|value| (name, value.into())));
                continue;
            }
            let path = path::join(outer, &unquote(name));
            fields.extend(self.field(&path, began, ours, theirs).map(|value| (name, value)));
        }
        Content::from_fields(fields.iter().map(|(name, value)| (*name, &**value)))
    }

    fn field<'a>(&mut self, path: &str, began: Began<'a>, ours: Option<&'a str>, theirs: Option<&'a str>) -> Option<Cow<'a, str>> {
        let (ours_too, theirs_too) = (ours.map(Cow::Borrowed), theirs.map(Cow::Borrowed));
        let function = self.rules.merge.get(path);
        let mine = began.map_or(ours != theirs, |began| ours != began);
        match function {
            Some(Function::Derived) => return theirs_too.or(ours_too),
            Some(function) if function.is_delta() => {
                let (Some(began), true) = (began, mine) else {
                    if mine {
                        self.conflicts.push(path.to_owned());
                    }
                    return theirs_too;
                };
                let alone = theirs == began;
                if alone && !self.whole {
                    return ours_too;
                }
                if !alone && functions::present(ours) == functions::present(began) {
                    return theirs_too;
                }
                return match functions::moved(function, began, ours, theirs) {
                    Some(_) if alone => ours_too,
                    Some(value) => Some(value.into()),
                    None => self.conflict(path, theirs),
                };
            }
            _ => {}
        }
        if ours == theirs {
            // Equal objects are not the same deed where both sides moved a counter within them.
            let within = if function.is_none() && mine && self.counts_below(path) { self.opened(path, began, ours, theirs) } else { None };
            return within.map(Cow::Owned).or(theirs_too);
        }
        let alone = began.is_some() && !self.whole;
        if alone && !mine {
            return theirs_too;
        }
        if alone && Some(theirs) == began {
            return ours_too;
        }
        let both = functions::present(ours).is_some() && functions::present(theirs).is_some();
        let value = match function {
            None if self.opens(path) => self.opened(path, began, ours, theirs).map(Some),
            None | Some(Function::Rule(_)) => None,
            Some(Function::Union { by: Some(by) }) if both => self.united(path, by, began, ours, theirs).map(Some),
            Some(function) => functions::joined(function, began, ours, theirs),
        };
        match value {
            Some(value) => value.map(Cow::Owned),
            None => self.conflict(path, theirs),
        }
    }

    /// Objects merged by path. `None`: one side has none, or what the edit began from was none.
    fn opened(&mut self, path: &str, began: Began<'_>, ours: Option<&str>, theirs: Option<&str>) -> Option<String> {
        let (client, server) = (object(ours)?, object(theirs)?);
        let base = match began.map(functions::present) {
            Some(Some(value)) => Some(Some(object(Some(value))?)),
            Some(None) => Some(None),
            None => None,
        };
        Some(self.object(path, base.as_ref().map(Option::as_ref), &client, &server).into_text())
    }

    fn conflict<'a>(&mut self, path: &str, theirs: Option<&'a str>) -> Option<Cow<'a, str>> {
        self.conflicts.push(path.to_owned());
        theirs.map(Cow::Borrowed)
    }

    /// Are objects at this path compared by what is in them?
    fn opens(&self, path: &str) -> bool {
        !self.whole || self.below(path).next().is_some()
    }

    /// Is there a function within this path that counts from the base?
    fn counts_below(&self, path: &str) -> bool {
        self.below(path).any(Function::is_delta)
    }

    /// The functions of fields within a path.
    fn below(&self, path: &str) -> impl Iterator<Item = &Function> {
        self.rules.merge.iter().filter(move |(key, _)| path::outer(key).any(|outer| outer == path)).map(|(_, function)| function)
    }

    /// Arrays whose objects are matched by a member and merged as records; the server's order, then what the client added.
    /// `None`: one side has no array.
    fn united(&mut self, path: &str, by: &str, began: Began<'_>, ours: Option<&str>, theirs: Option<&str>) -> Option<String> {
        let (client, server) = (functions::list_of(ours)?, functions::list_of(theirs)?);
        let base = began.map(|began| functions::list_of(began).unwrap_or_default());
        let by_key = |elements: &[&str]| {
            let keyed = elements.iter().rev().filter_map(|element| Some((key(element, by)?, (*element).to_owned())));
            keyed.collect::<HashMap<String, String>>()
        };
        let (ours, began) = (by_key(&client), base.as_deref().map(by_key));
        let (mut out, mut seen) = (Vec::with_capacity(server.len() + 4), HashSet::new());
        let mut first = |element: &str| seen.insert(key(element, by).ok_or_else(|| element.to_owned()));
        for element in &server {
            let key = key(element, by).filter(|_| first(element));
            match key.as_ref().and_then(|key| Some((key, ours.get(key)?))) {
                Some((key, mine)) => {
                    let path = path::join(path, &name_of(key));
                    let began = began.as_ref().map(|began| began.get(key).map(String::as_str));
                    out.extend(self.field(&path, began, Some(mine), Some(element)).map(Cow::into_owned));
                }
                None => {
                    first(element);
                    out.push((*element).to_owned());
                }
            }
        }
        out.extend(client.iter().filter(|element| first(element)).map(|element| (*element).to_owned()));
        Some(functions::list(out))
    }
}

/// The member of an element by which it is matched, as canonical JSON.
fn key(element: &str, by: &str) -> Option<String> {
    object(Some(element))?.value(by).map(str::to_owned)
}

/// A key as a step of a path: a text without its quotes, unless it would look like another kind of key.
fn name_of(key: &str) -> Cow<'_, str> {
    if !key.starts_with('"') {
        return Cow::Borrowed(key);
    }
    let plain = unquote(key);
    let alike = plain.starts_with(['"', '[', '{', '-', 't', 'f', 'n']) || plain.starts_with(|first: char| first.is_ascii_digit());
    if alike && serde_json::from_str::<serde::de::IgnoredAny>(&plain).is_ok() || plain.starts_with('"') {
        Cow::Borrowed(key)
    } else {
        plain
    }
}

fn object(value: Option<&str>) -> Option<Content> {
    value.filter(|text| text.starts_with('{')).map(|text| Content::trusted(text.to_owned()))
}

/// The value at a path; `None` where there is none.
pub fn at(rules: &TableRules, content: &Content, path: &str) -> Option<String> {
    // Most paths are one plain name.
    if !path.contains(['.', '\\']) {
        return content.field(path).map(str::to_owned);
    }
    let (mut value, mut walked) = (None::<String>, String::new());
    for (place, step) in path::steps(path).iter().enumerate() {
        let next = match (&value, rules.merge.get(&walked)) {
            (None, _) if place == 0 => content.field(step).map(str::to_owned),
            (Some(list), Some(Function::Union { by: Some(by) })) => functions::elements(list)?
                .into_iter()
                .find(|element| key(element, by).is_some_and(|key| name_of(&key) == *step))
                .map(str::to_owned),
            (Some(inner), _) => object(Some(inner))?.field(step).map(str::to_owned),
            (None, _) => None,
        };
        value = Some(next?);
        walked = path::join(&walked, step);
    }
    value
}

/// A content with the values at some paths as they are in another one.
#[must_use]
pub fn take<'a>(rules: &TableRules, content: &Content, paths: impl IntoIterator<Item = &'a String>, from: &Content) -> Content {
    let steps: Vec<Vec<String>> = paths.into_iter().map(|path| path::steps(path)).collect();
    taken_fields(rules, "", content, from, &grouped(steps.iter().map(Vec::as_slice)))
}

/// Paths by their first step: what is left of each.
type Steps<'a> = HashMap<&'a str, Vec<&'a [String]>>;

fn grouped<'a>(paths: impl Iterator<Item = &'a [String]>) -> Steps<'a> {
    let mut grouped = Steps::new();
    for path in paths {
        if let Some((first, rest)) = path.split_first() {
            grouped.entry(first.as_str()).or_default().push(rest);
        }
    }
    grouped
}

fn taken_fields(rules: &TableRules, walked: &str, into: &Content, from: &Content, steps: &Steps<'_>) -> Content {
    let fields = into.beside(from, None).filter_map(|(name, ours, theirs, _)| {
        let plain = unquote(name);
        let value = match steps.get(&*plain) {
            Some(rest) => taken(rules, &path::join(walked, &plain), ours, theirs, rest)?,
            None => Cow::Borrowed(ours?),
        };
        Some((name, value))
    });
    let fields: Vec<(&str, Cow<'_, str>)> = fields.collect();
    Content::from_fields(fields.iter().map(|(name, value)| (*name, &**value)))
}

fn taken<'a>(rules: &TableRules, walked: &str, into: Option<&'a str>, from: Option<&'a str>, paths: &[&[String]]) -> Option<Cow<'a, str>> {
    if paths.iter().any(|path| path.is_empty()) {
        return from.map(Cow::Borrowed);
    }
    let steps = grouped(paths.iter().copied());
    if let (Some(target), Some(source)) = (object(into), object(from)) {
        return Some(taken_fields(rules, walked, &target, &source, &steps).into_text().into());
    }
    let lists = (into.and_then(functions::elements), from.and_then(functions::elements));
    let ((Some(target), Some(source)), Some(Function::Union { by: Some(by) })) = (lists, rules.merge.get(walked)) else {
        return from.map(Cow::Borrowed);
    };
    let name = |element: &str| key(element, by).map(|key| name_of(&key).into_owned());
    let mut theirs: HashMap<String, &str> = source.iter().rev().filter_map(|element| Some((name(element)?, *element))).collect();
    let (mut list, mut met): (Vec<Cow<'_, str>>, HashSet<String>) = (Vec::with_capacity(target.len()), HashSet::new());
    for element in target {
        // Of several with one name the first is compared, and the first is taken.
        let first = name(element).filter(|name| met.insert(name.clone()));
        match first.and_then(|name| Some((steps.get(name.as_str())?, name))) {
            Some((rest, name)) => list.extend(taken(rules, &path::join(walked, &name), Some(element), theirs.remove(&name), rest)),
            None => list.push(element.into()),
        }
    }
    // What only the other side has stands behind.
    list.extend(
        source
            .into_iter()
            .filter(|element| name(element).is_some_and(|name| steps.contains_key(name.as_str()) && theirs.remove(&name).is_some()))
            .map(Cow::Borrowed),
    );
    Some(functions::list(list).into())
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

/// A content without what a merge patch names.
pub fn without(content: &Content, patch: &Content) -> Content {
    let mut left: Vec<(&str, Cow<'_, str>)> = Vec::with_capacity(content.len());
    for (name, value, named, _) in content.beside(patch, None) {
        match (value, named) {
            (Some(value), None) => left.push((name, value.into())),
            (Some(value), Some(named)) => {
                if let (Some(inner), Some(patch)) = (object(Some(value)), object(Some(named))) {
                    left.push((name, without(&inner, &patch).into_text().into()));
                }
            }
            (None, _) => {}
        }
    }
    Content::from_fields(left.iter().map(|(name, value)| (*name, &**value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::rules::Rule;

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

    fn rules(granularity: Granularity, merge: &[(&str, Function)]) -> TableRules {
        let merge = merge.iter().map(|(path, function)| ((*path).to_owned(), function.clone())).collect();
        TableRules { granularity, merge, ..TableRules::default() }
    }

    /// Result and conflicts of a merge; an empty base text is an unknown base.
    fn merged(rules: &TableRules, base: &str, client: &str, server: &str) -> String {
        let base = (!base.is_empty()).then(|| content(base));
        let merge = three_way(rules, base.as_ref(), &content(client), &content(server), true);
        let conflicts = if merge.conflicts.is_empty() { String::new() } else { format!(" ! {}", merge.conflicts.join(" ")) };
        format!("{}{conflicts}", merge.result.text())
    }

    #[test]
    fn by_field_and_by_path() {
        let plain = rules(Granularity::Field, &[]);
        for (base, client, server, expected) in [
            (r#"{"a":1,"b":1}"#, r#"{"a":2,"b":1}"#, r#"{"a":1,"b":2}"#, r#"{"a":2,"b":2}"#),
            (r#"{"a":1,"b":1}"#, r#"{"a":2}"#, r#"{"a":1,"b":1,"c":1}"#, r#"{"a":2,"c":1}"#),
            (r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":3}"#, r#"{"a":3} ! a"#),
            (r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":2}"#, r#"{"a":2}"#),
            (r#"{"a":1}"#, "{}", r#"{"a":3}"#, r#"{"a":3} ! a"#),
            (r#"{"a":1}"#, r#"{"a":3}"#, "{}", "{} ! a"),
            ("{}", r#"{"a":1,"b":1}"#, r#"{"a":2,"c":1}"#, r#"{"a":2,"b":1,"c":1} ! a"#),
            (r#"{"o":{"x":1,"y":1}}"#, r#"{"o":{"x":2,"y":1}}"#, r#"{"o":{"x":1,"y":2}}"#, r#"{"o":{"x":2,"y":2}}"#),
            (r#"{"o":{"x":1}}"#, r#"{"o":{"x":2}}"#, r#"{"o":{"x":3}}"#, r#"{"o":{"x":3}} ! o.x"#),
            (r#"{"o":{"p":{"q":1}}}"#, r#"{"o":{"p":{"q":2}}}"#, r#"{"o":{"p":{"q":3,"r":1}}}"#, r#"{"o":{"p":{"q":3,"r":1}}} ! o.p.q"#),
            ("{}", r#"{"o":{"x":1}}"#, r#"{"o":{"y":1}}"#, r#"{"o":{"x":1,"y":1}}"#),
            (r#"{"o":1}"#, r#"{"o":{"x":1}}"#, r#"{"o":{"y":1}}"#, r#"{"o":{"y":1}} ! o"#),
            (r#"{"o":{"x":1}}"#, "{}", r#"{"o":{"x":2}}"#, r#"{"o":{"x":2}} ! o"#),
            (r#"{"l":[1]}"#, r#"{"l":[1,2]}"#, r#"{"l":[1,3]}"#, r#"{"l":[1,3]} ! l"#),
            (r#"{"a.b":1,"*":1}"#, r#"{"a.b":2,"*":2}"#, r#"{"a.b":3,"*":3}"#, r#"{"*":3,"a.b":3} ! \* a\.b"#),
            ("", r#"{"a":1,"b":1,"o":{"x":1,"y":1}}"#, r#"{"a":1,"b":2,"o":{"x":1,"y":2}}"#, r#"{"a":1,"b":2,"o":{"x":1,"y":2}} ! b o.y"#),
        ] {
            assert_eq!(merged(&plain, base, client, server), expected, "{base} {client} {server}");
        }
    }

    #[test]
    fn whole_records() {
        let (base, client, server) = (content(r#"{"a":1,"b":1}"#), content(r#"{"a":2}"#), content(r#"{"a":1,"b":1,"c":1}"#));
        let whole = rules(Granularity::Record, &[("n", Function::Sum), ("o.x", Function::Max)]);
        let alone = three_way(&whole, Some(&base), &client, &server, false);
        assert_eq!((alone.result.text(), alone.conflicts.len()), (r#"{"a":2,"c":1}"#, 0));
        let others = three_way(&whole, Some(&base), &client, &server, true);
        assert_eq!((others.result.text(), others.conflicts), (server.text(), vec!["a".into(), "b".into(), "c".into()]));
        assert_eq!(three_way(&whole, None, &client, &server, false).conflicts.len(), 3);
        assert_eq!(merged(&whole, r#"{"n":1}"#, r#"{"n":3}"#, r#"{"n":2,"z":1}"#), r#"{"n":4,"z":1} ! z"#);
        let (base, client, server) = (r#"{"o":{"x":1,"y":1}}"#, r#"{"o":{"x":3,"y":1}}"#, r#"{"o":{"x":2,"y":2}}"#);
        assert_eq!(merged(&whole, base, client, server), r#"{"o":{"x":3,"y":2}} ! o.y"#);
    }

    #[test]
    fn functions_by_field() {
        let by = Function::Union { by: Some("id".into()) };
        let all = rules(
            Granularity::Field,
            &[
                ("n", Function::Sum),
                ("x", Function::Max),
                ("y", Function::Min),
                ("u", Function::Union { by: None }),
                ("p", Function::Append),
                ("t", Function::Text),
                ("m", by),
                ("d", Function::Derived),
                ("o.n", Function::Sum),
                ("l", Function::Rule(Rule::LatestWins)),
            ],
        );
        for (base, client, server, expected) in [
            (r#"{"n":1}"#, r#"{"n":3}"#, r#"{"n":2}"#, r#"{"n":4}"#),
            // Moved alike on both sides is moved twice; moved by nobody here is not moved.
            (r#"{"n":1}"#, r#"{"n":3}"#, r#"{"n":3}"#, r#"{"n":5}"#),
            (r#"{"n":1}"#, r#"{"n":1}"#, r#"{"n":3}"#, r#"{"n":3}"#),
            ("{}", r#"{"n":3}"#, r#"{"n":3}"#, r#"{"n":6}"#),
            (r#"{"n":1}"#, r#"{"n":3}"#, r#"{"n":"x"}"#, r#"{"n":"x"} ! n"#),
            (r#"{"x":1,"y":9}"#, r#"{"x":3,"y":7}"#, r#"{"x":2,"y":8}"#, r#"{"x":3,"y":7}"#),
            (r#"{"x":5}"#, r#"{"x":3}"#, r#"{"x":5}"#, r#"{"x":3}"#),
            ("", r#"{"x":3,"y":3}"#, r#"{"x":5,"y":5}"#, r#"{"x":5,"y":3}"#),
            (r#"{"u":[1,2]}"#, r#"{"u":[1,2,3]}"#, r#"{"u":[2,1,4]}"#, r#"{"u":[2,1,4,3]}"#),
            (r#"{"u":[1,2]}"#, r#"{"u":[1]}"#, r#"{"u":[1,2]}"#, r#"{"u":[1]}"#),
            (r#"{"p":[1]}"#, r#"{"p":[1,2]}"#, r#"{"p":[1,2]}"#, r#"{"p":[1,2,2]}"#),
            (r#"{"p":[1]}"#, r#"{"p":[2]}"#, r#"{"p":[1,3]}"#, r#"{"p":[1,3]} ! p"#),
            (r#"{"t":"a\nb"}"#, r#"{"t":"A\nb"}"#, r#"{"t":"a\nB"}"#, r#"{"t":"A\nB"}"#),
            ("", r#"{"t":"A"}"#, r#"{"t":"B"}"#, r#"{"t":"B"} ! t"#),
            (r#"{"d":1}"#, r#"{"d":2}"#, r#"{"d":3}"#, r#"{"d":3}"#),
            (r#"{"l":1}"#, r#"{"l":2}"#, r#"{"l":3}"#, r#"{"l":3} ! l"#),
            // Within objects, too.
            (r#"{"o":{"n":1}}"#, r#"{"o":{"n":2}}"#, r#"{"o":{"n":2}}"#, r#"{"o":{"n":3}}"#),
            ("{}", r#"{"o":{"n":2}}"#, r#"{"o":{"n":2}}"#, r#"{"o":{"n":4}}"#),
            (r#"{"o":{"n":1,"z":1}}"#, r#"{"o":{"n":2,"z":1}}"#, r#"{"o":{"n":5,"z":2}}"#, r#"{"o":{"n":6,"z":2}}"#),
            (
                r#"{"m":[{"id":1,"s":"a","t":"a"}]}"#,
                r#"{"m":[{"id":1,"s":"b","t":"a"},{"id":2}]}"#,
                r#"{"m":[{"id":3},{"id":1,"s":"a","t":"c"}]}"#,
                r#"{"m":[{"id":3},{"id":1,"s":"b","t":"c"},{"id":2}]}"#,
            ),
            (
                r#"{"m":[{"id":"k","s":"a"}]}"#,
                r#"{"m":[{"id":"k","s":"b"}]}"#,
                r#"{"m":[{"id":"k","s":"c"}]}"#,
                r#"{"m":[{"id":"k","s":"c"}]} ! m.k.s"#,
            ),
            ("{}", r#"{"m":[{"id":1,"s":"a"},7,7]}"#, r#"{"m":[{"id":1,"t":"b"},8]}"#, r#"{"m":[{"id":1,"s":"a","t":"b"},8,7]}"#),
            ("", r#"{"m":[{"id":1,"s":"a"}]}"#, r#"{"m":[{"id":1,"s":"b"}]}"#, r#"{"m":[{"id":1,"s":"b"}]} ! m.1.s"#),
            ("", r#"{"m":[{"id":"1","s":"a"}]}"#, r#"{"m":[{"id":"1","s":"b"}]}"#, r#"{"m":[{"id":"1","s":"b"}]} ! m."1".s"#),
        ] {
            assert_eq!(merged(&all, base, client, server), expected, "{base} {client} {server}");
        }
        let moves = |base: Option<&str>, client: &str, server: &str, patch: Option<&str>| {
            moves_delta(&all, base.map(content).as_ref(), &content(client), &content(server), patch.map(content).as_ref())
        };
        assert!(moves(Some(r#"{"n":1}"#), r#"{"n":2}"#, r#"{"n":2}"#, None));
        assert!(moves(Some(r#"{"n":1}"#), "{}", "{}", None));
        assert!(!moves(Some(r#"{"n":1}"#), r#"{"n":1,"z":1}"#, r#"{"n":7}"#, None));
        assert!(!moves(Some("{}"), r#"{"n":null}"#, r#"{"n":7}"#, None));
        assert!(moves(None, r#"{"o":{"n":1}}"#, r#"{"o":{"n":1}}"#, None));
        assert!(moves(None, "{}", r#"{"n":1}"#, None));
        assert!(moves(None, r#"{"n":1}"#, r#"{"n":1}"#, Some(r#"{"n":1}"#)));
        assert!(!moves(None, r#"{"n":1,"z":1}"#, r#"{"n":1}"#, Some(r#"{"z":1}"#)));
        assert!(!moves(None, r#"{"z":1}"#, "{}", None));
    }

    #[test]
    fn one_path_from_another() {
        let all = rules(Granularity::Field, &[("m", Function::Union { by: Some("id".into()) })]);
        let (into, from) =
            (r#"{"a":1,"m":[{"id":"k","s":1,"t":1},{"id":"l"}],"o":{"x":1,"y":1}}"#, r#"{"b":2,"m":[{"id":"k","s":2}],"o":{"x":2}}"#);
        for (path, expected) in [
            ("a", r#"{"m":[{"id":"k","s":1,"t":1},{"id":"l"}],"o":{"x":1,"y":1}}"#),
            ("b", r#"{"a":1,"b":2,"m":[{"id":"k","s":1,"t":1},{"id":"l"}],"o":{"x":1,"y":1}}"#),
            ("o.x", r#"{"a":1,"m":[{"id":"k","s":1,"t":1},{"id":"l"}],"o":{"x":2,"y":1}}"#),
            ("o.y", r#"{"a":1,"m":[{"id":"k","s":1,"t":1},{"id":"l"}],"o":{"x":1}}"#),
            ("m.k.s", r#"{"a":1,"m":[{"id":"k","s":2,"t":1},{"id":"l"}],"o":{"x":1,"y":1}}"#),
            ("m.k.t", r#"{"a":1,"m":[{"id":"k","s":1},{"id":"l"}],"o":{"x":1,"y":1}}"#),
            ("m.l", r#"{"a":1,"m":[{"id":"k","s":1,"t":1}],"o":{"x":1,"y":1}}"#),
        ] {
            let taken = take(&all, &content(into), [&path.to_owned()], &content(from));
            assert_eq!(taken.text(), expected, "{path}");
            assert_eq!(at(&all, &taken, path), at(&all, &content(from), path), "{path}");
        }
        let twice = content(r#"{"m":[{"id":"k","s":1},{"id":"k","s":5}]}"#);
        let taken = take(&all, &twice, [&"m.k.s".to_owned()], &content(from));
        assert_eq!(taken.text(), r#"{"m":[{"id":"k","s":2},{"id":"k","s":5}]}"#);
    }
}
