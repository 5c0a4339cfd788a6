use proptest::prelude::*;

use super::*;

fn any_expression() -> impl Strategy<Value = Expression> {
    let bytes = || proptest::collection::vec(any::<u8>(), 1..16);
    let meta = proptest::sample::select(META.map(|(key, _)| key).to_vec());
    prop_oneof![
        meta.prop_map(Expression::Meta),
        Just(Expression::AddressKind),
        (any::<bool>(), 0..100u32, 1..16u32).prop_map(|(network, offset, length)| {
            let base = if network { Base::Network } else { Base::Transport };
            Expression::Payload { base, offset, length }
        }),
        bytes().prop_map(Expression::Mask),
        bytes().prop_map(Expression::Equal),
        bytes().prop_map(Expression::NotEqual),
        bytes().prop_map(Expression::Immediate),
        Just(Expression::Verdict(Verdict::Drop)),
        Just(Expression::Verdict(Verdict::Return)),
        Just(Expression::Redirect),
        Just(Expression::Counter),
        "[a-z]{1,3}_[a-z]{1,4}".prop_map(Expression::Other),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(rule in proptest::collection::vec(any_expression(), 0..12)) {
        prop_assert_eq!(decode(encode(&rule).as_bytes()).unwrap(), rule);
    }

    #[test]
    fn no_bytes_can_hurt(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(rule) = decode(&bytes) {
            prop_assert!(rule.len() <= MOST_EXPRESSIONS);
        }
    }
}

#[test]
fn a_rule_that_differs_in_a_detail_is_not_taken_for_ours() {
    let compare = |operator| Attributes::new().number_be(1, REGISTER).number_be(2, operator);
    for (name, data) in [
        ("cmp", compare(5)),
        ("meta", Attributes::new().number_be(1, 8).number_be(2, 3)),
        ("meta", Attributes::new().number_be(1, REGISTER).number_be(2, 99)),
    ] {
        let list = Attributes::new().nest(ELEMENT, &Attributes::new().text(NAME, name).nest(DATA, &data));
        assert_eq!(decode(list.as_bytes()).unwrap(), [Expression::Other(name.to_owned())]);
    }
}
