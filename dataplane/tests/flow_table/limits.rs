//! What happens when there is no room, and to what is left behind.

use super::*;

#[test]
fn a_full_table_refuses_and_takes_flows_again_when_others_have_gone() {
    let endpoints = endpoints();
    let (table, mut worker) = table(1000, 1000);
    let now = Tick::from_secs(10);
    for round in 0..3 {
        let mut inside = Vec::new();
        for client in 0.. {
            match worker.insert(&new_flow(&endpoints, client, 0), &endpoints, now) {
                Ok(Inserted::New(flow)) => inside.push(flow.id()),
                Ok(Inserted::Existing(..)) => panic!("client {client} was there in round {round}"),
                Err(error) => {
                    assert_eq!(error, InsertError::Full);
                    break;
                }
            }
        }
        assert!(inside.len() >= table.capacity(), "{} flows", inside.len());
        assert_eq!(table.len(), inside.len());
        assert!(find(&worker, &new_flow(&endpoints, 5, 0).key, &endpoints).is_some());
        for id in inside {
            assert!(worker.remove(table.get(id).unwrap(), &endpoints));
        }
        assert!(table.is_empty());
        let again = worker.insert(&new_flow(&endpoints, 0, 0), &endpoints, now);
        assert_eq!(again.unwrap_err(), InsertError::Full, "slots wait until all are quiescent");
        worker.quiesce();
        worker.quiesce();
    }
    let counters = worker.counters();
    assert_eq!((counters.full, counters.no_room, counters.lost_words), (6, 0, 0));
}

#[test]
fn at_capacity_no_insert_fails_for_want_of_room_in_the_index() {
    let endpoints = endpoints();
    let (table, mut worker) = table(60_000, 1);
    let now = Tick::from_secs(10);
    // One in and one out until every flow was replaced some times.
    let mut inside = std::collections::VecDeque::new();
    for turn in 0..300_000u32 {
        if inside.len() == table.capacity() {
            let id = inside.pop_front().unwrap();
            assert!(worker.remove(table.get(id).unwrap(), &endpoints));
        }
        let mut new = new_flow(&endpoints, turn % 65_000, 0);
        new.key.source_port = u16::try_from(turn / 65_000).unwrap();
        let Ok(Inserted::New(flow)) = worker.insert(&new, &endpoints, now) else {
            panic!("turn {turn}: {:?}", worker.counters())
        };
        inside.push_back(flow.id());
        worker.quiesce();
    }
    let counters = worker.counters();
    assert!(counters.away > 1000, "{counters:?}");
    assert_eq!((counters.no_room, counters.full, counters.lost_words), (0, 0, 0));
}

#[test]
fn half_open_flows_beyond_the_quota_go_oldest_first_and_answered_ones_stay() {
    let endpoints = endpoints();
    let (table, worker) = table(10_000, 100);
    let now = Tick::from_secs(5);
    let mut expiry = Fixed::default();
    let begin = |client, half_open: bool| {
        let mut new = new_flow(&endpoints, client, 0);
        new.flags = if half_open { flag::HALF_OPEN } else { 0 };
        match worker.insert(&new, &endpoints, now) {
            Ok(Inserted::New(flow)) => Ok(flow.id()),
            Ok(Inserted::Existing(..)) => panic!("{client} was there"),
            Err(error) => Err(error),
        }
    };
    let ids: Vec<_> = (0..250).map(|client| begin(client, client >= 50).unwrap()).collect();
    // Every third was answered.
    for id in ids[50..].iter().step_by(3) {
        let flow = table.get(*id).unwrap();
        let seen = flow.control();
        flow.try_update(seen, seen.without_flags(flag::HALF_OPEN)).unwrap();
    }
    let mut given_up = 0;
    for _ in 0..20 {
        given_up += worker.give_up_half_open(64, &endpoints, &mut expiry);
    }
    let alive: Vec<_> = ids.iter().map(|id| table.get(*id).is_some()).collect();
    assert!(alive[..50].iter().all(|alive| *alive), "established flows are never given up");
    assert!(alive[50..].iter().step_by(3).all(|alive| *alive), "nor answered ones");
    // 133 unanswered, of which at most 100 may stay.
    let half_open = table.flows(0).filter(|view| view.control.has(flag::HALF_OPEN)).count();
    assert!((60..=100).contains(&half_open), "{half_open} half-open flows left");
    assert_eq!((given_up, expiry.expired.len()), (133 - half_open, 133 - half_open));
    let first_gone = alive.iter().position(|alive| !alive).unwrap();
    assert!(first_gone < 54, "the oldest went first");
    assert_eq!(worker.counters().given_up, given_up as u64);

    // Without a worker that gives up any, inserts are refused some bursts beyond the quota.
    let refused = (300..1000).map(|client| begin(client, true)).filter(Result::is_err).count();
    assert!(refused > 300, "{refused}");
    begin(2000, false).unwrap();
    assert_eq!(worker.counters().half_open, refused as u64);
}

