use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

const FIRING: AlertStatus = AlertStatus::Firing;
const RESOLVED: AlertStatus = AlertStatus::Resolved;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn alert(fingerprint: u64, status: AlertStatus, starts: i64, ends: Option<i64>) -> Alert {
    Alert {
        status,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        starts_at: at(starts),
        ends_at: ends.map(at),
        fingerprint: Fingerprint(fingerprint),
    }
}

fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

fn id(n: u64) -> EpisodeId {
    EpisodeId::from_parts(n, [0; 10])
}

/// A book with its own source of ids and a clock that stands far after every alert.
struct Desk {
    book: EpisodeBook,
    ids: u64,
}

impl Desk {
    fn new(slots_max: usize) -> Self {
        Self {
            book: EpisodeBook::new(slots_max),
            ids: 0,
        }
    }
    fn step(&mut self, txn: &mut Txn, tenant: &TenantId, alert: &Alert) -> Step {
        self.ids += 1;
        let fresh = id(self.ids);
        self.book.apply(txn, tenant, alert, at(10_000), || fresh)
    }
    fn one(&mut self, status: AlertStatus, starts: i64, ends: Option<i64>) -> Step {
        let mut txn = self.book.begin(1);
        let step = self.step(&mut txn, &tenant("a"), &alert(7, status, starts, ends));
        self.book.confirm(txn);
        step
    }
}

#[test]
fn the_table_of_decisions() {
    let mut desk = Desk::new(10);
    assert_eq!(
        desk.one(RESOLVED, 90, Some(95)),
        Step::Ignored(Ignored::NothingToResolve)
    );
    let Step::Open(first) = desk.one(FIRING, 100, None) else {
        panic!("firing opens")
    };
    assert_eq!(desk.one(FIRING, 100, None), Step::Seen(first), "resend");
    assert_eq!(desk.one(FIRING, 40, None), Step::Seen(first), "merged");
    assert_eq!(desk.one(FIRING, 120, None), Step::Seen(first), "skewed");
    let older = Step::Ignored(Ignored::OlderSpell);
    assert_eq!(desk.one(RESOLVED, 50, Some(110)), older);
    assert_eq!(desk.one(RESOLVED, 40, Some(200)), Step::Resolve(first));
    assert_eq!(
        desk.one(RESOLVED, 40, Some(200)),
        Step::Ignored(Ignored::DuplicateResolved)
    );
    for late in [40, 100, 120, 150, 200] {
        let step = desk.one(FIRING, late, None);
        assert_eq!(step, Step::Ignored(Ignored::LateFiring), "start {late}");
    }
    let step = desk.one(FIRING, 201, None);
    assert!(matches!(step, Step::Open(second) if second != first));
}

#[test]
fn an_end_in_the_future_does_not_keep_the_next_spell_out() {
    let mut desk = Desk::new(10);
    desk.one(FIRING, 100, None);
    desk.one(RESOLVED, 100, Some(99_999_999));
    assert!(matches!(desk.one(FIRING, 10_001, None), Step::Open(_)));
}

#[test]
fn a_change_that_is_not_durable_yet_is_pending_for_others_and_can_be_reverted() {
    let mut desk = Desk::new(10);
    let (a, firing) = (tenant("a"), alert(7, FIRING, 100, None));
    let mut first = desk.book.begin(1);
    let mut other = desk.book.begin(1);
    assert!(matches!(desk.step(&mut first, &a, &firing), Step::Open(_)));
    assert_eq!(
        desk.step(&mut other, &a, &firing),
        Step::Deferred(Deferred::Pending)
    );
    // The transaction itself sees its own change, even the end of what it began.
    let resolved = alert(7, RESOLVED, 100, Some(101));
    assert!(matches!(desk.step(&mut first, &a, &firing), Step::Seen(_)));
    assert!(matches!(
        desk.step(&mut first, &a, &resolved),
        Step::Resolve(_)
    ));
    desk.book.revert(first);
    assert_eq!(desk.book.open_count(), 0);
    assert!(matches!(desk.step(&mut other, &a, &firing), Step::Open(_)));
    desk.book.confirm(other);
    assert_eq!(desk.book.open_count(), 1);
}

#[test]
fn memory_is_bounded_by_forgetting_the_oldest_closed_never_an_open_one() {
    let mut desk = Desk::new(3);
    let a = tenant("a");
    let mut txn = desk.book.begin(10);
    for n in 0..3 {
        desk.step(&mut txn, &a, &alert(n, FIRING, 100, None));
    }
    desk.step(&mut txn, &a, &alert(1, RESOLVED, 100, Some(150)));
    desk.step(&mut txn, &a, &alert(0, RESOLVED, 100, Some(150)));
    desk.book.confirm(txn);
    let mut txn = desk.book.begin(1);
    let step = desk.step(&mut txn, &a, &alert(9, FIRING, 100, None));
    assert!(matches!(step, Step::Open(_)), "1, closed first, made room");
    let step = desk.step(&mut txn, &a, &alert(10, FIRING, 100, None));
    assert_eq!(step, Step::Deferred(Deferred::NoRoom));
    desk.book.confirm(txn);
    let mut txn = desk.book.begin(9);
    desk.step(&mut txn, &a, &alert(10, FIRING, 100, None));
    let step = desk.step(&mut txn, &a, &alert(11, FIRING, 100, None));
    assert_eq!(step, Step::Deferred(Deferred::BookFull));
    desk.book.confirm(txn);
    assert_eq!((desk.book.open_count(), desk.book.slots.len()), (3, 3));
}

