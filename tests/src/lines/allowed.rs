//! Line 2: an allowed call crosses the link over mTLS, and the callee's app is told who called.

use serde_json::json;

use super::{Shown, require};
use crate::mesh::{Mesh, ORDERS_URL};

pub(super) fn show(mesh: &mut Mesh) -> Result<Shown, String> {
    let streams = [("side", "server")];
    let before = mesh.metric("orders", "isthmus_streams_opened_total", &streams)?;
    let answer = mesh.get("web", ORDERS_URL)?;
    require(answer.status == 200, || format!("web got {} from orders: {}", answer.status, answer.body))?;
    let caller = "spiffe://shop.example/ns/shop/sa/web";
    require(answer.body.contains(caller), || format!("orders was not told its caller: {}", answer.body))?;
    let carried = mesh.metric("orders", "isthmus_streams_opened_total", &streams)? - before;
    require(carried >= 1.0, || "the request did not arrive on a mesh connection".to_owned())?;
    Ok(Shown {
        summary: format!("GET {ORDERS_URL} → 200 over mTLS; the app on orders saw caller {caller}"),
        more: vec![format!("caller: {}, app: {}", mesh.caller(), mesh.orders_app())],
        facts: json!({ "status": answer.status, "caller": caller, "client": mesh.caller(), "server": mesh.orders_app() }),
    })
}
