//! One HTTP/1 connection with an app, calling or called: the socket, what was read and not used yet, what is to be written.
//! Read and written through readiness by reference: a body's reader, its writer and the connection's own loop share it in
//! one task, without a lock, a channel or a second task.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::MAX_HEAD;
use super::exchange::Home;
use super::head::{self, HeadError};
use crate::http::client::Open;
use crate::tcp;

/// One read takes so much at most.
const READ: usize = 64 * 1024;
/// From a head's first byte to its last. A client that needs longer is slow on purpose.
pub const HEAD_DEADLINE: Duration = Duration::from_secs(30);
/// How long, and how much of, what a refused client still sends is read over: a reset would take our answer with it.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1 << 20;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A connection and where its two messages are.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    input: RefCell<BytesMut>,
    /// So much of `input` holds no end of a head.
    searched: Cell<usize>,
    output: RefCell<BytesMut>,
    /// A message of the other side has begun and not ended.
    reading: Cell<bool>,
    /// A message of ours has begun and not ended.
    writing: Cell<bool>,
    reusable: Cell<bool>,
    /// Something of the message that goes out was taken by the socket.
    wrote: Cell<bool>,
    /// For connections to called apps.
    lent: Option<Lent>,
}

/// The pool that a connection returns to.
#[derive(Debug)]
struct Lent {
    home: Weak<Home>,
    address: SocketAddr,
    _open: Open,
}

impl Connection {
    /// `input`: what was read already.
    pub fn new(stream: TcpStream, input: BytesMut) -> Rc<Connection> {
        Connection::with(stream, input, None)
    }

    pub(super) fn to_app(stream: TcpStream, home: &Rc<Home>, address: SocketAddr, open: Open) -> Rc<Connection> {
        let lent = Lent { home: Rc::downgrade(home), address, _open: open };
        Connection::with(stream, BytesMut::new(), Some(lent))
    }

    fn with(stream: TcpStream, input: BytesMut, lent: Option<Lent>) -> Rc<Connection> {
        Rc::new(Connection {
            stream,
            input: RefCell::new(input),
            searched: Cell::new(0),
            output: RefCell::default(),
            reading: Cell::new(false),
            writing: Cell::new(false),
            reusable: Cell::new(true),
            wrote: Cell::new(false),
            lent,
        })
    }

    /// The next head's bytes; `None`: the other side ended before one began. Waits for its first byte without end and
    /// without a buffer, and for the rest of it until [`HEAD_DEADLINE`].
    pub async fn read_head(&self) -> Result<Option<Bytes>, HeadError> {
        if let Some(head) = self.take_head()? {
            return Ok(Some(head));
        }
        if self.input.borrow().is_empty() {
            if poll_fn(|cx| self.poll_fill(cx)).await? == 0 {
                return Ok(None);
            }
            if let Some(head) = self.take_head()? {
                return Ok(Some(head));
            }
        }
        // What can never become a head is refused before all of it is there.
        head::may_become_request(&self.input.borrow())?;
        // On the heap: few heads come in pieces, and idle connections shall not hold the room for a timer.
        let rest = Box::pin(tokio::time::timeout(HEAD_DEADLINE, self.read_rest_of_head()));
        rest.await.unwrap_or(Err(HeadError::Slow)).map(Some)
    }

    async fn read_rest_of_head(&self) -> Result<Bytes, HeadError> {
        loop {
            if poll_fn(|cx| self.poll_fill(cx)).await? == 0 {
                return Err(HeadError::Io(io::ErrorKind::UnexpectedEof.into()));
            }
            if let Some(head) = self.take_head()? {
                return Ok(head);
            }
        }
    }

    /// A head, if all of it was read. An empty line before it is passed over (RFC 9112 §2.2).
    pub(super) fn take_head(&self) -> Result<Option<Bytes>, HeadError> {
        let mut input = self.input.borrow_mut();
        if self.searched.get() == 0 && input.starts_with(b"\r\n") && input.len() > 2 {
            input.advance(2);
        }
        let end = if &input[..] == b"\r\n" { None } else { head::find_end(&input, self.searched.get())? };
        let Some(end) = end else {
            if input.len() > MAX_HEAD {
                return Err(HeadError::TooLarge);
            }
            // The line end that completes a head may come in pieces.
            self.searched.set(input.len().saturating_sub(1));
            if input.len() <= 2 {
                self.searched.set(0);
            }
            return Ok(None);
        };
        if end > MAX_HEAD {
            return Err(HeadError::TooLarge);
        }
        self.searched.set(0);
        // Taken as a whole, it is not shared with an empty rest.
        let head = if end == input.len() { std::mem::take(&mut *input) } else { input.split_to(end) };
        Ok(Some(head.freeze()))
    }

