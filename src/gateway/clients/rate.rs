//! How fast a client may send.

/// A bucket of allowances that refills with time. Times are milliseconds on any clock that does not go back.
#[derive(Debug)]
pub(super) struct Rate {
    /// Thousandths of a message.
    left: u64,
    at_ms: u64,
}

impl Rate {
    /// A full bucket.
    pub(super) fn new(burst: u32, now_ms: u64) -> Self {
        Self { left: u64::from(burst) * 1000, at_ms: now_ms }
    }

    /// Takes the allowance for one message, if there is one.
    pub(super) fn take(&mut self, per_second: u32, burst: u32, now_ms: u64) -> bool {
        let refill = now_ms.saturating_sub(self.at_ms).saturating_mul(u64::from(per_second));
        self.left = self.left.saturating_add(refill).min(u64::from(burst) * 1000);
        self.at_ms = now_ms;
        let allowed = self.left >= 1000;
        if allowed {
            self.left -= 1000;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_steady_rate() {
        let mut rate = Rate::new(200, 0);
        let passed = |rate: &mut Rate, now| (0..1000).take_while(|_| rate.take(100, 200, now)).count();
        assert_eq!(passed(&mut rate, 0), 200);
        assert_eq!(passed(&mut rate, 0), 0);
        assert_eq!(passed(&mut rate, 1000), 100);
        assert_eq!(passed(&mut rate, 1005), 0, "half a message is none");
        assert_eq!(passed(&mut rate, 1010), 1);
        assert_eq!(passed(&mut rate, 1_000_000), 200, "idle time is not saved beyond one burst");
    }
}
