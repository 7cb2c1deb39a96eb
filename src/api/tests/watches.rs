//! Watches: their framing, where they begin, how they end.

use super::*;
use crate::api::{FeedRefused, FeedRequest};
use crate::net::http::Streaming;

const OPENED: &str = r#"{"revision":910,"n":0,"type":"connection.opened"}"#;
const PROGRESS: &str = r#"{"revision":911,"type":"progress"}"#;

impl Api {
    async fn watch(&self, query: &str, headers: &[(&str, &str)]) -> Streaming {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap()))
            .collect();
        let url = format!("http://{}/v1/watch{query}", self.address);
        self.client.stream(&url, headers, SOON, SOON).await.unwrap()
    }

    fn asked(&self) -> FeedRequest {
        self.backend.feeds.lock().unwrap().pop().unwrap()
    }
}

async fn lines(stream: &mut Streaming, count: usize) -> Vec<String> {
    let mut lines = Vec::new();
    while lines.len() < count {
        let line = stream.line().await.unwrap().expect("the stream goes on");
        lines.push(String::from_utf8(line.to_vec()).unwrap());
    }
    lines
}

#[tokio::test]
async fn changes_come_as_events_or_as_lines() {
    let api = Api::start().await;
    *api.backend.lines.lock().unwrap() = vec![line(910, Some(0), OPENED), line(911, None, PROGRESS)];
    let mut events = api.watch("", &[]).await;
    assert_eq!(events.headers["content-type"], "text/event-stream");
    let expected = [":", "", "id: 910.0", &format!("data: {OPENED}"), "", "id: 911", &format!("data: {PROGRESS}"), ""];
    assert_eq!(lines(&mut events, 8).await, expected);
    let mut ndjson = api.watch("", &[("accept", "application/x-ndjson")]).await;
    assert_eq!(ndjson.headers["content-type"], "application/x-ndjson");
    assert_eq!(lines(&mut ndjson, 2).await, [OPENED, PROGRESS]);

    api.stop.cancel();
    assert_eq!(ndjson.line().await.unwrap(), None, "a watch ends when the listener does");
    assert_eq!(events.line().await.unwrap(), None);
    timeout(SOON, api.served).await.expect("nothing is left to wait for").unwrap();
}

#[tokio::test]
async fn a_watch_begins_where_it_was_asked_to() {
    let api = Api::start().await;
    api.watch("?from_revision=812.3&types=user.online,user.offline&user=a%2Fb&prefix=a", &[]).await;
    let asked = api.asked();
    assert_eq!(
        (asked.from, asked.user.as_deref(), asked.prefix.as_deref()),
        (Some((812, Some(3))), Some("a/b"), Some("a"))
    );
    assert_eq!(asked.types, ["user.online", "user.offline"]);
    api.watch("?from_revision=812", &[("last-event-id", "900.1")]).await;
    assert_eq!(api.asked().from, Some((900, Some(1))));
    api.watch("?from_revision=812", &[]).await;
    assert_eq!(api.asked().from, Some((812, None)));
    api.watch("", &[]).await;
    assert_eq!(api.asked(), FeedRequest::default());
    for bad in ["?from_revision=x", "?from_revision=1.", "?from_revision=.1", "?types=user.asleep", "?user=%00"] {
        assert_eq!(api.get(&format!("/v1/watch{bad}")).await.error(), (400, "bad_request".into()), "{bad}");
    }
}

#[tokio::test]
async fn a_watch_that_can_not_begin_says_why() {
    let api = Api::with(ApiLimits { watches_max: 1, ..ApiLimits::default() }, ServeLimits::default()).await;
    api.backend.tell(|told| told.feed_refused = Some(FeedRefused::Compacted { oldest: 42 }));
    let got = api.get("/v1/watch?from_revision=1").await;
    assert_eq!((got.error(), &got.json()["oldest_revision"]), ((410, "compacted".into()), &json!(42)));
    api.backend.tell(|told| told.feed_refused = Some(FeedRefused::Unavailable("no node".into())));
    assert_eq!(api.get("/v1/watch").await.error(), (503, "unavailable".into()));
    api.backend.tell(|told| told.feed_refused = None);
    let open = api.watch("", &[]).await;
    assert_eq!(api.get("/v1/watch").await.error(), (429, "rate_limited".into()));
    drop(open);
}

#[tokio::test]
async fn a_reader_who_never_reads_is_cut_off_and_nobody_else_notices() {
    const LINES: usize = 200_000;
    let serving = ServeLimits { write_stall: Duration::from_secs(2), ..ServeLimits::default() };
    let api = Api::with(ApiLimits { watches_max: 2, ..ApiLimits::default() }, serving).await;
    // More than the sockets between them hold.
    *api.backend.lines.lock().unwrap() = (1..=LINES as u64).map(|at| line(at, Some(0), OPENED)).collect();
    let mut slow = net::connect(&api.address).await.unwrap();
    slow.write_all(b"GET /v1/watch HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut quick = api.watch("", &[("accept", "application/x-ndjson")]).await;
    assert_eq!(lines(&mut quick, LINES).await.len(), LINES);
    // The slow one's place is free again, without having taken all of it.
    let mut again = timeout(SOON, async {
        loop {
            let watch = api.watch("", &[("accept", "application/x-ndjson")]).await;
            if watch.status == StatusCode::OK {
                break watch;
            }
            assert_eq!(watch.status, StatusCode::TOO_MANY_REQUESTS);
        }
    })
    .await
    .expect("the slow reader is cut off");
    assert_eq!(lines(&mut again, 1).await, [OPENED]);
    let mut taken = Vec::new();
    // Cut off: with an error, or an end that is too early.
    let _ = timeout(SOON, slow.read_to_end(&mut taken)).await.expect("its connection is closed");
    assert!(taken.len() < LINES * OPENED.len(), "{} bytes", taken.len());
}
