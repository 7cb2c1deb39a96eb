//! Pushes to topics and to everybody: which gateways are asked, and what is said when one can't be.

use super::*;

impl Sockets {
    /// Everybody who is here is subscribed to everything.
    pub(super) fn spread(&self, message: &Message) -> Delivery {
        let epoch = self.epoch.lock().unwrap().unwrap();
        let open = self.open.lock().unwrap();
        self.sent.lock().unwrap().extend(open.iter().map(|serial| (*serial, Arc::clone(&message.id))));
        let results = open.iter().map(|serial| (ConnectionId { epoch, serial: *serial }, TargetStatus::Written));
        Delivery::Many(Reached { delivered: open.len() as u64, results: results.collect(), ..Reached::default() })
    }
}

impl Lagging {
    fn join(&self, epoch: Epoch, topic: &str) {
        self.apply(Command::Batch(Batch { epoch, seq: None, ops: vec![Op::Join { topics: vec![topic.into()] }] }));
    }

    fn end(&self, epoch: Epoch) {
        self.apply(Command::EndSession { epoch, reason: Reason::Expired, fenced: true });
    }
}

fn to_topic(id: &str) -> Order {
    order(Target::Topic("room".into()), id)
}

/// An address where nobody listens.
fn nowhere() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn a_topic_goes_to_the_gateways_that_have_subscribers() {
    let bench = Bench::new();
    bench.client(1, "a", "web");
    bench.client(2, "b", "web");
    // Without a subscriber there: it is not asked, so it does not matter that it can't be.
    bench.view.open("elsewhere", Some(&nowhere()));
    bench.view.join(bench.here, "room");
    bench.view.catch_up();
    let pushed = bench.router.push(to_topic("m")).await.unwrap();
    let spread = Spread { delivered: 2, ..Spread::default() };
    assert_eq!((statuses(&pushed).len(), pushed.spread, pushed.revision), (2, Some(spread), 5));
    assert_eq!((bench.sent().len(), bench.linearized()), (2, 0));
}

#[tokio::test]
async fn a_topic_that_nobody_is_known_to_have_is_looked_for_once_linearizably() {
    let bench = Bench::new();
    assert_eq!(bench.router.push(to_topic("m")).await, Err(PushRefused::Offline { as_of: 1 }));
    bench.client(1, "a", "web");
    bench.view.join(bench.here, "room");
    *bench.view.no_quorum.lock().unwrap() = true;
    assert_eq!(bench.router.push(to_topic("m")).await, Err(PushRefused::Unavailable(Stale::NoQuorum)));
    *bench.view.no_quorum.lock().unwrap() = false;
    let pushed = bench.router.push(to_topic("m")).await.unwrap();
    assert_eq!((statuses(&pushed), bench.linearized()), (vec![(1, TargetStatus::Written)], 3));
    // The directory is told late that the last one has left; the gateway knows.
    bench.sockets.open.lock().unwrap().clear();
    assert_eq!(bench.router.push(to_topic("m")).await, Err(PushRefused::Offline { as_of: 3 }));
}

#[tokio::test]
async fn a_gateway_that_can_not_be_asked_is_named_and_never_offline() {
    let bench = Bench::new();
    let dead = bench.view.open("dead", Some(&nowhere()));
    bench.view.join(dead, "room");
    bench.view.catch_up();
    let unreached = bench.router.push(to_topic("m")).await;
    assert_eq!(unreached, Err(PushRefused::Unreached { gateways: vec!["dead".into()] }));
    bench.client(1, "a", "web");
    bench.view.join(bench.here, "room");
    let spread = |pushed: Pushed| pushed.spread.unwrap();
    let partial = spread(bench.router.push(to_topic("m")).await.unwrap());
    assert_eq!(partial, Spread { delivered: 1, failed: 1, unanswered: vec!["dead".into()] });
    let everybody = spread(bench.router.push(order(Target::All, "m")).await.unwrap());
    assert_eq!(everybody, partial);
    // When its session is over its subscribers are gone, and with them the doubt.
    bench.view.end(dead);
    let whole = spread(bench.router.push(to_topic("m")).await.unwrap());
    assert_eq!((whole.delivered, whole.unanswered), (1, Vec::new()));
    assert_eq!(bench.sent().len(), 3, "nobody gets anything twice");
}

#[tokio::test]
async fn in_a_batch_what_goes_to_many_keeps_its_place_among_the_others() {
    let bench = Bench::new();
    let id = bench.client(1, "a", "web");
    bench.view.join(bench.here, "room");
    bench.view.catch_up();
    let orders = vec![
        to_user("a", "1"),
        to_topic("2"),
        order(Target::All, "3"),
        order(Target::Connection(id), "4"),
        to_user("nobody", "5"),
        to_topic("6"),
    ];
    let answers = bench.router.push_many(orders).await;
    assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, true, true, false, true]);
    let sent: Vec<String> = bench.sent().into_iter().map(|(_, id)| id).collect();
    assert_eq!(sent, ["1", "2", "3", "4", "6"]);
}
