use super::*;
use crate::store::MemoryStore;
use isthmus_certs::ManualClock;
use std::fs;

struct Kept {
    dir: tempfile::TempDir,
    store: Arc<dyn Store>,
    clock: ManualClock,
}

impl Kept {
    fn new() -> Self {
        let (dir, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()));
        Kept { dir, store, clock: ManualClock::at_ms(1_800_000_000_000) }
    }

    fn open(&self) -> Result<AuditLog, AuditError> {
        AuditLog::open(self.dir.path(), self.store.clone(), Arc::new(self.clock.clone()))
    }

    fn with_lines(count: usize) -> Self {
        let kept = Self::new();
        let log = kept.open().unwrap();
        (0..count).for_each(|n| assert!(log.append(event(n)).is_ok()));
        kept
    }

    fn file(&self) -> PathBuf {
        segments::segments(self.dir.path()).unwrap().pop().unwrap().1
    }

    fn lines(&self) -> Vec<String> {
        fs::read_to_string(self.file()).unwrap().lines().map(str::to_owned).collect()
    }

    fn rewrite(&self, lines: &[String]) {
        fs::write(self.file(), lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    }

    fn known(&self) -> Head {
        self.store.fact(HEAD_FACT).unwrap().unwrap().as_str().unwrap().parse().unwrap()
    }

    /// What `isthmus audit verify` says.
    fn verify(&self) -> Result<Head, Fault> {
        segments::read_all(self.dir.path(), Some(self.known()), |_| ()).map_err(|error| match error {
            ReadError::Fault { fault, .. } => fault,
            other => panic!("{other}"),
        })
    }
}

fn event(n: usize) -> Event {
    let who = format!("spiffe://shop.example/ns/shop/sa/web-{n}");
    Event {
        what: What::Enrolled,
        who,
        proof: "join-token 7f3a".into(),
        serial: format!("{n:032x}"),
        ..Event::default()
    }
}

#[test]
fn a_whole_log_is_found_whole_and_says_who_what_by_which_proof_and_serial() {
    let kept = Kept::with_lines(5);
    assert_eq!(kept.verify().unwrap().seq, 5);
    let first: serde_json::Value = serde_json::from_str(&kept.lines()[0]).unwrap();
    assert_eq!((first["seq"].as_u64(), first["at"].as_str()), (Some(1), Some("2027-01-15T08:00:00.000Z")));
    assert_eq!((first["what"].as_str(), first["proof"].as_str()), (Some("enrolled"), Some("join-token 7f3a")));
    let mut read = Vec::new();
    segments::recent(kept.dir.path(), 0, |entry| read.push(entry)).unwrap();
    assert_eq!((read.len(), &read[4].event), (5, &event(4)));
}

#[test]
fn any_line_removed_changed_put_in_or_exchanged_is_found_and_named() {
    let kept = Kept::with_lines(6);
    let good = kept.lines();
    for at in 0..5 {
        let mut lines = good.clone();
        lines.remove(at);
        kept.rewrite(&lines);
        assert_eq!(kept.verify(), Err(Fault::Removed { line: at as u64 + 1, missing: 1 }));
    }
    for at in 0..6 {
        let mut lines = good.clone();
        lines[at] = lines[at].replace("web-", "adm-");
        kept.rewrite(&lines);
        assert_eq!(kept.verify(), Err(Fault::Changed { line: at as u64 + 1 }));
        lines = good.clone();
        lines.insert(at, good[at].clone());
        kept.rewrite(&lines);
        assert!(matches!(kept.verify(), Err(Fault::Misplaced { .. } | Fault::Removed { .. })), "put in at {at}");
    }
    let mut lines = good.clone();
    lines.swap(2, 3);
    kept.rewrite(&lines);
    assert!(kept.verify().is_err());
    kept.rewrite(&good);
    assert_eq!(kept.verify().unwrap().seq, 6);
}

#[test]
fn a_line_written_anew_with_a_fitting_hash_breaks_the_next_one() {
    let kept = Kept::with_lines(3);
    let mut lines = kept.lines();
    let (json, _) = chain::check(&Head::default(), &lines[0]).unwrap();
    lines[0] = chain::seal(&Head::default(), &json.replace("web-0", "admin")).0;
    kept.rewrite(&lines);
    assert_eq!(kept.verify(), Err(Fault::Changed { line: 2 }));
    // All of it written anew: found against the head that is kept elsewhere.
    let mut head = Head::default();
    let forged: Vec<String> = lines
        .iter()
        .map(|line| {
            let body = line.rsplit_once(",\"hash\"").unwrap().0;
            let (line, next) = chain::seal(&head, &format!("{body}}}"));
            head = next;
            line
        })
        .collect();
    kept.rewrite(&forged);
    assert_eq!(kept.verify(), Err(Fault::Forked { line: 3 }));
}

