//! The application of these tests: named registers. A command sets one; its reply is the value before.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::Mutex;

use bytes::Bytes;
use switchboard_raft::{Frozen, StateMachine};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Default)]
pub(crate) struct Registers {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    map: Map,
    applied: Option<u64>,
    restored: u64,
}

/// A command that sets a register.
pub(crate) fn set(name: &str, value: impl AsRef<[u8]>) -> Bytes {
    let mut command = vec![u8::try_from(name.len()).unwrap()];
    command.extend_from_slice(name.as_bytes());
    command.extend_from_slice(value.as_ref());
    command.into()
}

impl Registers {
    pub(crate) fn get(&self, name: &str) -> Option<Vec<u8>> {
        self.state.lock().unwrap().map.get(name.as_bytes()).cloned()
    }

    pub(crate) fn len(&self) -> usize {
        self.state.lock().unwrap().map.len()
    }

    /// How often a snapshot was restored.
    pub(crate) fn restored(&self) -> u64 {
        self.state.lock().unwrap().restored
    }

    pub(crate) fn map(&self) -> Map {
        self.state.lock().unwrap().map.clone()
    }
}

impl State {
    fn advance(&mut self, index: u64) {
        let next = self.applied.map_or(index, |applied| applied + 1);
        assert_eq!(next, index, "entries are applied in order, without a gap");
        self.applied = Some(index);
    }
}

impl StateMachine for Registers {
    fn apply(&self, index: u64, data: &[u8], reply: Option<&mut Vec<u8>>) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.advance(index);
        let (length, rest) = data.split_first().expect("a command has a name");
        let (name, value) = rest.split_at(usize::from(*length));
        assert_ne!(name, b"panic", "asked to");
        if name == b"unreadable" {
            return Err(io::Error::new(io::ErrorKind::Unsupported, format!("entry {index} can't be read")));
        }
        let before = state.map.insert(name.to_vec(), value.to_vec());
        if let Some(reply) = reply {
            *reply = before.unwrap_or_default();
        }
        Ok(())
    }

    fn applied(&self, index: u64) {
        self.state.lock().unwrap().advance(index);
    }

    fn freeze(&self) -> Box<dyn Frozen> {
        assert!(self.get("unfreezable").is_none(), "a machine that can't be frozen");
        Box::new(FrozenRegisters(self.map()))
    }

    fn restore(&self, index: u64, from: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes)?;
        let map = postcard::from_bytes(&bytes).map_err(io::Error::other)?;
        let mut state = self.state.lock().unwrap();
        let restored = state.restored + 1;
        *state = State { map, applied: Some(index), restored };
        Ok(())
    }
}

struct FrozenRegisters(Map);

impl Frozen for FrozenRegisters {
    fn write_to(&self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(&postcard::to_allocvec(&self.0).map_err(io::Error::other)?)
    }
}
