//! Memory that was freed goes back to the system.
//!
//! glibc keeps what is freed in the middle of its heaps. After a gateway with a million connections is gone that is most of what
//! it held, for as long as nobody needs it again. It is asked for once much was freed and no more is being freed: asking
//! holds up whoever allocates meanwhile, so it is not done all the time.

use std::time::Duration;

use crate::threads;

/// How often what is held is looked at.
const EVERY: Duration = Duration::from_secs(1);

/// So much less than there was before is worth asking, bytes.
const WORTH_BYTES: u64 = 8 * 1024 * 1024;

/// So many looks later it is asked once more: what hangs on to what was freed, such as a copy that somebody still reads, is
/// freed a little later and counted by nobody.
const AGAIN_AFTER: u32 = 10;

/// Gives back what is free, if the allocator is one that has to be asked.
#[cfg_attr(target_env = "gnu", expect(unsafe_code, reason = "the C library has no safe interface"))]
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number, and touches nothing that is not free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Gives back memory whenever much of what `held` counts, in bytes, was freed.
pub async fn keep_giving_back(held: impl Fn() -> u64) {
    let mut freed = Freed::default();
    loop {
        tokio::time::sleep(EVERY).await;
        if freed.worth_asking(held()) {
            // The process ends if it can't be done.
            let _ = threads::apart(give_back).await;
        }
    }
}

/// What was held since memory was last given back.
#[derive(Debug, Default)]
struct Freed {
    most: u64,
    last: u64,
    /// Looks until it is asked once more.
    again_in: Option<u32>,
}

impl Freed {
    /// Whether much was freed, and no more is being freed, now that so many bytes are held; or that was so a while ago.
    fn worth_asking(&mut self, held: u64) -> bool {
        let falls = held < self.last;
        self.last = held;
        self.most = self.most.max(held);
        if !falls && self.most - held >= WORTH_BYTES {
            self.most = held;
            self.again_in = Some(AGAIN_AFTER);
            return true;
        }
        self.again_in = self.again_in.map(|looks| looks - 1);
        self.again_in.take_if(|looks| *looks == 0).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_asked_when_much_was_freed_and_no_more_is_being_freed_and_once_more_a_while_later() {
        let mut freed = Freed::default();
        let mib = 1024 * 1024;
        let mut asked = |held: u64| freed.worth_asking(held * mib);
        let looks = [50, 60, 40, 20, 1, 1, 1, 7, 2, 2, 30, 10, 15];
        let when: Vec<usize> = (0..looks.len()).filter(|look| asked(looks[*look])).collect();
        assert_eq!(when, [5, 12], "after the first fall has ended, and after the second; not for a small one");
        let later: Vec<u32> = (1..100).filter(|_| asked(15)).collect();
        assert_eq!(later, [AGAIN_AFTER]);
    }
}
