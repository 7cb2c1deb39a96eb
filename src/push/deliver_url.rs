//! Delivery by HTTP to gateways of one's own.
