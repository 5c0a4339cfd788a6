//! Messages for the tests of their meaning: any request and any answer, how HTTP/1 writes them, and a reader of HTTP/1
//! that shares nothing with the one that is tested.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

pub(super) type Fields = Vec<(String, Vec<u8>)>;

/// One message as its sender means it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Message {
    /// Method and target, or the status.
    pub(super) first: String,
    pub(super) fields: Fields,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Fields,
}

/// How an HTTP/1 sender delimits it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Framing {
    None,
    Length,
    /// With chunks of so many bytes.
    Chunked(usize),
    UntilClose,
}

#[derive(Debug, Clone)]
pub(super) struct Exchange {
    pub(super) request: (Message, Framing),
    pub(super) answer: (Message, Framing),
    /// Pieces of so many bytes go into the socket.
    pub(super) piece: usize,
    /// Names as the sender spells them, and whether it names the whole URI.
    pub(super) capitals: bool,
    pub(super) absolute: bool,
}

/// Text of RFC 9110 §5.5, obs-text included, without space at its ends.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![20 => 0x21u8..0x7f, 2 => 0x80u8..=0xff, 2 => Just(b' '), 1 => Just(b'\t')];
    vec(byte, 0..40).prop_map(|bytes| bytes.trim_ascii().to_vec())
}

fn fields() -> impl Strategy<Value = Fields> {
    const KNOWN: &[&str] =
        &["accept", "cookie", "x-twice", "via", "content-type", "authorization", "set-cookie", "etag"];
    let known = proptest::sample::select(KNOWN).prop_map(str::to_owned);
    let name = prop_oneof!["x-[a-z0-9!#$%&'*+.^_`|~-]{0,12}", known];
    vec((name, value()), 0..12)
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => vec(any::<u8>(), 0..300), 1 => (0usize..150_000).prop_map(vec_of)]
}

fn vec_of(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 31 % 251) as u8).collect()
}

fn framing() -> impl Strategy<Value = Framing> {
    prop_oneof![Just(Framing::None), Just(Framing::Length), (1usize..70_000).prop_map(Framing::Chunked)]
}

fn message(
    first: impl Strategy<Value = String>,
    framing: impl Strategy<Value = Framing>,
) -> impl Strategy<Value = (Message, Framing)> {
    let trailers = vec(("x-t-[a-z0-9]{1,8}", value()), 0..3);
    (first, fields(), body(), trailers, framing).prop_map(|(first, fields, body, trailers, framing)| {
        let body = if framing == Framing::None { Vec::new() } else { body };
        let trailers = if matches!(framing, Framing::Chunked(_)) { trailers } else { Vec::new() };
        (Message { first, fields, body, trailers }, framing)
    })
}

fn exchange() -> impl Strategy<Value = Exchange> {
    let token = "[A-Za-z][A-Za-z0-9!#$%&'*+.^_`|~-]{0,11}";
    let method = prop_oneof![
        4 => proptest::sample::select(&["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"][..])
            .prop_map(str::to_owned),
        1 => token.prop_filter("one of the protocol's own", |name| name != "CONNECT" && name != "PRI"),
    ];
    let target = "/(/|[a-zA-Z0-9._~!$&'()*+,;=:@-]|%[0-9A-F][0-9A-F]|\\.\\./){0,30}(\\?[a-z0-9=&/?%:]{0,20})?";
    let first = (method, target).prop_map(|(method, target)| format!("{method} {target}"));
    let status = proptest::sample::select(&[200u16, 201, 204, 206, 301, 304, 400, 404, 418, 500, 503, 599][..]);
    let until_close = prop_oneof![5 => framing(), 1 => Just(Framing::UntilClose)];
    let parts = (
        message(first, framing()),
        message(status.prop_map(|status| status.to_string()), until_close),
        1usize..20_000,
        any::<bool>(),
        proptest::bool::weighted(0.1),
    );
    parts.prop_map(|(request, mut answer, piece, capitals, absolute)| {
        if matches!(answer.0.first.as_str(), "204" | "304") || request.0.first.starts_with("HEAD ") {
            (answer.0.body, answer.0.trailers, answer.1) = (Vec::new(), Vec::new(), Framing::None);
        } else if answer.1 == Framing::None {
            // In HTTP/1 an answer that says nothing of its length ends with the connection.
            answer.1 = Framing::Length;
        }
        Exchange { request, answer, piece, capitals, absolute }
    })
}

