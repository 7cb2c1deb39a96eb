//! From a target to its gateways, by the resolve rule.

use std::future::Future;
use std::sync::Arc;

use super::{Order, PushRefused, Pushed};
use crate::view::View;
use crate::wire::peer::{Deliver, TargetStatus};

/// Where this process delivers to itself. Two implementors: a gateway's own sockets, and a directory node, which has none.
pub trait Local: Send + Sync + 'static {
    /// Name of the gateway that this is, if it is one.
    fn gateway(&self) -> Option<&str>;

    /// Delivers to sockets of this process; one status per target, in order.
    fn deliver(&self, delivery: Deliver) -> impl Future<Output = Vec<TargetStatus>> + Send;
}

/// Resolves targets in a view and sends one message per gateway.
pub struct Router<V, L> {
    view: Arc<V>,
    local: Arc<L>,
}

impl<V: View, L: Local> Router<V, L> {
    /// Pushes, and answers when every target has answered or the message's time is over.
    pub async fn push(&self, order: Order) -> Result<Pushed, PushRefused> {
        let _ = (&self.view, &self.local, order);
        std::future::pending().await
    }

    /// Pushes in order; one answer per order. Those to one connection arrive in this order.
    pub async fn push_many(&self, orders: Vec<Order>) -> Vec<Result<Pushed, PushRefused>> {
        let _ = orders;
        std::future::pending().await
    }
}
