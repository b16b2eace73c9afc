//! Layer 1: wire types, shared by server and client. Shapes only; what they mean is decided elsewhere.

pub mod account;
pub mod conflicts;
pub mod delta;
pub mod live;
pub mod problem;
pub mod pull;
pub mod push;
pub mod verify;

/// Reads a JSON object. By itself serde would also take a list, whose elements are the fields in their order. The error is a
/// part of a sentence for people who write apps.
pub fn object<'a, T: serde::Deserialize<'a>>(json: &'a [u8]) -> Result<T, String> {
    match json.trim_ascii_start().first() {
        Some(b'{') => serde_json::from_slice(json).map_err(|e| in_json(&e.to_string())),
        _ => Err("it is no JSON object".into()),
    }
}

/// serde's message in the words of JSON, where it names types of this program.
fn in_json(message: &str) -> String {
    let words = message.split(' ').map(|word| {
        let (plain, rest) = word.split_at(word.find([',', ':']).unwrap_or(word.len()));
        let said = match plain {
            "i64" | "u64" | "u32" | "u8" | "usize" => "a whole number",
            "map" => "object",
            "sequence" => "list",
            "borrowed" => "",
            _ => return word.to_owned(),
        };
        format!("{said}{rest}")
    });
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_in_the_words_of_json() {
        #[derive(Debug, serde::Deserialize)]
        struct Asked {
            #[allow(dead_code, reason = "it is never there")]
            limit: u64,
        }
        let said = |json: &str| object::<Asked>(json.as_bytes()).unwrap_err();
        assert_eq!(said("[1]"), "it is no JSON object");
        assert_eq!(said(r#"{"limit":-1}"#), "invalid value: integer `-1`, expected a whole number at line 1 column 11");
        assert_eq!(said(r#"{"limit":{}}"#), "invalid type: object, expected a whole number at line 1 column 9");
        assert_eq!(said("{}"), "missing field `limit` at line 1 column 2");
    }
}
