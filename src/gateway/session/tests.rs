//! The session keeper against scripted answers.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use super::*;
use crate::directory::{ConnectionId, GatewayAddresses, Release};
use crate::gateway::clients::{Common, Handle, Who};
use crate::gateway::settings::Settings;

/// Answers in turn; the last one for ever. Keeps what it was asked.
#[derive(Clone)]
struct Script {
    lines: Arc<Mutex<Lines>>,
    /// By how much answers to renewals are late, on the clock of leases.
    late: Duration,
}

struct Lines {
    answers: VecDeque<Result<Answer, Failure>>,
    asked: Vec<RequestBody>,
}

impl Script {
    fn asked(&self) -> Vec<RequestBody> {
        self.lines.lock().unwrap().asked.clone()
    }

    fn attempts(&self) -> Vec<u64> {
        let opened = |body| if let RequestBody::OpenSession(open) = body { Some(open.attempt) } else { None };
        self.asked().into_iter().filter_map(opened).collect()
    }
}

impl Ask for Script {
    async fn ask_once(&self, body: RequestBody) -> Result<Answer, Failure> {
        tokio::task::yield_now().await;
        let answer_at =
            clock::boottime() + if matches!(body, RequestBody::Renew { .. }) { self.late } else { Duration::ZERO };
        self.lines.lock().unwrap().asked.push(body);
        while clock::boottime() < answer_at {
            tokio::task::yield_now().await;
        }
        let mut script = self.lines.lock().unwrap();
        if script.answers.len() > 1 { script.answers.pop_front().unwrap() } else { script.answers[0].clone() }
    }
}

struct Bench {
    script: Script,
    lease: Arc<Lease>,
    table: Arc<Table>,
    session: watch::Receiver<Option<Epoch>>,
    fenced: watch::Sender<Epoch>,
    ending: CancellationToken,
    kept: tokio::task::JoinHandle<Result<(), ExitReason>>,
}

fn start(answers: impl IntoIterator<Item = Result<Answer, Failure>>) -> Bench {
    start_late(answers, Duration::ZERO)
}

fn start_late(answers: impl IntoIterator<Item = Result<Answer, Failure>>, late: Duration) -> Bench {
    let lines = Lines { answers: answers.into_iter().collect(), asked: Vec::new() };
    let script = Script { lines: Arc::new(Mutex::new(lines)), late };
    let (lease, table) = (Arc::<Lease>::default(), Arc::<Table>::default());
    let (session, session_out) = watch::channel(None);
    let (fenced, fenced_out) = watch::channel(0);
    let keeper = Keeper {
        ask: script.clone(),
        lease: Arc::clone(&lease),
        ours: Arc::new(Ours::new(Arc::clone(&table), Arc::clone(&lease), mpsc::channel(1).0)),
        table: Arc::clone(&table),
        exclusive: true,
        meters: Meters::new("test"),
        open: OpenSession {
            gateway: "gw-1".into(),
            nonce: "n".into(),
            attempt: 0,
            lease_ms: 3000,
            addresses: GatewayAddresses::default(),
        },
        taken_wait: Duration::from_secs(5),
        lost_grace: Duration::from_secs(60),
        session,
        fenced: fenced_out,
        no_quorum: Arc::default(),
    };
    let ending = CancellationToken::new();
    let kept = tokio::spawn(keeper.run(ending.clone()));
    Bench { script, lease, table, session: session_out, fenced, ending, kept }
}

fn opened(epoch: Epoch) -> Result<Answer, Failure> {
    Ok(Answer::Opened { epoch, lease_ms: 3000 })
}

fn renewed() -> Result<Answer, Failure> {
    Ok(Answer::Renewed { lease_ms: 3000, release: Vec::new(), revision: 1 })
}

