//! A replicated state machine.
