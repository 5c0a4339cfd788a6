use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use super::super::otlp_read_test::spans;
use super::super::span::{Kind, SpanId, TraceId};
use super::super::trace_context::TraceContext;
use super::*;

fn span() -> Span {
    named("GET")
}

fn named(name: &'static str) -> Span {
    let context = TraceContext::with_ids(TraceId([1; 16]), SpanId([2; 8]), true);
    Span::new(&context, Kind::Client, name.into(), 1)
}

fn taken(take: &mut Take) -> usize {
    let mut batch = Vec::new();
    take.take(&mut batch);
    let count = batch.iter().map(|chunk| chunk.spans).sum();
    assert_eq!(batch.iter().map(|chunk| spans(chunk).len()).sum::<usize>(), count);
    count
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// Polls once; says whether it is ready.
fn poll(future: Pin<&mut impl Future<Output = ()>>, wakes: &Arc<Wakes>) -> bool {
    future.poll(&mut Context::from_waker(&Waker::from(wakes.clone()))).is_ready()
}

#[test]
fn a_batch_wakes_the_exporter_twice() {
    let (put, mut take) = backlog(2 * BATCH);
    let wakes = Arc::<Wakes>::default();
    {
        let mut first = pin!(take.first());
        assert!(!poll(first.as_mut(), &wakes));
        assert!(put.put(&span()));
        assert_eq!(wakes.0.load(Relaxed), 1);
        assert!(poll(first, &wakes));
    }
    {
        let mut full = pin!(take.full());
        assert!(!poll(full.as_mut(), &wakes));
        for _ in 2..BATCH {
            assert!(put.put(&span()));
        }
        assert_eq!(wakes.0.load(Relaxed), 1, "nobody woke for the spans between");
        assert!(put.put(&span()));
        assert_eq!(wakes.0.load(Relaxed), 2);
        assert!(poll(full, &wakes));
    }
    assert_eq!(taken(&mut take), BATCH);
    assert!(!poll(pin!(take.first()), &wakes), "all of it was taken");
}

#[test]
fn what_does_not_fit_is_said_and_not_counted() {
    let (put, mut take) = backlog(2);
    assert!(put.put(&span()) && put.put(&span()) && !put.put(&span()));
    assert_eq!(taken(&mut take), 2);
    assert!(!poll(pin!(take.first()), &Arc::default()));
    assert!(put.put(&span()), "there is room again");
}

/// Spans may be long, and what waits for a collector that is dead has a bound in bytes as well.
#[test]
fn what_waits_is_bounded_in_bytes() {
    let (put, mut take) = backlog(usize::MAX);
    let mut large = span();
    (0..40).for_each(|_| large.set("long", "x".repeat(1_000).as_str()));
    let count = (0..100_000).take_while(|_| put.put(&large)).count();
    let most = MOST_BYTES + 2 * CHUNK_BYTES;
    assert!((MOST_BYTES / 20_000..most / 10_000).contains(&count), "{count}");
    let mut batch = Vec::new();
    take.take(&mut batch);
    let bytes: usize = batch.iter().map(|chunk| chunk.piece.length()).sum();
    assert!(bytes < 3 * BATCH_BYTES / 2, "one message has {bytes}");
    let mut left = count - batch.iter().map(|chunk| chunk.spans).sum::<usize>();
    while left > 0 {
        left -= taken(&mut take);
    }
    assert!(put.put(&large));
}

/// What a worker has begun goes with what others have full, in the order in which each of them recorded it; and a worker
/// that has ended is forgotten when its last spans are gone.
#[test]
fn nothing_waits_for_a_chunk_to_be_full() {
    let (one, mut take) = backlog(4 * BATCH);
    let two = one.another();
    for _ in 0..CHUNK {
        assert!(one.put(&named("first")));
    }
    assert!(one.put(&named("second")) && two.put(&named("other")));
    drop(two);
    let mut batch = Vec::new();
    take.take(&mut batch);
    let names: Vec<String> = batch.iter().flat_map(spans).map(|span| span.name.into_owned()).collect();
    assert_eq!(names.len(), CHUNK + 2);
    assert_eq!(
        (&*names[0], &*names[CHUNK - 1], &*names[CHUNK], &*names[CHUNK + 1]),
        ("first", "first", "second", "other")
    );
    assert_eq!(lock(&take.backlog.begun).len(), 1);
}

/// Senders of several threads, and one that takes whenever it is told: none is left behind.
#[tokio::test]
async fn no_wake_up_is_lost() {
    const SENDERS: usize = 4;
    const EACH: usize = 20_000;
    let (put, mut take) = backlog(SENDERS * EACH);
    let senders: Vec<_> = (0..SENDERS)
        .map(|_| {
            let put = put.another();
            std::thread::spawn(move || (0..EACH).all(|_| put.put(&span())))
        })
        .collect();
    let mut count = 0;
    while count < SENDERS * EACH {
        let told = tokio::time::timeout(Duration::from_secs(30), take.first()).await;
        assert!(told.is_ok(), "{count} came, and then nobody said that there are more");
        count += taken(&mut take);
    }
    assert!(senders.into_iter().all(|sender| sender.join().is_ok_and(|all| all)));
}
