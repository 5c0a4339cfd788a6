//! The expressions that our rules consist of, as the kernel's virtual machine has them (linux/netfilter/nf_tables.h):
//! written when a rule is made, and read back when one is checked.

use isthmus_netlink::{Attributes, Malformed, attributes};

/// Everything is compared in one register; the verdict is register 0.
const REGISTER: u32 = 1;
const REGISTER_VERDICT: u32 = 0;

const ELEMENT: u16 = 1;
const NAME: u16 = 1;
const DATA: u16 = 2;
const VALUE: u16 = 1;
const VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
/// More than a rule of ours has; of a longer one it is known that it is none of ours.
const MOST_EXPRESSIONS: usize = 64;

/// What `meta` loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meta {
    Mark,
    InputName,
    OutputName,
    SocketUid,
    Protocol,
    Transport,
}

/// What `payload` loads from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    Network,
    Transport,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Drop,
    Return,
}

/// One step of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    Meta(Meta),
    /// The kind of the destination address, as the routing table has it.
    AddressKind,
    Payload {
        base: Base,
        offset: u32,
        length: u32,
    },
    /// Keeps these bits of what was loaded.
    Mask(Vec<u8>),
    Equal(Vec<u8>),
    NotEqual(Vec<u8>),
    Immediate(Vec<u8>),
    Verdict(Verdict),
    /// To the port that was loaded.
    Redirect,
    /// Counts packets and bytes; what it has counted is no part of a rule.
    Counter,
    /// None of ours, by its name.
    Other(String),
}

/// A rule's expressions as an attribute's content.
pub fn encode(expressions: &[Expression]) -> Attributes {
    expressions.iter().fold(Attributes::new(), |list, expression| {
        let (name, data) = expression.parts();
        list.nest(ELEMENT, &Attributes::new().text(NAME, name).nest(DATA, &data))
    })
}

/// The other way round.
///
/// # Errors
/// Where the bytes are no attributes.
pub fn decode(bytes: &[u8]) -> Result<Vec<Expression>, Malformed> {
    let mut expressions = Vec::new();
    for element in attributes(bytes).take(MOST_EXPRESSIONS) {
        let fields = Fields::read(element?.1)?;
        let data = Fields::read(fields.get(DATA))?;
        let name = String::from_utf8_lossy(fields.get(NAME)).trim_end_matches('\0').to_owned();
        expressions.push(Expression::from_parts(&name, &data)?.unwrap_or(Expression::Other(name)));
    }
    Ok(expressions)
}

/// What the counter of a rule has seen; nothing where it has none.
///
/// # Errors
/// Where the bytes are no attributes.
pub fn packets(bytes: &[u8]) -> Result<Option<u64>, Malformed> {
    const PACKETS: u16 = 2;
    for element in attributes(bytes).take(MOST_EXPRESSIONS) {
        let fields = Fields::read(element?.1)?;
        if fields.get(NAME) == b"counter\0" {
            let packets = Fields::read(fields.get(DATA))?.get(PACKETS);
            return Ok(packets.try_into().ok().map(u64::from_be_bytes));
        }
    }
    Ok(None)
}

impl Expression {
    fn parts(&self) -> (&str, Attributes) {
        let data = Attributes::new();
        let value = |bytes: &[u8]| Attributes::new().bytes(VALUE, bytes);
        let compare =
            |operator, bytes| Attributes::new().number_be(1, REGISTER).number_be(2, operator).nest(3, &value(bytes));
        match self {
            Expression::Meta(key) => ("meta", data.number_be(1, REGISTER).number_be(2, key.number())),
            Expression::AddressKind => {
                ("fib", data.number_be(1, REGISTER).number_be(2, FIB_ADDRESS_KIND).number_be(3, FIB_DESTINATION))
            }
            Expression::Payload { base, offset, length } => {
                let data = data.number_be(1, REGISTER).number_be(2, base.number());
                ("payload", data.number_be(3, *offset).number_be(4, *length))
            }
            Expression::Mask(mask) => {
                let length = u32::try_from(mask.len()).unwrap_or(0);
                let data = data.number_be(1, REGISTER).number_be(2, REGISTER).number_be(3, length);
                ("bitwise", data.nest(4, &value(mask)).nest(5, &value(&vec![0; mask.len()])))
            }
            Expression::Equal(bytes) => ("cmp", compare(EQUAL, bytes)),
            Expression::NotEqual(bytes) => ("cmp", compare(NOT_EQUAL, bytes)),
            Expression::Immediate(bytes) => ("immediate", data.number_be(1, REGISTER).nest(2, &value(bytes))),
            Expression::Verdict(verdict) => {
                let code = Attributes::new().number_be(VERDICT_CODE, verdict.code());
                let verdict = Attributes::new().nest(VERDICT, &code);
                ("immediate", data.number_be(1, REGISTER_VERDICT).nest(2, &verdict))
            }
            Expression::Redirect => ("redir", data.number_be(1, REGISTER)),
            Expression::Counter => ("counter", data),
            Expression::Other(name) => (name, data),
        }
    }

