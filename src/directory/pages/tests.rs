//! The pages against an ordered map, at their edges, and frozen.

use std::collections::BTreeMap;

use super::*;
use crate::directory::limits::{NAME_BYTES_MAX, TEXT_BYTES_MAX};

fn connection(granted: u64) -> Connection {
    Connection {
        user: "alice".into(),
        device: "".into(),
        granted,
        connected_at_ms: 0,
        remote: None,
        meta: None,
        meta_version: 1,
        claim: None,
    }
}

fn serials(pages: &Pages, epoch: Epoch, after: Option<Serial>) -> Vec<Serial> {
    pages.scan(epoch, after).map(|(id, _)| id.serial).collect()
}

fn remove(pages: &mut Pages, id: ConnectionId) -> Option<Connection> {
    let place = pages.place(id)?;
    let connection = pages.at(place).to_connection();
    pages.remove(place);
    Some(connection)
}

#[test]
fn serials_at_the_edges_of_pages_and_of_the_number_range_are_found_in_order() {
    let mut pages = Pages::default();
    let edges = [0, 1, 63, 64, 127, 128, u64::from(u32::MAX), 1 << 32, u64::MAX - 1, u64::MAX];
    let epochs = [0, 7, 8, 1 << 40, u64::MAX];
    for serial in edges.into_iter().rev() {
        for epoch in epochs {
            let id = ConnectionId { epoch, serial };
            let place = pages.put(id, &connection(serial));
            assert_eq!((pages.place(id), pages.id_at(place)), (Some(place), id));
        }
        pages.check().unwrap();
    }
    assert_eq!(serials(&pages, 7, None), edges);
    assert_eq!(serials(&pages, 7, Some(63)), edges[3..]);
    assert_eq!(serials(&pages, 7, Some(u64::MAX - 1)), [u64::MAX]);
    assert!(serials(&pages, 7, Some(u64::MAX)).is_empty());
    for serial in edges {
        let id = ConnectionId { epoch: 7, serial };
        assert_eq!(pages.get(id).unwrap().granted, serial);
        assert_eq!(remove(&mut pages, id).unwrap().granted, serial);
        assert_eq!(remove(&mut pages, id), None);
        pages.check().unwrap();
    }
    for epoch in epochs {
        assert_eq!(serials(&pages, epoch, None), if epoch == 7 { &[][..] } else { &edges[..] });
    }
}

#[test]
fn a_frozen_copy_does_not_change_and_numbers_are_used_again() {
    let mut pages = Pages::default();
    let ids = |epoch| (1..=200).map(move |serial| ConnectionId { epoch, serial });
    for id in ids(1) {
        pages.put(id, &connection(id.serial));
    }
    let (frozen, table) = (pages.clone(), pages.table.len());
    for id in ids(1) {
        remove(&mut pages, id);
    }
    assert!(pages.numbers.is_empty());
    assert_eq!((pages.bytes, pages.iter().count()), (0, 0));
    pages.check().unwrap();
    for id in ids(2) {
        pages.put(id, &connection(id.serial));
    }
    assert_eq!(pages.table.len(), table);
    pages.check().unwrap();
    frozen.check().unwrap();
    assert_eq!(serials(&frozen, 1, None), (1..=200).collect::<Vec<_>>());
    assert_eq!(serials(&frozen, 2, None), [0; 0]);
}

#[test]
fn a_page_of_the_longest_records_is_read_as_it_was_written() {
    let longest = |n: usize| Connection {
        user: "u".repeat(NAME_BYTES_MAX).into(),
        device: format!("{n:0NAME_BYTES_MAX$}").into(),
        granted: u64::MAX / 2 * (n as u64 % 3),
        connected_at_ms: u64::MAX / 2 * (n as u64 % 3),
        remote: Some("r".repeat(TEXT_BYTES_MAX).into()),
        meta: Some("m".repeat(TEXT_BYTES_MAX).into()),
        meta_version: u32::MAX,
        claim: None,
    };
    let mut pages = Pages::default();
    for n in 0..64 {
        pages.put(ConnectionId { epoch: 1, serial: n as u64 }, &longest(n));
    }
    pages.check().unwrap();
    assert_eq!(pages.numbers.len(), 1);
    for (id, packed) in pages.iter() {
        assert_eq!(packed.to_connection(), longest(id.serial as usize));
    }
}

#[test]
fn pages_hold_what_an_ordered_map_holds() {
    let mut rng = fastrand::Rng::with_seed(7);
    let (mut pages, mut model) = (Pages::default(), BTreeMap::new());
    for step in 0..20_000_u64 {
        let id = ConnectionId { epoch: rng.u64(1..4), serial: rng.u64(..300) };
        if rng.u32(..1000) < if step / 5000 % 2 == 0 { 300 } else { 700 } {
            assert_eq!(remove(&mut pages, id), model.remove(&id));
        } else {
            let text = |rng: &mut fastrand::Rng| rng.bool().then(|| "t".repeat(rng.usize(..40)).into());
            let connection = Connection {
                user: "u".repeat(rng.usize(1..20)).into(),
                device: format!("device-{}", rng.u32(..400)).into(),
                granted: rng.u64(..),
                connected_at_ms: step,
                remote: text(&mut rng),
                meta: text(&mut rng),
                meta_version: rng.u32(1..4),
                claim: None,
            };
            pages.put(id, &connection);
            model.insert(id, connection);
        }
        if step % 100 == 0 {
            pages.check().unwrap();
            let held = pages.iter().map(|(id, packed)| (id, packed.to_connection()));
            assert!(held.eq(model.clone()));
            let after = model.range(ConnectionId { epoch: 2, serial: 100 }..).map(|(id, _)| *id);
            let of_two = after.take_while(|id| id.epoch == 2).map(|id| id.serial);
            assert!(serials(&pages, 2, Some(99)).into_iter().eq(of_two));
        }
        let found = pages.get(id);
        assert_eq!(found.map(|packed| packed.to_connection()).as_ref(), model.get(&id));
    }
}
