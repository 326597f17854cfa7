//! The laboratory itself: what the other tests stand on.

use xvs_bench::lab::Tally;

use crate::Bed;

#[test]
fn every_web_server_answers_with_its_own_name() {
    let Some(Bed { world, .. }) = Bed::new() else { return };
    for real in &world.reals {
        for address in [real.v4.into(), real.v6.into()] {
            let tally = Tally::take(&world.client, address, 3).unwrap();
            assert_eq!(tally.failures, [""; 0]);
            assert_eq!(tally.answers.get(real.namespace.label()), Some(&3));
        }
    }
}
