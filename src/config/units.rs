//! Values with units and inner structure: `3s`, `300ms-600ms`, `1=127.0.0.1:7201,2=…`.

use std::time::Duration;

/// A time with its unit.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; a time needs a unit, such as 3s or 250ms"))
}

/// A size in bytes with its unit.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let hint = "a size needs a unit, such as 64MiB or 0B";
    if !text.ends_with(['B', 'b']) {
        return Err(hint.to_owned());
    }
    text.parse::<bytesize::ByteSize>().map(|size| size.0).map_err(|error| format!("{error}; {hint}"))
}

/// Two times with their units and a dash between them, the shorter one first.
pub(super) fn range(text: &str) -> Result<(Duration, Duration), String> {
    let (short, long) = text.split_once('-').ok_or("a range has the form 300ms-600ms")?;
    let (short, long) = (duration(short)?, duration(long)?);
    if short < long { Ok((short, long)) } else { Err(String::from("the first time of a range is the shorter one")) }
}

/// A member and its peer address.
pub(super) fn member(text: &str) -> Result<(u64, String), String> {
    let form = || String::from("members have the form 1=HOST:PORT,2=HOST:PORT,3=HOST:PORT");
    let (id, address) = text.split_once('=').ok_or_else(form)?;
    let id = id.trim().parse().map_err(|_| form())?;
    let address = address.trim();
    let (host, port) = address.rsplit_once(':').ok_or_else(form)?;
    if host.is_empty() || port.parse::<u16>().is_err() {
        return Err(form());
    }
    Ok((id, address.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_needed_and_structure_is_checked() {
        assert_eq!(duration("3s"), Ok(Duration::from_secs(3)));
        assert!(duration("3").unwrap_err().contains("unit"));
        assert_eq!((size("64MiB"), size("10kB"), size("0B")), (Ok(64 << 20), Ok(10_000), Ok(0)));
        assert!(size("64").unwrap_err().contains("unit") && size("xB").is_err());
        assert_eq!(range("300ms-600ms"), Ok((Duration::from_millis(300), Duration::from_millis(600))));
        assert!(range("600ms-300ms").is_err() && range("300ms").is_err());
        assert_eq!(member("2=localhost:7202"), Ok((2, String::from("localhost:7202"))));
        for bad in ["localhost:7202", "x=localhost:7202", "2=localhost", "2=:7202", "2=localhost:x"] {
            assert!(member(bad).is_err(), "{bad}");
        }
    }
}
