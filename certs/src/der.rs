//! DER as it is written in signed structures of outsiders, read strictly: definite lengths in their shortest form, tags of
//! one byte, nothing left over. Whatever else BER would allow is refused.

/// Why bytes are not what was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotDer;

pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OID: u8 = 0x06;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

/// `[n]`, constructed.
pub(crate) const fn context(number: u8) -> u8 {
    0xa0 | number
}

/// One element.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) content: &'a [u8],
    /// With tag and length.
    pub(crate) whole: &'a [u8],
}

/// Elements one after another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next one, whatever it is.
    pub(crate) fn any(&mut self) -> Result<Element<'a>, NotDer> {
        let (&[tag, first], rest) = self.0.split_first_chunk::<2>().ok_or(NotDer)?;
        // Tags of more than one byte occur nowhere in what is read here.
        if tag & 0x1f == 0x1f {
            return Err(NotDer);
        }
        let (length, header) = match first {
            0..=0x7f => (usize::from(first), 2),
            0x81..=0x83 => {
                let count = usize::from(first & 0x7f);
                let bytes = rest.get(..count).ok_or(NotDer)?;
                let length = bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
                // The shortest form, and no leading zero.
                if length < 0x80 || bytes[0] == 0 {
                    return Err(NotDer);
                }
                (length, 2 + count)
            }
            _ => return Err(NotDer),
        };
        let whole = self.0.get(..header + length).ok_or(NotDer)?;
        self.0 = &self.0[header + length..];
        Ok(Element { tag, content: &whole[header..], whole })
    }

    /// The next one, which must have this tag.
    pub(crate) fn element(&mut self, tag: u8) -> Result<Element<'a>, NotDer> {
        self.any().and_then(|element| if element.tag == tag { Ok(element) } else { Err(NotDer) })
    }

    /// What is inside the next one, which must have this tag.
    pub(crate) fn inside(&mut self, tag: u8) -> Result<Reader<'a>, NotDer> {
        self.element(tag).map(|element| Reader(element.content))
    }

    /// The next one, if it has this tag.
    pub(crate) fn optional(&mut self, tag: u8) -> Result<Option<Element<'a>>, NotDer> {
        if self.0.first() == Some(&tag) { self.any().map(Some) } else { Ok(None) }
    }

    /// Nothing may be left.
    pub(crate) fn end(self) -> Result<(), NotDer> {
        if self.0.is_empty() { Ok(()) } else { Err(NotDer) }
    }
}
