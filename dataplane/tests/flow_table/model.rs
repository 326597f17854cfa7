//! Any sequence of operations, against a plain map.

use hashbrown::HashMap;
use proptest::{collection::vec, prelude::*};

use super::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Insert(u32, u8),
    Remove(u32, u8),
    Look(u32, u8),
    Touch(u32, u8),
    Quiesce,
    /// Ticks that pass, then a sweep.
    Pass(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let who = (0..60u32, 0..4u8);
    prop_oneof![
        6 => who.clone().prop_map(|(client, kind)| Step::Insert(client, kind)),
        3 => who.clone().prop_map(|(client, kind)| Step::Remove(client, kind)),
        3 => who.clone().prop_map(|(client, kind)| Step::Look(client, kind)),
        2 => who.prop_map(|(client, kind)| Step::Touch(client, kind)),
        1 => Just(Step::Quiesce),
        1 => (0..100u32).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_sequence_of_operations_agrees_with_a_plain_map(
        steps in vec(step(), 1..400),
        origin in any::<u32>(),
    ) {
        let endpoints = endpoints();
        // Small enough that buckets overflow and words are displaced.
        let (table, mut worker) = table(60, 60);
        // The last tick's wrap is left out: it may make a flow late by seconds, see `due`.
        let mut now = Tick(origin % (u32::MAX - 1_000_000));
        let mut model: HashMap<FlowKey, (FlowId, NewFlow, Tick)> = HashMap::new();
        let mut expiry = Fixed { timeout: 160, ..Fixed::default() };
        for step in steps {
            match step {
                Step::Insert(client, kind) => {
                    let new = new_flow(&endpoints, client, kind);
                    let known = model.get(&new.key).map(|known| known.0);
                    match worker.insert(&new, &endpoints, now).unwrap() {
                        Inserted::New(flow) => {
                            prop_assert_eq!(known, None);
                            model.insert(new.key, (flow.id(), new, now));
                        }
                        Inserted::Existing(flow, direction) => {
                            prop_assert_eq!(known, Some(flow.id()));
                            prop_assert_eq!(direction, Direction::ToReal);
                        }
                    }
                }
                Step::Remove(client, kind) => {
                    let key = new_flow(&endpoints, client, kind).key;
                    if let Some((id, ..)) = model.remove(&key) {
                        let flow = table.get(id).unwrap();
                        prop_assert!(worker.remove(flow, &endpoints));
                        prop_assert!(!worker.remove(flow, &endpoints));
                        prop_assert!(table.get(id).is_none());
                    }
                }
                Step::Look(client, kind) => {
                    let key = new_flow(&endpoints, client, kind).key;
                    let found = find(&worker, &key, &endpoints);
                    prop_assert_eq!(found, model.get(&key).map(|m| (m.0, Direction::ToReal)));
                    // Of the flow that is there, not of the kind asked for.
                    if let Some((id, new, _)) = model.get(&key)
                        && let Some(reply) = reply_key(&endpoints, new)
                    {
                        let found = find(&worker, &reply, &endpoints);
                        prop_assert_eq!(found, Some((*id, Direction::ToClient)));
                    }
                }
                Step::Touch(client, kind) => {
                    let key = new_flow(&endpoints, client, kind).key;
                    if let Some((id, _, seen)) = model.get_mut(&key) {
                        table.get(*id).unwrap().touch(now);
                        *seen = now;
                    }
                }
                Step::Quiesce => worker.quiesce(),
                Step::Pass(ticks) => {
                    now = now.plus(ticks);
                    sweep_all(&mut worker, now, &endpoints, &mut expiry);
                    model.retain(|_, (id, _, seen)| {
                        let over = now.since(*seen) >= 160;
                        let gone = table.get(*id).is_none();
                        assert!(over || !gone, "expired early");
                        assert!(gone || now.since(*seen) < 160 + 16 + 16, "expired late");
                        !gone
                    });
                }
            }
            prop_assert_eq!(table.len(), model.len());
        }
        let mut listed: Vec<_> = table.flows(0).map(|view| view.id).collect();
        let mut expected: Vec<_> = model.values().map(|known| known.0).collect();
        listed.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(listed, expected);
        let audit = table.audit(&endpoints);
        prop_assert!(audit.is_sound() && audit.flows == model.len(), "{:?}", audit);
        for (id, ..) in model.into_values() {
            worker.remove(table.get(id).unwrap(), &endpoints);
        }
        prop_assert!(table.is_empty());
        prop_assert_eq!(table.audit(&endpoints), Audit::default());
        prop_assert_eq!(worker.counters().lost_words, 0);
    }
}