#[test]
fn a_cut_off_end_is_found_and_nothing_is_issued_over_it() {
    let kept = Kept::with_lines(4);
    let lines = kept.lines();
    kept.rewrite(&lines[..3]);
    assert_eq!(kept.verify(), Err(Fault::CutOff { found: 3, known: 4 }));
    assert!(matches!(kept.open(), Err(AuditError::Damaged(_))));
    fs::remove_file(kept.file()).unwrap();
    assert!(matches!(kept.open(), Err(AuditError::Damaged(_))), "all of it gone");
}

#[test]
fn a_line_torn_by_a_crash_is_cut_off_and_the_log_goes_on() {
    let kept = Kept::with_lines(3);
    let whole = fs::read(kept.file()).unwrap();
    let (torn, _) = chain::seal(&kept.known(), r#"{"seq":4}"#);
    for length in [1, 9, torn.len()] {
        fs::write(kept.file(), [&whole[..], &torn.as_bytes()[..length]].concat()).unwrap();
        assert_eq!(kept.verify().unwrap().seq, 3, "{length} bytes of a fourth line");
        let log = kept.open().unwrap();
        assert_eq!(fs::read(kept.file()).unwrap(), whole);
        drop(log);
    }
    kept.open().unwrap().append(event(3)).unwrap();
    assert_eq!(kept.verify().unwrap().seq, 4);
}

#[test]
fn the_store_may_lag_behind_the_log() {
    let kept = Kept::with_lines(2);
    let behind = kept.store.fact(HEAD_FACT).unwrap();
    kept.open().unwrap().append(event(2)).unwrap();
    let now = kept.store.fact(HEAD_FACT).unwrap();
    assert!(kept.store.swap_fact(HEAD_FACT, now.as_ref(), behind.as_ref()).unwrap());
    kept.open().unwrap().append(event(3)).unwrap();
    assert_eq!(kept.verify().unwrap().seq, 4);
}

#[test]
fn on_a_full_disk_nothing_is_logged_and_that_is_an_error() {
    let kept = Kept::new();
    // Takes no byte: every write is refused with ENOSPC.
    std::os::unix::fs::symlink("/dev/full", kept.dir.path().join(segments::name_of(1))).unwrap();
    let log = kept.open().unwrap();
    let refused = log.append(event(0)).unwrap_err();
    assert!(
        matches!(&refused, AuditError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull),
        "{refused}"
    );
    assert_eq!(log.head(), Head::default());
    assert_eq!(log.unwritable(), Some(refused.to_string()));
}

#[test]
fn strangers_who_knock_fast_are_counted_and_do_not_fill_the_disk() {
    let kept = Kept::new();
    let log = kept.open().unwrap();
    let refusal = || Event { reason: "the join token is not known here".into(), ..Event::default() };
    (0..1000).for_each(|_| log.refused(refusal()));
    assert_eq!(kept.lines().len() as u64, REFUSALS_PER_SECOND);
    kept.clock.advance(std::time::Duration::from_secs(1));
    log.refused(refusal());
    let lines = kept.lines();
    assert_eq!(lines.len() as u64, REFUSALS_PER_SECOND + 2);
    assert!(lines[lines.len() - 2].contains(r#""what":"refused-more","count":980"#), "{}", lines[lines.len() - 2]);
    assert!(lines[lines.len() - 1].contains(r#""what":"refused""#));
    kept.verify().unwrap();
}

#[test]
fn many_at_once_all_stand_in_one_chain() {
    let kept = Kept::new();
    let log = kept.open().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let log = &log;
            scope.spawn(move || (0..50).for_each(|n| assert!(log.append(event(thread * 100 + n)).is_ok())));
        }
    });
    assert_eq!(kept.verify().unwrap().seq, 400);
    assert_eq!(log.head(), kept.known());
}

#[test]
fn a_long_log_goes_on_in_another_file() {
    let kept = Kept::with_lines(2);
    let first = kept.file();
    // As if it had grown: the file is told from its length alone.
    let log = kept.open().unwrap();
    lock(&log.end).length = SEGMENT;
    (2..5).for_each(|n| assert!(log.append(event(n)).is_ok()));
    assert_ne!(kept.file(), first);
    assert_eq!(kept.verify().unwrap().seq, 5);
    let mut seen = Vec::new();
    segments::each_line(kept.dir.path(), 4, |line| {
        seen.push(line.contains("web-"));
        true
    })
    .unwrap();
    assert_eq!(seen.len(), 2);
    drop(log);
    kept.open().unwrap().append(event(5)).unwrap();
    fs::remove_file(&first).unwrap();
    assert_eq!(kept.verify(), Err(Fault::Removed { line: 1, missing: 2 }), "a whole file removed");
}
