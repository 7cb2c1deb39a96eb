//! What the API names and this version does not do: answered as such, so that a caller can tell it from a mistake.

use axum::Router;
use axum::routing::{MethodRouter, any, delete};

use super::{Api, Backend, Error};

fn not_offered<B: Backend>(what: &'static str) -> MethodRouter<Api<B>> {
    any(move || async move { Error::not_offered(what) })
}

/// Routes of their own.
pub(super) fn routes<B: Backend>() -> Router<Api<B>> {
    const ROUTES: [(&str, &str); 18] = [
        ("/v1/topics", "Topics"),
        ("/v1/topics/{topic}", "Topics"),
        ("/v1/topics/{topic}/members", "Topics"),
        ("/v1/topics/{topic}/push", "A push to a topic"),
        ("/v1/broadcast", "A push to everybody"),
        ("/v1/users/{user}/disconnect", "Disconnecting users"),
        ("/v1/users/{user}/subscribe", "Subscribing users to topics"),
        ("/v1/users/{user}/unsubscribe", "Subscribing users to topics"),
        ("/v1/connections/{id}/meta", "Replacing metadata from outside the gateway"),
        ("/v1/bans", "Banning users"),
        ("/v1/bans/{user}", "Banning users"),
        ("/v1/webhooks", "Webhooks"),
        ("/v1/webhooks/{id}", "Webhooks"),
        ("/v1/cluster/members/{id}/demote", "Making a voter a learner"),
        ("/v1/gateways/{id}/drain", "Draining a gateway"),
        ("/v1/openapi.json", "The OpenAPI document"),
        ("/goim/{*rest}", "The interface of goim"),
        ("/", "The console"),
    ];
    ROUTES.into_iter().fold(Router::new(), |router, (path, what)| router.route(path, not_offered(what)))
}

/// Methods of routes that exist.
pub(super) fn delete_connection<B: Backend>() -> MethodRouter<Api<B>> {
    delete(|| async { Error::not_offered("Disconnecting a connection") })
}
