use std::collections::BTreeMap;

use super::*;

fn before(request: u64, number: u8, endpoint: &Arc<Endpoint>) -> Before {
    Before { request, ended: Instant::now(), tried: Try::begin(number, endpoint) }
}

#[test]
fn the_ring_is_bounded_and_forgets_the_oldest() {
    let ip = "10.20.0.1".parse().unwrap();
    let endpoint = Arc::new(Endpoint { ip, site: None, target_ports: BTreeMap::new(), workload: None, mesh: None });
    let tries = Tries::default();
    assert_eq!(tries.0.borrow().capacity(), 0, "nothing, where nothing is kept");
    for number in 0..2 {
        tries.put(before(7, number, &endpoint));
    }
    let room = tries.0.borrow().capacity();
    for request in 100..100 + KEPT as u64 - 1 {
        tries.put(before(request, 0, &endpoint));
    }
    assert_eq!(tries.of(7).iter().map(|before| before.tried.number).collect::<Vec<_>>(), [1]);
    for request in 1000..3000 {
        tries.put(before(request, 0, &endpoint));
    }
    let ring = tries.0.borrow();
    assert_eq!((ring.len(), ring.capacity()), (KEPT, room));
    assert!(room * size_of::<Before>() <= 64 * 1024, "{} B each", size_of::<Before>());
}
