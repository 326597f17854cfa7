//! The services of a daemon at the other end of a connection.

use std::{
    cell::Cell,
    collections::HashMap,
    error::Error as _,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use dataplane::{
    director::spec::{EngineData, FlowInfo, RealSpec, ServiceInfo, ServiceKey, TimeoutSpec},
    ipvsadm::{Backend, Command, Failure, Refusal},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::runtime::{self, Runtime};
use tonic::{Response, Status, Streaming, transport::Channel};

use super::{
    FAILED,
    status::{failure, other},
    target::Target,
};
use crate::{
    convert::{answer, request},
    field::FieldError,
    proto::v1::{
        self, diagnostics_service_client::DiagnosticsServiceClient,
        health_check_service_client::HealthCheckServiceClient,
        load_balancer_service_client::LoadBalancerServiceClient,
        operations_service_client::OperationsServiceClient,
    },
};

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(30);

/// How long a silent stream goes without a look whether its reader is still there.
const LOOK: Duration = Duration::from_millis(500);

/// How many flows are asked for at a time.
const PAGE: u32 = 5000;

/// Longest message taken: a service with all the real servers there can be.
const MESSAGE_OCTETS_MAX: usize = 64 << 20;

/// A connection, made when it is needed first.
#[derive(Debug)]
pub(super) struct Client<'a> {
    runtime: Runtime,
    target: Target,
    channel: Option<Channel>,
    /// Names of states that were met: flows keep them by reference.
    states: HashMap<String, &'static str>,
    /// Set when nobody reads any more what is listed.
    gone: &'a Cell<bool>,
}

type Balancer = LoadBalancerServiceClient<Channel>;
type Diagnostics = DiagnosticsServiceClient<Channel>;
type Checks = HealthCheckServiceClient<Channel>;
type Operations = OperationsServiceClient<Channel>;

impl<'a> Client<'a> {
    /// A connection to `target` that gives up long lists once `gone` is set.
    ///
    /// # Errors
    ///
    /// The process may not have another descriptor.
    pub(super) fn new(target: Target, gone: &'a Cell<bool>) -> Result<Self, Refusal> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime
            .map_err(|error| Refusal { message: format!("xvsadm: {error}"), exit: FAILED })?;
        Ok(Self { runtime, target, channel: None, states: HashMap::new(), gone })
    }

    fn channel(&mut self) -> Result<Channel, Failure> {
        if let Some(channel) = &self.channel {
            return Ok(channel.clone());
        }
        let connected = self.runtime.block_on(self.target.connect());
        let channel = connected.map_err(Failure::Other)?;
        Ok(self.channel.insert(channel).clone())
    }

    fn wait<T>(
        &self,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        let answered = self.runtime.block_on(async { tokio::time::timeout(ANSWER, answer).await });
        match answered {
            Ok(Ok(response)) => Ok(response.into_inner()),
            // A status with a source was made here: the connection broke before the daemon's came.
            Ok(Err(status)) if status.source().is_some() => {
                Err(Failure::Other(self.target.unreachable(&status)))
            }
            Ok(Err(status)) => Err(failure(&status)),
            Err(_elapsed) => {
                let seconds = ANSWER.as_secs();
                Err(other(format!("xvsadm: xvsd did not answer within {seconds} s"), FAILED))
            }
        }
    }

    /// Asks for something of the configuration.
    pub(super) fn ask<T>(
        &mut self,
        ask: impl AsyncFnOnce(&mut Balancer) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        let mut client =
            Balancer::new(self.channel()?).max_decoding_message_size(MESSAGE_OCTETS_MAX);
        self.wait(ask(&mut client))
    }

    /// Asks for something about the daemon.
    pub(super) fn diagnose<T>(
        &mut self,
        ask: impl AsyncFnOnce(&mut Diagnostics) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        let mut client = Diagnostics::new(self.channel()?);
        self.wait(ask(&mut client))
    }

    /// Asks for something about health checks.
    pub(super) fn examine<T>(
        &mut self,
        ask: impl AsyncFnOnce(&mut Checks) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        let mut client = Checks::new(self.channel()?).max_decoding_message_size(MESSAGE_OCTETS_MAX);
        self.wait(ask(&mut client))
    }

    /// Asks for something about operating the box.
    pub(super) fn operate<T>(
        &mut self,
        ask: impl AsyncFnOnce(&mut Operations) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        let mut client =
            Operations::new(self.channel()?).max_decoding_message_size(MESSAGE_OCTETS_MAX);
        self.wait(ask(&mut client))
    }

    /// Asks for a stream and hands each message to `each` until that says it is enough, the stream
    /// ends, or nobody reads any more what is printed.
    pub(super) fn follow<T>(
        &mut self,
        ask: impl AsyncFnOnce(&mut Operations) -> Result<Response<Streaming<T>>, Status>,
        each: impl FnMut(T) -> ControlFlow<()>,
    ) -> Result<(), Failure> {
        self.follow_while(ask, each, &AtomicBool::new(false))
    }

    /// The same, but the stream also ends when the user interrupts.
    pub(super) fn follow_until_interrupted<T>(
        &mut self,
        ask: impl AsyncFnOnce(&mut Operations) -> Result<Response<Streaming<T>>, Status>,
        each: impl FnMut(T) -> ControlFlow<()>,
    ) -> Result<(), Failure> {
        let interrupted = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&interrupted);
        self.runtime.spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                told.store(true, Relaxed);
            }
        });
        self.follow_while(ask, each, &interrupted)
    }

    fn follow_while<T>(
        &mut self,
        ask: impl AsyncFnOnce(&mut Operations) -> Result<Response<Streaming<T>>, Status>,
        mut each: impl FnMut(T) -> ControlFlow<()>,
        stop: &AtomicBool,
    ) -> Result<(), Failure> {
        let mut stream = self.operate(ask)?;
        while !self.gone.get() && !stop.load(Relaxed) {
            let next = async { tokio::time::timeout(LOOK, stream.message()).await };
            let Ok(next) = self.runtime.block_on(next) else {
                self.gone.set(!is_read());
                continue;
            };
            match next {
                Ok(Some(message)) => {
                    if each(message).is_break() {
                        return Ok(());
                    }
                }
                Ok(None) => return Ok(()),
                Err(status) if status.source().is_some() => {
                    return Err(Failure::Other(self.target.unreachable(&status)));
                }
                Err(status) => return Err(failure(&status)),
            }
        }
        Ok(())
    }

    /// All services, as the daemon sends them.
    pub(super) fn service_messages(&mut self) -> Result<Vec<v1::ServiceStatus>, Failure> {
        self.ask(async |client| {
            let mut stream = client.list_services(v1::ListServicesRequest {}).await?.into_inner();
            let mut services = Vec::new();
            while let Some(message) = stream.message().await? {
                services.extend(message.service);
            }
            Ok(Response::new(services))
        })
    }

    /// Hands flows that fit `filter` to `each`, a page at a time.
    pub(super) fn flows_that(
        &mut self,
        filter: &v1::FlowFilter,
        each: &mut dyn FnMut(&[FlowInfo]),
    ) -> Result<(), Failure> {
        let mut failed = None;
        self.flow_messages(filter, &mut |client, messages| {
            let read: Result<Vec<_>, _> = messages.iter().map(|flow| client.flow(flow)).collect();
            match read {
                Ok(flows) => each(&flows),
                Err(error) => failed = failed.take().or(Some(error)),
            }
        })?;
        failed.map_or(Ok(()), |error| Err(strange(&error)))
    }

    /// The same as the daemon sends them.
    pub(super) fn flow_messages(
        &mut self,
        filter: &v1::FlowFilter,
        each: &mut dyn FnMut(&mut Self, &[v1::Flow]),
    ) -> Result<(), Failure> {
        let mut page_token = String::new();
        loop {
            let request =
                v1::ListFlowsRequest { page_size: PAGE, page_token, filter: Some(filter.clone()) };
            let page = self.ask(async |client| client.list_flows(request).await)?;
            each(self, &page.flows);
            page_token = page.next_page_token;
            if page_token.is_empty() || self.gone.get() {
                return Ok(());
            }
        }
    }

    fn flow(&mut self, flow: &v1::Flow) -> Result<FlowInfo, FieldError> {
        let end = |name: &str, end: &Option<v1::SocketAddress>| {
            let end = end.as_ref().ok_or_else(|| FieldError::missing(name))?;
            let addr = request::addr(name, &end.address)?;
            Ok::<_, FieldError>((addr, request::port(name, end.port)?))
        };
        let protocol = u8::try_from(flow.protocol);
        Ok(FlowInfo {
            protocol: protocol
                .map_err(|_not_8_bits| FieldError::new("protocol", "is not within 0 to 255"))?,
            expires_s: flow.expires_seconds,
            state: self.state(&flow.state),
            client: end("client", &flow.client)?,
            virt: end("virtual", &flow.r#virtual)?,
            real: end("real", &flow.real)?,
            packets: (flow.in_packets, flow.out_packets),
            bytes: (flow.in_bytes, flow.out_bytes),
            engine: (!flow.persistence_engine.is_empty()).then(|| EngineData {
                name: flow.persistence_engine.clone(),
                data: flow.persistence_data.clone(),
            }),
        })
    }

    /// A state's name for as long as the process lives: there are a few dozen.
    fn state(&mut self, name: &str) -> &'static str {
        if let Some(known) = self.states.get(name) {
            return known;
        }
        let kept: &'static str = Box::leak(name.to_owned().into_boxed_str());
        self.states.insert(name.to_owned(), kept);
        kept
    }
}

