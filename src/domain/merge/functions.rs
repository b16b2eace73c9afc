//! The merge functions on two values of a field. Values are canonical JSON; a missing field and `null` count as the same.

use std::cmp::Ordering;

use rust_decimal::Decimal;
use serde_json::value::RawValue;

use super::super::clock;
use super::super::record::{Content, quote, unquote};
use super::super::rules::Function;
use super::lines;

/// A value that is there and not null.
pub(super) fn present(value: Option<&str>) -> Option<&str> {
    value.filter(|text| *text != "null")
}

/// Is it a number?
pub fn is_number(value: &str) -> bool {
    value.starts_with(|first: char| first == '-' || first.is_ascii_digit())
}

/// The server's value moved by what the client changed since its base. `None`: it cannot be.
pub(super) fn moved(function: &Function, base: Option<&str>, client: Option<&str>, server: Option<&str>) -> Option<String> {
    let (base, client, server) = (present(base), present(client), present(server));
    match function {
        Function::Sum => {
            let [base, client, server] = [base, client, server].map(|value| value.unwrap_or("0"));
            let exact = || {
                let [base, client, server] = [decimal(base)?, decimal(client)?, decimal(server)?];
                let sum = server.checked_add(client.checked_sub(base)?)?.normalize();
                canonical_number(&sum.to_string())
            };
            // What has no exact form in 28 digits is added as doubles.
            exact().or_else(|| canonical_float(double(server)? + (double(client)? - double(base)?)))
        }
        Function::Append => {
            let (base, client, server) = (list_of(base)?, list_of(client)?, list_of(server)?);
            let added = client.strip_prefix(base.as_slice())?;
            Some(list(server.into_iter().chain(added.iter().copied())))
        }
        _ => None,
    }
}

/// Two values as one, whatever they began from (`base` helps texts; its outer `None` is an unknown one). `None`: it cannot be.
pub(super) fn joined(
    function: &Function,
    base: Option<Option<&str>>,
    client: Option<&str>,
    server: Option<&str>,
) -> Option<Option<String>> {
    let (ours, theirs) = match (present(client), present(server)) {
        (Some(ours), Some(theirs)) => (ours, theirs),
        (ours, theirs) => return Some(ours.or(theirs).or(server).map(str::to_owned)),
    };
    let greater = |wanted: Ordering| {
        let order = order(ours, theirs)?;
        Some(if order == wanted { ours } else { theirs }.to_owned())
    };
    let value = match function {
        Function::Max => greater(Ordering::Greater),
        Function::Min => greater(Ordering::Less),
        Function::Union { .. } => {
            let mut all = elements(theirs)?;
            let mut seen: std::collections::HashSet<&str> = all.iter().copied().collect();
            all.extend(elements(ours)?.into_iter().filter(|element| seen.insert(element)));
            Some(list(all))
        }
        Function::Text => {
            let began = present(base?).unwrap_or("\"\"");
            if ![began, ours, theirs].iter().all(|value| value.starts_with('"')) {
                return None;
            }
            Some(quote(&lines::merge(&unquote(began), &unquote(ours), &unquote(theirs))).into_owned())
        }
        _ => None,
    };
    value.map(Some)
}

/// Numbers by value, times by the moment, other texts by their characters. What is equal is told apart by its form, so that
/// both orders of arrival end alike. `None`: of different kinds.
fn order(one: &str, other: &str) -> Option<Ordering> {
    let by_value = if is_number(one) && is_number(other) {
        match (decimal(one), decimal(other)) {
            (Some(one), Some(other)) => one.cmp(&other),
            _ => double(one)?.partial_cmp(&double(other)?)?,
        }
    } else if one.starts_with('"') && other.starts_with('"') {
        let (a, b) = (unquote(one), unquote(other));
        match (clock::parse(&a), clock::parse(&b)) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a.cmp(&b),
        }
    } else {
        return None;
    };
    Some(by_value.then_with(|| one.cmp(other)))
}

/// A number exactly, where 28 digits hold it.
fn decimal(number: &str) -> Option<Decimal> {
    if !is_number(number) {
        return None;
    }
    if number.contains('e') {
        return Decimal::from_scientific(number).ok().filter(|decimal| double(number) == decimal.to_string().parse().ok());
    }
    Decimal::from_str_exact(number).ok()
}

fn double(number: &str) -> Option<f64> {
    if is_number(number) { number.parse().ok() } else { None }
}

fn canonical_number(text: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let content = Content::from_value(&serde_json::json!({ "n": value })).ok()?;
    content.field("n").map(str::to_owned)
}

fn canonical_float(value: f64) -> Option<String> {
    canonical_number(&serde_json::Number::from_f64(value)?.to_string())
}

