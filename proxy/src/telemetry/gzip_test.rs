use std::io::Read as _;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn back(zipped: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::bufread::GzDecoder::new(zipped).read_to_end(&mut plain).unwrap();
    plain
}

fn zipped(data: &[u8]) -> Vec<u8> {
    gzip([Piece::of(data, [])].iter())
}

#[test]
fn every_byte_every_length_and_every_distance_has_its_code() {
    let bytes: Vec<u8> = (0..=255).collect();
    assert_eq!(back(&zipped(&bytes)), bytes);
    for length in 0..600 {
        let same = vec![7; length];
        assert_eq!(back(&zipped(&same)), same, "{length}");
    }
    // Nothing else repeats between the two.
    for distance in (12..2_000).chain((2_000..FARTHEST + 50).step_by(371)).chain(FARTHEST - 3..FARTHEST + 3) {
        let mut data = b"of-old-times".to_vec();
        data.resize(distance, 0xf0);
        data.extend_from_slice(b"of-old-times, again and again");
        assert_eq!(back(&zipped(&data)), data, "{distance}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Against a decoder that is not ours.
    #[test]
    fn any_bytes_come_back(data in vec(any::<u8>(), 0..4_000)) {
        prop_assert_eq!(back(&zipped(&data)), data);
    }

    #[test]
    fn pieces_are_one_stream(parts in vec(vec(0u8..4, 0..300), 0..20)) {
        let pieces: Vec<Piece> = parts.iter().map(|part| Piece::of(part, [])).collect();
        prop_assert!(pieces.iter().map(Piece::length).eq(parts.iter().map(Vec::len)));
        prop_assert_eq!(back(&gzip(pieces.iter())), parts.concat());
    }

    /// As spans are: the same pieces again and again, with others between.
    #[test]
    fn what_repeats_comes_back_and_is_shorter(
        pieces in vec(vec(any::<u8>(), 0..400), 1..6),
        order in vec((any::<prop::sample::Index>(), vec(any::<u8>(), 0..12)), 100..300),
    ) {
        let mut data = Vec::new();
        for (which, between) in order {
            data.extend_from_slice(&pieces[which.index(pieces.len())]);
            data.extend_from_slice(&between);
        }
        let zipped = zipped(&data);
        prop_assert!(zipped.len() <= data.len() * 9 / 8 + 32);
        if pieces.iter().all(|piece| piece.len() > 100) {
            prop_assert!(zipped.len() < data.len() / 2, "{} of {}", zipped.len(), data.len());
        }
        prop_assert_eq!(back(&zipped), data);
    }
}
