//! What the API names and this version does not do: answered as such, so that a caller can tell it from a mistake.

use axum::Router;
use axum::routing::{MethodRouter, any};

use super::{Api, Backend, Error};

fn not_offered<B: Backend>(what: &'static str) -> MethodRouter<Api<B>> {
    any(move || async move { Error::not_offered(what) })
}

/// Routes of their own.
pub(super) fn routes<B: Backend>() -> Router<Api<B>> {
    const ROUTES: [(&str, &str); 7] = [
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
