use proptest::prelude::*;

use super::*;
use crate::{Attributes, message};

#[test]
fn what_was_written_is_read_back() {
    let inner = Attributes::new().text(7, "x");
    let written = Attributes::new().bytes(1, b"abc").number(2, 0x0102_0304).nest(3, &inner);
    let bytes = [message(9, 5, &[1, 2], &written), message(10, 0, &[], &Attributes::new())].concat();
    let read: Vec<_> = messages(&bytes).collect::<Result<_, _>>().unwrap();
    assert_eq!((read.len(), read[0].kind, read[0].flags, read[1].kind), (2, 9, 5, 10));
    let read: Vec<_> = attributes(&read[0].payload[4..]).collect::<Result<_, _>>().unwrap();
    assert_eq!(read[0], (1, &b"abc"[..]));
    assert_eq!(read[1], (2, &0x0102_0304_u32.to_ne_bytes()[..]));
    assert_eq!(read[2].0, 3, "the mark of a nested attribute is no part of its kind");
    assert_eq!(attributes(read[2].1).next(), Some(Ok((7, &b"x\0"[..]))));
}

#[test]
fn the_kernels_text_is_found_behind_a_quote_of_either_length() {
    let text = Attributes::new().number(2, 40).text(1, "no such chain");
    let request = message(9, 5, &[0; 8], &Attributes::new());
    for (flags, quote) in [(flags::CAPPED | flags::ACK_TLVS, &request[..16]), (flags::ACK_TLVS, &request[..])] {
        let payload = [&(-2_i32).to_ne_bytes(), quote, text.as_bytes()].concat();
        let answer = Received { kind: Received::ERROR, flags, sequence: 1, payload: &payload };
        let refusal = refusal(&answer).unwrap().unwrap();
        assert_eq!(refusal.to_string(), "No such file or directory (os error 2): no such chain");
    }
}

#[test]
fn an_acknowledgement_is_no_refusal() {
    let answer = Received { kind: Received::ERROR, flags: 0, sequence: 1, payload: &[0; 20] };
    assert_eq!(refusal(&answer), Ok(None));
    assert!(refusal(&Received { payload: &[0; 3], ..answer }).is_err());
}

#[test]
fn what_claims_more_than_is_there_ends_the_reading() {
    let mut bytes = message(9, 0, &[], &Attributes::new());
    bytes.extend(200_u32.to_ne_bytes());
    bytes.extend([0; 20]);
    let read: Vec<_> = messages(&bytes).collect();
    assert!(matches!(read[..], [Ok(_), Err(Malformed { should: 200, .. })]), "{read:?}");
}

proptest! {
    #[test]
    fn no_bytes_can_hurt(bytes in proptest::collection::vec(any::<u8>(), 0..200), flags in any::<u16>()) {
        prop_assert!(messages(&bytes).count() <= 1 + bytes.len() / 16);
        prop_assert!(attributes(&bytes).count() <= 1 + bytes.len() / 4);
        let _ = refusal(&Received { kind: Received::ERROR, flags, sequence: 0, payload: &bytes });
    }
}
