//! A flood is ten lines a second and one number.

use std::time::Duration;

use super::{LINES, RefusalLog};
use crate::reason::Reason;

#[tokio::test(start_paused = true)]
async fn a_flood_of_one_reason_is_few_lines_and_hides_no_other() {
    let log = RefusalLog::default();
    let lines = (0..1_000).filter(|_| log.may_say(Reason::NotAllowed).is_some()).count();
    assert_eq!(lines, LINES as usize);
    assert_eq!(log.may_say(Reason::Timeout), Some(0));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(log.may_say(Reason::NotAllowed), Some(1_000 - u64::from(LINES)));
    assert_eq!(log.may_say(Reason::NotAllowed), Some(0));
}
