//! What scripts can do, what they cannot, and that each of them ends.

use std::sync::Arc;

use super::*;
use crate::domain::actor::Role;
use crate::domain::incoming::Incoming;

fn content(json: &str) -> Content {
    Incoming::parse(json).unwrap().content
}

/// Time enough for a test on a busy machine.
fn ample() -> Budget {
    Budget::new(Duration::from_secs(600), Duration::from_secs(60))
}

fn derive(body: &str, json: &str) -> Result<String, Failure> {
    let script = Script::compile(&format!("fn derive(record) {{ {body} }}")).unwrap();
    script.derive(&content(json), &mut ample()).map(Content::into_text)
}

fn fails(body: &str) -> String {
    match derive(body, r#"{"n":1}"#) {
        Err(Failure::Failed(reason)) => reason,
        other => panic!("{body}: {other:?}"),
    }
}

fn case() -> Case {
    Case {
        table: "todos".into(),
        id: "t1".into(),
        fields: vec!["title".into(), "a.b".into()],
        base: None,
        server: Some(content(r#"{"total":2}"#)),
        client: Some(content(r#"{"total":3}"#)),
        merged: Some(content(r#"{"total":2,"z":1}"#)),
        they: Side { role: Role::Manager, edited_at: 1_700_000_000_123_456 },
        we: Side { role: Role::Store, edited_at: -1 },
    }
}

fn resolve(body: &str, case: &Case) -> Result<Resolution, Failure> {
    let script = Script::compile(&format!("fn resolve(base, server, client, context) {{ {body} }}")).unwrap();
    script.resolve(case, &mut ample())
}

#[test]
fn scripts_that_are_none_are_refused() {
    for (source, reason) in [
        ("", "a script needs a function"),
        ("fn other(a) { a }", "a script needs a function"),
        ("fn derive(a, b) { a }", "derive(record)"),
        ("fn derive() { #{} }", "derive(record)"),
        ("fn derive(a) { a } fn derive(a, b) { a }", "derive(record)"),
        ("fn resolve(a) { a }", "resolve(base, server, client, context)"),
        ("fn derive(record) {\n  let x = ;\n}", "line 2, column 11: "),
        ("fn derive(record) { import \"x\" as y; record }", "line 1, column 21: "),
        ("fn derive(record) { eval(\"1\"); record }", "line 1, column 21: "),
        ("fn derive(record) { \"1\".eval(); record }", "line 1"),
        ("fn derive(record) { print(1); record }", "line 1, column 21: "),
        ("fn derive(record) { debug(1); record }", "line 1, column 21: "),
        ("fn derive(record) { export record; }", "line 1, column 21: "),
    ] {
        let error = Script::compile(source).unwrap_err();
        assert!(error.contains(reason), "{source}: {error}");
    }
    let long = format!("fn derive(r) {{ r }} //{}", "x".repeat(limits::SCRIPT_BYTES));
    assert!(Script::compile(&long).unwrap_err().contains("at most 65536 bytes"));
    let nested = |n: usize| format!("fn derive(r) {{ r.a = {}1{}; r }}", "(1+".repeat(n), ")".repeat(n));
    assert!(Script::compile(&nested(10)).is_ok());
    assert!(Script::compile(&nested(10_000)).unwrap_err().contains("complexity"));
    let many: String = (0..1_000).map(|n| format!("fn f{n}() {{}}\n")).collect();
    assert!(Script::compile(&format!("{many} fn derive(r) {{ r }}")).unwrap_err().contains("functions"));
}

#[test]
fn scripts_say_what_they_do() {
    let both = Script::compile("fn derive(r) { r } fn resolve(a, b, c, d) { \"server\" }").unwrap();
    assert!(both.derives() && both.resolves());
    let one = Script::compile("fn derive(r) { r }").unwrap();
    assert!(one.derives() && !one.resolves());
    fn shared<T: Send + Sync + fmt::Debug>(_: &T) {}
    shared(&Arc::new(one));
}

#[test]
fn derived_fields() {
    for (body, json, expected) in [
        ("record.total = record.price * record.count; record", r#"{"price":3,"count":4}"#, r#"{"count":4,"price":3,"total":12}"#),
        ("#{ a: record.a }", r#"{"a":[1,{"b":null}],"c":1}"#, r#"{"a":[1,{"b":null}]}"#),
        ("record.missing = record.nothing; record", "{}", r#"{"missing":null}"#),
        (
            "let sum = 0.0; for line in record.lines { sum += line.price; } record.sum = sum; record",
            r#"{"lines":[{"price":1.5},{"price":98.5}]}"#,
            r#"{"lines":[{"price":1.5},{"price":98.5}],"sum":100}"#,
        ),
        (
            "record.slug = record.title; record.slug.replace(\" \", \"-\"); record.slug = record.slug.to_lower(); record",
            r#"{"title":"Alter Wein"}"#,
            r#"{"slug":"alter-wein","title":"Alter Wein"}"#,
        ),
        ("record.names = record.m.keys(); record", r#"{"m":{"b":1,"a":2}}"#, r#"{"m":{"a":2,"b":1},"names":["a","b"]}"#),
        (
            "record.old = record.l.filter(|n| n > 1).map(|n| n * 2); record.l.sort_by(|a, b| b - a); record",
            r#"{"l":[1,2,3]}"#,
            r#"{"l":[3,2,1],"old":[4,6]}"#,
        ),
        ("record.text = `${record.a} and ${record.b}`; record", r#"{"a":[1,"x"],"b":{"c":null}}"#, {
            r#"{"a":[1,"x"],"b":{"c":null},"text":"[1,\"x\"] and {\"c\":null}"}"#
        }),
        ("record.same = record.a == record.b; record", r#"{"a":[1,{"x":2.5}],"b":[1,{"x":2.5}]}"#, {
            r#"{"a":[1,{"x":2.5}],"b":[1,{"x":2.5}],"same":true}"#
        }),
        ("record.has = record.a.contains(#{x: 2}); record", r#"{"a":[1,{"x":2}]}"#, r#"{"a":[1,{"x":2}],"has":true}"#),
        ("record.c = 'x'; record.p = \"7\"; record.p.pad(3, \"ab\"); record", "{}", r#"{"c":"x","p":"7ab"}"#),
        ("if record.n > 1 { return #{ early: true } } record", r#"{"n":2}"#, r#"{"early":true}"#),
        ("try { throw \"x\" } catch (e) { record.id_of = e; } record", "{}", r#"{"id_of":"x"}"#),
    ] {
        assert_eq!(derive(body, json).as_deref(), Ok(expected), "{body}");
    }
}

#[test]
fn values_survive_exactly() {
    for json in [
        r#"{"n":[9223372036854775807,-9223372036854775808,9007199254740993,18446744073709551615,9223372036854775808]}"#,
        r#"{"n":[0,-1,0.1,1e-7,1.5e+300,100000000000000000000,5e-324,1e+21]}"#,
        r#"{"":"","a":[[],{}],"b":false,"n":null,"s":"é😀\u0000\n\"\\","t":true}"#,
        r#"{"\"":1,"a.b":{"":{"":null}},"é":[],"😀":[[[[1]]]]}"#,
    ] {
        let json = content(json);
        assert_eq!(derive("record", json.text()).as_deref(), Ok(json.text()));
        let copied = "let copy = #{}; for name in record.keys() { copy[name] = record[name]; } copy";
        assert_eq!(derive(copied, json.text()).as_deref(), Ok(json.text()));
    }
    assert_eq!(derive("record.a += 0.5; record.b = 100.0; record.c = -0.0; record", r#"{"a":1}"#).unwrap(), r#"{"a":1.5,"b":100,"c":0}"#);
    assert_eq!(derive("record.n += 1; record", r#"{"n":9007199254740993}"#).unwrap(), r#"{"n":9007199254740994}"#);
    let same = derive("record.s = record.a == record.b; record", r#"{"a":18446744073709551615,"b":18446744073709551615}"#);
    assert_eq!(same.unwrap(), r#"{"a":18446744073709551615,"b":18446744073709551615,"s":true}"#);
    let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(63), "]".repeat(63));
    assert_eq!(derive("record", &deep).as_deref(), Ok(deep.as_str()));
}

#[test]
fn what_derive_must_not_return() {
    for (body, reason) in [
        ("7", "derive returned a number, and not a record"),
        ("record.n = 2;", "derive returned nothing, and not a record"),
        ("\"server\"", "derive returned a text, and not a record"),
        ("[record]", "derive returned a list, and not a record"),
        ("record.x = 1.0 / 0.0; record", "x: neither infinity nor NaN is a number in JSON"),
        ("record.x = [#{ \"a.b\": [0, 0.0 / 0.0] }]; record", "x.0.a\\.b.1: neither infinity nor NaN"),
        ("record.x = |a| a; record", "x: a value of the type Fn"),
        ("record.x = 0..3; record", "x: a value of the type"),
        ("record.x = \"abc\".to_blob(); record", "x: a value of the type"),
        ("record.id = \"x\"; record", "\"id\" belongs to the protocol"),
        ("record.version = 1; record", "\"version\" belongs to the protocol"),
        ("record.updated_at = (); record", "\"updated_at\" belongs to the protocol"),
        ("record.deleted = true; record", "\"deleted\" belongs to the protocol"),
        ("for i in 0..70 { record = #{ a: record }; } record", "nested deeper than 64"),
        ("let k = \"k\"; k.pad(200000, 'k'); for i in 0..9 { record[k + i] = 1; } record", "larger than 1048576 bytes"),
        ("throw \"no price\"", "line 1, column 21: no price"),
        ("throw record", "the script threw an object map"),
        ("record.n.nothing()", "line 1, column 30: Function not found: nothing (i64)"),
        ("9223372036854775807 + record.n", "line 1, column 41: Addition overflow"),
        ("record.n / 0", "Division by zero"),
        ("nobody", "Variable not found: nobody"),
        ("[1][7]", "line 1"),
    ] {
        let error = fails(body);
        assert!(error.contains(reason), "{body}: {error}");
    }
    assert!(fails("let t = \"x\"; t.pad(5000, 'x'); throw t").chars().count() < 400);
}

#[test]
fn nothing_outside_can_be_reached() {
    for call in [
        "sleep(10)",
        "sleep(0.5)",
        "10.sleep()",
        "timestamp()",
        "timestamp().elapsed",
        "now()",
        "time()",
        "elapsed(1)",
        "blob(10)",
        "blob()",
        "parse_json(\"{}\")",
        "exit(record)",
        "open(\"/etc/passwd\")",
        "open_file(\"x\")",
        "env(\"HOME\")",
        "run(\"x\")",
        "rand()",
        "get_fn_metadata_list()",
        "Fn(\"eval\").call(\"1\")",
        "Fn(\"print\").call(\"1\")",
        "Fn(\"sleep\").call(1)",
        "call(Fn(\"eval\"), \"1\")",
        "call(\"eval\", \"1\")",
        "import_module(\"x\")",
        "global::x",
        "std::process::exit(1)",
        "is_shared(record)",
    ] {
        let source = format!("fn derive(record) {{ let x = {call}; record.done = true; record }}");
        match Script::compile(&source).map_err(Failure::Failed).and_then(|script| script.derive(&content("{}"), &mut ample())) {
            Err(Failure::Failed(_)) => {}
            other => panic!("{call}: {other:?}"),
        }
    }
    // Statements outside the functions are never run, and a script remembers nothing.
    let script = Script::compile("let a = 1; loop {} fn derive(record) { record.a = is_def_var(\"a\"); record }").unwrap();
    for _ in 0..2 {
        assert_eq!(script.derive(&content("{}"), &mut ample()).unwrap().text(), r#"{"a":false}"#);
    }
}

#[test]
fn endless_scripts_end() {
    for body in [
        "loop {}",
        "while true {}",
        "do {} while true;",
        "for i in 0..9223372036854775807 {}",
        "let x = 0; loop { x += 1; }",
        "loop { try { loop {} } catch { } }",
        "[2, 1, 3].sort_by(|a, b| { loop {} }); loop {}",
        "let l = []; l.pad(9999, 0); for i in 0..1000000 { l.map(|n| n + 1); }",
        "let l = []; l.pad(9999, 0); for i in 0..1000000 { l.contains(l); }",
        "let l = []; l.pad(9999, 0); for i in 0..1000000 { l.sort_by(|a, b| 1); }",
        "let t = \"\"; t.pad(262144, 'x'); loop { t.index_of(\"y\"); t.split(\"\"); }",
        "let f = |a| a; loop { f = f.curry(f); }",
        "let m = #{}; let i = 0; loop { m[`k${i % 9999}`] = i; i += 1; }",
    ] {
        let script = Script::compile(&format!("fn derive(record) {{ {body} record }}")).unwrap();
        let mut budget = Budget::of_push();
        let result = script.derive(&content("{}"), &mut budget);
        // What a list or a text may hold can be reached before the time is up.
        let large = matches!(&result, Err(Failure::Failed(reason)) if reason.contains("too large") || reason.contains("exceeds"));
        assert!(result == Err(Failure::Budget) || large, "{body}: {result:?}");
    }
    // Without a limit in time the operations end it.
    assert_eq!(derive("loop {}", "{}"), Err(Failure::Budget));
}

#[test]
fn a_push_has_one_budget() {
    let script = Script::compile("fn derive(record) { if record.n == 1 { loop {} } record }").unwrap();
    let mut budget = Budget::new(Duration::from_millis(20), Duration::from_millis(5));
    let mut calls = 0;
    assert!(script.derive(&content(r#"{"n":0}"#), &mut budget).is_ok());
    while script.derive(&content(r#"{"n":0}"#), &mut budget).is_ok() && calls < 10 {
        assert_eq!(script.derive(&content(r#"{"n":1}"#), &mut budget), Err(Failure::Budget));
        calls += 1;
    }
    assert!((1..=4).contains(&calls), "{calls}");
    assert_eq!(script.derive(&content(r#"{"n":0}"#), &mut budget), Err(Failure::Budget));
}

#[test]
fn large_values_end_with_a_sentence() {
    for (body, reason) in [
        ("let t = \"x\"; loop { t += t; }", "Length of string"),
        ("let t = \"x\"; t.pad(1000000000, 'x');", "Length of string"),
        ("let t = \"x\"; t.pad(1000000000, \"xy\");", "Length of string"),
        ("let t = \"xxxxxxxxxx\"; for i in 0..20 { t.replace(\"x\", t); }", "Length of string"),
        ("let t = \"xxxxxxxxxx\"; for i in 0..20 { t.replace(\"\", t); }", "Length of string"),
        ("let t = \"xxxxxxxxxx\"; for i in 0..20 { t.replace('x', t); }", "Length of string"),
        ("let l = [1]; loop { l += l; }", "Size of array"),
        ("let l = [1]; loop { l.append(l); }", "Size of array"),
        ("let l = [1]; loop { l = [l, l]; }", "Size of array"),
        ("let l = []; l.pad(1000000000, 0);", "Size of array"),
        ("let l = []; l.pad(288230376151711744, 0);", "Size of array"),
        ("let l = []; let e = []; e.pad(63, 0); l.pad(288230376151711744, e);", "a list is padded with"),
        ("let m = #{a: 1}; loop { m = #{a: m, b: m}; }", "Size of object map"),
        ("let t = \"\"; t.pad(200000, 'x'); let l = [t, t];", "Length of string"),
        ("let t = \"\"; t.pad(262144, 'x'); t.split(\"\");", "Size of array"),
        ("let b = \"x\"; b.pad(20000, 'x'); b.to_blob();", "Size of array"),
        ("fn_that_recurses(1);", "Stack overflow"),
    ] {
        let source = format!("fn fn_that_recurses(n) {{ fn_that_recurses(n + 1) }} fn derive(record) {{ {body} record }}");
        match Script::compile(&source).unwrap().derive(&content("{}"), &mut ample()) {
            Err(Failure::Failed(error)) => assert!(error.contains(reason), "{body}: {error}"),
            other => panic!("{body}: {other:?}"),
        }
    }
    assert_eq!(derive("let t = \"a\"; t.pad(5, \"\"); record.t = t; record", "{}").unwrap(), r#"{"t":"a"}"#, "nothing to pad with");

    let texts = format!(r#"{{"a":"{}"}}"#, "x".repeat(limits::SCRIPT_TEXT_BYTES + 1));
    let entries = format!(r#"{{"a":[{}0]}}"#, "0,".repeat(limits::SCRIPT_ITEMS));
    let members: String = (0..=limits::SCRIPT_ITEMS).map(|n| format!(r#""{n}":0,"#)).collect();
    for (json, reason) in [
        (texts, "takes 262144 bytes of text"),
        (entries, "takes 10000 entries in lists"),
        (format!("{{{members}\"x\":0}}"), "takes 10000 fields"),
    ] {
        assert!(matches!(derive("record", &json), Err(Failure::Failed(error)) if error.contains(reason)), "{reason}");
    }
}

/// Everything that goes deep, on the stack that scripts are promised. How deep values nest is bounded by the time.
#[test]
fn a_small_stack_suffices() {
    let nested = |n: usize, inner: &str| (0..n).fold(inner.to_owned(), |inner, _| format!("if true {{ {inner} }} else {{ 0 }}"));
    let brackets = |n: usize, inner: &str| format!("{}{inner}{}", "(1 + ".repeat(n), ")".repeat(n));
    let mut sources = vec![
        "fn f(n) { f(n + 1) } fn derive(record) { f(1) }".to_owned(),
        "fn f(n) { [n].map(|x| f(x)) } fn derive(record) { f(1) }".to_owned(),
        "fn f(n) { [n, n].sort_by(|x, y| f(x)) } fn derive(record) { f(1) }".to_owned(),
    ];
    for depth in 1..limits::SCRIPT_NESTING {
        sources.push(format!("fn f(n) {{ {} }} fn derive(record) {{ f(1) }}", nested(depth, "f(n)")));
        sources.push(format!("fn f(n) {{ {} }} fn derive(record) {{ f(1) }}", brackets(depth, "f(n)")));
    }
    for nest in ["x = [x];", "x = #{ a: x };", "x = [#{ a: x }];", "let y = []; y.push(x); x = y;"] {
        for end in [
            "",
            "x == x;",
            "x.to_string();",
            "`${x}`;",
            "x.contains(x);",
            "[x].index_of(x);",
            "throw x;",
            "switch x { 1 => 2 }",
            "x + \"\";",
        ] {
            for count in [300, 20_000] {
                sources.push(format!("fn derive(record) {{ let x = []; for i in 0..{count} {{ {nest} }} {end} record.x = x; record }}"));
            }
        }
    }
    let run = move || {
        let mut refused = 0;
        for source in &sources {
            match Script::compile(source) {
                Ok(script) => assert!(script.derive(&content("{}"), &mut Budget::of_push()).is_err(), "{source}"),
                Err(error) => {
                    assert!(error.contains("complexity"), "{source}: {error}");
                    refused += 1;
                }
            }
        }
        assert!(refused < sources.len() / 2);
    };
    std::thread::Builder::new().stack_size(limits::RULES_STACK_BYTES).spawn(run).unwrap().join().unwrap();
}

#[test]
fn resolutions() {
    let record = |json: &str| Ok(Resolution::Record(content(json)));
    let case = case();
    for (body, expected) in [
        ("\"server\"", Ok(Resolution::Side(Winner::Server))),
        ("\"client\"", Ok(Resolution::Side(Winner::Client))),
        ("\"manual\"", Ok(Resolution::Side(Winner::None))),
        ("client.total += server.total; client", record(r#"{"total":5}"#)),
        ("#{ base: base == (), t: context.table, i: context.id }", record(r#"{"base":true,"t":"todos","i":"t1"}"#)),
        ("#{ f: context.fields }", record(r#"{"f":["title","a.b"]}"#)),
        ("context.merged.total += 1; context.merged", record(r#"{"total":3,"z":1}"#)),
        ("context.server", record(r#"{"role":"manager","edited_at":1700000000123}"#)),
        ("context.client", record(r#"{"role":"store","edited_at":-1}"#)),
        ("if context.server.edited_at > context.client.edited_at { \"server\" } else { \"client\" }", Ok(Resolution::Side(Winner::Server))),
    ] {
        assert_eq!(resolve(body, &case), expected, "{body}");
    }
    let gone = Case { base: Some(content(r#"{"x":1}"#)), server: None, ..case.clone() };
    assert_eq!(resolve("if server == () { base } else { \"manual\" }", &gone), record(r#"{"x":1}"#));
    for (body, reason) in [
        ("\"both\"", "resolve returned \"both\", and not a record, \"server\", \"client\" or \"manual\""),
        ("base", "resolve returned nothing"),
        ("7", "resolve returned a number"),
        ("true", "resolve returned true or false"),
        ("client.id = 1; client", "resolve returned what is no record: \"id\" belongs to the protocol"),
        ("throw \"I do not know\"", "I do not know"),
    ] {
        match resolve(body, &case) {
            Err(Failure::Failed(error)) => assert!(error.contains(reason), "{body}: {error}"),
            other => panic!("{body}: {other:?}"),
        }
    }
    assert_eq!(resolve("loop {}", &case), Err(Failure::Budget));
}
