//! One connection as bytes, and read back in place.
//!
//! ```text
//! flags u8   user   device   granted   connected_at   [meta_version]   remote   [meta]
//! ```
//! A user is its length and its bytes; a device is the code of a common text, or [`OWN_TEXT`] and the text itself. Both times are told as
//! the distance from those of the page, because what is on one page came at about the same time. An address takes the bytes
//! that it has on a wire. Lengths, times and versions are varints; metadata reaches to the end. How a connection is packed depends on
//! what came before it, so these bytes stay in memory: nothing that is answered, told or written is made of them.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::command::Per;
use super::ids::Revision;
use super::interner::Interner;
use super::outcome::Connection;
use super::remote::{AddressText, Remote};

/// The low bits of the flags say which form the remote address has.
const REMOTE: u8 = 0b0000_0111;
const META: u8 = 0b0000_1000;
/// The metadata was replaced, so that its version is not 1 and is written.
const META_VERSION: u8 = 0b0001_0000;
/// What the connection claims for itself alone.
const CLAIM_USER: u8 = 0b0010_0000;
const CLAIM_DEVICE: u8 = 0b0100_0000;
// The one bit that is left belongs to nothing yet.

/// In the place of a device's code: the text follows.
const OWN_TEXT: u8 = u8::MAX;

/// What the times on a page are counted from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Base {
    granted: Revision,
    connected_at_ms: u64,
}

impl Base {
    pub(super) fn of(connection: &Connection) -> Self {
        Self { granted: connection.granted, connected_at_ms: connection.connected_at_ms }
    }
}

/// A connection where it lies: its texts are borrowed, and nothing is allocated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packed<'a> {
    pub(super) user: &'a str,
    device: Device<'a>,
    pub(super) granted: Revision,
    connected_at_ms: u64,
    remote: Remote<'a>,
    pub(super) meta: Option<&'a str>,
    pub(super) meta_version: u32,
    pub(super) claim: Option<Per>,
}

