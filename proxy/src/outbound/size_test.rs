//! What an idle L4 connection holds of the heap on the caller's side, in futures: its task's one allocation. The rest of
//! its 4 KiB (both sides) are two h2 streams and the registrations of two sockets, about 0.25 to 0.5 KiB each.

use std::net::SocketAddr;
use std::rc::Rc;

use tokio::net::TcpStream;

use super::{Outbound, connection};

type Serve<F> = fn(&'static Rc<Outbound>, TcpStream, SocketAddr, SocketAddr) -> F;

fn size<F: Future>(_: Serve<F>) -> usize {
    size_of::<F>()
}

#[test]
fn the_future_of_an_outbound_connection_stays_in_its_budget() {
    let whole = size(connection::serve);
    println!("outbound connection: {whole} B");
    assert!(whole <= 1_024, "{whole} B");
}
