//! Answers that are followed to their end: their bodies pass as they are, and what is remembered of each is told how it ended.
//! Body and memory lie in a place of the worker's, which the next answer takes over: following one allocates nothing once
//! there were as many at a time.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::HeaderMap;
use slab::Slab;

use super::body::{Body, BodyError, Frame};

/// Of those that nobody has decided to record, so many are followed at a time by one worker in each direction: at most 2 MiB.
pub const MOST: usize = 2_048;
/// So many empty places stay for the next burst.
const SPARE: usize = 64;

/// How the body of an answer ended.
#[derive(Debug, Clone, Copy)]
pub enum End<'a> {
    Whole(Option<&'a HeaderMap>),
    /// Before its end, by whoever answers or by what is between.
    Broken(&'a BodyError),
    /// Whoever asked wants no more of it.
    Left,
}

/// What is remembered of an answer until its end.
pub trait Remembered: 'static {
    /// Once; after so many bytes of the body.
    fn ended(self, end: End<'_>, bytes: u64);
}

/// Those of one worker.
pub struct Followed<R> {
    places: RefCell<Slab<Place<R>>>,
}

struct Place<R> {
    body: Body,
    bytes: u64,
    /// Until it was told.
    of: Option<R>,
}

/// One of them, as the body that is passed on.
pub struct Follower {
    among: Rc<dyn Places>,
    at: usize,
}

impl<R> Default for Followed<R> {
    fn default() -> Self {
        Followed { places: RefCell::default() }
    }
}

impl<R: Remembered> Followed<R> {
    /// How many there are now.
    pub fn count(&self) -> usize {
        self.places.borrow().len()
    }

    #[cfg(test)]
    pub(crate) fn room(&self) -> usize {
        self.places.borrow().capacity()
    }

    /// The same body. One that is empty has ended already: it is told so at once.
    pub fn follow(self: &Rc<Self>, body: Body, of: R) -> Body {
        if body.is_empty() {
            of.ended(End::Whole(None), 0);
            return body;
        }
        let at = self.places.borrow_mut().insert(Place { body, bytes: 0, of: Some(of) });
        Body::Followed(Follower { among: Rc::clone(self) as Rc<dyn Places>, at })
    }
}

/// What a body asks of its place, whatever is remembered there.
trait Places {
    fn poll_frame(&self, at: usize, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>>;
    fn is_ended(&self, at: usize) -> bool;
    fn length(&self, at: usize) -> Option<u64>;
    /// It ends here, in this way.
    fn end(&self, at: usize, end: End<'_>);
    /// Nobody reads it any more.
    fn leave(&self, at: usize);
}

impl<R: Remembered> Places for Followed<R> {
    fn poll_frame(&self, at: usize, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let mut places = self.places.borrow_mut();
        let Some(place) = places.get_mut(at) else { return Poll::Ready(None) };
        let frame = ready!(place.body.poll_frame(cx));
        if let Some(Ok(Frame::Data(bytes))) = &frame {
            place.bytes += bytes.len() as u64;
            // Whoever reads may not ask again after the last.
            if !place.body.is_ended() {
                return Poll::Ready(frame);
            }
        }
        drop(places);
        match &frame {
            Some(Err(error)) => self.end(at, End::Broken(error)),
            Some(Ok(Frame::Trailers(trailers))) => self.end(at, End::Whole(Some(trailers))),
            Some(Ok(Frame::Data(_))) | None => self.end(at, End::Whole(None)),
        }
        Poll::Ready(frame)
    }

    fn is_ended(&self, at: usize) -> bool {
        self.places.borrow().get(at).is_none_or(|place| place.body.is_ended())
    }

    fn length(&self, at: usize) -> Option<u64> {
        self.places.borrow().get(at)?.body.length()
    }

    fn end(&self, at: usize, end: End<'_>) {
        let told = self.places.borrow_mut().get_mut(at).and_then(|place| Some((place.of.take()?, place.bytes)));
        if let Some((of, bytes)) = told {
            of.ended(end, bytes);
        }
    }

    fn leave(&self, at: usize) {
        let mut places = self.places.borrow_mut();
        let place = places.try_remove(at);
        if places.is_empty() && places.capacity() > SPARE {
            *places = Slab::new();
        }
        drop(places);
        let Some(Place { body, bytes, of }) = place else { return };
        drop(body);
        if let Some(of) = of {
            of.ended(End::Left, bytes);
        }
    }
}

impl Follower {
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        self.among.poll_frame(self.at, cx)
    }

    pub(super) fn is_ended(&self) -> bool {
        self.among.is_ended(self.at)
    }

    pub(super) fn length(&self) -> Option<u64> {
        self.among.length(self.at)
    }

    pub(super) fn end(&self, end: End<'_>) {
        self.among.end(self.at, end);
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.among.leave(self.at);
    }
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Follower")
    }
}

#[cfg(test)]
#[path = "followed_test.rs"]
mod followed_test;
