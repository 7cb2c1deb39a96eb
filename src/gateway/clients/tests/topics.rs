//! Subscriptions of clients.

use serde_json::json;

use super::*;
use crate::gateway::clients::frames::{self, Said};
use crate::gateway::clients::subscribe;
use crate::gateway::clients::{Handle, Who};
use crate::tokens::Grant;
use crate::wire::peer::{Ack, Message, Payload, Pick, Reached, Targets};

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

    let claims = json!({"sub": "carol", "topics": ["mine"], "subscribe": ["room:*"]});
    let grant = Grant::read(claims.as_object().unwrap().clone(), "sub").unwrap();
    let (user, device) = ("carol".into(), "".into());
    let who = Who { user, device, remote: None, meta: None, connected_at_ms: 0 };
    let handle = Arc::new(Handle::new(who, Arc::clone(&bench.hub.common), 0).granted_by(&grant));
    assert!(handle.pass.may_subscribe("mine"));
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

/// A message for the subscribers of a topic, or for everybody.
fn to_many(topic: Option<&str>, data: u64, ack: Ack, pick: Pick) -> Deliver {
    let message = Message {
        id: format!("m-{data}").into(),
        topic: topic.map(Arc::from),
        event: None,
        data: Payload::Json(data.to_string().into()),
        ack,
        timeout_ms: 2000,
    };
    Deliver { id: 0, message: Arc::new(message), targets: Targets::Many(pick), resolved: 0 }
}

impl Bench {
    async fn spread(&self, deliver: Deliver) -> Delivery {
        self.deliveries.outcome(self.deliveries.enter(deliver).await).await
    }

    /// A client that was welcomed with these topics.
    async fn subscribed(&self, user: &str, device: &str, topics: &str) -> (Raw, String) {
        let target = format!("/ws?user={user}&device={device}&topics={topics}");
        let mut client = Raw::open(self.address, &target).await;
        let welcome = client.expect("welcome").await;
        (client, welcome["connection"].as_str().unwrap().to_owned())
    }
}

#[tokio::test]
async fn a_message_for_a_topic_reaches_its_subscribers_and_nobody_else() {
    let bench = Bench::start(|_| {}).await;
    let (mut web, id) = bench.subscribed("alice", "web", "room:7,b").await;
    let (mut ios, _) = bench.subscribed("bob", "ios", "room:7").await;
    let (mut other, _) = bench.subscribed("carol", "web", "b").await;
    let all = Pick::default;
    let Delivery::Many(reached) = bench.spread(to_many(Some("room:7"), 1, Ack::Written, all())).await else { panic!() };
    assert_eq!((reached.delivered, reached.failed, reached.results.len()), (2, 0, 2));
    for client in [&mut web, &mut ios] {
        let push = client.expect("push").await;
        assert_eq!((&push["topic"], &push["data"], &push["seq"]), (&json!("room:7"), &json!(1), &json!(1)));
    }
    // One device, and not this connection.
    let pick = Pick { devices: vec!["web".into()], except: vec![id.parse().unwrap()], rate_per_s: 0 };
    let Delivery::Many(reached) = bench.spread(to_many(Some("b"), 2, Ack::None, pick)).await else { panic!() };
    assert_eq!((reached.delivered, reached.excepted), (1, 1));
    assert_eq!(other.expect("push").await["data"], 2);
    // Everybody; acknowledged by whom it may be.
    let broadcast = to_many(None, 3, Ack::Client, all());
    let (delivery, ()) = tokio::join!(bench.spread(broadcast), async {
        for client in [&mut web, &mut ios, &mut other] {
            let push = client.expect("push").await;
            assert_eq!((&push["ack"], push["topic"].is_null()), (&json!(true), true));
            client.say(&json!({"type": "ack", "seq": push["seq"]}).to_string()).await;
        }
    });
    let Delivery::Many(reached) = delivery else { panic!() };
    assert!(reached.delivered == 3 && reached.results.iter().all(|(_, status)| *status == TargetStatus::Acked));
    // Who has unsubscribed gets nothing any more.
    ios.say(r#"{"type":"unsubscribe","id":1,"topics":["room:7"]}"#).await;
    ios.expect("ok").await;
    let Delivery::Many(reached) = bench.spread(to_many(Some("room:7"), 4, Ack::Written, all())).await else { panic!() };
    assert_eq!(reached.delivered, 1);
    assert_eq!(bench.spread(to_many(Some("x"), 5, Ack::Written, all())).await, Delivery::Many(Reached::default()));
    ios.expect_silence().await;
}

#[tokio::test]
async fn a_paced_message_is_answered_at_once_and_written_at_its_rate() {
    let bench = Bench::start(|settings| settings.peers.paced_max = 1).await;
    let mut clients = Vec::new();
    for user in 0..4 {
        clients.push(bench.subscribed(&user.to_string(), "", "a").await.0);
    }
    let began = tokio::time::Instant::now();
    let pick = Pick { rate_per_s: 20, ..Pick::default() };
    let taken = bench.spread(to_many(Some("a"), 1, Ack::None, pick.clone())).await;
    assert_eq!(taken, Delivery::Many(Reached { delivered: 4, ..Reached::default() }));
    assert_eq!(bench.spread(to_many(None, 2, Ack::None, pick.clone())).await, Delivery::Busy);
    for client in &mut clients {
        assert_eq!(client.expect("push").await["data"], 1);
    }
    assert!(began.elapsed() >= Duration::from_millis(140), "{:?} for four at 20 a second", began.elapsed());
    // Its place is free when it is done.
    let freed = tokio::time::timeout(Duration::from_secs(10), async {
        while bench.spread(to_many(Some("a"), 3, Ack::None, pick.clone())).await == Delivery::Busy {
            tokio::task::yield_now().await;
        }
    });
    freed.await.expect("it comes to an end");
}

#[tokio::test]
async fn who_wants_to_see_the_others_is_told_after_the_subscription_is_confirmed() {
    let bench = Bench::start(|_| {}).await;
    let (mut client, _) = bench.welcomed("alice").await;
    client.say(r#"{"type":"subscribe","id":1,"topics":["a"],"presence":true}"#).await;
    client.expect("ok").await;
    let presence = client.expect("presence").await;
    assert_eq!((&presence["topic"], presence["state"].is_object()), (&json!("a"), true), "{presence}");
    // Asked again, it is told again; without, it is not told more.
    client.say(r#"{"type":"subscribe","id":2,"topics":["a"],"presence":true}"#).await;
    client.expect("ok").await;
    client.expect("presence").await;
    client.say(r#"{"type":"subscribe","id":3,"topics":["b"]}"#).await;
    client.expect("ok").await;
    client.expect_silence().await;
}
