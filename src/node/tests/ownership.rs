//! Who is asked to release what, and what becomes of those who do not, or can't.

use super::*;
use crate::directory::{ConnectionId, Event, Handover, Per};

/// How long the lease of these sessions is.
const LEASE: Duration = Duration::from_secs(3);

const RENEW_EVERY: Duration = Duration::from_millis(200);

fn exclusive(serial: u64, user: &str) -> Op {
    let Op::Register(register) = register(serial, user) else { unreachable!("it is a registration") };
    let policy = Policy::NewestWins { per: Per::User, handover: Handover::Wait };
    Op::Register(Register { policy, ..register })
}

/// Of a gateway that is said to be reached there.
fn open_at(peer: &str, attempt: u64) -> RequestBody {
    let RequestBody::OpenSession(open) = open("gw-1", "n") else { unreachable!("it opens a session") };
    let addresses = GatewayAddresses { peer: Some(peer.into()), ..GatewayAddresses::default() };
    RequestBody::OpenSession(OpenSession { attempt, addresses, ..open })
}

impl Group {
    /// A client with streams of its own, like another process.
    fn process(&self, name: &str) -> Directory {
        let nodes = self.nodes.iter().map(|node| node.peer.to_string()).collect();
        Directory::new(ClientSettings { cluster: "test".to_owned(), name: name.to_owned(), nodes })
    }