#[derive(Debug, Clone, Copy)]
enum Device<'a> {
    Known(&'a Arc<str>),
    Own(&'a str),
}

impl<'a> Packed<'a> {
    /// Appends a connection to `out`.
    pub(super) fn pack(connection: &Connection, base: Base, devices: &mut Interner, out: &mut Vec<u8>) {
        let remote = Remote::of(connection.remote.as_deref());
        let is_first = connection.meta_version == 1;
        let meta = connection.meta.as_ref().map_or(0, |_| META);
        let claim = match connection.claim {
            None => 0,
            Some(Per::User) => CLAIM_USER,
            Some(Per::Device) => CLAIM_DEVICE,
        };
        out.push(remote_form(remote) | meta | claim | if is_first { 0 } else { META_VERSION });
        put_text(out, &connection.user);
        if let Some(code) = devices.code(&connection.device) {
            out.push(code);
        } else {
            out.push(OWN_TEXT);
            put_text(out, &connection.device);
        }
        put_varint(out, zigzag(connection.granted.wrapping_sub(base.granted)));
        put_varint(out, zigzag(connection.connected_at_ms.wrapping_sub(base.connected_at_ms)));
        if !is_first {
            put_varint(out, u64::from(connection.meta_version));
        }
        put_remote(out, remote);
        out.extend(connection.meta.as_deref().unwrap_or_default().as_bytes());
    }

    /// Reads what [`Self::pack`] wrote, with the same base and the same or later devices.
    pub(super) fn read(bytes: &'a [u8], base: Base, devices: &'a Interner) -> Self {
        let mut rest = Rest(bytes);
        let flags = rest.byte();
        let user = rest.text();
        let device = match rest.byte() {
            OWN_TEXT => Device::Own(rest.text()),
            code => Device::Known(devices.text(code)),
        };
        let granted = base.granted.wrapping_add(unzigzag(rest.varint()));
        let connected_at_ms = base.connected_at_ms.wrapping_add(unzigzag(rest.varint()));
        let meta_version = if flags & META_VERSION == 0 { 1 } else { rest.varint() as u32 };
        let remote = rest.remote(flags & REMOTE);
        let meta = (flags & META != 0).then(|| text(rest.0));
        let claim = match flags & (CLAIM_USER | CLAIM_DEVICE) {
            0 => None,
            CLAIM_USER => Some(Per::User),
            _ => Some(Per::Device),
        };
        Self { user, device, granted, connected_at_ms, remote, meta, meta_version, claim }
    }

    /// The user alone, as bytes: for comparisons, which need no more.
    pub(super) fn user_bytes(bytes: &'a [u8]) -> &'a [u8] {
        let mut rest = Rest(&bytes[1..]);
        let length = rest.varint() as usize;
        rest.take(length)
    }

    /// Which device; empty if it was not told.
    pub(super) fn device(&self) -> &'a str {
        match self.device {
            Device::Known(text) => text,
            Device::Own(text) => text,
        }
    }

    pub(super) fn to_connection(self) -> Connection {
        Connection {
            user: self.user.into(),
            device: match self.device {
                Device::Known(text) => Arc::clone(text),
                Device::Own(text) => text.into(),
            },
            granted: self.granted,
            connected_at_ms: self.connected_at_ms,
            remote: self.remote.print(&mut AddressText::default()).map(Arc::from),
            meta: self.meta.map(Arc::from),
            meta_version: self.meta_version,
            claim: self.claim,
        }
    }
}

fn remote_form(remote: Remote<'_>) -> u8 {
    match remote {
        Remote::None => 0,
        Remote::Text(_) => 1,
        Remote::Socket(SocketAddr::V4(_)) => 2,
        Remote::Socket(SocketAddr::V6(_)) => 3,
        Remote::Ip(IpAddr::V4(_)) => 4,
        Remote::Ip(IpAddr::V6(_)) => 5,
    }
}

fn put_remote(out: &mut Vec<u8>, remote: Remote<'_>) {
    match remote {
        Remote::None => {}
        Remote::Text(text) => put_text(out, text),
        Remote::Socket(socket) => {
            put_ip(out, socket.ip());
            out.extend(socket.port().to_be_bytes());
        }
        Remote::Ip(ip) => put_ip(out, ip),
    }
}

fn put_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => out.extend(ip.octets()),
        IpAddr::V6(ip) => out.extend(ip.octets()),
    }
}

/// Written as the connection is, so that the bytes of a snapshot do not depend on how it was packed.
impl Serialize for Packed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Connection", 8)?;
        fields.serialize_field("user", self.user)?;
        fields.serialize_field("device", self.device())?;
        fields.serialize_field("granted", &self.granted)?;
        fields.serialize_field("connected_at_ms", &self.connected_at_ms)?;
        fields.serialize_field("remote", &self.remote.print(&mut AddressText::default()))?;
        fields.serialize_field("meta", &self.meta)?;
        fields.serialize_field("meta_version", &self.meta_version)?;
        fields.serialize_field("claim", &self.claim)?;
        fields.end()
    }
}

/// What is left to read. Panics where the bytes end early: they were written here.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        self.take(N).try_into().expect("as many were taken")
    }

    fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    fn varint(&mut self) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = self.byte();
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }

    fn remote(&mut self, form: u8) -> Remote<'a> {
        match form {
            0 => Remote::None,
            1 => Remote::Text(self.text()),
            2 => Remote::Socket((Ipv4Addr::from(self.array()), self.port()).into()),
            3 => Remote::Socket((Ipv6Addr::from(self.array::<16>()), self.port()).into()),
            4 => Remote::Ip(Ipv4Addr::from(self.array()).into()),
            _ => Remote::Ip(Ipv6Addr::from(self.array::<16>()).into()),
        }
    }

    fn port(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    fn text(&mut self) -> &'a str {
        let length = self.varint() as usize;
        text(self.take(length))
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("it was packed from a text")
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_varint(out, text.len() as u64);
    out.extend(text.as_bytes());
}

