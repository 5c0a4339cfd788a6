//! Messages, written: a header, the fixed part of its kind, attributes that may nest (linux/netlink.h). All is aligned
//! to four bytes, in the machine's byte order unless a field says otherwise.

/// Flags of a message's header.
pub mod flags {
    pub const REQUEST: u16 = 0x1;
    pub const ACK: u16 = 0x4;
    pub const DUMP: u16 = 0x300;
    pub const DUMP_INTERRUPTED: u16 = 0x10;
    /// Of an answer: the refused message is not quoted in full.
    pub const CAPPED: u16 = 0x100;
    /// Of an answer: attributes follow, with the kernel's text.
    pub const ACK_TLVS: u16 = 0x200;
    pub const EXCLUSIVE: u16 = 0x200;
    pub const CREATE: u16 = 0x400;
    pub const APPEND: u16 = 0x800;
}

pub(crate) const HEADER: usize = 16;
const NESTED: u16 = 1 << 15;

/// Attributes in the order in which they are written.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    /// None yet.
    pub fn new() -> Attributes {
        Attributes::default()
    }

    /// An attribute as bytes.
    ///
    /// # Panics
    /// When the value is longer than the 65,531 bytes that an attribute can hold.
    #[must_use]
    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Attributes {
        let length = u16::try_from(value.len() + 4).expect("an attribute holds less than 64 KiB");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Text, which ends with a NUL.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Attributes {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// In the machine's byte order, as rtnetlink has numbers.
    #[must_use]
    pub fn number(self, kind: u16, value: u32) -> Attributes {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// In network byte order, as nf_tables has numbers.
    #[must_use]
    pub fn number_be(self, kind: u16, value: u32) -> Attributes {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// An attribute that holds attributes.
    #[must_use]
    pub fn nest(self, kind: u16, inner: &Attributes) -> Attributes {
        self.bytes(kind | NESTED, &inner.0)
    }

    /// An attribute that holds a fixed part and then attributes.
    #[must_use]
    pub fn nest_after(self, kind: u16, fixed: &[u8], inner: &Attributes) -> Attributes {
        self.bytes(kind | NESTED, &[fixed, &inner.0].concat())
    }

    /// As they are sent.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// One message. The sequence number is left 0; the socket sets it.
///
/// # Panics
/// When it is longer than 4 GiB.
pub fn message(kind: u16, flags: u16, fixed: &[u8], attributes: &Attributes) -> Vec<u8> {
    let fixed_length = fixed.len().next_multiple_of(4);
    let length = u32::try_from(HEADER + fixed_length + attributes.0.len()).expect("a message is shorter than 4 GiB");
    let mut bytes = Vec::with_capacity(HEADER + fixed_length + attributes.0.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]); // Sequence number, and the port, which the kernel knows.
    bytes.extend(fixed);
    bytes.resize(HEADER + fixed_length, 0);
    bytes.extend(&attributes.0);
    bytes
}
