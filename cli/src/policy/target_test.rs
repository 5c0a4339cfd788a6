//! Names as a tired operator writes them.

use super::*;

const SERVICES: [(&str, &str); 4] = [("shop", "orders"), ("shop", "web"), ("bank", "web"), ("web", "pages")];

fn among(text: &str) -> Result<String, String> {
    Target::among(text, SERVICES.into_iter()).map(|target| target.name()).map_err(|failure| failure.text())
}

#[test]
fn a_service_is_found_by_its_name_alone_if_there_is_one_of_it() {
    assert_eq!(among("shop/orders").unwrap(), "shop/orders");
    assert_eq!(among("orders").unwrap(), "shop/orders");
    assert_eq!(among("pages").unwrap(), "web/pages");
    assert_eq!(among("shop").unwrap(), "shop");
}

#[test]
fn what_is_not_there_or_may_be_two_is_refused_with_what_is_meant() {
    for (text, said) in [
        ("shop/order", "there is no Service `shop/order`; did you mean `shop/orders`?"),
        ("oders", "there is no Service or namespace `oders`; did you mean `orders`?"),
        ("shpo", "there is no Service or namespace `shpo`; did you mean `shop`?"),
        ("nothing-like-it", "there is no Service or namespace `nothing-like-it`\n"),
        ("web", "`web` may be Service bank/web or Service shop/web or namespace web"),
    ] {
        let failure = among(text).unwrap_err();
        assert!(failure.contains(said), "{text}: {failure}");
    }
}