/// Seven bits a byte, the lowest first; the top bit says that more follow.
fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A distance in either direction as a number that is small if the distance is.
fn zigzag(distance: u64) -> u64 {
    (distance << 1) ^ ((distance as i64) >> 63) as u64
}

fn unzigzag(value: u64) -> u64 {
    (value >> 1) ^ (value & 1).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::super::limits::{NAME_BYTES_MAX, TEXT_BYTES_MAX};
    use super::*;

    const NUMBERS: [u64; 12] =
        [0, 1, 63, 64, 127, 128, u32::MAX as u64, 1 << 40, 1 << 53, i64::MAX as u64, 1 << 63, u64::MAX];

    fn pack(connection: &Connection, base: Base, devices: &mut Interner) -> Vec<u8> {
        let mut bytes = Vec::new();
        Packed::pack(connection, base, devices, &mut bytes);
        bytes
    }

    fn assert_survives(connection: &Connection, base: Base, devices: &mut Interner) {
        let bytes = pack(connection, base, devices);
        let packed = Packed::read(&bytes, base, devices);
        assert_eq!(packed.to_connection(), *connection);
        assert_eq!((packed.user, packed.device()), (&*connection.user, &*connection.device));
        assert_eq!(Packed::user_bytes(&bytes), connection.user.as_bytes());
        assert_eq!(postcard::to_stdvec(&packed).unwrap(), postcard::to_stdvec(connection).unwrap());
    }

    fn usual() -> Connection {
        Connection {
            user: "user:9e3779b97f4a7c15".into(),
            device: "web".into(),
            granted: 1 << 41,
            connected_at_ms: 1_700_000_000_000,
            remote: Some("203.0.113.77:54321".into()),
            meta: None,
            meta_version: 1,
            claim: None,
        }
    }

    #[test]
    fn every_combination_of_texts_survives() {
        let names = [
            "",
            "a",
            "web",
            "sixteen bytes 16",
            "seventeen bytes 1",
            "\u{1F9A9}\u{0}\u{e9}",
            &"n".repeat(NAME_BYTES_MAX),
        ];
        let long = "t".repeat(TEXT_BYTES_MAX);
        let texts = [None, Some(""), Some("{}"), Some("1.2.3.4:5"), Some("[::1]:80"), Some("::1"), Some(&*long)];
        let mut devices = Interner::default();
        for user in names {
            for device in names {
                for remote in texts {
                    for meta in texts {
                        for meta_version in [0, 1, 2, u32::MAX] {
                            let connection = Connection {
                                user: user.into(),
                                device: device.into(),
                                remote: remote.map(Arc::from),
                                meta: meta.map(Arc::from),
                                meta_version,
                                ..usual()
                            };
                            assert_survives(&connection, Base::of(&usual()), &mut devices);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn every_distance_between_times_survives() {
        let mut devices = Interner::default();
        for base in NUMBERS {
            for number in NUMBERS {
                let base = Base::of(&Connection { granted: base, connected_at_ms: !base, ..usual() });
                let connection = Connection { granted: number, connected_at_ms: number, ..usual() };
                assert_survives(&connection, base, &mut devices);
            }
        }
    }

    #[test]
    fn devices_survive_also_when_no_code_is_left() {
        let mut devices = Interner::default();
        for n in 0..1000 {
            let connection = Connection { device: format!("device-{n}").into(), ..usual() };
            assert_survives(&connection, Base::of(&usual()), &mut devices);
        }
        let bytes = pack(&usual(), Base::of(&usual()), &mut devices);
        devices.code(&"later".into());
        assert_eq!(Packed::read(&bytes, Base::of(&usual()), &devices).to_connection(), usual());
    }

    #[test]
    fn a_usual_connection_takes_few_bytes_beside_its_user() {
        let (base, mut devices) = (Base::of(&usual()), Interner::default());
        let later =
            Connection { granted: usual().granted + 60, connected_at_ms: usual().connected_at_ms + 8000, ..usual() };
        // Flags, length of the user, device; one and two bytes of times; address and port.
        assert_eq!(pack(&later, base, &mut devices).len(), later.user.len() + 3 + 3 + 6);
    }
}
