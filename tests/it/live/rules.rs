//! Other rules while devices listen: they are told to look anew, hear by the new views, and nothing by the old ones.

use serde_json::{Value, json};

use super::{RULES, ring};
use crate::support::Appliance;
use crate::support::process::Serving;
use crate::support::socket::Socket;

/// The hint that names nothing.
async fn told_to_look(socket: &mut Socket) {
    let hint = socket.hint().await;
    assert_eq!(hint["tables"], json!({}), "{hint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn new_views_are_heard_and_old_ones_no_more() {
    let office = Appliance::with(RULES).await;
    let (bell, ben, dora) = (office.boss("anna").await, office.clerk("ben", "A").await, office.clerk("dora", "B").await);
    let mut sockets = [Socket::open(&ben).await, Socket::open(&office.enrolled("ben", "2").await).await];
    let hidden = RULES.replace("[tables.news]\n", "[tables.news]\nread = \"manager\"\n").replace("[tables.board]", "[tables.boards]");
    office.reload(&format!("{hidden}[tables.plans]\nrule = \"latest_wins\"\n")).await;
    for socket in &mut sockets {
        told_to_look(socket).await;
    }
    for (table, by) in [("news", &bell), ("plans", &dora), ("boards", &dora), ("visits", &dora)] {
        by.push_one(table, json!({ "id": "n" })).await.applied(table, "n");
    }
    ring(&bell, "b1").await;
    for socket in &mut sockets {
        let heard = socket.until("bells", "b1").await;
        assert_eq!(
            (heard.ids("news").len(), heard.ids("plans").len(), heard.ids("boards").len(), heard.named.len()),
            (0, 1, 1, 3),
            "{heard:?}"
        );
        let (_, tables) = socket.ask("subscribe", json!({})).await;
        assert!(!tables["tables"].as_array().unwrap().contains(&json!("news")), "{tables}");
        assert_eq!(socket.ask("subscribe", json!({ "tables": ["news"] })).await.0, "error");
    }
    // And back: whoever had named the table has it again.
    office.reload(RULES).await;
    for socket in &mut sockets {
        told_to_look(socket).await;
    }
    bell.push_one("news", json!({ "id": "again" })).await.applied("news", "again");
    ring(&bell, "b2").await;
    for socket in &mut sockets {
        let heard = socket.until("bells", "b2").await;
        assert_eq!(heard.ids("news"), ["again"]);
    }
}

/// Changes are pushed all the while; each names in its id under which rules it was accepted.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_hidden_table_is_told_after_the_news_of_it() {
    let office = Appliance::with(RULES).await;
    let (boss, ben) = (office.boss("anna").await, office.clerk("ben", "A").await);
    let hidden = RULES.replace("[tables.news]\n", "[tables.news]\nread = \"manager\"\n");
    let mut socket = Socket::open(&ben).await;
    for round in 0..12 {
        let push = async {
            for no in 0..6 {
                boss.push_one("news", json!({ "id": format!("{round}-{no}") })).await;
            }
        };
        let hide = async {
            for _ in 0..round * 8 {
                tokio::task::yield_now().await;
            }
            office.reload(&hidden).await;
        };
        tokio::join!(push, hide);
        let bell = format!("b{round}");
        ring(&boss, &bell).await;
        let mut looked = false;
        loop {
            let hint = socket.hint().await;
            let tables = hint["tables"].as_object().unwrap();
            assert!(!(looked && tables.contains_key("news")), "{hint}");
            looked = looked || tables.is_empty();
            if tables.get("bells").is_some_and(|all| all.as_array().unwrap().iter().any(|one| one["id"] == bell.as_str())) {
                break;
            }
        }
        assert!(looked);
        office.reload(RULES).await;
        told_to_look(&mut socket).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_to_read_the_rules_again_reaches_the_sockets() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("backroom.toml");
    std::fs::write(&path, RULES).unwrap();
    let serving = Serving::start(directory.path());
    let (boss, ben) = (serving.guest("anna", "manager", &[]).await, serving.guest("ben", "store", &["A"]).await);
    let mut socket = Socket::open(&ben).await;
    std::fs::write(&path, RULES.replace("[tables.visits]\n", "[tables.visits]\nread = \"manager\"\n")).unwrap();
    serving.signal("HUP");
    told_to_look(&mut socket).await;
    boss.push_one("visits", json!({ "id": "v", "store_id": "A" })).await.applied("visits", "v");
    ring(&boss, "b").await;
    let heard = socket.until("bells", "b").await;
    assert_eq!(heard.ids("visits"), Vec::<&str>::new());
    let answer: Value = ben.pull().await.0;
    assert!(answer["changes"].get("visits").is_none(), "{answer}");
    serving.stop();
}
