//! Flows that control ends or moves before their time: a drain's deadline, an operator's order.
//!
//! Control takes part in the flow table as one worker more, which is offline but during a call, so
//! that the others never wait for it. Whoever ends a flow settles what it counted as, as everywhere.
//! A flow that is moved is ended and made again at once, bound to another real server: a packet that
//! comes between the two finds no flow, as if it had come late. It is no
//! longer given up as half-open when room is short.

use std::sync::Arc;

use super::{
    Context,
    advance::{method_flags, settle},
    open::{any_port, destination},
};
use crate::{
    clock::Tick,
    endpoint::{Bound, Endpoints, Method},
    flow::{
        FlowId, FlowRef, FlowTable, Inserted, NewFlow, TableError, TableWorker,
        flag::{FULLNAT, INACTIVE, NO_OUTPUT, ONE_WAY, TEMPLATE},
    },
    rng::Rng,
    sched::Pick,
    service::Snapshot,
    stats::WorkerStats,
};

/// Flows between two moments in which the table may use ended ones again.
const CHUNK: usize = 64;

/// What became of flows that should move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Bound to another real server.
    pub moved: usize,
    /// Ended, because no other real server takes them: templates, flows of full NAT, and all of a
    /// service whose scheduler picks no other.
    pub ended: usize,
}

/// Control's hand on flows.
#[derive(Debug)]
pub struct Evictor {
    flows: Arc<FlowTable>,
    worker: TableWorker,
    endpoints: Arc<Endpoints>,
    /// Counters that nobody reads: what is moved was not scheduled anew.
    stats: WorkerStats,
    rng: Rng,
}

impl Evictor {
    /// Takes control's place in the table.
    ///
    /// # Errors
    ///
    /// The place is taken.
    pub fn new(
        flows: Arc<FlowTable>,
        endpoints: Arc<Endpoints>,
        seed: u64,
    ) -> Result<Self, TableError> {
        let mut worker = flows.control()?;
        worker.offline();
        let (stats, rng) = (WorkerStats::new(1), Rng::from_seed(seed));
        Ok(Self { flows, worker, endpoints, stats, rng })
    }

    /// Ends flows; those that are over already are passed. Returns how many.
    pub fn end(&mut self, flows: &[FlowId], snapshot: &Snapshot, now: Tick) -> usize {
        let mut ended = 0;
        self.each(flows, (snapshot, now), |cx, worker, flow, _| {
            ended += usize::from(end(cx, worker, flow));
        });
        ended
    }

    /// Hands flows to other real servers, as the schedulers of `snapshot` pick them.
    pub fn reschedule(&mut self, flows: &[FlowId], snapshot: &Snapshot, now: Tick) -> Moved {
        let mut moved = Moved::default();
        self.each(flows, (snapshot, now), |cx, worker, flow, rng| {
            let Some(new) = other(cx, flow, rng) else {
                moved.ended += usize::from(end(cx, worker, flow));
                return;
            };
            if end(cx, worker, flow) {
                let inserted = insert(cx, worker, &new);
                moved.moved += usize::from(inserted);
                moved.ended += usize::from(!inserted);
            } else {
                // It ended by itself.
                cx.endpoints.release(new.virt);
            }
        });
        moved
    }

    /// Lets the table have back what earlier calls ended, as far as no worker uses it any more. To be
    /// called now and then.
    pub fn tend(&mut self) {
        self.worker.online();
        self.worker.quiesce();
        self.worker.offline();
    }

    fn each(
        &mut self,
        ids: &[FlowId],
        (snapshot, now): (&Snapshot, Tick),
        mut act: impl FnMut(&Context<'_>, &TableWorker, FlowRef<'_>, &mut Rng),
    ) {
        self.worker.online();
        for chunk in ids.chunks(CHUNK) {
            let Self { flows, worker, endpoints, stats, rng } = &mut *self;
            let cx = Context { table: flows, endpoints, snapshot, stats, now };
            for flow in chunk.iter().filter_map(|id| flows.get(*id)) {
                act(&cx, worker, flow, rng);
            }
            worker.quiesce();
        }
        self.worker.offline();
    }
}

/// Ends a flow; whether this call did so.
fn end(cx: &Context<'_>, worker: &TableWorker, flow: FlowRef<'_>) -> bool {
    let ended = worker.remove(flow, cx.endpoints);
    if ended {
        settle(cx, &flow);
    }
    ended
}

/// A flow at the real server that it can move to; its state goes on. Its virtual endpoint has one
/// count more.
fn other(cx: &Context<'_>, flow: FlowRef<'_>, rng: &mut Rng) -> Option<NewFlow> {
    if flow.control().has(TEMPLATE | FULLNAT) {
        return None;
    }
    let key = flow.key(cx.endpoints);
    let service = cx.snapshot.find(&key)?;
    let pick = Pick {
        reals: &service.reals,
        endpoints: cx.endpoints,
        client: key.source,
        client_port: key.source_port,
        destination: key.destination,
        destination_port: key.destination_port,
        protocol: key.protocol,
        now: cx.now,
    };
    let at = service.scheduler.pick(&pick, &service.state, rng)?;
    let real = service.reals.get(at)?.id;
    let method = cx.endpoints.get(real).method();
    if real == flow.real() || method == Method::FullNat {
        return None;
    }
    let virt = destination(cx, &key, service, real).ok()?;
    let control = flow.control();
    let one_way = if method.translates() { 0 } else { ONE_WAY | NO_OUTPUT };
    Some(NewFlow {
        key,
        virt,
        real,
        state: control.state(),
        class: control.class(),
        flags: control.flags() & INACTIVE | one_way | method_flags(method),
        timeout: cx.snapshot.timeouts.ticks(control.class()),
        local: None,
        any_port: any_port(cx, &key, virt),
    })
}

fn insert(cx: &Context<'_>, worker: &TableWorker, new: &NewFlow) -> bool {
    let real = cx.endpoints.get(new.real);
    let kind = if new.flags & INACTIVE != 0 { Bound::Inactive } else { Bound::Active };
    real.bind(kind);
    let inserted = matches!(worker.insert(new, cx.endpoints, cx.now), Ok(Inserted::New(_)));
    if !inserted {
        real.unbind(kind);
        cx.endpoints.release(new.virt);
    }
    inserted
}
