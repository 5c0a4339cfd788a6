//! Choices of endpoints.

use std::sync::Arc;

use super::balance::{Tried, pick};
use crate::state::{Endpoint, Order, SiteName};

const FAMILY: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

fn endpoint(site: &str, last: u8, serves: bool) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        site: Some(site.parse().unwrap()),
        ip: [10, 0, 0, last].into(),
        target_ports: if serves { [(80, 8080)].into() } else { Default::default() },
        workload: None,
        mesh: None,
    })
}

#[test]
fn the_own_site_comes_first_and_each_gets_its_turn() {
    let here: SiteName = "dc1".parse().unwrap();
    let all =
        [endpoint("azure", 1, true), endpoint("dc1", 2, true), endpoint("dc1", 3, true), endpoint("dc1", 4, false)];
    let order = Order::new(&all, Some(&here));
    let chosen = |turn, tried| pick(&all, &order, 80, FAMILY, turn, tried).map(|(_, place, port)| (place, port));
    let none = Tried::default();
    assert_eq!(
        [chosen(0, none), chosen(1, none), chosen(2, none), chosen(3, none)],
        [Some((1, 8080)), Some((2, 8080)), Some((1, 8080)), Some((1, 8080))],
        "the fourth does not serve: the next one has its turn"
    );
    let mut tried = Tried::default();
    tried.add(1);
    assert_eq!(chosen(0, tried), Some((2, 8080)));
    tried.add(2);
    assert_eq!(chosen(0, tried), Some((0, 8080)), "the other site, once the own one has none left");
    tried.add(0);
    assert_eq!(chosen(0, tried), None);
    assert_eq!(pick(&all, &order, 81, FAMILY, 0, none).map(|(_, place, _)| place), None);
    (0..100).for_each(|place| tried.add(place));
}

#[test]
fn the_callers_family_is_kept_where_an_endpoint_has_both() {
    let here: SiteName = "dc1".parse().unwrap();
    let v6 = |site: &str| {
        let endpoint = Endpoint { ip: "fd00::1".parse().unwrap(), ..(*endpoint(site, 1, true)).clone() };
        Arc::new(endpoint)
    };
    let all = [v6("azure"), endpoint("azure", 1, true)];
    let chosen = |family: &str, all: &[Arc<Endpoint>]| {
        let order = Order::new(all, Some(&here));
        let chosen = pick(all, &order, 80, family.parse().unwrap(), 7, Tried::default());
        chosen.map(|(_, place, _)| place)
    };
    assert_eq!(chosen("10.96.0.10", &all), Some(1));
    assert_eq!(chosen("fd00:96::10", &all), Some(0));
    assert_eq!(chosen("10.96.0.10", &all[..1]), Some(0), "the other family before nobody");
    assert_eq!(
        chosen("10.96.0.10", &[v6("dc1"), endpoint("azure", 1, true)]),
        Some(0),
        "the own site before the family"
    );
}

#[test]
fn another_workload_comes_before_the_same_one_in_the_other_family() {
    let here: SiteName = "dc1".parse().unwrap();
    let of = |workload: &str, site: &str, ip: &str| {
        let (workload, ip) = (Some(workload.parse().unwrap()), ip.parse().unwrap());
        Arc::new(Endpoint { workload, ip, ..(*endpoint(site, 1, true)).clone() })
    };
    let all = [
        of("shop/near", "dc1", "fd00::1"),
        of("shop/near", "dc1", "10.0.0.1"),
        of("shop/far", "azure", "fd00::2"),
        of("shop/far", "azure", "10.0.0.2"),
        of("shop/six", "azure", "fd00::3"),
    ];
    let order = Order::new(&all, Some(&here));
    let mut tried = Tried::default();
    let tries = std::iter::from_fn(|| {
        let (_, place, _) = pick(&all, &order, 80, FAMILY, 0, tried)?;
        tried.add(place);
        Some(place)
    });
    assert_eq!(tries.collect::<Vec<_>>(), [1, 3, 4, 0, 2], "its app may listen in one family only");
}

#[test]
fn of_ten_thousand_endpoints_each_gets_the_same() {
    let here: SiteName = "dc1".parse().unwrap();
    let far = (0..5_000).map(|_| endpoint("azure", 1, true));
    let all: Vec<_> = far.chain((0..5_000).map(|_| endpoint("dc1", 2, true))).collect();
    let order = Order::new(&all, Some(&here));
    let mut times = vec![0; all.len()];
    for turn in 0..20_000 {
        let (_, place, _) = pick(&all, &order, 80, FAMILY, turn, Tried::default()).unwrap();
        times[place] += 1;
    }
    let mut tried = Tried::default();
    tried.add(9_000);
    let after = pick(&all, &order, 80, FAMILY, 4_000, tried).map(|(_, place, _)| place);
    assert_eq!(after, Some(9_001), "what was tried is passed over, however long the list");
    assert!(times[..5_000].iter().all(|times| *times == 0) && times[5_000..].iter().all(|times| *times == 4));
}
