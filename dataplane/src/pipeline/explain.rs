//! What would become of a packet, and why: a dry run of the pipeline itself.
//!
//! The decision is made by the code that forwards, over copies of what it reads and writes: the
//! endpoints with their loads, the service with its scheduler's memory, the flow and the template
//! that the packet could belong to, an empty flow table for the rest. Nothing outside changes. What a
//! copy cannot hold: chance (twos, the local ports of full NAT), a worker's identification of IPv4 packets of its own, the fill of
//! its limit for answers, its store of fragments, and the calls of persistence engines.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use super::{Parts, Pipeline, icmp::inner_packet, open::take, template::template_key};
use crate::{
    addr::Addr,
    clock::Tick,
    endpoint::{EndpointId, Endpoints, Method},
    flow::{
        Direction, FlowKey, FlowRef, FlowTable, HashKey, Inserted, NewFlow, Pages, TableConfig,
        TableError, TableWorker,
        flag::{ARRIVING, CONTROLLED, FULLNAT, LIVE, PARKED, TEMPLATE},
    },
    packet::{HEADROOM, Packet},
    route::Path,
    sched::Candidate,
    service::Snapshot,
    spec::ServiceKey,
    stats::Stats,
    verdict::{DeviceId, Verdict},
    wire::{
        frame::{self, Kind, Parsed},
        quote,
    },
};

/// Flows that a dry run can hold: the packet's own, those it quotes, their templates, new ones.
const FLOWS: usize = 64;

/// Frames and the devices they leave by.
type Frames = Vec<(DeviceId, Vec<u8>)>;

/// Room behind the frame, as devices leave it.
const TAILROOM: usize = 256;

/// What a dry run reads of the running box.
#[derive(Debug)]
pub struct Live<'a> {
    /// The flow table.
    pub flows: &'a FlowTable,
    /// The endpoints.
    pub endpoints: &'a Endpoints,
    /// The configuration in force, freshly compiled: it is the dry run's own.
    pub snapshot: Snapshot,
    /// Now.
    pub now: Tick,
}

/// Why the packet goes to its real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// Its flow is known.
    Flow(Direction),
    /// A template pins its client there.
    Template,
    /// The scheduler picked it.
    Scheduler,
}

/// A real server as the scheduler saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The real server.
    pub candidate: Candidate,
    /// Its active and its other flows.
    pub load: (u32, u32),
    /// Whether its upper threshold was reached.
    pub overloaded: bool,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// The real server.
    pub real: (Addr, u16),
    /// Why.
    pub because: Because,
    /// How packets get there.
    pub method: Method,
    /// The way there.
    pub path: Path,
}

/// What would become of a packet, and why.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// What the packet is; `None` if it is dropped for what it looks like.
    pub parsed: Option<Parsed>,
    /// The service that it belongs to, or that its flow does.
    pub service: Option<ServiceKey>,
    /// That service's scheduler and the real servers as it saw them.
    pub scheduler: Option<(&'static str, Vec<Choice>)>,
    /// The state of its flow before; `None` if it had none.
    pub state: Option<u8>,
    /// Where it goes.
    pub target: Option<Target>,
    /// What becomes of it.
    pub verdict: Verdict,
    /// The frames that leave: the packet itself if it is sent on, then what is sent because of it.
    pub frames: Vec<(DeviceId, Vec<u8>)>,
    /// Next hops whose link address is asked for.
    pub wanted: Vec<(DeviceId, Addr)>,
}

/// Says what would become of a frame that came in by `device`.
///
/// # Errors
///
/// There is no memory for the copy.
pub fn explain(live: Live<'_>, frame: &[u8], device: DeviceId) -> Result<Explanation, TableError> {
    let Live { flows, endpoints, mut snapshot, now } = live;
    let parsed = frame::parse(frame).ok();
    let keys = parsed.map_or_else(Vec::new, |parsed| keys(&parsed, frame));
    isolate(&mut snapshot, &keys);
    let before = copied(endpoints);
    let dry = Dry::new(&before)?;
    let known = dry.copy_flows(flows, endpoints, &snapshot, &keys);
    let service = keys.iter().find_map(|key| snapshot.find(key));
    let (key, choices) = match service {
        Some(service) => {
            let choices = service.reals.iter().map(|real| choice(&before, real)).collect();
            (Some(service.key), Some((service.scheduler.name(), choices)))
        }
        None => (None, None),
    };
    let snapshot = Arc::new(snapshot);
    let (verdict, frames, wanted) = dry.run(&snapshot, frame, (device, now));
    let target = dry.target(&snapshot, &keys, known);
    let scheduler = choices.filter(|_| target.is_some_and(|t| t.because == Because::Scheduler));
    Ok(Explanation {
        parsed,
        service: key,
        scheduler,
        state: known.flow.map(|(_, state)| state),
        target,
        verdict,
        frames,
        wanted,
    })
}

