//! Delivery by HTTP to gateways of one's own.

use std::time::Duration;

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, Method};
use serde_json::value::RawValue;

use super::router::Tried;
use crate::net::http::Client;
use crate::view::Found;
use crate::wire::http::{DeliverAnswer, DeliverBody};
use crate::wire::peer::{Deliver, Payload, TargetStatus};

/// Posts the message to `url` and reads what became of it. A connection that the answer leaves out counts as gone.
pub(super) async fn deliver(http: &Client, url: &str, delivery: Deliver, group: Vec<Found>) -> Vec<Tried> {
    let body = serde_json::to_vec(&body(&delivery, &group)).expect("the body has a JSON form");
    let within = Duration::from_millis(delivery.message.timeout_ms.into());
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    let answer = match http.request(Method::POST, url, headers, body.into(), within).await {
        Ok(answer) if answer.status.is_success() => serde_json::from_slice::<DeliverAnswer>(&answer.body).ok(),
        Ok(answer) => {
            tracing::debug!(%url, status = %answer.status, "a deliver_url refused a push");
            None
        }
        Err(error) if error.not_sent() => {
            tracing::debug!(%url, %error, "a deliver_url can't be reached");
            return super::router::unreachable(group);
        }
        Err(error) => {
            tracing::debug!(%url, %error, "a deliver_url did not answer");
            None
        }
    };
    let status = |found: &Found| {
        let id = found.id.to_string();
        let results = &answer.as_ref()?.results;
        Some(results.iter().find(|result| result.connection == id).map_or(TargetStatus::Gone, |result| result.status))
    };
    group.into_iter().map(|found| (found.clone(), status(&found))).collect()
}

fn body(delivery: &Deliver, group: &[Found]) -> DeliverBody {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (data, data_b64) = match &delivery.message.data {
        // It was read from JSON, so it is JSON; if it were not, nothing is better than something else.
        Payload::Json(json) => (RawValue::from_string(text(json)).ok(), None),
        Payload::Base64(base64) => (None, Some(text(base64))),
    };
    DeliverBody {
        id: delivery.message.id.to_string(),
        connections: group.iter().map(|found| found.id.to_string()).collect(),
        event: delivery.message.event.as_deref().map(str::to_owned),
        data,
        data_b64,
        granted: group.iter().map(|found| found.connection.granted).max().unwrap_or(0),
    }
}