    /// Nothing where it is not exactly what we would write.
    fn from_parts(name: &str, data: &Fields<'_>) -> Result<Option<Expression>, Malformed> {
        let value = |kind| Ok::<_, Malformed>(Fields::read(data.get(kind))?.get(VALUE).to_vec());
        let in_register = data.number(1) == Some(REGISTER);
        Ok(match name {
            "meta" if in_register => {
                META.iter().find(|(_, number)| data.number(2) == Some(*number)).map(|(key, _)| Expression::Meta(*key))
            }
            "fib" if in_register => (data.number(2) == Some(FIB_ADDRESS_KIND)
                && data.number(3) == Some(FIB_DESTINATION))
            .then_some(Expression::AddressKind),
            "payload" if in_register => match (Base::from(data.number(2)), data.number(3), data.number(4)) {
                (Some(base), Some(offset), Some(length)) => Some(Expression::Payload { base, offset, length }),
                _ => None,
            },
            "bitwise" if in_register && data.number(2) == Some(REGISTER) => {
                let plain = value(5)?.iter().all(|byte| *byte == 0);
                plain.then_some(Expression::Mask(value(4)?))
            }
            "cmp" if in_register => match data.number(2) {
                Some(EQUAL) => Some(Expression::Equal(value(3)?)),
                Some(NOT_EQUAL) => Some(Expression::NotEqual(value(3)?)),
                _ => None,
            },
            "immediate" if in_register => Some(Expression::Immediate(value(2)?)),
            "immediate" if data.number(1) == Some(REGISTER_VERDICT) => {
                let code = Fields::read(Fields::read(data.get(2))?.get(VERDICT))?.number(VERDICT_CODE);
                [Verdict::Drop, Verdict::Return]
                    .into_iter()
                    .find(|verdict| Some(verdict.code()) == code)
                    .map(Expression::Verdict)
            }
            "redir" if in_register => Some(Expression::Redirect),
            "counter" => Some(Expression::Counter),
            _ => None,
        })
    }
}

const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const FIB_ADDRESS_KIND: u32 = 3;
const FIB_DESTINATION: u32 = 1 << 1;
const META: [(Meta, u32); 6] = [
    (Meta::Mark, 3),
    (Meta::InputName, 6),
    (Meta::OutputName, 7),
    (Meta::SocketUid, 10),
    (Meta::Protocol, 15),
    (Meta::Transport, 16),
];

impl Meta {
    fn number(self) -> u32 {
        META.iter().find(|(key, _)| *key == self).map_or(u32::MAX, |(_, number)| *number)
    }
}

impl Base {
    fn number(self) -> u32 {
        match self {
            Base::Network => 1,
            Base::Transport => 2,
        }
    }

    fn from(number: Option<u32>) -> Option<Base> {
        [Base::Network, Base::Transport].into_iter().find(|base| Some(base.number()) == number)
    }
}

impl Verdict {
    /// NF_DROP and NFT_RETURN.
    fn code(self) -> u32 {
        match self {
            Verdict::Drop => 0,
            Verdict::Return => (-5_i32).cast_unsigned(),
        }
    }
}

/// Attributes by kind. Of a kind that comes twice the last counts, as in the kernel.
pub(super) struct Fields<'a>(Vec<(u16, &'a [u8])>);

impl<'a> Fields<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Fields<'a>, Malformed> {
        attributes(bytes).collect::<Result<_, _>>().map(Fields)
    }

    /// Empty where there is none.
    pub(super) fn get(&self, kind: u16) -> &'a [u8] {
        self.0.iter().rev().find(|(found, _)| *found == kind).map_or(&[], |(_, value)| value)
    }

    pub(super) fn number(&self, kind: u16) -> Option<u32> {
        self.get(kind).try_into().ok().map(u32::from_be_bytes)
    }

    pub(super) fn text(&self, kind: u16) -> String {
        String::from_utf8_lossy(self.get(kind)).trim_end_matches('\0').to_owned()
    }
}

#[cfg(test)]
#[path = "expression_test.rs"]
mod expression_test;
