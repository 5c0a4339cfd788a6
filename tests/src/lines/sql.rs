//! Line 10: a protocol that is not HTTP, over the same mesh connection as everything else.

use std::time::Duration;

use serde_json::json;

use super::{Shown, require};
use crate::apps::{Postgres, psql};
use crate::mesh::Mesh;

const NAME: &str = "orders-db.shop.svc.cluster.local";
const DEADLINE: Duration = Duration::from_secs(15);

pub(super) fn show(mesh: &mut Mesh) -> Result<Shown, String> {
    let _postgres = Postgres::start(mesh.world().host("orders"), 5432).map_err(|e| e.to_string())?;
    let statement = "select 6 * 7, inet_server_addr()";
    let web = psql(mesh.world().host("web"), NAME, 5432, statement, DEADLINE).map_err(|e| e.to_string())?;
    require(web.status.success() && web.stdout.trim() == "42|10.20.1.10", || {
        format!("psql on web: {}{}", web.stdout, web.stderr)
    })?;

    let refusal = mesh.refusal("orders", "not-allowed")?;
    let batch = psql(mesh.world().host("batch"), NAME, 5432, statement, DEADLINE).map_err(|e| e.to_string())?;
    require(!batch.status.success(), || format!("batch, which is not on the allow-list, got {}", batch.stdout))?;
    refusal.happened(mesh)?;
    Ok(Shown {
        summary: format!("psql on web → {NAME}: {}; on batch: refused (not-allowed)", web.stdout.trim()),
        more: Vec::new(),
        facts: json!({ "answer": web.stdout.trim(), "refused": "batch" }),
    })
}
