//! Live connections: who is told of what, how they end, and that nothing a peer does harms anybody else.
//!
//! That something is *not* told shows at a bell, a later change that everybody is told of: hints keep the order of commits.

mod access;
mod conflicts;
mod following;
mod frames;
mod handshake;
mod hints;
mod interop;

mod pushing;
mod rules;
mod slow;
mod storm;
mod views;

use std::time::Duration;

use serde_json::json;

use crate::support::people::within;
use crate::support::socket::PATIENCE;
use crate::support::{Appliance, Device};

const RULES: &str = r#"
[tables.bells]
rule = "latest_wins"
[tables.news]
rule = "latest_wins"
[tables.visits]
rule = "latest_wins"
scope = "store"
[tables.diaries]
rule = "latest_wins"
scope = "user"
[tables.audits]
rule = "latest_wins"
read = "manager"
scope = "store"
[tables.box]
rule = "latest_wins"
read = "manager"
[tables.feeds]
write = "service"
[tables.cases]
rule = "manual"
scope = "store"
[tables.board]
rule = "manual"
[tables.logs]
rule = "manual"
scope = "user"
[tables.vault]
rule = "manual"
read = "manager"
"#;

/// Rings a bell that everybody hears.
async fn ring(by: &Device, id: &str) {
    by.push_one("bells", json!({ "id": id })).await.applied("bells", id);
}

/// Waits until so many listen.
async fn listening(office: &Appliance, count: usize) {
    within(PATIENCE, async || (office.app.hub.count() == count).then_some(())).await
}

/// A process's socket ends as it should within a second.
const SECOND: Duration = Duration::from_secs(1);
