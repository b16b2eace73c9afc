//! The shortest story: a form is created, pulled, and a submission comes back.

use crate::support::Appliance;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_form_goes_out_and_a_submission_comes_back() {
    let office = Appliance::start().await;
    let manager = office.manager("anna").await;
    let till = office.till("north", "A").await;
    manager.push_one("forms", json!({ "id": "f1", "title": "Opening" })).await.applied("forms", "f1");
    assert_eq!(till.pull().await.record("forms", "f1")["title"], "Opening");
    till.push_one("submissions", json!({ "id": "s1", "form_id": "f1" })).await.applied("submissions", "s1");
    assert_eq!(manager.pull().await.record("submissions", "s1")["store_id"], "A");
}
