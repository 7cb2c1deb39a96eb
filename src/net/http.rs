//! Serving HTTP with limits, and the client.
