//! The house holds: a module imports from the modules that its row in the table allows, and from no others. Also where SQL,
//! warp, anyhow and printing may occur, and that every file says what it is for.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in tests a failed unwrap is the failed test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// Layer by layer: a module, and the modules that it may name. A new module needs a row.
const ALLOWED: &[(&str, &[&str])] = &[
    // Layer 0
    ("domain", &[]),
    // Layer 1
    ("protocol", &["domain"]),
    ("sqlite", &["domain"]),
    // Beside the layers
    ("telemetry", &[]),
    // Layer 2
    ("store", &["domain", "protocol", "sqlite", "telemetry"]),
    ("auth", &["domain"]),
    ("hub", &["domain", "store"]),
    // Beside the layers
    ("script", &["domain"]),
    // Layer 3
    ("sync", &["domain", "protocol", "sqlite", "store", "auth", "hub", "script", "telemetry"]),
    ("ops", &["domain", "protocol", "sqlite", "store"]),
    // Layer 4
    ("http", &["domain", "protocol", "store", "auth", "hub", "sync", "ops", "telemetry"]),
    // Beside the layers
    ("config", &["domain", "script"]),
    // Layer 5
    ("server", &["domain", "protocol", "sqlite", "store", "auth", "hub", "sync", "ops", "http", "config", "script", "telemetry"]),
    // Layer 6
    ("cli", &["domain", "protocol", "sqlite", "store", "auth", "hub", "sync", "ops", "http", "config", "script", "telemetry", "server"]),
    // The map and the program.
    (
        "lib",
        &["domain", "protocol", "sqlite", "store", "auth", "hub", "sync", "ops", "http", "config", "script", "telemetry", "server", "cli"],
    ),
    ("main", &["cli"]),
];

/// Where something may occur: folders end in `/`.
const SQL: &[&str] = &["store/", "sqlite/"];
/// A word of the code, and where it may occur.
const WORDS: &[(&str, &[&str])] = &[
    ("warp", &["http/"]),
    ("anyhow", &["cli/"]),
    ("println", &["cli/"]),
    ("eprintln", &["cli/"]),
    ("print", &["cli/"]),
    ("eprint", &["cli/"]),
    ("dbg", &[]),
];

/// What one file says.
#[derive(Debug, Default)]
struct Said {
    /// Paths from the crate's root, `*` for all of a module, empty for the root itself.
    paths: Vec<Vec<String>>,
    /// Names in code.
    words: BTreeSet<String>,
    /// String literals, doc comments aside.
    texts: Vec<String>,
    /// What this search cannot see through.
    blind: Vec<String>,
    /// The module that is being read.
    module: Vec<String>,
}

impl Said {
    fn read(module: &[&str], source: &str) -> Said {
        let mut said = Said { module: module.iter().map(|name| (*name).to_owned()).collect(), ..Said::default() };
        said.visit_file(&syn::parse_file(source).unwrap());
        said
    }

    /// Notes a path that begins with crate, self or super.
    fn path(&mut self, segments: &[String]) {
        let mut place = self.module.clone();
        let mut rest = segments.iter();
        match rest.next().map(String::as_str) {
            Some("crate") => place.clear(),
            Some("self") => {}
            Some("super") => drop(place.pop()),
            // In the root itself the modules have no prefix.
            Some(_) if place.is_empty() => return self.paths.push(segments.to_vec()),
            _ => return,
        }
        let mut rest = rest.peekable();
        while rest.next_if(|segment| *segment == "super").is_some() {
            place.pop();
        }
        place.extend(rest.cloned());
        self.paths.push(place);
    }