    async fn batch(&self, epoch: u64, ops: Vec<Op>) -> Vec<OpOutcome> {
        match self.ask(RequestBody::Batch(Batch { epoch, seq: None, ops })).await {
            Answer::Batch(Ok(done)) => done.ops.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    /// Waits for an event.
    async fn until(&self, after: u64, wanted: impl Fn(&Event) -> bool) {
        let mut watch = self.directory.watch(WatchFrom::After(after)).await.unwrap();
        let seen = tokio::time::timeout(PATIENCE, async {
            loop {
                if let WatchFrame::Events { events, .. } = watch.next().await.unwrap()
                    && events.iter().any(&wanted)
                {
                    return;
                }
            }
        });
        seen.await.expect("it happens");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_renews_and_ignores_what_it_is_asked_for_blocks_nobody_for_ever() {
    let group = group(3).await;
    let (old, new) = (group.session("gw-1").await, group.session("gw-2").await);
    group.batch(old, vec![exclusive(1, "alice"), exclusive(2, "bob")]).await;
    assert_eq!(group.batch(new, vec![exclusive(1, "alice")]).await, [OpOutcome::Pending]);

    let (asked, mut renewals) = (Instant::now(), tokio::time::interval(RENEW_EVERY));
    let ignored = loop {
        let (mine, other) = tokio::join!(
            group.directory.ask_once(RequestBody::Renew { epoch: old, handled: 0 }),
            group.ask(RequestBody::Renew { epoch: new, handled: 0 }),
        );
        assert!(matches!(other, Answer::Renewed { release, .. } if release.is_empty()));
        match mine {
            Ok(Answer::Renewed { release, revision, .. }) => {
                let ids: Vec<_> = release.iter().map(|(id, _)| *id).collect();
                assert_eq!(ids, [ConnectionId { epoch: old, serial: 1 }]);
                assert!(revision > new && asked.elapsed() < PATIENCE);
            }
            Err(failure @ Failure::Ignored { .. }) => break failure,
            other => panic!("{other:?}"),
        }
        renewals.tick().await;
    };
    assert!(asked.elapsed() > LEASE, "a whole lease to handle it: {ignored} after {:?}", asked.elapsed());
    let renewing = async {
        loop {
            // However often it renews now.
            let _ = group.directory.ask_once(RequestBody::Renew { epoch: old, handled: 0 }).await;
            group.ask(RequestBody::Renew { epoch: new, handled: 0 }).await;
            renewals.tick().await;
        }
    };
    tokio::select! {
        () = renewing => {}
        () = group.until(new, |event| matches!(event, Event::Opened { id, .. } if id.epoch == new)) => {}
    }
    assert_eq!(group.ask(RequestBody::Renew { epoch: old, handled: 0 }).await, Answer::Gone);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_gone_is_noticed_at_once_and_its_claims_stay_for_a_lease() {
    let group = group(3).await;
    let nobody = Listener::bind("127.0.0.1:0").await.unwrap().address().to_string();
    let opened = |attempt| open_at(&nobody, attempt);
    let Answer::Opened { epoch, .. } = group.ask(opened(1)).await else { panic!("not opened") };
    let other = group.session("gw-2").await;
    group.batch(epoch, vec![exclusive(1, "alice"), register(2, "bob")]).await;

    // A reset stream alone is no hint while the process answers at its address; here nobody does.
    let process = group.process("gateway gw-1");
    assert!(matches!(
        process.ask(RequestBody::Renew { epoch, handled: 0 }, PATIENCE).await,
        Ok(Answer::Renewed { .. })
    ));
    let gone = Instant::now();
    drop(process);
    group
        .until(
            other,
            |event| matches!(event, Event::SessionEnded { reason: Reason::Died, epoch: of, .. } if *of == epoch),
        )
        .await;
    let noticed = gone.elapsed();
    assert!(noticed < LEASE / 2, "noticed after {noticed:?}");

    // Nobody who claims the same is granted it before the process must have stopped.
    assert_eq!(group.batch(other, vec![exclusive(1, "alice")]).await, [OpOutcome::Pending]);
    let mut renewals = tokio::time::interval(RENEW_EVERY);
    let renewing = async {
        loop {
            group.ask(RequestBody::Renew { epoch: other, handled: 0 }).await;
            renewals.tick().await;
        }
    };
    let granted = group.until(other, |event| matches!(event, Event::Opened { id, .. } if id.epoch == other));
    tokio::select! {
        () = renewing => {}
        () = granted => {}
    }
    assert!(gone.elapsed() > LEASE, "granted after {:?}", gone.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_was_taken_for_dead_and_is_not_is_told_and_left_alone_for_a_lease() {
    let group = group(3).await;
    let nobody = Listener::bind("127.0.0.1:0").await.unwrap().address().to_string();
    let opened = |attempt| open_at(&nobody, attempt);
    let renew = |epoch| RequestBody::Renew { epoch, handled: 0 };
    let Answer::Opened { epoch, .. } = group.ask(opened(1)).await else { panic!("not opened") };
    let registered = group.batch(epoch, vec![exclusive(1, "alice"), register(2, "bob")]).await;
    let OpOutcome::Registered { granted, .. } = registered[0] else { panic!("{registered:?}") };
    let process = group.process("gateway gw-1");
    assert!(matches!(process.ask(renew(epoch), PATIENCE).await, Ok(Answer::Renewed { .. })));
    drop(process);
    let ended = |event: &Event| matches!(event, Event::SessionEnded { reason: Reason::Died, .. });
    group.until(epoch, ended).await;

    // Its next renewal tells it. The socket that it still has gets its place back.
    assert_eq!(group.ask(renew(epoch)).await, Answer::Gone);
    let Answer::Opened { epoch: next, .. } = group.ask(opened(2)).await else { panic!("not opened") };
    let Op::Register(again) = exclusive(3, "alice") else { unreachable!("it is a registration") };
    let again = Op::Register(Register { since: Some(granted), ..again });
    assert!(matches!(group.batch(next, vec![again]).await[..], [OpOutcome::Registered { .. }]));

    let process = group.process("gateway gw-1");
    assert!(matches!(process.ask(renew(next), PATIENCE).await, Ok(Answer::Renewed { .. })));
    drop(process);
    let within = tokio::time::timeout(LEASE / 2, group.until(next, ended)).await;
    assert!(within.is_err(), "it is not taken for dead again so soon");
    assert!(matches!(group.ask(renew(next)).await, Answer::Renewed { .. }));
}
