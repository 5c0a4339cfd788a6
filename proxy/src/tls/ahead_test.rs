//! Reading ahead changes how often the socket is asked, and nothing else.

use std::io;
use std::task::Poll;

use tokio::io::ReadBuf;

use super::{Ahead, LARGE, SMALL};

/// Asks for `want` bytes of a socket that has `socket`; counts the reads that reach it.
fn ask(ahead: &mut Ahead, socket: &mut &[u8], want: usize, reads: &mut usize) -> Poll<Vec<u8>> {
    let mut room = vec![0; want];
    let mut buf = ReadBuf::new(&mut room);
    let done = ahead.poll_read(&mut buf, |into| {
        *reads += 1;
        if socket.is_empty() {
            return Poll::Pending;
        }
        let count = into.remaining().min(socket.len());
        into.put_slice(&socket[..count]);
        *socket = &socket[count..];
        Poll::Ready(Ok(()))
    });
    done.map(|result: io::Result<()>| {
        result.unwrap();
        buf.filled().to_vec()
    })
}

#[test]
fn every_byte_comes_once_and_in_order_with_few_reads() {
    let sent: Vec<u8> = (0..1_000_000u32).map(|number| number.to_le_bytes()[1]).collect();
    let (mut ahead, mut socket, mut reads, mut got) = (Ahead::default(), &sent[..], 0, Vec::new());
    while let Poll::Ready(bytes) = ask(&mut ahead, &mut socket, 4096, &mut reads) {
        got.extend_from_slice(&bytes);
    }
    assert!(got == sent);
    // 16 and 64 KiB, then 256 KiB each, and the one that finds nothing; 4 KiB each would be 245.
    assert_eq!(reads, 2 + (sent.len() - SMALL - 4 * SMALL).div_ceil(LARGE) + 1);
}

#[test]
fn an_idle_connection_holds_no_buffer() {
    let sent = vec![7; 600_000];
    let (mut ahead, mut socket, mut reads) = (Ahead::default(), &sent[..], 0);
    while ask(&mut ahead, &mut socket, 4096, &mut reads).is_ready() {
        assert!(ahead.buffer.len() <= LARGE);
    }
    assert_eq!(ahead.buffer.capacity(), 0);
}

#[test]
fn a_connection_that_carries_little_again_reads_into_a_small_buffer_again() {
    let sent = vec![7; 600_000];
    let (mut ahead, mut socket, mut reads) = (Ahead::default(), &sent[..], 0);
    while ask(&mut ahead, &mut socket, 4096, &mut reads).is_ready() {}
    for _ in 0..3 {
        let few = [1; 100];
        assert_eq!(ask(&mut ahead, &mut &few[..], 4096, &mut reads), Poll::Ready(few.to_vec()));
    }
    assert_eq!(ahead.size, SMALL);
}

#[test]
fn the_end_of_the_socket_is_the_end() {
    let mut room = [0; 10];
    let mut buf = ReadBuf::new(&mut room);
    assert!(Ahead::default().poll_read(&mut buf, |_| Poll::Ready(Ok(()))).is_ready());
    assert!(buf.filled().is_empty());
}
