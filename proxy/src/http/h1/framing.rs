//! Where a body ends (RFC 9112 §6.3), decided once per message and refused where two readers could decide differently.

use http::{Method, StatusCode, Version};
use isthmus_http2::head::digits;

use super::HeadError;

/// How a body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    None,
    /// More than zero bytes.
    Length(u64),
    Chunked,
    /// Responses only.
    UntilClose,
}

/// What a head says about its body, field by field.
#[derive(Debug, Default, Clone, Copy)]
pub struct Lengths {
    length: Option<u64>,
    coding: Option<Coding>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    /// `chunked`, to the letter.
    Exact,
    /// The same word in other case: legal, and other parsers have missed it.
    OtherCase,
}

impl Lengths {
    /// A `Content-Length`: digits, once. Neither a list nor a repetition, even of the same number.
    pub fn length(&mut self, value: &[u8]) -> Result<(), HeadError> {
        if self.length.is_some() {
            return Err(HeadError::Ambiguous("Content-Length more than once"));
        }
        self.length = Some(digits(value).ok_or(HeadError::Ambiguous("a Content-Length that is no plain number"))?);
        Ok(())
    }

    /// A `Transfer-Encoding`: `chunked`, once, alone.
    pub fn coding(&mut self, value: &[u8]) -> Result<(), HeadError> {
        if self.coding.is_some() {
            return Err(HeadError::Ambiguous("Transfer-Encoding more than once"));
        }
        self.coding = Some(match value {
            b"chunked" => Coding::Exact,
            value if value.eq_ignore_ascii_case(b"chunked") => Coding::OtherCase,
            _ => return Err(HeadError::Ambiguous("a Transfer-Encoding other than chunked")),
        });
        Ok(())
    }

    pub fn of_request(self, version: Version) -> Result<Framing, HeadError> {
        self.check(version)?;
        match (self.coding, self.length) {
            (Some(Coding::OtherCase), _) => Err(HeadError::Ambiguous("chunked in capitals")),
            (Some(Coding::Exact), _) => Ok(Framing::Chunked),
            (None, None | Some(0)) => Ok(Framing::None),
            (None, Some(length)) => Ok(Framing::Length(length)),
        }
    }

    pub fn of_response(self, version: Version, status: StatusCode, asked: &Method) -> Result<Framing, HeadError> {
        self.check(version)?;
        let bodiless =
            status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
        if bodiless || *asked == Method::HEAD {
            return Ok(Framing::None);
        }
        Ok(match (self.coding, self.length) {
            (Some(_), _) => Framing::Chunked,
            (None, Some(0)) => Framing::None,
            (None, Some(length)) => Framing::Length(length),
            (None, None) => Framing::UntilClose,
        })
    }

    fn check(self, version: Version) -> Result<(), HeadError> {
        match (self.coding, self.length) {
            (Some(_), Some(_)) => Err(HeadError::Ambiguous("Transfer-Encoding beside Content-Length")),
            (Some(_), None) if version == Version::HTTP_10 => {
                Err(HeadError::Ambiguous("Transfer-Encoding in HTTP/1.0"))
            }
            _ => Ok(()),
        }
    }
}
