//! Pushes to sockets.

use super::*;
use crate::directory::ConnectionId;
use crate::wire::peer::{Ack, Deliver, Message, Payload, TargetStatus, Targets};

fn delivery(bench: &Bench, id: &str, data: &str, ack: Ack, serial: u64) -> Deliver {
    let message = Message {
        id: id.into(),
        topic: None,
        event: Some("e".into()),
        data: Payload::Json(data.to_owned().into()),
        ack,
        timeout_ms: 2000,
    };
    let targets = vec![ConnectionId { epoch: bench.epoch, serial }];
    Deliver { id: 0, message: Arc::new(message), targets: Targets::Each(targets), resolved: 0 }
}

#[tokio::test]
async fn a_push_is_written_in_order_and_acknowledged_when_the_client_says_so() {
    let bench = Bench::start(|_| {}).await;
    let (mut client, serial) = bench.welcomed("alice").await;
    for seq in 1..=20 {
        let ack = if seq % 2 == 0 { Ack::Written } else { Ack::None };
        let statuses = bench.deliver(delivery(&bench, "m-1", &format!("{{\"i\":{seq}}}"), ack, serial)).await;
        assert_eq!(statuses, [TargetStatus::Written]);
    }
    for seq in 1..=20 {
        let push = client.expect("push").await;
        assert_eq!((&push["seq"], &push["data"]["i"], &push["event"]), (&seq.into(), &seq.into(), &"e".into()));
    }
    let (statuses, ()) = tokio::join!(bench.deliver(delivery(&bench, "m-2", "1", Ack::Client, serial)), async {
        assert_eq!(client.expect("push").await["ack"], true);
        client.say(r#"{"type":"ack","seq":21}"#).await;
    });
    assert_eq!(statuses, [TargetStatus::Acked]);
}

#[tokio::test]
async fn a_push_for_another_identity_is_gone() {
    let bench = Bench::start(|_| {}).await;
    let (mut client, serial) = bench.welcomed("alice").await;
    let mut wrong = delivery(&bench, "m-1", "1", Ack::Written, serial);
    wrong.targets = Targets::Each(vec![
        ConnectionId { epoch: bench.epoch + 1, serial },
        ConnectionId { epoch: bench.epoch, serial: serial + 1 },
        ConnectionId { epoch: bench.epoch, serial },
    ]);
    let statuses = bench.deliver(wrong).await;
    assert_eq!(statuses, [TargetStatus::Gone, TargetStatus::Gone, TargetStatus::Written]);
    assert_eq!(client.expect("push").await["seq"], 1);
}

#[tokio::test]
async fn a_keyed_push_is_written_once() {
    let bench = Bench::start(|_| {}).await;
    let (mut client, serial) = bench.welcomed("alice").await;
    for _ in 0..3 {
        let statuses = bench.deliver(delivery(&bench, "m-k-1", "1", Ack::Written, serial)).await;
        assert_eq!(statuses, [TargetStatus::Written]);
    }
    bench.deliver(delivery(&bench, "m-2", "2", Ack::Written, serial)).await;
    assert_eq!(client.expect("push").await["id"], "m-k-1");
    assert_eq!(client.expect("push").await["id"], "m-2");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_and_nobody_waits_for_it() {
    let bench = Bench::start(|settings| settings.clients.outbox_messages_max = 4).await;
    let (_slow, serial) = bench.welcomed("slow").await;
    let payload = format!("\"{}\"", "x".repeat(256 << 10));
    let mut statuses = Vec::new();
    for _ in 0..200 {
        statuses = bench.deliver(delivery(&bench, "m-1", &payload, Ack::None, serial)).await;
        if statuses != [TargetStatus::Written] {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(statuses, [TargetStatus::Slow]);
    let statuses = bench.deliver(delivery(&bench, "m-1", "1", Ack::None, serial)).await;
    assert_eq!(statuses, [TargetStatus::Gone]);
}

#[tokio::test]
async fn a_slow_client_is_cut_off_soon_and_unregistered() {
    let bench = Bench::start(|settings| {
        settings.clients.outbox_messages_max = 4;
        settings.clients.close_wait = Duration::from_millis(50);
    })
    .await;
    let (_slow, serial) = bench.welcomed("slow").await;
    let payload = format!("\"{}\"", "x".repeat(256 << 10));
    while bench.deliver(delivery(&bench, "m-1", &payload, Ack::None, serial)).await == [TargetStatus::Written] {
        tokio::task::yield_now().await;
    }
    bench.held(0).await;
    tokio::time::timeout(Duration::from_secs(10), bench.hub.seats.all_left()).await.unwrap();
    assert_eq!(bench.hub.common.queued(), 0);
}
