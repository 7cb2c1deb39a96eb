//! Feeds of changes, passed on from a directory node: a gateway's replica has no history.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use bytes::Bytes;
use futures_util::stream;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use crate::api::{Feed, FeedItem, FeedRefused, FeedRequest, PassedOn};
use crate::chance;
use crate::client::Directory;
use crate::net::http::{Client, Response, Streaming};
use crate::wire::peer::{Answer, RequestBody};

/// Longest wait for a node to begin. It may first have to confirm what it knows.
const BEGIN: Duration = Duration::from_secs(3);

/// Longest wait for the answer to a read that is passed on.
const READ: Duration = Duration::from_secs(5);

/// Marks come at least every 5 s; twice that is silence.
const IDLE: Duration = Duration::from_secs(10);

/// Longest wait for the list of nodes.
const FIND: Duration = Duration::from_secs(2);

/// Why nobody was asked.
const NOBODY: &str = "no directory node can be reached";

/// Bytes of an error's body that are read.
const ERROR_BYTES: usize = 4 << 10;

/// Opens a feed at any directory node.
pub(super) async fn open(directory: &Directory, http: &Client, request: &FeedRequest) -> Result<Feed, FeedRefused> {
    let mut why = String::from(NOBODY);
    for api in nodes(directory).await {
        match open_at(&api, http, request).await {
            Err(FeedRefused::Unavailable(refused)) => why = refused,
            settled => return settled,
        }
    }
    Err(FeedRefused::Unavailable(why))
}

/// Has a read answered by any directory node.
pub(super) async fn pass_on(directory: &Directory, http: &Client, path: &str) -> Result<PassedOn, FeedRefused> {
    let mut why = String::from(NOBODY);
    for api in nodes(directory).await {
        match http.request(Method::GET, &url_of(&api, path), HeaderMap::new(), Bytes::new(), READ).await {
            // Another node may be able to.
            Ok(answer) if answer.status == StatusCode::SERVICE_UNAVAILABLE => {
                why = format!("the directory node at {api} answered {}", answer.status);
            }
            Ok(Response { status, headers, body }) => return Ok(PassedOn { status, headers, body }),
            Err(error) => why = error.to_string(),
        }
    }
    Err(FeedRefused::Unavailable(why))
}

/// The APIs of the directory nodes. Where the list begins is chance.
async fn nodes(directory: &Directory) -> Vec<String> {
    let mut nodes = match directory.ask(RequestBody::Cluster, FIND).await {
        Ok(Answer::Cluster(cluster)) => cluster.members.into_iter().map(|member| member.api).collect::<Vec<_>>(),
        _ => Vec::new(),
    };
    nodes.retain(|api| !api.is_empty());
    if !nodes.is_empty() {
        let first = usize::try_from(chance::below(nodes.len() as u64)).unwrap_or(0);
        nodes.rotate_left(first);
    }
    nodes
}

fn url_of(api: &str, path: &str) -> String {
    format!("http://{}{path}", api.strip_prefix("http://").unwrap_or(api))
}

async fn open_at(api: &str, http: &Client, request: &FeedRequest) -> Result<Feed, FeedRefused> {
    let url = url_of(api, &format!("/v1/watch{}", query(request)));
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/x-ndjson"));
    let unavailable = |why: String| FeedRefused::Unavailable(format!("the directory node at {api}: {why}"));
    let answer = http.stream(&url, headers, BEGIN, IDLE).await.map_err(|error| unavailable(error.to_string()))?;
    match answer.status {
        StatusCode::OK => Ok(lines(answer)),
        StatusCode::GONE => {
            let body = answer.rest(ERROR_BYTES).await.map_err(|error| unavailable(error.to_string()))?;
            let refused: Option<Compacted> = serde_json::from_slice(&body).ok();
            let refused = refused.ok_or_else(|| unavailable(String::from("an answer that can't be read")))?;
            Err(FeedRefused::Compacted { oldest: refused.oldest_revision })
        }
        status => Err(unavailable(format!("it answered {status}"))),
    }
}

#[derive(Deserialize)]
struct Compacted {
    oldest_revision: u64,
}

/// The mark of a line.
#[derive(Deserialize)]
struct Mark {
    revision: u64,
    #[serde(default)]
    n: Option<u32>,
}

fn lines(answer: Streaming) -> Feed {
    Box::pin(stream::unfold(answer, |mut answer| async move {
        loop {
            let line = answer.line().await.ok()??;
            let json = line.strip_suffix(b"\r").map_or_else(|| line.clone(), |cut| line.slice_ref(cut));
            if json.is_empty() {
                // Keeps the connection alive, no more.
                continue;
            }
            let mark: Mark = serde_json::from_slice(&json).ok()?;
            return Some((FeedItem { mark: (mark.revision, mark.n), json }, answer));
        }
    }))
}

fn query(request: &FeedRequest) -> String {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let mut pairs = Vec::new();
    match request.from {
        Some((revision, Some(n))) => pairs.push(format!("from_revision={revision}.{n}")),
        Some((revision, None)) => pairs.push(format!("from_revision={revision}")),
        None => {}
    }
    if !request.types.is_empty() {
        pairs.push(format!("types={}", encode(&request.types.join(","))));
    }
    for (name, value) in [("user", &request.user), ("prefix", &request.prefix)] {
        if let Some(value) = value {
            pairs.push(format!("{name}={}", encode(value)));
        }
    }
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_is_asked_of_the_node() {
        assert_eq!(query(&FeedRequest::default()), "");
        let request = FeedRequest {
            from: Some((9, Some(2))),
            types: vec![String::from("user.online"), String::from("user.offline")],
            user: Some(String::from("a&b")),
            prefix: None,
        };
        assert_eq!(query(&request), "?from_revision=9.2&types=user%2Eonline%2Cuser%2Eoffline&user=a%26b");
    }
}
