//! Where a name leads, as this site's resolver has it. Refuses what leads back into the mesh or to this host: whoever owns
//! a name could point it anywhere.

use std::net::{IpAddr, SocketAddr};

use super::Outbound;
use crate::state::Mesh;

/// Addresses of a name that are tried.
pub(super) const ATTEMPTS: usize = 3;

/// Places to dial for a name.
pub(super) async fn addresses_of(
    outbound: &Outbound,
    mesh: &Mesh,
    name: &str,
    port: u16,
) -> Result<Vec<SocketAddr>, String> {
    let found = outside_of(outbound, mesh, name).await?;
    Ok(found.into_iter().take(ATTEMPTS).map(|ip| SocketAddr::new(ip, port)).collect())
}

/// The name's addresses outside of the mesh, one at least.
pub(super) async fn outside_of(outbound: &Outbound, mesh: &Mesh, name: &str) -> Result<Vec<IpAddr>, String> {
    let found = outbound.resolver.resolve(name, mesh.resolvers()).await.map_err(|error| error.to_string())?;
    let usable: Vec<IpAddr> = found.iter().copied().filter(|ip| is_outside(mesh, *ip)).collect();
    if usable.is_empty() {
        return Err(format!("{name} resolves to addresses of the mesh or of this host only: {found:?}"));
    }
    Ok(usable)
}

/// Not into the mesh, where other policies decide, nor to this host or its link (cloud metadata among them).
fn is_outside(mesh: &Mesh, ip: IpAddr) -> bool {
    let local = match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified(),
    };
    !local && !ip.is_multicast() && !mesh.is_own_address(ip) && !mesh.is_inside(ip)
}