    /// Reads once. Zero: the other side ended.
    pub(super) fn poll_fill(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.try_fill() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn try_fill(&self) -> io::Result<usize> {
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.is_empty() {
                scratch.resize(READ, 0);
            }
            let count = self.stream.try_read(scratch)?;
            let mut input = self.input.borrow_mut();
            if input.is_empty() {
                *input = BytesMut::from(&scratch[..count]);
            } else {
                input.extend_from_slice(&scratch[..count]);
            }
            if 0 < count && count < scratch.len() {
                // The socket is empty: the next wait shall wait, and not ask the kernel first.
                let _ = self.stream.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
            }
            Ok(count)
        })
    }

    pub(super) fn with_input<T>(&self, read: impl FnOnce(&mut BytesMut) -> T) -> T {
        let mut input = self.input.borrow_mut();
        let result = read(&mut input);
        if input.is_empty() {
            *input = BytesMut::new(); // gives the buffer back: the connection may live for days
        }
        result
    }

    pub(super) fn with_output<T>(&self, write: impl FnOnce(&mut BytesMut) -> T) -> T {
        write(&mut self.output.borrow_mut())
    }

    /// Writes what waits, then `data` and what follows it, in as few calls as the socket takes.
    pub(super) fn poll_flush(
        &self,
        data: &mut Bytes,
        after: &mut &'static [u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut output = self.output.borrow_mut();
        while !output.is_empty() || !data.is_empty() || !after.is_empty() {
            let wrote = if data.is_empty() && after.is_empty() {
                self.stream.try_write(&output)
            } else {
                self.stream.try_write_vectored(&[IoSlice::new(&output), IoSlice::new(data), IoSlice::new(after)])
            };
            match wrote {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(mut count) => {
                    self.wrote.set(true);
                    let part = count.min(output.len());
                    output.advance(part);
                    count -= part;
                    let part = count.min(data.len());
                    data.advance(part);
                    *after = &after[count - part..];
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.stream.poll_write_ready(cx))?,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if output.capacity() > 0 {
            *output = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what waits as far as the socket takes it now; the rest goes with the next write.
    pub(super) fn flush_now(&self) {
        let mut context = Context::from_waker(std::task::Waker::noop());
        // An error comes back with the next write.
        let _ = self.poll_flush(&mut Bytes::new(), &mut &b""[..], &mut context);
    }

    /// Resolves when the connection is broken in both directions: the other side reset it. One that only ended its own
    /// direction waits for its answer.
    pub async fn gone(&self) {
        if self.stream.ready(Interest::ERROR).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether it can carry another request: nothing came unasked, and nobody ended it.
    pub(super) fn is_quiet(&self) -> bool {
        let mut byte = [0; 1];
        let blocked = |error: io::Error| error.kind() == io::ErrorKind::WouldBlock;
        self.input.borrow().is_empty() && self.stream.try_read(&mut byte).is_err_and(blocked)
    }

    pub(super) fn begin_reading(&self) {
        self.reading.set(true);
    }

    pub(super) fn begin_writing(&self) {
        self.wrote.set(false);
        self.writing.set(true);
    }

    pub(super) fn end_reading(self: &Rc<Self>) {
        self.reading.set(false);
        self.settle();
    }

    pub(super) fn end_writing(self: &Rc<Self>) {
        self.writing.set(false);
        self.settle();
    }

    /// The other side learns that nothing more comes, and may go on.
    pub(super) fn end_output(&self) {
        self.never_again();
        let _ = SockRef::from(&self.stream).shutdown(std::net::Shutdown::Write);
    }

    pub(super) fn is_reading(&self) -> bool {
        self.reading.get()
    }

    pub(super) fn has_written(&self) -> bool {
        self.wrote.get()
    }

    pub(super) fn never_again(&self) {
        self.reusable.set(false);
    }

    /// Both messages ended: a connection to an app goes back to its pool.
    fn settle(self: &Rc<Self>) {
        if self.reading.get() || self.writing.get() || !self.reusable.get() || !self.input.borrow().is_empty() {
            return;
        }
        if let Some(lent) = &self.lent
            && let Some(home) = lent.home.upgrade()
        {
            home.give_back(lent.address, Rc::clone(self));
        }
    }

    /// Ends our side. What the other side still sends is read over, where it sends more: a reset would take our answer
    /// with it.
    pub(super) async fn close(&self) {
        let _ = SockRef::from(&self.stream).shutdown(std::net::Shutdown::Write);
        self.with_input(BytesMut::clear);
        if self.try_fill().is_err() && !self.reading.get() {
            return;
        }
        let _ = tokio::time::timeout(LINGER, self.read_over()).await;
    }

    async fn read_over(&self) {
        let mut left = LINGER_BYTES;
        while left > 0 {
            self.with_input(BytesMut::clear);
            match poll_fn(|cx| self.poll_fill(cx)).await {
                Ok(0) | Err(_) => return,
                Ok(count) => left = left.saturating_sub(count),
            }
        }
    }

    /// The socket and what was read and not used, for bytes that are HTTP no more. `None` while a body's reader or writer
    /// still lives.
    pub fn into_parts(self: Rc<Self>) -> Option<(TcpStream, BytesMut)> {
        let connection = Rc::try_unwrap(self).ok()?;
        Some((connection.stream, connection.input.into_inner()))
    }

    /// A message of ours broke off: it ends with RST, because whoever sees a clean end believes that it got everything.
    pub(super) fn broke_off(&self) {
        self.never_again();
        tcp::mark_reset(&self.stream);
    }
}
