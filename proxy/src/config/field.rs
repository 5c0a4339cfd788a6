//! Fields whose text has to be understood: a bad one is kept with its place in the file until all faults are told.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde_saphyr::Spanned;

use super::error::Problem;

/// A scalar as text, or why it is none that `T` can be made of.
#[derive(Debug, Clone)]
pub(super) struct Scalar<T>(Result<T, String>);

/// An optional field, with its place.
pub(super) type Field<T> = Option<Spanned<Scalar<T>>>;

/// What can be read from a scalar.
pub(super) trait FromScalar: Sized {
    fn from_scalar(text: &str) -> Result<Self, String>;
}

impl<'de, T: FromScalar> Deserialize<'de> for Scalar<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = String;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a single value")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
                Ok(text.to_owned())
            }
            // YAML 1.1 reads `on` and `off` so.
            fn visit_bool<E: Error>(self, flag: bool) -> Result<String, E> {
                Ok(if flag { "on" } else { "off" }.to_owned())
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<String, E> {
                Ok(number.to_string())
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<String, E> {
                Ok(number.to_string())
            }
        }
        deserializer.deserialize_any(Text).map(|text| Scalar(T::from_scalar(&text)))
    }
}

/// Takes a field's value, or notes what is wrong with it and takes the default.
pub(super) fn take<T>(field: Field<T>, name: &str, default: impl FnOnce() -> T, problems: &mut Vec<Problem>) -> T {
    take_optional(field, name, problems).unwrap_or_else(default)
}

/// As [`take`], where there is no default.
pub(super) fn take_optional<T>(field: Field<T>, name: &str, problems: &mut Vec<Problem>) -> Option<T> {
    let field = field?;
    let place = (field.referenced.line(), field.referenced.column());
    field.value.0.map_err(|message| problems.push(Problem { at: Some(place), field: name.to_owned(), message })).ok()
}

/// Each element of a list, by its place in it.
pub(super) fn take_list<T>(list: Vec<Spanned<Scalar<T>>>, name: &str, problems: &mut Vec<Problem>) -> Vec<T> {
    let elements = list.into_iter().enumerate();
    elements.filter_map(|(at, element)| take_optional(Some(element), &format!("{name}[{at}]"), problems)).collect()
}

/// Where to listen: `address:port`, or a port alone for all addresses of both families.
#[derive(Debug, Clone, Copy)]
pub(super) struct ListenAddress(pub(super) SocketAddr);

impl FromScalar for ListenAddress {
    fn from_scalar(text: &str) -> Result<Self, String> {
        if let Ok(port) = text.parse::<u16>() {
            return Ok(ListenAddress((Ipv6Addr::UNSPECIFIED, port).into()));
        }
        let error =
            || format!("{text:?} is no place to listen: write a port, or an address and a port as in \"[::]:15001\"");
        text.parse().map(ListenAddress).map_err(|_| error())
    }
}

/// `host:port` of the control plane, or of each of several, with commas between; the host is a name or an address, IPv6 in
/// brackets.
#[derive(Debug, Clone)]
pub(super) struct HostPort(pub(super) String);

impl FromScalar for HostPort {
    fn from_scalar(text: &str) -> Result<Self, String> {
        let error =
            || format!("{text:?} is no host and port: write it as in \"10.10.0.2:15012\" or \"control.example:15012\"");
        let good = |one: &str| {
            let authority: Option<http::uri::Authority> = one.trim().parse().ok();
            let has_both = |a: http::uri::Authority| a.port_u16().is_some_and(|port| port != 0) && !a.host().is_empty();
            authority.is_some_and(has_both) && !one.contains('@')
        };
        if text.split(',').all(good) { Ok(HostPort(text.to_owned())) } else { Err(error()) }
    }
}

impl FromScalar for u16 {
    fn from_scalar(text: &str) -> Result<Self, String> {
        text.parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| format!("{text:?} is no port: write a number from 1 to 65535"))
    }
}

impl FromScalar for u32 {
    fn from_scalar(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("{text:?} is no number from 0 to 4294967295"))
    }
}

/// How many, at least one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Count(pub(super) usize);

impl FromScalar for Count {
    fn from_scalar(text: &str) -> Result<Self, String> {
        // More workers than this are a typing error, not a machine.
        let count = text.parse().ok().filter(|count| (1..=1_000_000).contains(count));
        count.map(Count).ok_or_else(|| format!("{text:?} is no count from 1 to 1000000"))
    }
}

impl FromScalar for ipnet::IpNet {
    fn from_scalar(text: &str) -> Result<Self, String> {
        let alone = || text.parse::<std::net::IpAddr>().map(ipnet::IpNet::from);
        text.parse()
            .or_else(|_| alone())
            .map_err(|_| format!("{text:?} is no address range: write it as in 10.0.0.0/8 or fd00::/8"))
    }
}

impl FromScalar for Duration {
    fn from_scalar(text: &str) -> Result<Self, String> {
        let error = || format!("{text:?} is no duration: write a number with ms, s, m or h, as in 30s");
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = text[..digits].parse().map_err(|_| error())?;
        let (unit_ms, most) = match &text[digits..] {
            "ms" => (1, 86_400_000),
            "s" => (1_000, 86_400),
            "m" => (60_000, 1_440),
            "h" => (3_600_000, 24),
            _ => return Err(error()),
        };
        if number > most {
            return Err(format!("{text:?} is longer than a day"));
        }
        Ok(Duration::from_millis(number * unit_ms))
    }
}
