//! Chunked bodies: what comes out does not depend on how it was cut; what is not to the letter is refused.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;

use super::chunked::{BadChunk, Decoded, Decoder, write_end, write_size};

/// All data, the trailers, and what was not read.
type Read = (Vec<u8>, Option<HeaderMap>, Vec<u8>);

/// Feeds `pieces` one by one. `None`: the body has not ended.
fn decode(pieces: &[&[u8]]) -> Result<Option<Read>, BadChunk> {
    let (mut decoder, mut input, mut data) = (Decoder::default(), BytesMut::new(), Vec::new());
    let mut ended = None;
    for piece in pieces {
        input.extend_from_slice(piece);
        while ended.is_none() {
            match decoder.decode(&mut input)? {
                Decoded::Data(bytes) => {
                    assert!(!bytes.is_empty());
                    data.extend_from_slice(&bytes);
                    if decoder.take_plain_end(&mut input) {
                        ended = Some(None);
                    }
                }
                Decoded::End(trailers) => ended = Some(trailers),
                Decoded::More => break,
            }
        }
    }
    Ok(ended.map(|trailers| (data, trailers, input.to_vec())))
}

#[test]
fn data_extensions_and_trailers_are_told_apart() {
    let (data, trailers, rest) =
        decode(&[b"5;a=b\r\nhello\r\n6 ; c\r\n world\r\n0\r\nX-Sum: 11\r\n\r\nGET /"]).unwrap().unwrap();
    assert_eq!((&data[..], &rest[..]), (&b"hello world"[..], &b"GET /"[..]));
    assert_eq!(trailers.unwrap()["x-sum"], "11");
}

#[test]
fn what_is_not_to_the_letter_is_refused() {
    let wrong: &[&[u8]] = &[
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"5\r\nhello!!0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"5 5\r\nhello\r\n0\r\n\r\n",
        b"5,\r\nhello\r\n0\r\n\r\n",
        b"\r\n5\r\nhello\r\n0\r\n\r\n",
        b";a\r\n",
        b"g\r\n",
        b"5_0\r\n",
        b"5\r;\nhello\r\n",
        b"5;a\nb\r\nhello\r\n",
        b"5;\0\r\nhello\r\n",
        b"5;\r\r\nhello\r\n",
        b"fffffffffffffffff\r\n",
        b"ffffffffffffffff\r\n",
        b"10000000000000000\r\n",
        b"0\r\nX: a\n\r\n",
        b"0\r\nX : a\r\n\r\n",
        b"0\r\n X: a\r\n\r\n",
        b"0\r\nX: a\r\n b\r\n\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\nX: a\0\r\n\r\n",
        b"0\n\n",
    ];
    for bytes in wrong {
        let text = String::from_utf8_lossy(bytes);
        assert!(decode(&[bytes]).is_err(), "{text:?}");
        let singly: Vec<&[u8]> = bytes.chunks(1).collect();
        assert!(decode(&singly).is_err(), "byte by byte: {text:?}");
    }
}

#[test]
fn extensions_and_trailers_are_bounded() {
    let long = format!("1;{}\r\nx\r\n", "a".repeat(600));
    assert!(decode(&[long.as_bytes()]).is_err());
    let many = format!("1;{}\r\nx\r\n", "a".repeat(400)).repeat(60);
    assert!(decode(&[many.as_bytes()]).is_err());
    // Extensions that come with enough data go on for ever.
    let signed = format!("400;signature={}\r\n{}\r\n", "0".repeat(100), "x".repeat(1024)).repeat(400) + "0\r\n\r\n";
    assert!(decode(&[signed.as_bytes()]).unwrap().is_some());
    let trailer = format!("0\r\nX: {}\r\n\r\n", "a".repeat(20_000));
    assert!(decode(&[trailer.as_bytes()]).is_err());
    let unended = format!("0\r\nX: {}", "a".repeat(20_000));
    assert!(decode(&[unended.as_bytes()]).is_err());
    let fields = format!("0\r\n{}\r\n", "x: y\r\n".repeat(65));
    assert!(decode(&[fields.as_bytes()]).is_err());
}

proptest! {
    #[test]
    fn what_was_chunked_comes_back_however_it_was_cut(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..6),
        trailer in proptest::option::of("[a-z]{1,20}"),
        cuts in proptest::collection::vec(0usize..2_000, 0..8),
    ) {
        let mut wire = BytesMut::new();
        for chunk in &chunks {
            write_size(chunk.len(), &mut wire);
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(b"\r\n");
        }
        let trailers = trailer.map(|value| {
            [("x-sum", value)].into_iter().map(|(name, value)| {
                (name.parse().unwrap(), value.parse::<HeaderValue>().unwrap())
            }).collect::<HeaderMap>()
        });
        write_end(trailers.as_ref(), &mut wire);
        wire.extend_from_slice(b"NEXT");
        let wire: Bytes = wire.freeze();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(wire.len())).collect();
        cuts.extend([0, wire.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &wire[pair[0]..pair[1]]).collect();
        let (data, read, rest) = decode(&pieces).unwrap().expect("the body ended");
        prop_assert_eq!(data, chunks.concat());
        prop_assert_eq!(read, trailers);
        prop_assert_eq!(&rest[..], b"NEXT");
    }

    #[test]
    fn any_bytes_give_the_same_verdict_however_they_were_cut(
        bytes in "[0-9a-f;\r\n x:]{0,60}", cut in 0usize..60,
    ) {
        let bytes = bytes.as_bytes();
        let cut = cut.min(bytes.len());
        let (whole, halves) = (decode(&[bytes]), decode(&[&bytes[..cut], &bytes[cut..]]));
        prop_assert_eq!(whole.map_err(drop), halves.map_err(drop));
    }
}
