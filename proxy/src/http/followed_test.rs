//! Each body is told of once, however it ended, and its place is another's then.

use std::cell::RefCell;
use std::task::Waker;

use bytes::Bytes;

use super::*;

type Told = Rc<RefCell<Vec<String>>>;

struct Note(&'static str, Told);

impl Remembered for Note {
    fn ended(self, end: End<'_>, bytes: u64) {
        let how = match end {
            End::Whole(trailers) => format!("whole {}", trailers.map_or(0, HeaderMap::len)),
            End::Broken(error) => format!("broken {error}"),
            End::Left => "left".to_owned(),
        };
        self.1.borrow_mut().push(format!("{} {how} after {bytes}", self.0));
    }
}

fn read(body: &mut Body) -> Poll<Option<Result<Frame, BodyError>>> {
    body.poll_frame(&mut Context::from_waker(Waker::noop()))
}

fn word(text: &'static str) -> Body {
    Body::Word(Bytes::from_static(text.as_bytes()))
}

#[test]
fn each_end_is_told_once_and_frees_its_place() {
    let (all, told) = (Rc::<Followed<Note>>::default(), Told::default());
    let follow = |name, body| all.follow(body, Note(name, Rc::clone(&told)));
    let taken = || std::mem::take(&mut *told.borrow_mut());
    assert!(matches!(follow("empty", Body::Empty), Body::Empty));
    assert_eq!((taken(), all.count()), (vec!["empty whole 0 after 0".to_owned()], 0));

    let mut whole = follow("whole", word("12345"));
    assert_eq!((whole.length(), whole.is_ended(), all.count()), (Some(5), false, 1));
    assert!(matches!(read(&mut whole), Poll::Ready(Some(Ok(Frame::Data(piece)))) if piece == "12345"));
    assert_eq!(taken(), ["whole whole 0 after 5"]);
    assert!(whole.is_ended() && matches!(read(&mut whole), Poll::Ready(None)));
    let left = follow("left", word("1"));
    assert_eq!(all.count(), 2);
    drop((whole, left));
    assert_eq!((taken(), all.count()), (vec!["left left after 0".to_owned()], 0));

    let mut lost = follow("lost", word("1"));
    lost.receiver_lost();
    lost.receiver_lost();
    drop(lost);
    assert_eq!(taken(), ["lost broken the connection to the receiver of the body broke after 0"]);
}

#[test]
fn room_follows_use() {
    let (all, told) = (Rc::<Followed<Note>>::default(), Told::default());
    let many: Vec<Body> = (0..1_000).map(|_| all.follow(word("1"), Note("one", Rc::clone(&told)))).collect();
    assert_eq!(all.count(), 1_000);
    drop(many);
    assert_eq!((all.count(), told.borrow().len()), (0, 1_000));
    assert!(all.room() <= SPARE);
}