/// Whether somebody still reads standard output: a stream may be silent for long.
fn is_read() -> bool {
    let stdout = std::io::stdout();
    let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
    let now = Timespec::default();
    poll(&mut polled, Some(&now)).is_err() || !polled[0].revents().contains(PollFlags::ERR)
}

/// The daemon says what cannot be.
fn strange(error: &FieldError) -> Failure {
    other(format!("xvsadm: xvsd is of another version: {error}"), FAILED)
}

fn service(key: &ServiceKey) -> Option<v1::ServiceKey> {
    Some(answer::service_key(key))
}

fn real(spec: &RealSpec) -> Option<v1::RealServer> {
    Some(answer::real_server(spec))
}

impl Backend for Client<'_> {
    fn change(&mut self, command: &Command) -> Result<(), Failure> {
        match command {
            Command::AddService(spec) => {
                let service = Some(answer::service(spec));
                let request = v1::CreateServiceRequest { service };
                self.ask(async |client| client.create_service(request).await).map(drop)
            }
            Command::EditService(spec) => {
                let service = Some(answer::service(spec));
                let request = v1::UpdateServiceRequest { service };
                self.ask(async |client| client.update_service(request).await).map(drop)
            }
            Command::DeleteService(key) => {
                let request = v1::DeleteServiceRequest { key: service(key) };
                self.ask(async |client| client.delete_service(request).await).map(drop)
            }
            Command::Flush => {
                let request = v1::FlushServicesRequest {};
                self.ask(async |client| client.flush_services(request).await).map(drop)
            }
            Command::AddReal { service: key, real: spec } => {
                let (service, real_server) = (service(key), real(spec));
                let request = v1::CreateRealServerRequest { service, real_server };
                self.ask(async |client| client.create_real_server(request).await).map(drop)
            }
            Command::EditReal { service: key, real: spec } => {
                let (service, real_server) = (service(key), real(spec));
                let request = v1::UpdateRealServerRequest { service, real_server };
                self.ask(async |client| client.update_real_server(request).await).map(drop)
            }
            Command::DeleteReal { service: key, addr, port } => {
                let real_server = Some(answer::real_server_key(*addr, *port));
                let request = v1::DeleteRealServerRequest { service: service(key), real_server };
                self.ask(async |client| client.delete_real_server(request).await).map(drop)
            }
            Command::Zero(key) => {
                let request = v1::ZeroCountersRequest { service: key.as_ref().and_then(service) };
                self.ask(async |client| client.zero_counters(request).await).map(drop)
            }
            Command::SetTimeouts(timeouts) => {
                let request = v1::SetTimeoutsRequest { timeouts: Some(answer::timeouts(timeouts)) };
                self.ask(async |client| client.set_timeouts(request).await).map(drop)
            }
            other => unreachable!("{other:?} changes no configuration"),
        }
    }

    fn services(&mut self) -> Result<Vec<ServiceInfo>, Failure> {
        let services = self.service_messages()?;
        let read: Result<_, _> = services.iter().map(request::service_info).collect();
        read.map_err(|error| strange(&error))
    }

    fn service(&mut self, key: &ServiceKey) -> Result<ServiceInfo, Failure> {
        let request = v1::GetServiceRequest { key: service(key) };
        let found = self.ask(async |client| client.get_service(request).await)?;
        let service = found.service.ok_or_else(|| strange(&FieldError::missing("service")))?;
        request::service_info(&service).map_err(|error| strange(&error))
    }

    fn flows(&mut self, each: &mut dyn FnMut(&[FlowInfo])) -> Result<(), Failure> {
        self.flows_that(&v1::FlowFilter::default(), each)
    }

    fn timeouts(&mut self) -> Result<TimeoutSpec, Failure> {
        let request = v1::GetTimeoutsRequest {};
        let timeouts = self.ask(async |client| client.get_timeouts(request).await)?;
        let timeouts = timeouts.timeouts.unwrap_or_default();
        request::timeouts(&timeouts).map_err(|error| strange(&error))
    }

    fn table_size(&mut self) -> Result<u64, Failure> {
        let info = self.diagnose(async |client| client.get_info(v1::GetInfoRequest {}).await)?;
        Ok(info.flow_capacity)
    }
}
