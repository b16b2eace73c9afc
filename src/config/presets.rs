//! The presets: rules of whole kinds of apps, as TOML with comments for owners.

use crate::domain::rules::Tables;

use super::Config;

/// The preset of an appliance without tables of its own.
pub const DEFAULT: &str = "store";

/// All presets: name, text.
pub const ALL: &[(&str, &str)] = &[
    ("store", include_str!("../../packaging/presets/store.toml")),
    ("learning", include_str!("../../packaging/presets/learning.toml")),
    ("course", include_str!("../../packaging/presets/course.toml")),
    ("teacher-hub", include_str!("../../packaging/presets/teacher-hub.toml")),
    ("tracks", include_str!("../../packaging/presets/tracks.toml")),
];

/// A preset's text.
pub fn text(name: &str) -> Option<&'static str> {
    ALL.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// A preset's tables.
pub fn tables(name: &str) -> Tables {
    text(name).and_then(|text| Config::parse(text).ok()).map(|config| config.tables()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_valid() {
        for (name, text) in ALL {
            let config = Config::parse(text).unwrap();
            assert!(!config.tables.is_empty(), "{name}");
            assert_eq!(tables(name), config.tables(), "{name}");
        }
        let sizes: Vec<usize> = ALL.iter().map(|(name, _)| tables(name).len()).collect();
        assert_eq!(sizes, [9, 10, 5, 7, 4]);
    }
}