/// The same in every run.
pub(super) fn exchanges(count: usize) -> Vec<Exchange> {
    let mut runner = TestRunner::deterministic();
    let strategy = exchange();
    (0..count).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

/// What of a message has a meaning beyond one hop; lines of one name keep their order, and crumbs of cookies are one
/// (RFC 9113 §8.2.3).
fn meaning(fields: &Fields) -> BTreeMap<String, Vec<Vec<u8>>> {
    const OF_THE_HOP: [&str; 9] = [
        "connection",
        "keep-alive",
        "transfer-encoding",
        "te",
        "host",
        "content-length",
        "traceparent",
        "x-forwarded-client-cert",
        "x-hop",
    ];
    let mut map = BTreeMap::<String, Vec<Vec<u8>>>::new();
    for (name, value) in fields.iter().filter(|(name, _)| !OF_THE_HOP.contains(&name.as_str())) {
        map.entry(name.clone()).or_default().push(value.clone());
    }
    if let Some(crumbs) = map.get_mut("cookie") {
        *crumbs = std::vec![crumbs.join(&b"; "[..])];
    }
    map
}

pub(super) fn assert_same(got: &Message, sent: &Message, what: &str) {
    assert_eq!(got.first, sent.first, "{what}");
    assert_eq!(meaning(&got.fields), meaning(&sent.fields), "{what}: {}", sent.first);
    assert!(got.body == sent.body, "{what}: {}: {} bytes of {}", sent.first, got.body.len(), sent.body.len());
    assert_eq!(meaning(&got.trailers), meaning(&sent.trailers), "{what}: trailers of {}", sent.first);
}

/// Bytes of HTTP/1. `first` is the whole first line.
pub(super) fn write(first: &str, (message, framing): &(Message, Framing), more: &str, capitals: bool) -> Vec<u8> {
    let mut out = format!("{first}\r\n{more}").into_bytes();
    let field = |out: &mut Vec<u8>, (name, value): &(String, Vec<u8>)| {
        let name = if capitals { name.to_ascii_uppercase() } else { name.clone() };
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    };
    message.fields.iter().for_each(|pair| field(&mut out, pair));
    match framing {
        Framing::None => out.extend_from_slice(b"\r\n"),
        Framing::UntilClose => {
            out.extend_from_slice(b"connection: close\r\n\r\n");
            out.extend_from_slice(&message.body);
        }
        Framing::Length => {
            out.extend_from_slice(format!("content-length: {}\r\n\r\n", message.body.len()).as_bytes());
            out.extend_from_slice(&message.body);
        }
        Framing::Chunked(size) => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
            for chunk in message.body.chunks(*size) {
                out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                out.extend_from_slice(chunk);
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b"0\r\n");
            message.trailers.iter().for_each(|pair| field(&mut out, pair));
            out.extend_from_slice(b"\r\n");
        }
    }
    out
}

async fn line(stream: &mut BufReader<impl AsyncRead + Unpin>) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).await.ok()?;
    line.strip_suffix(b"\r\n").map(<[u8]>::to_vec)
}

async fn read_fields(stream: &mut BufReader<impl AsyncRead + Unpin>) -> Option<Fields> {
    let mut fields = Fields::new();
    loop {
        let line = line(stream).await?;
        if line.is_empty() {
            return Some(fields);
        }
        let colon = line.iter().position(|byte| *byte == b':').expect("a field");
        let name = String::from_utf8(line[..colon].to_ascii_lowercase()).expect("a name");
        fields.push((name, line[colon + 1..].trim_ascii().to_vec()));
    }
}

/// A message of HTTP/1; its whole first line in `first`. `None`: the connection ended before it.
pub(super) async fn read(stream: &mut BufReader<impl AsyncRead + Unpin>, bodiless: bool) -> Option<Message> {
    let first = String::from_utf8(line(stream).await?).expect("a first line");
    let mut message = Message { first, fields: read_fields(stream).await?, ..Message::default() };
    let field = |name: &str| message.fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone());
    let length = field("content-length").map(|text| String::from_utf8(text).unwrap().parse::<usize>().unwrap());
    if bodiless {
        return Some(message);
    } else if field("transfer-encoding").is_some() {
        assert_eq!(length, None, "two framings");
        loop {
            let size = String::from_utf8(line(stream).await?).expect("a size");
            let size = usize::from_str_radix(&size, 16).expect("a size");
            if size == 0 {
                break;
            }
            let at = message.body.len();
            message.body.resize(at + size, 0);
            stream.read_exact(&mut message.body[at..]).await.ok()?;
            assert_eq!(line(stream).await?, b"");
        }
        message.trailers = read_fields(stream).await?;
    } else {
        message.body.resize(length.unwrap_or_default(), 0);
        stream.read_exact(&mut message.body).await.ok()?;
    }
    Some(message)
}