    fn use_tree(&mut self, before: &[String], tree: &syn::UseTree) {
        let with = |name: &syn::Ident| before.iter().cloned().chain([name.to_string()]).collect::<Vec<_>>();
        match tree {
            syn::UseTree::Path(path) => {
                self.words.insert(path.ident.to_string());
                self.use_tree(&with(&path.ident), &path.tree);
            }
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.use_tree(before, tree)),
            syn::UseTree::Name(name) if name.ident == "self" && !before.is_empty() => self.path(before),
            syn::UseTree::Rename(rename) if rename.ident == "self" && !before.is_empty() => self.path(before),
            syn::UseTree::Name(syn::UseName { ident }) | syn::UseTree::Rename(syn::UseRename { ident, .. }) => {
                self.words.insert(ident.to_string());
                self.path(&with(ident));
            }
            syn::UseTree::Glob(_) => self.path(&before.iter().cloned().chain(["*".to_owned()]).collect::<Vec<_>>()),
        }
    }

    /// Tokens of macros and attributes: paths, words and texts as they come.
    fn tokens(&mut self, tokens: TokenStream) {
        let trees: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < trees.len() {
            match &trees[at] {
                TokenTree::Group(group) => self.tokens(group.stream()),
                TokenTree::Literal(literal) => {
                    if let Ok(text) = syn::parse_str::<syn::LitStr>(&literal.to_string()) {
                        self.texts.push(text.value());
                    }
                }
                TokenTree::Ident(word) => {
                    let word = word.to_string();
                    if ["crate", "super", "self"].contains(&word.as_str()) {
                        at = self.token_path(&trees, at);
                        continue;
                    }
                    self.words.insert(word);
                }
                TokenTree::Punct(_) => {}
            }
            at += 1;
        }
    }

    /// Reads `crate::a::b` or `super::{a, b}` among tokens; gives the place behind it.
    fn token_path(&mut self, trees: &[TokenTree], mut at: usize) -> usize {
        let mut segments = Vec::new();
        let colon = |at: usize| matches!(trees.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
        loop {
            match trees.get(at) {
                Some(TokenTree::Ident(word)) => segments.push(word.to_string()),
                Some(TokenTree::Group(group)) => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    for part in inner.split(|tree| matches!(tree, TokenTree::Punct(punct) if punct.as_char() == ',')) {
                        let first = part.first().map(ToString::to_string);
                        self.path(&segments.iter().cloned().chain(first).collect::<Vec<_>>());
                    }
                    return at + 1;
                }
                _ => segments.push("*".into()),
            }
            at += 1;
            if !(colon(at) && colon(at + 1)) {
                break;
            }
            at += 2;
        }
        // A lone `self` is a value.
        if segments.len() > 1 || segments[0] == "crate" {
            self.path(&segments);
        }
        at
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes
        .iter()
        .any(|attribute| attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test")))
}

impl<'ast> Visit<'ast> for Said {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            syn::Item::Const(item) => &item.attrs,
            _ => &Vec::new(),
        };
        if !is_test(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if module.attrs.iter().any(|attribute| attribute.path().is_ident("path")) {
            self.blind.push(format!("mod {} has a #[path]", module.ident));
        }
        self.module.push(module.ident.to_string());
        visit::visit_item_mod(self, module);
        self.module.pop();
    }

    fn visit_item_extern_crate(&mut self, one: &'ast syn::ItemExternCrate) {
        self.blind.push(format!("extern crate {}", one.ident));
    }

    fn visit_item_use(&mut self, one: &'ast syn::ItemUse) {
        self.use_tree(&[], &one.tree);
    }

    // `pub(crate)` and `pub(in crate::x)` import nothing.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if segments.len() > 1 || segments[0] == "crate" {
            self.path(&segments);
        }
        visit::visit_path(self, path);
    }

    fn visit_ident(&mut self, ident: &'ast syn::Ident) {
        self.words.insert(ident.to_string());
    }

    fn visit_lit_str(&mut self, text: &'ast syn::LitStr) {
        self.texts.push(text.value());
    }

    fn visit_macro(&mut self, one: &'ast syn::Macro) {
        self.visit_path(&one.path);
        if one.path.is_ident("include") {
            self.blind.push("include!".into());
        }
        self.tokens(one.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if attribute.path().is_ident("doc") {
            return;
        }
        let syn::Meta::List(list) = &attribute.meta else { return };
        self.tokens(list.tokens.clone());
        // serde and its like take paths as texts.
        for text in std::mem::take(&mut self.texts) {
            match syn::parse_str::<syn::Path>(&text) {
                Ok(path) if path.segments.len() > 1 => self.visit_path(&path),
                _ => {}
            }
        }
    }
}

/// What of a module breaks the table.
fn breaches(module: &[&str], source: &str) -> Vec<String> {
    let own = module.first().copied().unwrap_or("lib");
    let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == own) else { return vec![format!("{own} has no row in the table")] };
    // The library's root is the module without a name.
    let said = Said::read(if own == "lib" { &[] } else { module }, source);
    let mut found = said.blind;
    let modules: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    for path in &said.paths {
        let name = path.join("::");
        match path.first().map(String::as_str) {
            None | Some("*") => found.push("the root of the crate as a whole".into()),
            Some(target) if target == own || allowed.contains(&target) => {}
            Some(target) if modules.contains(target) || own != "lib" => found.push(name),
            Some(_) => {}
        }
    }
    found
}

