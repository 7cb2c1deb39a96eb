//! The address that a client came from: any text, of which those that are addresses take the bytes that they have on a wire.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::fmt::{self, Write as _};

/// The longest has an IPv6 address in brackets, a scope and a port.
const ADDRESS_BYTES_MAX: usize = 64;

/// An address, or another text.
#[derive(Debug, Clone, Copy)]
pub(super) enum Remote<'a> {
    None,
    Text(&'a str),
    Socket(SocketAddr),
    Ip(IpAddr),
}

impl<'a> Remote<'a> {
    /// An address only if it prints as the very text that it was read from.
    pub(super) fn of(text: Option<&'a str>) -> Self {
        let Some(text) = text else { return Self::None };
        let address = match text.parse() {
            Ok(socket) if has_no_scope(socket) => Self::Socket(socket),
            Ok(_) => Self::Text(text),
            Err(_) => text.parse().map_or(Self::Text(text), Self::Ip),
        };
        if address.print(&mut AddressText::default()) == Some(text) { address } else { Self::Text(text) }
    }

    /// The text, which an address needs `space` for.
    pub(super) fn print<'b>(self, space: &'b mut AddressText) -> Option<&'b str>
    where
        'a: 'b,
    {
        match self {
            Self::None => return None,
            Self::Text(text) => return Some(text),
            Self::Socket(SocketAddr::V4(socket)) => {
                space.put_ipv4(*socket.ip());
                space.put_byte(b':');
                space.put_number(socket.port());
            }
            Self::Ip(IpAddr::V4(ip)) => space.put_ipv4(ip),
            Self::Socket(socket) => write!(space, "{socket}").expect("there is space for the longest"),
            Self::Ip(ip) => write!(space, "{ip}").expect("there is space for the longest"),
        }
        Some(space.as_str())
    }
}

/// The scope of a link-local address has no place in its bytes.
fn has_no_scope(socket: SocketAddr) -> bool {
    match socket {
        SocketAddr::V4(_) => true,
        SocketAddr::V6(socket) => socket.scope_id() == 0 && socket.flowinfo() == 0,
    }
}

/// An address as text, without an allocation. By far the most are of IPv4, and every connection that is read is printed:
/// so these are written by hand.
pub(super) struct AddressText {
    bytes: [u8; ADDRESS_BYTES_MAX],
    len: usize,
}

impl Default for AddressText {
    fn default() -> Self {
        Self { bytes: [0; ADDRESS_BYTES_MAX], len: 0 }
    }
}

impl AddressText {
    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).expect("it was written as text")
    }

    fn put_ipv4(&mut self, ip: Ipv4Addr) {
        for (n, octet) in ip.octets().into_iter().enumerate() {
            if n > 0 {
                self.put_byte(b'.');
            }
            self.put_number(octet.into());
        }
    }

    fn put_number(&mut self, number: u16) {
        if number >= 10 {
            self.put_number(number / 10);
        }
        self.put_byte(b'0' + (number % 10) as u8);
    }

    fn put_byte(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }
}

impl fmt::Write for AddressText {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let end = self.len + part.len();
        self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?.copy_from_slice(part.as_bytes());
        self.len = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(remote: Remote<'_>) -> Option<String> {
        remote.print(&mut AddressText::default()).map(str::to_owned)
    }

    #[test]
    fn addresses_are_recognised_and_print_as_they_were() {
        for text in [
            "0.0.0.0:0",
            "127.0.0.1:54321",
            "255.255.255.255:65535",
            "10.100.9.99",
            "[::1]:80",
            "[2001:db8::ff00:42:8329]:65535",
            "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
            "[::ffff:255.255.255.255]:65535",
            "::",
            "fe80::1",
        ] {
            let remote = Remote::of(Some(text));
            assert!(matches!(remote, Remote::Socket(_) | Remote::Ip(_)), "{text}: {remote:?}");
            assert_eq!(print(remote).as_deref(), Some(text));
        }
    }

    #[test]
    fn what_would_print_otherwise_stays_a_text() {
        for text in [
            "",
            "t",
            "unix",
            "localhost:80",
            "1.2.3.4:080",
            "1.2.3.4:65536",
            "1.2.3.4:",
            "01.2.3.4:5",
            " 1.2.3.4:5",
            "1.2.3.4:5 ",
            "[fe80::1%3]:80",
            "[fe80::1%4294967295]:65535",
            "[2001:DB8::1]:1",
            "[0:0:0:0:0:0:0:1]:1",
            "2001:0db8::1",
        ] {
            let remote = Remote::of(Some(text));
            assert!(matches!(remote, Remote::Text(_)), "{text}: {remote:?}");
            assert_eq!(print(remote).as_deref(), Some(text));
        }
        assert!(matches!(Remote::of(None), Remote::None));
        assert_eq!(print(Remote::None), None);
    }

    #[test]
    fn every_number_prints_as_the_standard_library_prints_it() {
        for n in 0..=u16::MAX {
            let socket = SocketAddr::from((Ipv4Addr::from(u32::from(n) * 65_537), n));
            assert_eq!(print(Remote::Socket(socket)), Some(socket.to_string()));
        }
    }
}
