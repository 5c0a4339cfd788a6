//! What one side compresses, the other reads: our encoder by our decoder, and RFC 7541's own examples. Against the h2
//! crate's both ways see `peer_test.rs`.

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use proptest::prelude::*;

use super::table::{STATIC, static_field};
use super::{Decoder, Encoder, Field, HpackError, Pseudo, huffman};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter_map(|byte| (byte as char).to_digit(16).map(|d| d as u8)).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, HpackError> {
    let mut fields = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    decoder.decode(block, |field| {
        fields.push(match field {
            Field::Pseudo(pseudo, value) => (pseudo.name().to_owned(), text(&value)),
            Field::Header(name, value) => (name.to_string(), text(value.as_bytes())),
            Field::Malformed(_) => ("malformed".to_owned(), String::new()),
        });
    })?;
    Ok(fields)
}

fn pairs(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// RFC 7541, C.4: three requests on one connection, in the Huffman code.
#[test]
fn the_rfcs_requests_are_read() {
    let mut decoder = Decoder::new(4_096);
    let first = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
    assert_eq!(read(&mut decoder, &hex("828684418cf1e3c2e5f23a6ba0ab90f4ff")), Ok(pairs(&first)));
    let second = [&first[..], &[("cache-control", "no-cache")]].concat();
    assert_eq!(read(&mut decoder, &hex("828684be5886a8eb10649cbf")), Ok(pairs(&second)));
    let third = [
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/index.html"),
        (":authority", "www.example.com"),
        ("custom-key", "custom-value"),
    ];
    let block = hex("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf");
    assert_eq!(read(&mut decoder, &block), Ok(pairs(&third)));
}

/// RFC 7541, C.6: three answers through a table of 256 bytes, which has to forget.
#[test]
fn the_rfcs_answers_are_read_through_a_small_table() {
    let mut decoder = Decoder::new(256);
    let block = hex(
        "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
    );
    let (date, place) = ("Mon, 21 Oct 2013 20:13:21 GMT", "https://www.example.com");
    let first = [(":status", "302"), ("cache-control", "private"), ("date", date), ("location", place)];
    assert_eq!(read(&mut decoder, &block), Ok(pairs(&first)));
    let second = [(":status", "307"), ("cache-control", "private"), ("date", date), ("location", place)];
    assert_eq!(read(&mut decoder, &hex("4883640effc1c0bf")), Ok(pairs(&second)));
    // The first status had to go, and its number is another's now.
    assert_eq!(read(&mut decoder, &[0xc2]), Err(HpackError::Index));
}

#[test]
fn what_cannot_be_read_is_an_error_and_no_guess() {
    let cases: [(&str, HpackError); 9] = [
        ("80", HpackError::Index),             // number 0
        ("ff00", HpackError::Index),           // one beyond an empty table
        ("ffffffffff7f", HpackError::Number),  // no end in sight
        ("ff", HpackError::Truncated),         // a number cut off
        ("4003616263", HpackError::Truncated), // a name without a value
        ("400361", HpackError::Truncated),     // a name cut off
        ("823f", HpackError::Truncated),       // a size cut off
        ("8220", HpackError::Resize),          // a size after a field
        ("0081ff0161", HpackError::Huffman),   // padding of a whole byte
    ];
    for (block, error) in cases {
        assert_eq!(read(&mut Decoder::new(4_096), &hex(block)), Err(error), "{block}");
    }
    assert_eq!(read(&mut Decoder::new(4_096), &hex("3fe21f")), Err(HpackError::Resize), "4,097 of 4,096");
    assert_eq!(read(&mut Decoder::new(4_096), &hex("3fe11f")), Ok(vec![]));
}

#[test]
fn names_and_values_that_nobody_may_send_are_known_as_such_also_when_they_come_again() {
    let mut decoder = Decoder::new(4_096);
    for literal in ["4001410161", "4002613a0161", "4001610100", "40043a666f6f0161"] {
        let block = [&hex(literal)[..], &[0xbe]].concat();
        let twice = pairs(&[("malformed", ""), ("malformed", "")]);
        assert_eq!(read(&mut decoder, &block), Ok(twice), "{literal}");
    }
}

#[test]
fn every_static_entry_is_there() {
    for (place, (name, value)) in STATIC.iter().enumerate() {
        let expected = Field::new(name.as_bytes(), value.as_bytes());
        assert!(!matches!(expected, Field::Malformed(_)), "{name}");
        assert_eq!(static_field(place + 1), Some(&expected));
    }
    assert_eq!((static_field(0), static_field(62)), (None, None));
}

/// Symbols of the code, one by one and all in a row, from Appendix B's own text.
#[test]
fn the_code_is_the_rfcs() {
    let symbols =
        [("07", b'0'), ("1f", b'a'), ("53", b' '), ("f8", b'&'), ("ff3f", b'?'), ("ff5f", b'\''), ("ffc7", 0)];
    for (coded, symbol) in symbols {
        let mut text = Vec::new();
        assert_eq!(huffman::decode(&hex(coded), &mut text), Ok(()), "{coded}");
        assert_eq!(text, [symbol], "{coded}");
    }
    // Padding of a whole byte, EOS itself, a code cut off, padding of zeros.
    for bad in ["ff", "fffffffc", "fe", "00"] {
        assert!(huffman::decode(&hex(bad), &mut Vec::new()).is_err(), "{bad}");
    }
}

#[test]
fn what_repeats_becomes_one_byte_and_secrets_never_do() {
    let mut encoder = Encoder::default();
    let mut sizes = Vec::new();
    let mut secret = Vec::new();
    for _ in 0..4 {
        let mut out = Vec::new();
        encoder.begin(&mut out);
        encoder.pseudo(Pseudo::Path, b"/api/orders", &mut out);
        encoder.header(&HeaderName::from_static("x-tenant"), &HeaderValue::from_static("blue"), &mut out);
        sizes.push(out.len());
        out.clear();
        encoder.header(&http::header::AUTHORIZATION, &HeaderValue::from_static("Bearer abcdefghij"), &mut out);
        secret.push(out.len());
    }
    assert_eq!(sizes[2..], [2, 2], "{sizes:?}");
    assert_eq!(secret, [20; 4]);
}

#[test]
fn who_remembers_nothing_says_the_same_each_time() {
    let mut encoder = Encoder::forgetful();
    let mut said = Vec::new();
    for _ in 0..4 {
        let mut out = Vec::new();
        encoder.begin(&mut out);
        encoder.header(&HeaderName::from_static("x-tenant"), &HeaderValue::from_static("blue"), &mut out);
        said.push(out);
    }
    assert!(said.iter().all(|out| *out == said[0] && out.len() == 15), "{said:?}");
}

#[test]
fn what_comes_once_takes_nobodys_place() {
    let mut encoder = Encoder::default();
    let name = HeaderName::from_static("x-id");
    let value = HeaderValue::from_static("the same in every head");
    let mut out = Vec::new();
    encoder.header(&name, &value, &mut out);
    encoder.header(&name, &value, &mut out);
    for number in 0..2_000 {
        let once = HeaderValue::from_str(&format!("elapsed-{number}")).unwrap();
        encoder.header(&HeaderName::from_static("x-elapsed"), &once, &mut out);
    }
    out.clear();
    encoder.header(&name, &value, &mut out);
    assert_eq!(out.len(), 1);
}

fn name() -> impl Strategy<Value = HeaderName> {
    let short = "[a-z][a-z0-9-]{0,12}".prop_map(|name| name.parse().unwrap());
    let known = (15usize..=61).prop_map(|place| HeaderName::from_static(STATIC[place - 1].0));
    prop_oneof![short, known]
}

fn value() -> impl Strategy<Value = HeaderValue> {
    let any = proptest::collection::vec(prop_oneof![0x20u8..0x7f, 0x80u8..=0xff], 0..60);
    // Few, so that they come again.
    let few = (0usize..6).prop_map(|number| HeaderValue::from_str(&"v".repeat(number * 37)).unwrap());
    prop_oneof![any.prop_map(|bytes| HeaderValue::from_bytes(&bytes).unwrap()), few]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any heads, through tables that change their size on the way.
    #[test]
    fn every_head_survives(heads in proptest::collection::vec(
        (proptest::collection::vec((name(), value()), 0..12), "(GET|PUT)", "/[a-z0-9]{0,3}", proptest::option::of(0usize..6_000)),
        1..40,
    ), forgetful in any::<bool>()) {
        let mut encoder = if forgetful { Encoder::forgetful() } else { Encoder::default() };
        let mut decoder = Decoder::new(6_000);
        for (fields, method, path, resize) in heads {
            if let Some(size) = resize {
                encoder.resize(size);
            }
            let mut block = Vec::new();
            encoder.begin(&mut block);
            encoder.pseudo(Pseudo::Method, method.as_bytes(), &mut block);
            encoder.pseudo(Pseudo::Path, path.as_bytes(), &mut block);
            fields.iter().for_each(|(name, value)| encoder.header(name, value, &mut block));
            let mut came = Vec::new();
            prop_assert_eq!(decoder.decode(&block, |field| came.push(field)), Ok(()));
            let mut sent = vec![
                Field::Pseudo(Pseudo::Method, Bytes::from(method)),
                Field::Pseudo(Pseudo::Path, Bytes::from(path)),
            ];
            sent.extend(fields.into_iter().map(|(name, value)| Field::Header(name, value)));
            prop_assert_eq!(came, sent);
        }
    }

    /// Bytes of anybody: an error or fields, and never more of them than bytes.
    #[test]
    fn any_bytes_are_read_or_refused(blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..8)) {
        let mut decoder = Decoder::new(4_096);
        for block in blocks {
            let mut count = 0;
            let _ = decoder.decode(&block, |_| count += 1);
            prop_assert!(count <= block.len());
        }
    }
}
