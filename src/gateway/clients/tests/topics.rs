//! Subscriptions of clients.

use serde_json::json;

use super::*;
use crate::gateway::clients::frames::{self, Said};
use crate::gateway::clients::permissions::Permissions;
use crate::gateway::clients::subscribe;
use crate::gateway::clients::{Handle, Who};

impl Bench {
    /// The topics that the directory knows of this gateway.
    fn topics(&self) -> Vec<String> {
        let epoch = self.hub.lease.epoch().unwrap();
        self.world.read(|directory| directory.topics_of(epoch, None).map(ToString::to_string).collect())
    }

    /// Waits until the directory knows of these topics.
    async fn joined(&self, topics: &[&str]) {
        let reached = tokio::time::timeout(Duration::from_secs(10), async {
            while self.topics() != topics {
                tokio::task::yield_now().await;
            }
        });
        reached.await.unwrap_or_else(|_| panic!("{:?} instead of {topics:?}", self.topics()));
    }
}

#[tokio::test]
async fn a_subscription_is_confirmed_when_the_directory_knows_and_ends_at_once() {
    let bench = Bench::start(|_| {}).await;
    let (mut client, _) = bench.welcomed("alice").await;
    client.say(r#"{"type":"subscribe","id":1,"topics":["room:7","b","room:7"]}"#).await;
    let ok = client.expect("ok").await;
    assert_eq!((&ok["re"], bench.topics()), (&json!(1), vec!["b".to_owned(), "room:7".to_owned()]));
    assert_eq!(ok["revision"].as_u64(), Some(bench.world.read(|directory| directory.revision())));
    let (mut other, _) = bench.welcomed("bob").await;
    other.say(r#"{"type":"subscribe","id":"x","topics":["room:7"]}"#).await;
    assert_eq!(other.expect("ok").await["re"], "x");
    // The last one who leaves a topic takes it along, and only that one.
    client.say(r#"{"type":"unsubscribe","id":2,"topics":["room:7","b","c"]}"#).await;
    assert_eq!(client.expect("ok").await["re"], 2);
    bench.joined(&["room:7"]).await;
    drop(other);
    bench.joined(&[]).await;
    assert_eq!(bench.hub.table.subscriptions().figures(), (0, 0));
}

#[tokio::test]
async fn subscriptions_that_can_not_be_had_are_refused_and_change_nothing() {
    let bench = Bench::start(|settings| settings.clients.subscriptions_max = 2).await;
    let (mut client, _) = bench.welcomed("alice").await;
    for (topics, code) in [
        (json!(["a", "b", "c"]), "limit"),
        (json!([]), "bad_request"),
        (json!(["a", ""]), "bad_request"),
        (json!(["a\nb"]), "bad_request"),
        (json!(["x".repeat(129)]), "bad_request"),
    ] {
        client.say(&json!({"type": "subscribe", "id": 5, "topics": topics}).to_string()).await;
        let error = client.expect("error").await;
        assert_eq!((&error["re"], &error["code"]), (&json!(5), &json!(code)), "{error}");
    }
    assert_eq!(bench.hub.table.subscriptions().figures(), (0, 0));

    let permissions = Permissions::only(&["room:*"]);
    let (user, device) = ("carol".into(), "".into());
    let who = Who { user, device, remote: None, meta: None, connected_at_ms: 0, permissions };
    let handle = Arc::new(Handle::new(who, Arc::clone(&bench.hub.common), 0));
    let Said::Topics(request) = frames::read(r#"{"type":"subscribe","topics":["room:7","news"]}"#) else { panic!() };
    let refused = frames::text(&subscribe::take(&bench.hub, &handle, request).unwrap());
    assert!(refused.contains("forbidden") && refused.contains("news"), "{refused}");
}

#[tokio::test]
async fn who_arrives_with_topics_has_them_when_it_is_welcomed() {
    let bench = Bench::start(|_| {}).await;
    let mut client = Raw::open(bench.address, "/ws?user=alice&topics=a,room%3A7&topics=c").await;
    client.expect("welcome").await;
    assert_eq!(bench.topics(), ["a", "c", "room:7"]);
    let mut second = Raw::open(bench.address, "/ws").await;
    second.expect("hello").await;
    second.say(r#"{"type":"connect","user":"bob","topics":["d"],"id":1}"#).await;
    second.expect("welcome").await;
    assert_eq!(bench.topics(), ["a", "c", "d", "room:7"]);
    let mut wrong = Raw::open(bench.address, "/ws").await;
    wrong.expect("hello").await;
    wrong.say(r#"{"type":"connect","user":"carol","topics":["d",""],"id":9}"#).await;
    wrong.expect("welcome").await;
    let error = wrong.expect("error").await;
    assert_eq!((&error["re"], &error["code"]), (&json!(9), &json!("bad_request")), "and it goes on without");
}

#[tokio::test]
async fn in_a_new_session_topics_are_joined_anew_before_anybody_is_registered() {
    let bench = Bench::start(|_| {}).await;
    let mut client = Raw::open(bench.address, "/ws?user=alice&topics=a,b").await;
    client.expect("welcome").await;
    bench.world.end_session(bench.epoch);
    assert_eq!(bench.topics(), [""; 0]);
    let epoch = bench.world.open_session(2);
    bench.lease(epoch);
    client.expect("rebound").await;
    assert_eq!(bench.topics(), ["a", "b"]);
    client.say(r#"{"type":"subscribe","id":1,"topics":["a"]}"#).await;
    client.expect("ok").await;
}
