//! A chunked body: the verdict and the data do not depend on where the bytes were cut.

use bytes::BytesMut;
use isthmus_proxy::http::h1::chunked::{Decoded, Decoder};

fn decode(pieces: &[&[u8]]) -> Option<(Vec<u8>, bool, Vec<u8>)> {
    let (mut decoder, mut input, mut data, mut ended) = (Decoder::default(), BytesMut::new(), Vec::new(), false);
    for piece in pieces {
        input.extend_from_slice(piece);
        while !ended {
            match decoder.decode(&mut input).ok()? {
                Decoded::Data(bytes) => data.extend_from_slice(&bytes),
                Decoded::End(_) => ended = true,
                Decoded::More => break,
            }
        }
    }
    Some((data, ended, input.to_vec()))
}

pub fn run(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first() else {
        return;
    };
    let cut = usize::from(*cut).min(bytes.len());
    let (whole, halves) = (decode(&[bytes]), decode(&[&bytes[..cut], &bytes[cut..]]));
    match (whole, halves) {
        (Some((data, true, rest)), Some(halves)) => assert_eq!((data, true, rest), halves),
        (Some((data, ended, _)), Some((other, also, _))) => assert_eq!((data, ended), (other, also)),
        (None, None) => {}
        (one, other) => panic!("{one:?} and {other:?}"),
    }
}
