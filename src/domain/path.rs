//! Paths into a record: `title`, `address.city`, `messages.m1.text`.
//!
//! Steps are joined by dots. In a step, `.` and `\\` are written with a `\\` before them, and so is the field named `*`, since
//! `*` alone stands for the whole record.

/// The whole record.
pub const WHOLE: &str = "*";

/// A plain name as a step.
pub fn step(name: &str) -> String {
    if name == WHOLE {
        return "\\*".into();
    }
    if name.contains(['.', '\\']) { name.replace('\\', "\\\\").replace('.', "\\.") } else { name.to_owned() }
}

/// A path followed by one more name.
pub fn join(path: &str, name: &str) -> String {
    if path.is_empty() { step(name) } else { format!("{path}.{}", step(name)) }
}

/// The plain names of a path, at least one.
pub fn steps(path: &str) -> Vec<String> {
    let (mut steps, mut name, mut symbols) = (Vec::new(), String::new(), path.chars());
    while let Some(symbol) = symbols.next() {
        match symbol {
            '\\' => name.extend(symbols.next()),
            '.' => steps.push(std::mem::take(&mut name)),
            _ => name.push(symbol),
        }
    }
    steps.push(name);
    steps
}

/// The paths that this one lies within, outermost first.
pub fn outer(path: &str) -> impl Iterator<Item = &str> {
    let dots = path.char_indices().filter(|(at, symbol)| {
        let slashes = path[..*at].bytes().rev().take_while(|byte| *byte == b'\\').count();
        *symbol == '.' && slashes % 2 == 0
    });
    dots.map(|(at, _)| &path[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for names in [vec!["a"], vec!["a", "b", "c"], vec!["a.b", "c"], vec!["\\", "."], vec!["*"], vec!["ä.", ""], vec!["a\\.b"]] {
            let path = names.iter().fold(String::new(), |path, name| join(&path, name));
            assert_eq!(steps(&path), names, "{path}");
            assert_eq!(outer(&path).count(), names.len() - 1, "{path}");
        }
        assert_eq!(outer("a.b\\.c.d").collect::<Vec<_>>(), ["a", "a.b\\.c"]);
    }
}