/// The keys under which the packet's flow may be known.
fn keys(parsed: &Parsed, frame: &[u8]) -> Vec<FlowKey> {
    let mut keys = vec![parsed.key, parsed.key.reversed()];
    if parsed.kind == Kind::IcmpError {
        keys.reverse();
    }
    let quoted = frame.get(usize::from(parsed.quoted_l3)..usize::from(parsed.end));
    let outer = quoted.filter(|_| parsed.quoted_l3 != 0).and_then(|q| Some((q, quote::read(q)?)));
    let inner = outer.and_then(|(quoted, outer)| {
        let inside = inner_packet(&outer, quoted.get(outer.transport?..)?)?;
        quote::read(inside)
    });
    keys.extend(inner.map(|inner| inner.key));
    keys
}

/// Gives the services that could schedule the packet a memory of their own.
fn isolate(snapshot: &mut Snapshot, keys: &[FlowKey]) {
    let found: Vec<_> = keys.iter().filter_map(|key| Some(snapshot.find(key)?.key)).collect();
    for service in snapshot.services.iter_mut().filter(|service| found.contains(&service.key)) {
        *service = Arc::new(service.isolated());
    }
    // Calls are shared and changed in place: a dry run may not touch them.
    snapshot.calls = None;
}

/// A copy of what control gives out, with its load; no destinations.
fn copied(endpoints: &Endpoints) -> Endpoints {
    let copy = Endpoints::with_destinations(endpoints.len(), endpoints.destinations().len());
    let ids = (0..).map(EndpointId).take(endpoints.len());
    for (from, to) in ids.map(|id| (endpoints.get(id), copy.get(id))) {
        to.describe(&from.description());
        for (from, to) in [
            (&from.load.active, &to.load.active),
            (&from.load.inactive, &to.load.inactive),
            (&from.load.persistent, &to.load.persistent),
            (&from.load.refs, &to.load.refs),
            (&from.load.overloaded, &to.load.overloaded),
            (&from.learned_mtu, &to.learned_mtu),
            (&from.learned_at, &to.learned_at),
        ] {
            to.store(from.load(Relaxed), Relaxed);
        }
    }
    copy
}

fn choice(endpoints: &Endpoints, real: &Candidate) -> Choice {
    let load = &endpoints.get(real.id).load;
    Choice {
        candidate: *real,
        load: (load.active.load(Relaxed), load.inactive.load(Relaxed)),
        overloaded: load.overloaded.load(Relaxed) != 0,
    }
}

/// What was known before the run.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Which way the packet travels in its flow, and that flow's state.
    flow: Option<(Direction, u8)>,
    /// Whether there was a template for it.
    template: Option<EndpointId>,
}

/// The copies.
struct Dry {
    flows: Arc<FlowTable>,
    endpoints: Arc<Endpoints>,
    stats: Stats,
}

impl Dry {
    fn new(endpoints: &Endpoints) -> Result<Self, TableError> {
        let config = TableConfig {
            pages: Pages::Small,
            ..TableConfig::new(FLOWS, 1, HashKey::from_seed(0))
        };
        Ok(Self {
            flows: Arc::new(FlowTable::new(&config)?),
            endpoints: Arc::new(copied(endpoints)),
            stats: Stats::new(1, endpoints.len()),
        })
    }

    /// Copies the flows of these keys, and the templates that could matter.
    fn copy_flows(
        &self,
        live: &FlowTable,
        endpoints: &Endpoints,
        snapshot: &Snapshot,
        keys: &[FlowKey],
    ) -> Known {
        let mut known = Known::default();
        let Ok(worker) = self.flows.control() else { return known };
        for key in keys {
            let service = snapshot.find(key);
            let persistent = service.and_then(|service| Some((service, service.persistence?)));
            let template = persistent.and_then(|persistent| {
                live.lookup(&template_key(endpoints, key, persistent), endpoints)
            });
            if let Some((template, _)) = template {
                known.template.get_or_insert_with(|| template.real());
                self.copy(&worker, (live, endpoints), template);
            }
            if let Some((flow, direction)) = live.lookup(key, endpoints) {
                known.flow.get_or_insert_with(|| (direction, flow.control().state()));
                self.copy(&worker, (live, endpoints), flow);
            }
        }
        known
    }

