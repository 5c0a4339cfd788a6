//! What one idle proxy holds of our own: the design size is 10,000 of them. Sizes of futures are those of their largest
//! state, whatever it is that they wait for.

use super::server::Message;
use super::stream::{self, Stream};
use super::*;
use crate::index::View;
use isthmus_proto::model::ResourceKey;

/// The size of the future, for these lives.
fn of<'a, F>(_: fn(&'a Push, &'a mut Stream<'a>, &'a mut Streaming<ProxyMessage>, &'a Outgoing) -> F) -> usize {
    size_of::<F>()
}

fn of_serve<'a, F>(
    _: fn(&'a Push, &'a PeerIdentity, &'a str, &'a mut Streaming<ProxyMessage>, &'a Outgoing) -> F,
) -> usize {
    size_of::<F>()
}

#[test]
fn a_stream_that_waits_is_small() {
    let (run, serve) = (of(stream::run), of_serve(Push::serve));
    assert!(run <= 1_536, "{run} bytes");
    assert!(serve <= 2_560, "{serve} bytes");
}

#[test]
fn what_waits_for_a_proxy_is_as_large_as_its_bytes() {
    // The library's channel keeps room for 32 of them, whatever its bound is.
    assert!(size_of::<Result<Message, Status>>() <= 16, "{}", size_of::<Result<Message, Status>>());
}

#[test]
fn a_view_is_held_once() {
    let keys: std::collections::BTreeSet<_> = (0..20u8).map(|n| ResourceKey::Address([10, 0, 0, n].into())).collect();
    let view = View::from(keys);
    let held = view.clone();
    assert!(std::ptr::eq(view.keys().next().unwrap(), held.keys().next().unwrap()));
    assert!(size_of::<View>() == 16 && size_of::<(ResourceKey, Option<Arc<crate::index::Told>>)>() <= 32);
}
