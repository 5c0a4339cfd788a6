//! Heads between `http`'s types and HPACK's fields, with the rules of RFC 9113 §8: what breaks one is a malformed message,
//! and costs its own stream.

use bytes::Bytes;
use h2::ext::Protocol;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri, Version};

use super::hpack::{Encoder, Field, Pseudo};

/// It breaks a rule of its own: PROTOCOL_ERROR, for its stream alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

pub fn write_request(request: &Request<()>, encoder: &mut Encoder, out: &mut Vec<u8>) {
    let uri = request.uri();
    let protocol = request.extensions().get::<Protocol>();
    encoder.begin(out);
    encoder.pseudo(Pseudo::Method, request.method().as_str().as_bytes(), out);
    if *request.method() != Method::CONNECT || protocol.is_some() {
        encoder.pseudo(Pseudo::Scheme, uri.scheme_str().unwrap_or("http").as_bytes(), out);
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        encoder.pseudo(Pseudo::Path, path.as_bytes(), out);
    }
    if let Some(authority) = uri.authority() {
        encoder.pseudo(Pseudo::Authority, authority.as_str().as_bytes(), out);
    }
    if let Some(protocol) = protocol {
        encoder.pseudo(Pseudo::Protocol, protocol.as_str().as_bytes(), out);
    }
    write_fields(request.headers(), encoder, out);
}

pub fn write_response(status: StatusCode, headers: &HeaderMap, encoder: &mut Encoder, out: &mut Vec<u8>) {
    encoder.begin(out);
    encoder.pseudo(Pseudo::Status, status.as_str().as_bytes(), out);
    write_fields(headers, encoder, out);
}

pub fn write_trailers(trailers: &HeaderMap, encoder: &mut Encoder, out: &mut Vec<u8>) {
    encoder.begin(out);
    write_fields(trailers, encoder, out);
}

fn write_fields(headers: &HeaderMap, encoder: &mut Encoder, out: &mut Vec<u8>) {
    headers.iter().for_each(|(name, value)| encoder.header(name, value, out));
}

/// A head on its way from fields to a message.
#[derive(Debug)]
pub struct Fields {
    pseudo: [Option<Bytes>; Pseudo::ALL.len()],
    headers: HeaderMap,
    /// `Content-Length`, where there is one.
    pub length: Option<u64>,
    left: usize,
    malformed: bool,
    /// More than was offered to be taken: nothing of the rest is kept.
    pub too_large: bool,
}

impl Fields {
    /// `most`: SETTINGS_MAX_HEADER_LIST_SIZE.
    pub fn new(most: usize) -> Fields {
        let headers = HeaderMap::with_capacity(8);
        Fields { pseudo: Default::default(), headers, length: None, left: most, malformed: false, too_large: false }
    }

    pub fn add(&mut self, field: Field) {
        match self.left.checked_sub(field.size()) {
            Some(left) => self.left = left,
            None => self.too_large = true,
        }
        if self.too_large {
            return;
        }
        match field {
            Field::Pseudo(pseudo, value) => {
                let place = &mut self.pseudo[pseudo as usize];
                // Once each, and before all others.
                self.malformed |= place.is_some() || !self.headers.is_empty();
                *place = Some(value);
            }
            Field::Header(name, value) => self.add_header(name, value),
            Field::Malformed(_) => self.malformed = true,
        }
    }

    fn add_header(&mut self, name: HeaderName, value: HeaderValue) {
        if name == CONTENT_LENGTH {
            let length = digits(value.as_bytes());
            self.malformed |= length.is_none() || self.length.is_some();
            self.length = length;
        }
        self.malformed |= is_of_a_connection(&name) || (name == TE && value != "trailers");
        self.headers.append(name, value);
    }

    fn take(&mut self, pseudo: Pseudo) -> Option<Bytes> {
        self.pseudo[pseudo as usize].take()
    }

    pub fn into_request(mut self) -> Result<Request<()>, Malformed> {
        let method = self.take(Pseudo::Method).and_then(|method| Method::from_bytes(&method).ok()).ok_or(Malformed)?;
        let protocol = self.take(Pseudo::Protocol);
        let tunnel = method == Method::CONNECT && protocol.is_none();
        let mut uri = Parts::default();
        if let Some(scheme) = self.take(Pseudo::Scheme) {
            let known = match &scheme[..] {
                b"http" => Scheme::HTTP,
                b"https" => Scheme::HTTPS,
                other => Scheme::try_from(other).map_err(|_| Malformed)?,
            };
            uri.scheme = Some(known);
        }
        if let Some(authority) = self.take(Pseudo::Authority) {
            uri.authority = Some(Authority::from_maybe_shared(authority).map_err(|_| Malformed)?);
        }
        if let Some(path) = self.take(Pseudo::Path) {
            uri.path_and_query = Some(path_and_query(path)?);
        }
        let has = (uri.scheme.is_some(), uri.path_and_query.is_some());
        let complete = if tunnel { has == (false, false) && uri.authority.is_some() } else { has == (true, true) };
        let extended = protocol.is_none() || method == Method::CONNECT;
        if self.malformed || !complete || !extended || self.take(Pseudo::Status).is_some() {
            return Err(Malformed);
        }
        if uri.authority.is_none() {
            // `http`'s Uri has none with a scheme and without an authority.
            uri.scheme = None;
        }
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = Uri::from_parts(uri).map_err(|_| Malformed)?;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.headers;
        if let Some(protocol) = protocol {
            let protocol = std::str::from_utf8(&protocol).map_err(|_| Malformed)?;
            request.extensions_mut().insert(Protocol::from(protocol));
        }
        Ok(request)
    }

    pub fn into_response(mut self) -> Result<Response<()>, Malformed> {
        let status = self.take(Pseudo::Status).and_then(|status| StatusCode::from_bytes(&status).ok());
        let status = status.ok_or(Malformed)?;
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.version_mut() = Version::HTTP_2;
        *response.headers_mut() = self.into_trailers()?;
        Ok(response)
    }

    /// Fields alone.
    pub fn into_trailers(self) -> Result<HeaderMap, Malformed> {
        let alone = self.pseudo.iter().all(Option::is_none);
        if alone && !self.malformed { Ok(self.headers) } else { Err(Malformed) }
    }
}

/// A length as `Content-Length` may say it, in either version of HTTP: 1*DIGIT that fits into 63 bits, because some readers
/// keep lengths in signed numbers.
pub fn digits(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    value.iter().try_fold(0u64, |number, digit| number.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
}

fn path_and_query(path: Bytes) -> Result<PathAndQuery, Malformed> {
    match path.first() {
        Some(b'/') => PathAndQuery::from_maybe_shared(path).map_err(|_| Malformed),
        Some(b'*') if path.len() == 1 => Ok(PathAndQuery::from_static("*")),
        _ => Err(Malformed),
    }
}

/// RFC 9113 §8.2.2.
fn is_of_a_connection(name: &HeaderName) -> bool {
    *name == CONNECTION
        || *name == TRANSFER_ENCODING
        || *name == UPGRADE
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}
