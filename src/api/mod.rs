//! The HTTP surface that directory nodes and gateways share: thin handlers over one trait, [`Backend`].

mod backend;

pub use backend::{Backend, Feed, FeedItem, FeedRefused, FeedRequest};
