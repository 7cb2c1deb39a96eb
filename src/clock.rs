//! Every reading of time. Waiting goes through tokio, so that a test or a simulator can pause it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Time since the machine started, counting sleep: what a gateway's lease is measured with, because a machine that was
/// suspended must find its lease over.
pub fn boottime() -> Duration {
    #[cfg(feature = "simulation")]
    if let Some(world) = crate::simulation::world() {
        return world.boottime();
    }
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).expect("a kernel keeps nanoseconds below 10^9"))
}

/// Wall clock, milliseconds since 1970. Data for people, and for what they say by it: when a ban or a token ends.
pub fn wall_ms() -> u64 {
    #[cfg(feature = "simulation")]
    if let Some(world) = crate::simulation::world() {
        return world.wall_ms();
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// RFC 3339 text of a wall clock reading, in UTC with milliseconds.
pub fn rfc3339(wall_ms: u64) -> String {
    let ms = i64::try_from(wall_ms).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(ms)
        .map_or_else(|_| String::from("9999-12-31T23:59:59.999Z"), |t| format!("{t:.3}"))
}

/// The wall clock reading that an RFC 3339 text tells, rounded up to milliseconds; `None` if it tells none since 1970.
pub fn wall_ms_of(text: &str) -> Option<u64> {
    let time: jiff::Timestamp = text.parse().ok()?;
    let nanos = u128::try_from(time.as_nanosecond()).ok()?;
    u64::try_from(nanos.div_ceil(1_000_000)).ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_wall_clock_reading_has_an_rfc_3339_text() {
        assert_eq!(super::rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(super::rfc3339(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert!(super::rfc3339(u64::MAX).starts_with("9999"));
    }

    #[test]
    fn a_text_tells_a_wall_clock_reading_in_any_zone() {
        for text in ["2023-11-14T22:13:20.123Z", "2023-11-14T23:13:20.123+01:00", "2023-11-14T22:13:20.122000001Z"] {
            assert_eq!(super::wall_ms_of(text), Some(1_700_000_000_123), "{text}");
        }
        for text in ["", "tomorrow", "2023-11-14", "2023-11-14T22:13:20", "1969-12-31T23:59:59Z"] {
            assert_eq!(super::wall_ms_of(text), None, "{text}");
        }
    }
}