#[test]
fn an_episode_of_which_nothing_is_heard_is_named() {
    let mut desk = Desk::new(3);
    desk.one(FIRING, 100, None);
    assert!(desk.book.quiet_since(at(10_000)).is_empty());
    assert_eq!(desk.book.quiet_since(at(10_001)).len(), 1);
}

/// One alert of a random history: (tenant, fingerprint, firing, start, length).
type Told = (bool, u64, bool, i64, i64);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Random alerts in random transactions, some reverted. The model is a plain list of what was
    /// confirmed: at most one episode open a key, starts of a key's episodes strictly rise (so
    /// none is opened twice), and a book rebuilt from the list decides as the original does.
    #[test]
    fn one_episode_a_spell(history in prop::collection::vec(
        (prop::collection::vec(
            (any::<bool>(), 0u64..3, prop::bool::weighted(0.6), 0i64..40, 0i64..10), 1..5),
         prop::bool::weighted(0.8)), 1..60)
    ) {
        let mut desk = Desk::new(1000);
        let mut open: HashMap<Key, EpisodeId> = HashMap::new();
        let mut started: HashMap<Key, Timestamp> = HashMap::new();
        let mut ids = HashSet::new();
        let mut journal: Vec<(EpisodeId, TenantId, Alert, Step)> = Vec::new();
        for (told, durable) in history {
            let mut txn = desk.book.begin(100);
            let (mut open_now, mut started_now) = (open.clone(), started.clone());
            let mut written = Vec::new();
            for told in told {
                let (tenant, alert) = read(told);
                let key = (tenant.clone(), alert.fingerprint);
                let step = desk.step(&mut txn, &tenant, &alert);
                match step {
                    Step::Open(id) => {
                        prop_assert!(ids.insert(id));
                        prop_assert_eq!(open_now.insert(key.clone(), id), None);
                        let before = started_now.insert(key, alert.starts_at);
                        prop_assert!(before.is_none_or(|before| before < alert.starts_at));
                    }
                    Step::Seen(id) => prop_assert_eq!(open_now.get(&key), Some(&id)),
                    Step::Resolve(id) => prop_assert_eq!(open_now.remove(&key), Some(id)),
                    Step::Ignored(_) => continue,
                    Step::Deferred(_) => prop_assert!(false, "nothing is held or full here"),
                }
                if let Step::Open(id) | Step::Seen(id) | Step::Resolve(id) = step {
                    written.push((id, tenant, alert, step));
                }
            }
            if durable {
                desk.book.confirm(txn);
                (open, started) = (open_now, started_now);
                journal.append(&mut written);
            } else {
                desk.book.revert(txn);
            }
            prop_assert_eq!(desk.book.open_count(), open.len());
        }
        rebuilt_decides_alike(desk, &journal)?;
    }
}

fn read((second, fingerprint, firing, starts, length): Told) -> (TenantId, Alert) {
    let tenant = tenant(if second { "b" } else { "a" });
    let alert = if firing {
        alert(fingerprint, FIRING, starts, None)
    } else {
        alert(fingerprint, RESOLVED, starts, Some(starts + length))
    };
    (tenant, alert)
}

fn rebuilt_decides_alike(
    mut desk: Desk,
    journal: &[(EpisodeId, TenantId, Alert, Step)],
) -> Result<(), TestCaseError> {
    let mut book = EpisodeBook::new(1000);
    for (id, tenant, alert, step) in journal {
        let event = match step {
            Step::Open(_) => Restored::Opened {
                tenant,
                fingerprint: alert.fingerprint,
                starts_at: alert.starts_at,
            },
            Step::Seen(_) => Restored::Seen {
                fingerprint: alert.fingerprint,
                starts_at: alert.starts_at,
            },
            _ => Restored::Resolved {
                starts_at: alert.starts_at,
                ends_at: alert.ends_at,
            },
        };
        book.restore(*id, event, at(10_000));
    }
    let mut rebuilt = Desk {
        book,
        ids: desk.ids,
    };
    for starts in 0..55 {
        for second in [true, false] {
            for fingerprint in 0..3 {
                for firing in [true, false] {
                    // Each question to both, then undone: the books stay as they are.
                    let (tenant, alert) = read((second, fingerprint, firing, starts, 3));
                    let (mut one, mut two) = (desk.book.begin(1), rebuilt.book.begin(1));
                    let left = desk.step(&mut one, &tenant, &alert);
                    let right = rebuilt.step(&mut two, &tenant, &alert);
                    prop_assert_eq!(left, right);
                    desk.book.revert(one);
                    rebuilt.book.revert(two);
                }
            }
        }
    }
    Ok(())
}
