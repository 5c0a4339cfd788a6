use super::*;

fn all(_: &str) -> bool {
    true
}

#[tokio::test]
async fn a_question_reaches_whom_it_concerns_and_ends_with_who_asked() {
    let looks = Arc::new(Looks::default());
    let mut streams = looks.subscribe();
    streams.mark_unchanged();
    let shop = |workload: &str| workload.starts_with("shop/");
    let mut look = looks.begin(wire::Question::default(), shop).unwrap();
    assert!(streams.has_changed().unwrap());
    let question = streams.borrow_and_update().values().next().unwrap().clone();
    assert!(
        question.asks("shop/web", true) && !question.asks("bank/ledger", true) && !question.asks("shop/old", false)
    );
    assert_eq!(look.reach(), Reach { asked: 1, cannot: 1, dropped: 0 });
    question.take(wire::Batch { workload: "shop/web".into(), ..wire::Batch::default() });
    assert_eq!(look.batches.recv().await.unwrap().workload, "shop/web");
    assert!(looks.find(question.wire.id).is_some() && looks.find(question.wire.id ^ 1).is_none());
    drop(look);
    assert!(question.ended.is_cancelled() && looks.find(question.wire.id).is_none());
}

#[tokio::test]
async fn an_operator_who_does_not_read_loses_batches_and_holds_nobody() {
    let looks = Arc::new(Looks::default());
    let look = looks.begin(wire::Question::default(), all).unwrap();
    let question = looks.find(look.question.wire.id).unwrap();
    (0..AHEAD + 7).for_each(|_| question.take(wire::Batch::default()));
    assert_eq!((look.batches.len(), look.reach().dropped), (AHEAD, 7));
}

#[tokio::test]
async fn so_many_look_and_no_more() {
    let looks = Arc::new(Looks::default());
    let some: Vec<_> = (0..MOST_LOOKS).map(|_| looks.begin(wire::Question::default(), all).unwrap()).collect();
    assert!(looks.begin(wire::Question::default(), all).is_none());
    drop(some);
    assert!(looks.begin(wire::Question::default(), all).is_some());
}