#[tokio::test(start_paused = true)]
async fn a_name_that_stays_taken_is_given_up_after_a_while() {
    let bench = start([Ok(Answer::Taken { epoch: 9 })]);
    let began = Instant::now();
    let why = bench.kept.await.unwrap().unwrap_err();
    assert_eq!(why, ExitReason::Taken { id: String::from("gw-1"), epoch: 9 });
    assert!(began.elapsed() >= Duration::from_secs(5));
    assert!(bench.script.attempts().iter().all(|attempt| *attempt == 1), "one attempt, asked again");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_replaced_gives_way() {
    let mut bench = start([opened(5), Ok(Answer::Gone), Ok(Answer::Taken { epoch: 9 })]);
    bench.session.wait_for(Option::is_some).await.unwrap();
    let why = bench.kept.await.unwrap().unwrap_err();
    assert_eq!(why, ExitReason::Replaced { id: String::from("gw-1"), epoch: 9 });
    assert_eq!(bench.lease.epoch(), None);
}

#[tokio::test(start_paused = true)]
async fn a_lost_session_is_followed_by_another_one_under_a_new_attempt() {
    let mut bench = start([Err(Failure::Unknown), opened(5), renewed(), Ok(Answer::Gone), opened(8), renewed()]);
    bench.session.wait_for(|session| *session == Some(5)).await.unwrap();
    bench.session.wait_for(|session| *session == Some(8)).await.unwrap();
    assert_eq!(bench.script.attempts(), [1, 1, 2], "a lost answer repeats its attempt");
    assert_eq!(bench.lease.epoch(), Some(8));
    bench.fenced.send_replace(8);
    bench.session.wait_for(|session| *session != Some(8)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_was_used_up_unnoticed_is_followed_by_the_next() {
    let why = String::from("late copy");
    let mut bench = start([Err(Failure::Unknown), Ok(Answer::NotOpened { why }), opened(5), renewed()]);
    bench.session.wait_for(|session| *session == Some(5)).await.unwrap();
    assert_eq!(bench.script.attempts(), [1, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_refused_ends_the_process() {
    let bench = start([Ok(Answer::NotOpened { why: String::from("the lease is too short") })]);
    let why = bench.kept.await.unwrap().unwrap_err();
    assert_eq!(why, ExitReason::Refused(String::from("the lease is too short")));
}

#[tokio::test(start_paused = true)]
async fn failed_renewals_are_repeated_soon_and_the_end_is_told() {
    let answers = [opened(5), Err(Failure::NotLeader { leader: None }), Err(Failure::NoQuorum), renewed()];
    let mut bench = start(answers);
    bench.session.wait_for(Option::is_some).await.unwrap();
    let began = Instant::now();
    while bench.script.asked().len() < 4 {
        sleep(Duration::from_millis(1)).await;
    }
    assert!(began.elapsed() < Duration::from_millis(1200), "{:?}", began.elapsed());
    assert!(bench.lease.is_held());
    bench.ending.cancel();
    // Any answer is as good as the right one here.
    assert_eq!(bench.kept.await.unwrap(), Ok(()));
    let last = bench.script.asked().pop();
    assert_eq!(last, Some(RequestBody::EndSession { epoch: 5, reason: Reason::Drained, fenced: true }));
    assert_eq!((bench.lease.epoch(), *bench.session.borrow()), (None, None));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_counts_from_the_sending_of_the_renewal_however_late_its_answer_is() {
    const LATE: Duration = Duration::from_millis(300);
    let bench = start_late([opened(5), renewed()], LATE);
    // The third question follows the answer to the second. Leases are not measured by the clock that is paused.
    while bench.script.asked().len() < 3 {
        sleep(Duration::from_millis(1)).await;
    }
    let left = bench.lease.left();
    assert!(left <= lease::serve(Duration::from_secs(3)) - LATE, "{left:?} are left of it");
}

/// A client with an open socket.
fn client(bench: &Bench, epoch: Epoch) -> Arc<Handle> {
    let common = Common::new(&Settings::default(), &bench.lease, Meters::new("test"));
    let who = Who { user: "a".into(), device: "".into(), remote: None, meta: None, connected_at_ms: 0 };
    let handle = Arc::new(Handle::new(who, Arc::new(common), 0));
    handle.number(1);
    handle.expect(epoch);
    assert!(bench.table.enter(Arc::clone(&handle)));
    handle
}

#[tokio::test(start_paused = true)]
async fn renewals_say_up_to_where_requests_were_handled() {
    let release = vec![(ConnectionId { epoch: 5, serial: 1 }, Release::superseded())];
    let asked = |revision| Ok(Answer::Renewed { lease_ms: 3000, release: release.clone(), revision });
    let mut bench = start([opened(5), asked(70), asked(80)]);
    bench.session.wait_for(Option::is_some).await.unwrap();
    let handle = client(&bench, 5);
    let handled = || {
        let renewals = bench.script.asked().into_iter();
        renewals.filter_map(|body| if let RequestBody::Renew { handled, .. } = body { Some(handled) } else { None })
    };
    while handled().count() < 4 {
        sleep(Duration::from_millis(10)).await;
    }
    assert!(handle.is_ending() && handled().all(|handled| handled == 0), "its socket has not stopped");
    handle.finish();
    while handled().last() != Some(80) {
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn claims_are_given_up_at_the_end_only_when_every_socket_has_stopped() {
    for stopped in [true, false] {
        let mut bench = start([opened(5), renewed()]);
        bench.session.wait_for(Option::is_some).await.unwrap();
        let handle = client(&bench, 5);
        assert!(!stopped || bench.table.leave(&handle));
        bench.ending.cancel();
        assert_eq!(bench.kept.await.unwrap(), Ok(()));
        let last = bench.script.asked().pop();
        assert_eq!(last, Some(RequestBody::EndSession { epoch: 5, reason: Reason::Drained, fenced: stopped }));
    }
}
