//! What an idle tunnel holds on the callee's side in futures: its task, and the box of what it is in. See
//! `outbound/size_test.rs`.

use super::*;

#[test]
fn the_futures_of_a_tunnel_stay_in_their_budget() {
    fn task<'a, F: Future>(_: fn(&'a Rc<Inbound>, &'a Rc<Peer>, Request<RecvStream>, SendResponse) -> F) -> usize {
        size_of::<F>()
    }
    fn carried<F: Future>(_: fn(Rc<Inbound>, Rc<Peer>, Tunnel) -> F) -> usize {
        size_of::<F>()
    }
    let (task, carried) = (task(serve), carried(carry));
    println!("inbound tunnel: {task} B, and {carried} B while it carries");
    assert!(task <= 128, "{task} B");
    assert!(carried <= 640, "{carried} B");
}
