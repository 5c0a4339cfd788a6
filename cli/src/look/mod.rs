//! What passes now: `isthmus tap` shows requests as they end, `stat` and `top` rates and latencies. The proxies are asked
//! through the control plane, which lets an operator see what a role allows; nothing is kept, and no request waits.

pub(crate) mod rates;
pub(crate) mod stat;
pub(crate) mod tap;
pub(crate) mod top;

use isthmus_proto::admin::v1 as wire;
use isthmus_proto::admin::v1::look_event::Event;
use tonic::Streaming;

use crate::connect;
use crate::failure::Failure;

/// The next event; none when the time is over.
async fn next(events: &mut Streaming<wire::LookEvent>) -> Result<Option<Event>, Failure> {
    loop {
        match events.message().await.map_err(|status| connect::refused(&status))? {
            None => return Ok(None),
            // Of a newer control plane.
            Some(wire::LookEvent { event: None }) => {}
            Some(wire::LookEvent { event }) => return Ok(event),
        }
    }
}

/// Who is asked, for people.
fn asked(looking: wire::Looking, of: Option<&str>) -> String {
    let wire::Looking { asked, cannot, dropped } = looking;
    let whose = of.map_or_else(|| "of the mesh".to_owned(), |of| format!("of {of}"));
    let mut text = match asked {
        0 => format!("no connected proxy {whose} can be asked"),
        1 => format!("asking 1 proxy {whose}"),
        _ => format!("asking {asked} proxies {whose}"),
    };
    if cannot > 0 {
        text += &format!("; {cannot} are too old to answer");
    }
    if dropped > 0 {
        text += &format!("; {dropped} batches were not read in time and are lost");
    }
    text
}
