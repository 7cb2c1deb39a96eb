//! Changes of the group: what may be asked, and what refusals look like.

use serde_json::json;

use super::*;
use crate::wire::peer::{ChangeRefusal, ChangeRefused, Failure, GroupChange};

const MEMBERS: &str = "/v1/cluster/members";

fn refused(kind: ChangeRefusal) -> ChangeRefused {
    ChangeRefused { kind, why: "as it is".into() }
}

#[tokio::test]
async fn a_node_is_added_promoted_and_removed() {
    let api = Api::start().await;
    let got = api.post(MEMBERS, json!({"id": 4, "peer": "10.0.0.4:7200"})).await;
    assert_eq!((got.status, got.json()), (200, json!({"id": 4, "role": "learner", "revision": 7})));
    assert_eq!(got.header("x-revision"), Some("7"));
    let got = api.post(MEMBERS, json!({"id": 4, "peer": "10.0.0.4:7200", "role": "voter"})).await;
    assert_eq!((got.status, got.json()), (200, json!({"id": 4, "role": "voter", "revision": 7})));
    let got = api.post("/v1/cluster/members/4/promote", json!({})).await;
    assert_eq!((got.status, got.json()), (200, json!({"id": 4, "role": "voter", "revision": 7})));
    let got = api.call(Method::DELETE, "/v1/cluster/members/4", &[], "").await;
    assert_eq!((got.status, got.json()), (200, json!({"id": 4, "role": "removed", "revision": 7})));
    let got = api.post("/v1/cluster/transfer-leader", json!({"to": 2})).await;
    assert_eq!((got.status, got.json()), (200, json!({"leader": 2, "revision": 7})));
}

#[tokio::test]
async fn a_voter_that_has_far_to_go_is_a_learner_first() {
    let api = Api::start().await;
    let promote = GroupChange::Promote { id: 4 };
    api.backend.tell(|told| told.changes_refused = vec![(promote.clone(), refused(ChangeRefusal::Behind))]);
    let voter = json!({"id": 4, "peer": "10.0.0.4:7200", "role": "voter"});
    let got = api.post(MEMBERS, voter.clone()).await;
    let expected = json!({"id": 4, "role": "learner", "revision": 7, "message": "as it is"});
    assert_eq!((got.status, got.json()), (202, expected));
    api.backend.tell(|told| told.changes_refused = vec![(promote, refused(ChangeRefusal::Conflict))]);
    let error = api.post(MEMBERS, voter).await.json()["error"].clone();
    assert_eq!((&error["code"], &error["applied"]), (&json!("conflict"), &json!("unknown")));
    assert!(error["message"].as_str().unwrap().contains("is a learner now"), "{error}");
}

#[tokio::test]
async fn what_can_not_be_done_is_told_apart() {
    let api = Api::start().await;
    for (kind, status, code, temporary) in [
        (ChangeRefusal::NoMember, 404, "not_found", false),
        (ChangeRefusal::Busy, 409, "conflict", true),
        (ChangeRefusal::Behind, 409, "conflict", true),
        (ChangeRefusal::Conflict, 409, "conflict", false),
    ] {
        api.backend.tell(|told| told.changes_refused = vec![(GroupChange::Remove { id: 4 }, refused(kind))]);
        let got = api.call(Method::DELETE, "/v1/cluster/members/4", &[], "").await;
        assert_eq!(got.error(), (status, code.into()), "{kind:?}");
        let error = got.json()["error"].clone();
        assert_eq!((&error["temporary"], &error["applied"]), (&json!(temporary), &json!("no")), "{error}");
    }
    for failure in [Failure::NotLeader { leader: Some((1, "x".into())) }, Failure::NoQuorum, Failure::Unknown] {
        let applied = if failure == Failure::Unknown { "unknown" } else { "no" };
        api.backend.tell(|told| told.failure = Some(failure));
        let got = api.post("/v1/cluster/transfer-leader", json!({"to": 2})).await;
        assert_eq!(got.error(), (503, "unavailable".into()));
        assert_eq!(got.json()["error"]["applied"], applied);
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_anybody_is_asked() {
    let api = Api::start().await;
    for body in [
        json!({"id": 0, "peer": "10.0.0.4:7200"}),
        json!({"id": 4, "peer": "10.0.0.4"}),
        json!({"id": 4, "peer": ":7200"}),
        json!({"id": 4, "peer": "10.0.0.4:0"}),
        json!({"id": 4, "peer": "10.0.0.4:7200", "role": "removed"}),
        json!({"id": 4, "peer": "10.0.0.4:7200", "role": "king"}),
        json!({"id": 4, "peer": "10.0.0.4:7200", "voter": true}),
        json!({"peer": "10.0.0.4:7200"}),
    ] {
        assert_eq!(api.post(MEMBERS, body.clone()).await.error(), (400, "bad_request".into()), "{body}");
    }
    for path in ["/v1/cluster/members/x/promote", "/v1/cluster/members/0/promote"] {
        assert_eq!(api.post(path, json!({})).await.error(), (400, "bad_request".into()), "{path}");
    }
    assert_eq!(api.post("/v1/cluster/transfer-leader", json!({"to": 0})).await.status, 400);
}

#[tokio::test]
async fn a_process_that_does_not_belong_to_the_cluster_answers_for_itself_alone() {
    let api = Api::start().await;
    api.backend.tell(|told| told.shut_out = Some("it was removed".into()));
    for path in ["/v1/users/alice", "/v1/cluster", "/v1/watch", "/v1/connections?consistency=cached", "/v1/nothing"] {
        let got = api.get(path).await;
        assert_eq!(got.error(), (503, "unavailable".into()), "{path}");
        assert!(got.json()["error"]["message"].as_str().unwrap().contains("removed"));
    }
    for path in ["/v1/info", "/livez", "/metrics"] {
        assert_eq!(api.get(path).await.status, 200, "{path}");
    }
}