fn is_sql(text: &str) -> bool {
    let words: Vec<&str> = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty()).collect();
    const BEGIN: [&str; 18] = [
        "SELECT",
        "INSERT",
        "UPDATE",
        "DELETE",
        "CREATE",
        "ALTER",
        "DROP",
        "PRAGMA",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT",
        "RELEASE",
        "VACUUM",
        "ATTACH",
        "WITH",
        "REPLACE",
        "REINDEX",
    ];
    const WITHIN: [[&str; 2]; 5] = [["INSERT", "INTO"], ["DELETE", "FROM"], ["ORDER", "BY"], ["GROUP", "BY"], ["ON", "CONFLICT"]];
    words.first().is_some_and(|word| BEGIN.contains(word))
        || words.windows(2).any(|pair| WITHIN.iter().any(|two| two == pair))
        || text.ends_with(".sql")
}

fn is_within(file: &str, places: &[&str]) -> bool {
    places.iter().any(|place| file == *place || (place.ends_with('/') && file.starts_with(place)))
}

/// What stands in a file where it should not.
fn strays(file: &str, source: &str) -> Vec<String> {
    let said = Said::read(&["x"], source);
    let mut found = Vec::new();
    if !source.starts_with("//!") {
        found.push("it does not begin with //!, what it is for".into());
    }
    for (word, places) in WORDS {
        if said.words.contains(*word) && !is_within(file, places) {
            found.push(format!("{word} belongs into {places:?}"));
        }
    }
    if !is_within(file, SQL) {
        found.extend(said.texts.iter().filter(|text| is_sql(text)).map(|text| format!("SQL belongs into {SQL:?}: {text}")));
    }
    found
}

/// Every file of `src`: its path there, its module, its text.
fn files() -> Vec<(String, Vec<String>, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut files) = (vec![root.clone()], Vec::<PathBuf>::new());
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    let describe = |path: PathBuf| {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let mut module: Vec<String> = name.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        if module.len() > 1 && module.last().is_some_and(|last| last == "mod") {
            module.pop();
        }
        (name, module, std::fs::read_to_string(path).unwrap())
    };
    files.into_iter().map(describe).collect()
}

#[test]
fn a_module_uses_only_what_its_row_allows() {
    let mut found = Vec::new();
    for (file, module, source) in files() {
        let module: Vec<&str> = module.iter().map(String::as_str).collect();
        found.extend(breaches(&module, &source).into_iter().map(|breach| format!("src/{file}: {breach}")));
    }
    assert!(found.is_empty(), "these imports go past their layer:\n{}", found.join("\n"));
}

#[test]
fn every_row_is_a_module_and_nobody_is_allowed_to_look_up() {
    let modules: BTreeSet<String> = files().into_iter().map(|(_, module, _)| module[0].clone()).collect();
    let rows: Vec<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    assert_eq!(modules, rows.iter().map(|name| (*name).to_owned()).collect());
    for (place, (name, allowed)) in ALLOWED.iter().enumerate() {
        assert!(allowed.iter().all(|below| rows[..place].contains(below)), "{name} stands above what it uses");
    }
}

