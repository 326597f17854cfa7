//! Numbers and addresses as the C library reads them for ipvsadm.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::names::Names;
use crate::addr::Addr;

/// C's `isspace`.
const SPACES: [char; 6] = [' ', '\t', '\n', '\u{b}', '\u{c}', '\r'];

/// A decimal number from `min` to `max` with nothing behind it: strtol(3), base 10.
pub(super) fn bounded(text: &str, min: i64, max: i64) -> Option<i64> {
    let text = text.trim_start_matches(SPACES);
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|octet| octet.is_ascii_digit()) {
        return None;
    }
    let number: i64 = text.parse().ok()?;
    (min..=max).contains(&number).then_some(number)
}

/// The number at the start of a text, 0 if there is none: atoi(3).
pub(super) fn leading(text: &str) -> i64 {
    let text = text.trim_start_matches(SPACES);
    let sign = usize::from(text.starts_with(['+', '-']));
    let digits = text[sign..].bytes().take_while(u8::is_ascii_digit).count();
    text[..sign + digits].parse().unwrap_or(if digits == 0 { 0 } else { i64::MAX })
}

/// An IPv4 address of one to four parts, each decimal, octal or hexadecimal, the last one filling
/// what the others leave; white space and anything after it is ignored: inet_aton(3).
pub(super) fn inet_aton(text: &str) -> Option<Ipv4Addr> {
    let end = text.find(SPACES).unwrap_or(text.len());
    let parts: Vec<&str> = text[..end].split('.').collect();
    let (last, first) = parts.split_last()?;
    if first.len() > 3 {
        return None;
    }
    let mut bits = 0;
    for (place, part) in first.iter().enumerate() {
        let octet = part_of_address(part).filter(|octet| *octet <= 0xff)?;
        bits |= octet << (24 - 8 * place);
    }
    let room = u32::MAX >> (8 * first.len());
    let low = part_of_address(last).filter(|low| *low <= room)?;
    Some(Ipv4Addr::from_bits(bits | low))
}

fn part_of_address(part: &str) -> Option<u32> {
    let hex = part.strip_prefix("0x").or_else(|| part.strip_prefix("0X"));
    let (digits, radix) = match hex {
        Some(digits) => (digits, 16),
        None if part.len() > 1 && part.starts_with('0') => (&part[1..], 8),
        None => (part, 10),
    };
    if digits.is_empty() || digits.starts_with('+') {
        return None;
    }
    u32::from_str_radix(digits, radix).ok()
}

/// What `host[:port]` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HostPort {
    pub(super) addr: Addr,
    /// `None` if none was given.
    pub(super) port: Option<u16>,
}

/// Reads `host[:port]`: an IPv6 address bare, without port, or in brackets, with one; anything
/// else is IPv4 or a name. Digits alone are no host.
///
/// An IPv4-mapped IPv6 address is refused: no packet that xvs accepts carries one.
pub(super) fn host_port(text: &str, protocol: u8, names: &dyn Names) -> Option<HostPort> {
    if text.bytes().all(|octet| octet.is_ascii_digit()) {
        return None;
    }
    let (host, mut port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, behind) = rest.split_once(']')?;
            (host, Some(behind.strip_prefix(':')?))
        }
        None => (text, None),
    };
    let addr = if let Ok(v6) = host.parse::<Ipv6Addr>() {
        if v6.to_ipv4_mapped().is_some() {
            return None;
        }
        v6.into()
    } else {
        // ipvsadm looks for the port of an IPv4 address inside the brackets, if there are any.
        let (host, behind) = match host.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (host, None),
        };
        port = behind;
        inet_aton(host).or_else(|| names.host_addr(host))?.into()
    };
    let port = match port {
        None => None,
        Some(port) => Some(match bounded(port, 0, 65535) {
            Some(number) => u16::try_from(number).ok()?,
            None => names.service_port(port, protocol)?,
        }),
    };
    Some(HostPort { addr, port })
}

#[cfg(test)]
mod tests {
    use super::{super::names::Numeric, *};

    #[test]
    fn numbers_are_read_as_strtol_reads_them() {
        assert_eq!(bounded(" +7", 0, 9), Some(7));
        assert_eq!(bounded("-1", 0, 9), None);
        for bad in ["", "7x", "7 ", "+", "- 1", "99999999999999999999"] {
            assert_eq!(bounded(bad, i64::MIN, i64::MAX), None, "{bad}");
        }
        assert_eq!([leading("64x"), leading("x"), leading(" -5")], [64, 0, -5]);
    }

    #[test]
    fn addresses_may_be_short_octal_or_hexadecimal() {
        let read = |text| inet_aton(text).map(|addr| addr.to_string());
        assert_eq!(read("24").as_deref(), Some("0.0.0.24"));
        assert_eq!(read("10.1").as_deref(), Some("10.0.0.1"));
        assert_eq!(read("0x0a.010.1.2 x").as_deref(), Some("10.8.1.2"));
        assert_eq!(read("255.0.255.0").as_deref(), Some("255.0.255.0"));
        for bad in ["", "10.0.0.300", "1.2.3.4.5", "1..2", "08", "0x", "10.0.0.1x", "+1"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_ipv6_address_needs_brackets_to_have_a_port() {
        let read =
            |text| host_port(text, 6, &Numeric).map(|read| (read.addr.to_string(), read.port));
        assert_eq!(read("[fd00::1]:80"), Some(("fd00::1".into(), Some(80))));
        assert_eq!(read("fd00::1:80"), Some(("fd00::1:80".into(), None)));
        assert_eq!(read("10.0.0.1:0"), Some(("10.0.0.1".into(), Some(0))));
        assert_eq!(read("[10.0.0.1:7]:80"), Some(("10.0.0.1".into(), Some(7))));
        for bad in ["[fd00::1]", "80", "", ":80", "10.0.0.1:", "10.0.0.1:x", "[::ffff:1.2.3.4]:1"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
