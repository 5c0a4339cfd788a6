//! What an idle connection of the app holds of the heap on the caller's side, in futures: its task, and the box of what it
//! is in. The rest are the registration of its socket and, for a tunnel, a stream of the mesh connection: about 0.25 to
//! 0.5 KiB each.

use std::net::SocketAddr;
use std::rc::Rc;

use bytes::BytesMut;
use tokio::net::TcpStream;

use super::tunnel::Reached;
use super::under_way::UnderWay;
use super::{Outbound, connection};
use crate::http::body::Body;
use crate::http::followed::MOST;

type Four<A, B, C, D, F> = fn(A, B, C, D) -> F;

fn size<A, B, C, D, F: Future>(_: Four<A, B, C, D, F>) -> usize {
    size_of::<F>()
}

#[test]
fn the_future_of_an_outbound_connection_stays_in_its_budget() {
    let task = size::<&Rc<Outbound>, TcpStream, SocketAddr, SocketAddr, _>(connection::serve);
    let http1 = size::<&Rc<Outbound>, TcpStream, BytesMut, SocketAddr, _>(connection::serve_http1);
    fn carry<'a, F: Future>(_: fn(Reached, &'a Rc<Outbound>, TcpStream) -> F) -> usize {
        size_of::<F>()
    }
    let tunnel = carry(Reached::carry);
    println!("outbound connection: {task} B, HTTP/1 {http1} B, a tunnel {tunnel} B");
    assert!(task <= 160, "{task} B");
    assert!(http1 <= 512, "{http1} B");
    assert!(tunnel <= 512, "{tunnel} B");
}

#[test]
fn what_is_remembered_of_answers_under_way_stays_in_its_budget() {
    let one = size_of::<Option<UnderWay>>() + size_of::<Body>() + 16;
    println!("an answer under way: {one} B");
    assert!(MOST * one <= 2 << 20, "{one} B");
}