/// The elements of an array; `None`: it is none.
pub(super) fn elements(array: &str) -> Option<Vec<&str>> {
    if !array.starts_with('[') {
        return None;
    }
    let elements: Vec<&RawValue> = serde_json::from_str(array).ok()?;
    Some(elements.into_iter().map(RawValue::get).collect())
}

/// The elements of an array, none where it is missing; `None`: it is something else.
pub(super) fn list_of(value: Option<&str>) -> Option<Vec<&str>> {
    present(value).map_or(Some(Vec::new()), elements)
}

/// An array of canonical elements.
pub(super) fn list<T: AsRef<str>>(elements: impl IntoIterator<Item = T>) -> String {
    let mut text = String::from("[");
    for element in elements {
        if text.len() > 1 {
            text.push(',');
        }
        text.push_str(element.as_ref());
    }
    text.push(']');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums() {
        for (base, client, server, expected) in [
            (Some("10"), Some("15"), Some("12"), Some("17")),
            (None, Some("5"), Some("7"), Some("12")),
            (Some("null"), Some("5"), None, Some("5")),
            (Some("10"), None, Some("12"), Some("2")),
            (Some("0.1"), Some("0.3"), Some("0.2"), Some("0.4")),
            (Some("0"), Some("0.1"), Some("0.2"), Some("0.3")),
            (Some("0"), Some("1"), Some("9223372036854775806"), Some("9223372036854775807")),
            (Some("0"), Some("1"), Some("9007199254740992"), Some("9007199254740993")),
            (Some("0"), Some("1e+300"), Some("1e+300"), Some("2e+300")),
            (Some("0"), Some("1e-7"), Some("1.5e-7"), Some("2.5e-7")),
            (Some("5"), Some("5"), Some("100"), Some("100")),
            (Some("0"), Some("1.7e+308"), Some("1.7e+308"), None),
            (Some("0"), Some("\"1\""), Some("2"), None),
            (Some("0"), Some("1"), Some("[]"), None),
        ] {
            assert_eq!(moved(&Function::Sum, base, client, server).as_deref(), expected, "{base:?} {client:?} {server:?}");
        }
    }

    #[test]
    fn appends() {
        for (base, client, server, expected) in [
            (Some("[1]"), Some("[1,2]"), Some("[1,3]"), Some("[1,3,2]")),
            (None, Some("[2]"), Some("[3]"), Some("[3,2]")),
            (Some("[1]"), Some("[2]"), Some("[1]"), None),
            (Some("[1,2]"), Some("[1]"), Some("[1,2]"), None),
            (Some("[]"), Some("[{\"a\":[1]}]"), None, Some("[{\"a\":[1]}]")),
            (Some("[]"), Some("\"x\""), Some("[]"), None),
        ] {
            assert_eq!(moved(&Function::Append, base, client, server).as_deref(), expected, "{base:?} {client:?} {server:?}");
        }
    }

    #[test]
    fn greater_and_lesser() {
        for (one, other, greater) in [
            ("2", "10", "10"),
            ("-3", "-20", "-3"),
            ("1.5", "1", "1.5"),
            ("9223372036854775807", "9223372036854775806", "9223372036854775807"),
            ("1e+300", "5", "1e+300"),
            ("\"b\"", "\"a\"", "\"b\""),
            ("\"2025-01-01T00:00:00.5Z\"", "\"2025-01-01T00:00:00Z\"", "\"2025-01-01T00:00:00.5Z\""),
            ("\"2025-01-01T02:00:00+02:00\"", "\"2025-01-01T00:00:01Z\"", "\"2025-01-01T00:00:01Z\""),
        ] {
            let lesser = if greater == one { other } else { one };
            for (a, b) in [(one, other), (other, one)] {
                assert_eq!(joined(&Function::Max, None, Some(a), Some(b)), Some(Some(greater.into())));
                assert_eq!(joined(&Function::Min, None, Some(a), Some(b)), Some(Some(lesser.into())));
            }
        }
        assert_eq!(joined(&Function::Max, None, Some("1"), Some("\"1\"")), None);
        assert_eq!(joined(&Function::Max, None, Some("1"), None), Some(Some("1".into())));
        assert_eq!(joined(&Function::Min, None, Some("null"), Some("1")), Some(Some("1".into())));
    }

    #[test]
    fn unions() {
        let union = Function::Union { by: None };
        let of = |client, server| joined(&union, None, Some(client), Some(server)).flatten();
        assert_eq!(of("[1,2]", "[3,1]").as_deref(), Some("[3,1,2]"));
        assert_eq!(of("[2,2]", "[]").as_deref(), Some("[2]"));
        assert_eq!(of("2", "[]"), None);
    }
}
