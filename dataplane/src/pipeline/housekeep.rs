//! What is done between bursts, in bounded shares: flows expire, half-open ones make room.

use super::{Context, Pipeline, advance::settle, template::template_deadline};
use crate::{
    clock::Tick,
    endpoint::AVAILABLE,
    flow::{Entry, Expiry, flag::TEMPLATE},
};

/// Half-open flows given up in one turn at most.
const GIVEN_UP: usize = 64;

/// Ends flows: knows their time-outs, and settles what they counted as.
pub(super) struct Settle<'a, 'b>(pub(super) &'a Context<'b>);

impl Expiry for Settle<'_, '_> {
    fn deadline(&mut self, flow: &Entry) -> Tick {
        let cx = self.0;
        let control = flow.control();
        let orphan = cx.snapshot.settings.expire_nodest_conn
            && cx.endpoints.get(flow.real()).flags() & AVAILABLE == 0;
        if orphan {
            return cx.now;
        }
        if control.has(TEMPLATE) {
            return template_deadline(cx, flow);
        }
        flow.seen().plus(cx.snapshot.timeouts.ticks(control.class()))
    }

    fn expired(&mut self, flow: &Entry) {
        let cx = self.0;
        settle(cx, flow);
        cx.stats.work.flows_expired.add(1);
    }
}

impl Pipeline {
    /// A bounded share of housekeeping: passes at most `slots` slots of the flow table. To be called
    /// every turn, packets or not: it also tells the other workers that this one holds no flow.
    /// Returns whether nothing is left to do before the next second; until then, no sleep.
    pub fn housekeep(&mut self, now: Tick, slots: usize) -> bool {
        let mut complete = true;
        self.with(now, |pipeline, cx| {
            let mut settle = Settle(cx);
            pipeline.table.give_up_half_open(GIVEN_UP, cx.endpoints, &mut settle);
            complete = pipeline.table.sweep(now, slots, cx.endpoints, &mut settle).complete;
            complete &= pipeline.defend(cx);
        });
        self.table.quiesce();
        complete
    }

    /// Gives up packets that have waited too long for their next hop.
    pub fn give_up_parked(&mut self, now: Tick) {
        self.expire_parked(now);
    }
}
