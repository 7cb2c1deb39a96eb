//! How many sockets there are, in all and by address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;

/// Counts sockets against their limits.
#[derive(Debug)]
pub(in crate::gateway) struct Seats {
    taken_max: usize,
    per_address_max: u32,
    by_address: Mutex<HashMap<IpAddr, u32>>,
    taken: watch::Sender<usize>,
}

/// Why there is no seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoSeat {
    /// The gateway is full.
    Gateway,
    /// The address has too many.
    Address,
}

/// One socket's place; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    address: IpAddr,
}

impl Seats {
    pub(in crate::gateway) fn new(taken_max: usize, per_address_max: u32) -> Arc<Self> {
        let taken = watch::Sender::new(0);
        Arc::new(Self { taken_max, per_address_max, by_address: Mutex::default(), taken })
    }

    /// Sockets that are open.
    pub(in crate::gateway) fn taken(&self) -> usize {
        *self.taken.borrow()
    }

    /// Waits until no socket is open.
    pub(in crate::gateway) async fn all_left(&self) {
        // The sender is `self`, so that waiting can't fail.
        let _ = self.taken.subscribe().wait_for(|taken| *taken == 0).await;
    }

    pub(super) fn take(self: &Arc<Self>, address: IpAddr) -> Result<Seat, NoSeat> {
        let mut by_address = self.by_address();
        if self.taken() >= self.taken_max {
            return Err(NoSeat::Gateway);
        }
        let of_address = by_address.entry(address).or_default();
        if *of_address >= self.per_address_max {
            return Err(NoSeat::Address);
        }
        *of_address += 1;
        self.taken.send_modify(|taken| *taken += 1);
        drop(by_address);
        Ok(Seat { seats: Arc::clone(self), address })
    }

    fn by_address(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.by_address.lock().expect("no code panics while holding this lock")
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut by_address = self.seats.by_address();
        if let Some(of_address) = by_address.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                by_address.remove(&self.address);
            }
        }
        self.seats.taken.send_modify(|taken| *taken -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_limited_in_all_and_by_address_and_come_back() {
        let seats = Seats::new(3, 2);
        let [a, b] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse::<IpAddr>().unwrap());
        let first = seats.take(a).unwrap();
        let _second = seats.take(a).unwrap();
        assert_eq!(seats.take(a).unwrap_err(), NoSeat::Address);
        let _third = seats.take(b).unwrap();
        assert_eq!(seats.take(b).unwrap_err(), NoSeat::Gateway);
        drop(first);
        assert_eq!(seats.taken(), 2);
        seats.take(a).unwrap();
    }
}
