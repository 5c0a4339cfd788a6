use std::net::IpAddr;

use proptest::prelude::*;

use super::super::attribute::Shown;
use super::*;

fn said(of: &Attributes) -> Vec<(&str, String)> {
    of.iter().map(|(name, value)| (name, value.to_text().into_owned())).collect()
}

#[test]
fn values_come_back_in_order() {
    let mut all = Attributes::default();
    all.set("a", "one");
    all.set("b", 7u16);
    all.set("c", true);
    all.set("d", Shown(std::net::Ipv4Addr::LOCALHOST));
    all.set("e", format_args!("{}-{}", 1, 2));
    all.set("f", "");
    all.replace("a", "another");
    all.replace("g", u64::MAX);
    let expected = ["another", "7", "true", "127.0.0.1", "1-2", "", "9223372036854775807"];
    let got = said(&all);
    assert_eq!(got.iter().map(|(name, _)| *name).collect::<String>(), "abcdefg");
    assert_eq!(got.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>(), expected);
    assert!(all.has("g") && !all.has("h"));
}

#[test]
fn there_are_so_many_and_no_more() {
    let mut all = Attributes::default();
    for number in 0..100i64 {
        all.set("n", number);
    }
    assert_eq!(said(&all).len(), usize::from(MOST));
    all.replace("one more", "x");
    assert!(!all.has("one more"));
    let mut few = Attributes::default();
    (0..3i64).for_each(|number| few.set("m", number));
    let mut more = few.clone();
    more.set_all(&all);
    assert_eq!(said(&more).len(), usize::from(MOST), "what does not fit as a whole, as far as it goes");
    assert_eq!((said(&more)[2].0, said(&more)[3].0), ("m", "n"));
}

#[test]
fn what_was_prepared_is_said_as_if_it_were_set_one_by_one() {
    let mut prepared = Attributes::default();
    prepared.set("isthmus.link", "circuit");
    prepared.set("server.port", 8080u16);
    let (mut at_once, mut singly) = (Attributes::default(), Attributes::default());
    at_once.set("a", 1i64);
    singly.set("a", 1i64);
    at_once.set_all(&prepared);
    singly.set("isthmus.link", "circuit");
    singly.set("server.port", 8080u16);
    assert_eq!(at_once, singly);
    let mut some = Attributes::default();
    some.set_all_of(&at_once, "isthmus.");
    assert_eq!(said(&some), [("isthmus.link", "circuit".to_owned())]);
}

/// Its buffer is another's by then, and says nothing of the one before.
#[test]
fn a_buffer_that_was_used_begins_anew() {
    for _ in 0..2 * SPARE {
        let mut all = Attributes::default();
        assert_eq!(said(&all), []);
        all.set("a", "x".repeat(200).as_str());
    }
}

proptest! {
    #[test]
    fn addresses_are_as_they_show_themselves(v4 in any::<[u8; 4]>(), v6 in any::<[u8; 16]>()) {
        for address in [IpAddr::from(v4), IpAddr::from(v6)] {
            let mut all = Attributes::default();
            all.set("a", address);
            prop_assert_eq!(said(&all), [("a", address.to_string())]);
        }
    }

    #[test]
    fn ports_are_as_they_show_themselves(port in any::<u16>()) {
        let mut all = Attributes::default();
        all.set("a", ("shop/orders", port));
        prop_assert_eq!(said(&all), [("a", format!("shop/orders:{port}"))]);
    }

    #[test]
    fn one_is_replaced_in_its_place(texts in proptest::collection::vec("\\PC{0,60}", 1..5), at in 0usize..5, by in "\\PC{0,300}") {
        const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
        let mut all = Attributes::default();
        texts.iter().zip(NAMES).for_each(|(text, name)| all.set(name, text.as_str()));
        all.replace(NAMES[at], by.as_str());
        let mut expected = texts.clone();
        let by = by[..by.floor_char_boundary(MAX_TEXT)].to_owned();
        match expected.get_mut(at) {
            Some(text) => *text = by,
            None => expected.push(by),
        }
        prop_assert_eq!(said(&all).into_iter().map(|(_, text)| text).collect::<Vec<_>>(), expected);
    }

    /// However a text comes, in one piece or in several, it is cut at a character and spoils no other.
    #[test]
    fn long_texts_are_cut_at_a_character(pieces in proptest::collection::vec("\\PC{0,120}", 0..6)) {
        struct Pieces<'a>(&'a [String]);
        impl fmt::Display for Pieces<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|piece| f.write_str(piece))
            }
        }
        let whole = pieces.concat();
        let mut all = Attributes::default();
        all.set("before", "b");
        all.set("in pieces", Shown(Pieces(&pieces)));
        all.set("whole", whole.as_str());
        let (start, end) = whole.split_at(whole.floor_char_boundary(whole.len() / 2));
        all.set("in two", [start, end]);
        all.set("after", "a");
        let cut = &whole[..whole.floor_char_boundary(MAX_TEXT)];
        prop_assert_eq!(
            said(&all),
            [("before", "b"), ("in pieces", cut), ("whole", cut), ("in two", cut), ("after", "a")].map(|(name, text)| (name, text.to_owned()))
        );
    }
}
