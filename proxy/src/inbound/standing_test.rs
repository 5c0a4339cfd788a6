//! Whether a refusal is carried out: the port's own standing before the mesh's, and a bypass before both, until its end.

use isthmus_certs::{Clock, SystemClock};
use isthmus_proto::model::Standing;

use super::world_test::{Spec, VIP, app, get, mirror, on_worker, publish_inbound, world_of};
use crate::state::Enforcement;

#[tokio::test]
async fn a_ports_standing_comes_before_the_meshs_and_a_bypass_before_both() {
    on_worker(async {
        let (port, _) = app(mirror).await;
        let closed = Spec { allow: Some(vec!["web"]), ..Spec::http(port) };
        let world = world_of(closed.clone(), "batch", "orders").await;
        let (batch, _) = world.capture(VIP).await;
        let now = SystemClock.now_ms();
        let (observe, enforce) = (Enforcement::Observe, Enforcement::Enforce);
        let cases = [
            (enforce, None, None, 403),
            (enforce, Some(observe), None, 200),
            (observe, None, None, 200),
            (observe, Some(enforce), None, 403),
            (observe, Some(enforce), Some(now + 600_000), 200),
            (enforce, None, Some(now + 600_000), 200),
            (enforce, None, Some(now - 1), 403),
        ];
        for (version, (mesh, own, bypass_until_ms, status)) in (2..).zip(cases) {
            let standing = Standing { enforcement: own, bypass_until_ms };
            let spec = Spec { enforcement: mesh, standing, ..closed.clone() };
            publish_inbound(&world.orders.state, version, &spec);
            let answer = get(batch, "/", "").await.unwrap();
            let case = format!("{mesh:?} {own:?} {bypass_until_ms:?}");
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{case}: {answer}");
        }
        let observed = world.decisions.recent().iter().filter(|record| !record.enforced).count();
        assert_eq!(observed, 4, "what passed is on record as what it would have been");
    })
    .await;
}