#[test]
fn sql_warp_anyhow_and_printing_stay_where_they_belong_and_every_file_says_what_it_is_for() {
    let mut found = Vec::new();
    for (file, _, source) in files() {
        for stray in strays(&file, &source) {
            found.push(format!("src/{file}: {stray}"));
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn planted_breaches_are_found() {
    for (what, module, source) in [
        ("use", ["domain", "decide"], "use crate::store::Store;"),
        ("use in a group", ["store", "users"], "use crate::{domain::ids, sync::App};"),
        ("use of a module itself", ["auth", "token"], "use crate::store::{self, Store};"),
        ("renamed import", ["store", "users"], "use crate::http as h; fn f() { h::run() }"),
        ("renamed group", ["store", "users"], "use crate::http::{self as h};"),
        ("glob", ["sync", "push"], "use crate::http::*;"),
        ("glob of the root", ["sync", "push"], "use crate::*; fn f() { http::run() }"),
        ("renamed root", ["sync", "push"], "use crate as all; fn f() { all::http::run() }"),
        ("renamed root by super", ["sync", "push"], "use super::super as all; fn f() { all::http::run() }"),
        ("use within a function", ["sync", "push"], "fn f() { use crate::server::run; run() }"),
        ("inline path", ["domain", "decide"], "fn f() { crate::store::open() }"),
        ("path of a type", ["sqlite", "open"], "fn f(_: Option<&crate::store::Store>) {}"),
        ("path of a bound", ["sqlite", "open"], "fn f<T: crate::store::Trait>() {}"),
        ("path of a pattern", ["sqlite", "open"], "fn f(e: E) { match e { crate::store::Error::Full => {} } }"),
        ("path of an implementation", ["sqlite", "open"], "impl crate::store::Trait for S {}"),
        ("super path", ["domain", "decide"], "fn f() { super::super::store::open() }"),
        ("use by super", ["domain", "decide"], "use super::super::store::Store;"),
        ("super from a module within", ["domain", "decide"], "mod inner { fn f() { super::super::super::store::open() } }"),
        ("self and super", ["domain", "decide"], "fn f() { self::super::super::store::open() }"),
        ("macro", ["domain", "decide"], "fn f() { println!(\"{}\", crate::store::open()) }"),
        ("macro in a macro", ["domain", "decide"], "fn f() { vec![format!(\"{}\", vec![crate::store::open()])] }"),
        ("super in a macro", ["domain", "decide"], "fn f() { vec![super::super::store::open()] }"),
        ("use in a macro", ["domain", "decide"], "thing! { use crate::{ids, store::Store}; }"),
        ("path of a macro", ["domain", "decide"], "fn f() { crate::store::query!() }"),
        ("definition of a macro", ["domain", "decide"], "macro_rules! m { () => { $crate::store::open() } }"),
        ("re-export", ["protocol", "push"], "pub use crate::sync::push::Pushed;"),
        ("attribute", ["domain", "ids"], "#[derive(crate::store::Row)] struct S;"),
        ("text of an attribute", ["domain", "ids"], "struct S { #[serde(default = \"crate::store::none\")] a: u8 }"),
        ("another name of the crate", ["domain", "ids"], "extern crate self as me; fn f() { me::store::open() }"),
        ("a file from elsewhere", ["domain", "ids"], "#[path = \"../store/mod.rs\"] mod store;"),
        ("a module without a row", ["cellar", "ids"], ""),
    ] {
        assert!(!breaches(&module, source).is_empty(), "{what}: {source}");
    }
    assert!(!breaches(&["main"], "fn main() { crate::x() }").is_empty());
}

#[test]
fn what_is_allowed_is_not_reported() {
    for (module, source) in [
        (["sync", "push"], "use crate::domain::ids; use crate::{store::Store, auth}; use std::sync::Arc; fn f() { super::problem() }"),
        (["sync", "push"], "mod apply; use super::{App, Result}; fn f() { self::apply::run(); super::pull::bad_cursor() }"),
        (["sync", "push"], "pub(crate) fn f(&self) { self.x(); vec![self.x, Self::y()]; } pub(in crate::sync) fn g() {}"),
        (["domain", "decide"], "#[cfg(test)] mod tests { use crate::store::Store; }"),
        (["domain", "decide"], "mod inner { use super::super::ids::RecordId; use super::*; }"),
    ] {
        assert_eq!(breaches(&module, source), Vec::<String>::new(), "{source}");
    }
    assert_eq!(breaches(&["lib"], "pub mod domain; pub use domain::ids::RecordId;"), Vec::<String>::new());
}

#[test]
fn planted_strays_are_found() {
    for (file, source) in [
        ("sync/push.rs", "fn f() {}"),
        ("sync/push.rs", "//! Push.\nfn f() { db.execute(\"DELETE FROM changes\", []) }"),
        ("sync/push.rs", "//! Push.\nfn f() { db.execute(&format!(\"UPDATE {} SET a = 1\", t), []) }"),
        ("sync/push.rs", "//! Push.\nconst Q: &str = \"\n  SELECT 1\";"),
        ("sync/push.rs", "//! Push.\nconst Q: &str = include_str!(\"push.sql\");"),
        ("sync/push.rs", "//! Push.\nuse warp::Filter;"),
        ("server.rs", "//! Server.\nfn f() { vec![warp::any()] }"),
        ("server.rs", "//! Server.\nfn f() -> anyhow::Result<()> { Ok(()) }"),
        ("server.rs", "//! Server.\nfn f() { println!(\"ready\") }"),
        ("http/web.rs", "//! Web.\nfn f() { eprintln!(\"oops\") }"),
        ("cli/user.rs", "//! User.\nfn f() { dbg!(1) }"),
    ] {
        assert!(!strays(file, source).is_empty(), "{file}: {source}");
    }
    for (file, source) in [
        ("store/users.rs", "//! Users.\nfn f() { db.execute(\"DELETE FROM users\", []) }"),
        ("http/web.rs", "//! Web.\nuse warp::Filter;"),
        ("cli/user.rs", "//! User.\nfn f() -> anyhow::Result<()> { println!(\"x\"); Ok(()) }"),
        ("sync/push.rs", "//! Push, SELECT and all.\n/// SELECT 1\nfn f() { problem(\"Update the app, then delete the record.\") }"),
        ("sync/push.rs", "//! Push.\n#[cfg(test)] mod tests { fn f() { db.execute(\"DELETE FROM users\", []); println!(\"x\") } }"),
    ] {
        assert_eq!(strays(file, source), Vec::<String>::new(), "{file}: {source}");
    }
}