#[test]
fn no_half_open_flow_is_given_up_while_most_are_answered() {
    let endpoints = endpoints();
    let (table, worker) = table(10_000, 100);
    let now = Tick::from_secs(5);
    let mut expiry = Fixed::default();
    for client in 0..200 {
        let mut new = new_flow(&endpoints, client, 0);
        new.flags = flag::HALF_OPEN;
        let Ok(Inserted::New(flow)) = worker.insert(&new, &endpoints, now) else { panic!() };
        let seen = flow.control();
        if client % 4 != 0 {
            flow.try_update(seen, seen.without_flags(flag::HALF_OPEN)).unwrap();
        }
        if client % 8 == 7 {
            assert_eq!(worker.give_up_half_open(64, &endpoints, &mut expiry), 0);
        }
    }
    assert_eq!(table.len(), 200);
}

#[test]
fn a_table_full_of_half_open_flows_makes_room_for_others() {
    let endpoints = endpoints();
    let (_, mut worker) = table(2000, 5000);
    let now = Tick::from_secs(5);
    let mut flood = (0..).map(|client| {
        let mut new = new_flow(&endpoints, client, 0);
        new.flags = flag::HALF_OPEN;
        new
    });
    while worker.insert(&flood.next().unwrap(), &endpoints, now).is_ok() {}
    let mut expiry = Fixed::default();
    assert_eq!(worker.give_up_half_open(64, &endpoints, &mut expiry), 64);
    assert_eq!(worker.give_up_half_open(64, &endpoints, &mut expiry), 0, "room was made");
    worker.quiesce();
    worker.quiesce();
    for _ in 0..64 {
        worker.insert(&flood.next().unwrap(), &endpoints, now).unwrap();
    }
}

#[test]
fn a_worker_that_leaves_gives_its_slots_back() {
    let endpoints = endpoints();
    let (table, mut worker) = table(300, 1);
    assert!(matches!(table.worker(0), Err(TableError::WorkerTaken(0))));
    assert!(matches!(table.worker(1), Err(TableError::NoSuchWorker(1))));
    let mut now = Tick::from_secs(5);
    let mut expiry = Fixed { timeout: 16, ..Fixed::default() };
    for _ in 0..5 {
        let mut count = 0;
        while let Ok(Inserted::New(flow)) =
            worker.insert(&new_flow(&endpoints, count, 0), &endpoints, now)
        {
            assert!(worker.remove(flow, &endpoints));
            count += 1;
        }
        // All slots are in limbo now, and stay behind.
        assert!(count >= 300, "{count}");
        drop(worker);
        worker = table.worker(0).unwrap();
        for _ in 0..300 {
            now = now.plus(16);
            sweep_all(&mut worker, now, &endpoints, &mut expiry);
        }
    }
    assert!(expiry.expired.is_empty());
}

#[test]
fn sizes_are_checked_and_memory_is_said() {
    let key = HashKey::from_seed(1);
    let refuse = |capacity, workers| FlowTable::new(&TableConfig::new(capacity, workers, key));
    assert!(matches!(refuse(0, 1), Err(TableError::Capacity(0))));
    assert!(matches!(refuse(1 << 31, 1), Err(TableError::Capacity(_))));
    assert!(matches!(refuse(1, 0), Err(TableError::Workers(0))));
    assert!(matches!(refuse(1, 1000), Err(TableError::Workers(1000))));
    let table = FlowTable::new(&TableConfig::new(1_000_000, 2, key)).unwrap();
    let memory = table.memory();
    assert!(memory.per_flow > 100.0 && memory.per_flow < 104.0, "{memory:?}");
    assert!(table.is_empty() && table.capacity() == 1_000_000);
}
