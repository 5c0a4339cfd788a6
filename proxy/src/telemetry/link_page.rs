//! The page's part about the ways between sites, as the kernel sees them.

use super::links::{Links, SiteLink};
use super::names::{self, Family};
use super::page::{Number, Page};

pub(super) fn render(links: &Links, page: &mut Page) {
    let sites = links.each();
    each(page, names::LINK_RTT, &sites, |of| of.rtt.map(|(_, mean)| mean.as_secs_f64()));
    each(page, names::LINK_RTT_LEAST, &sites, |of| of.rtt.map(|(least, _)| least.as_secs_f64()));
    each(page, names::LINK_SEGMENTS, &sites, |of| Some(of.sent));
    each(page, names::LINK_RETRANSMITTED, &sites, |of| Some(of.retransmitted));
    page.family(names::LINK_BYTES);
    for site in &sites {
        for (flow, bytes) in ["sent", "received"].into_iter().zip(site.bytes) {
            page.sample(&[("site", &site.site), ("flow", flow)], bytes);
        }
    }
    each(page, names::LINK_DELIVERY, &sites, |of| of.rtt.map(|_| of.delivery_rate));
    each(page, names::LINK_MTU, &sites, |of| of.path_mtu);
}

fn each<N: Into<Number>>(page: &mut Page, family: Family, sites: &[SiteLink], of: impl Fn(&SiteLink) -> Option<N>) {
    page.family(family);
    for site in sites {
        if let Some(number) = of(site) {
            page.sample(&[("site", &site.site)], number);
        }
    }
}