    /// Copies a flow, and the template it hangs on, unless they are copied already.
    fn copy<'t>(
        &'t self,
        worker: &'t TableWorker,
        (live, endpoints): (&FlowTable, &Endpoints),
        flow: FlowRef<'_>,
    ) -> Option<FlowRef<'t>> {
        let control = flow.control();
        let key = flow.key(endpoints);
        if let Some((copied, _)) = self.flows.lookup(&key, &self.endpoints) {
            return Some(copied);
        }
        let virt = if endpoints.is_destination(flow.virt()) {
            let virt = endpoints.get(flow.virt());
            take(&self.flows, &self.endpoints, (virt.addr(), virt.port()))?
        } else {
            flow.virt()
        };
        let template = control.has(TEMPLATE);
        let new = NewFlow {
            key,
            virt,
            real: flow.real(),
            state: control.state(),
            class: control.class(),
            flags: control.flags() & !(LIVE | ARRIVING | PARKED | TEMPLATE | FULLNAT),
            timeout: if template { flow.template_timeout() } else { u32::MAX >> 2 },
            local: control.has(FULLNAT).then(|| (flow.local(), flow.local_port())),
            any_port: flow.any_port(),
        };
        let Ok(Inserted::New(copied)) = worker.insert(&new, &self.endpoints, flow.seen()) else {
            return None;
        };
        if control.has(CONTROLLED) {
            let held = live.at(flow.template()).filter(|held| held.control().has(TEMPLATE));
            if let Some(held) = held.and_then(|held| self.copy(worker, (live, endpoints), held)) {
                copied.set_template(held.id().slot);
                held.control_one();
            }
        }
        Some(copied)
    }

    /// Runs the pipeline over the frame: the verdict, what leaves, and which next hops are wanted.
    fn run(
        &self,
        snapshot: &Arc<Snapshot>,
        frame: &[u8],
        (device, now): (DeviceId, Tick),
    ) -> (Verdict, Frames, Vec<(DeviceId, Addr)>) {
        let Ok(table) = self.flows.worker(0) else {
            return (Verdict::Host, Vec::new(), Vec::new());
        };
        let (resolve, wanted) = crossbeam_channel::bounded(16);
        let mut pipeline = Pipeline::new(Parts {
            flows: Arc::clone(&self.flows),
            table,
            endpoints: Arc::clone(&self.endpoints),
            stats: Arc::clone(self.stats.worker(0)),
            resolve,
            seed: 1,
            answers_per_second: 1000,
        });
        pipeline.adopt(Arc::clone(snapshot), now);
        let mut memory = vec![0; HEADROOM + frame.len() + TAILROOM];
        memory[HEADROOM..][..frame.len()].copy_from_slice(frame);
        let mut burst = [Packet::new(&mut memory, HEADROOM, HEADROOM + frame.len(), device)];
        pipeline.process(&mut burst, now);
        let [packet] = &burst;
        let sent = match packet.verdict {
            Verdict::Tx(device) => Some((device, packet.bytes().to_vec())),
            _ => None,
        };
        let own = pipeline.outbox_mut().frames().map(|(device, frame)| (device, frame.to_vec()));
        (packet.verdict, sent.into_iter().chain(own).collect(), wanted.try_iter().collect())
    }

    /// Where the packet went: whoever counted it.
    fn target(&self, snapshot: &Snapshot, keys: &[FlowKey], known: Known) -> Option<Target> {
        let counted = |id: &EndpointId| {
            let counted = self.stats.endpoint(*id);
            counted.in_packets + counted.out_packets + counted.conns > 0
        };
        let flow = || keys.iter().find_map(|key| self.flows.lookup(key, &self.endpoints));
        let ids = (1..).map(EndpointId).take(self.endpoints.len().saturating_sub(1));
        let real = ids.into_iter().find(counted).or_else(|| flow().map(|(flow, _)| flow.real()))?;
        let scheduled = self.stats.endpoint(real).conns > 0;
        let because = match (known.flow, known.template) {
            (Some((direction, _)), _) if !scheduled => Because::Flow(direction),
            (_, Some(template)) if template == real => Because::Template,
            _ => Because::Scheduler,
        };
        let endpoint = self.endpoints.get(real);
        let port = match (endpoint.port(), keys.first()) {
            (0, Some(key)) => key.destination_port,
            (port, _) => port,
        };
        let method = flow()
            .map_or_else(|| endpoint.method(), |(flow, _)| super::advance::method(flow.control()));
        let path = *snapshot.path(real);
        Some(Target { real: (endpoint.addr(), port), because, method, path })
    }
}
