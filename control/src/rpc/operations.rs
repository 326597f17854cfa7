//! `xvs.v1.OperationsService`.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{
    capture,
    diagnostics::{Diagnostics, worker_statistics},
    explain,
    status::{malformed, refused},
};
use crate::{
    convert::{answer, operations, request},
    engine::{Engine, EngineError, drain::Drain, events::Event, flows::FlowFilter},
    field::FieldError,
    proto::v1::{self as v1, operations_service_server::OperationsService},
};

/// Messages that wait for a client at most; the engine's channel of events waits behind them.
const WAITING: usize = 16;

/// How often statistics can be asked for at most and at least.
const INTERVALS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3600));

type Answer<T> = Result<Response<T>, Status>;

/// Messages to one client.
type Messages<T> = ReceiverStream<Result<T, Status>>;

/// The service over an engine.
#[derive(Clone, Debug)]
pub struct Operations {
    engine: Arc<Engine>,
}

impl Operations {
    /// Serves this engine.
    pub const fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }

    /// Runs what may take long where it hinders nobody.
    async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let engine = Arc::clone(&self.engine);
        let done = tokio::task::spawn_blocking(move || work(&engine)).await;
        done.map_err(|error| Status::internal(error.to_string()))
    }
}

#[tonic::async_trait]
impl OperationsService for Operations {
    type DrainStream = Messages<v1::DrainResponse>;
    type CaptureStream = Messages<v1::CaptureResponse>;
    type WatchStream = Messages<v1::WatchResponse>;
    type WatchStatisticsStream = Messages<v1::WatchStatisticsResponse>;

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Answer<Self::DrainStream> {
        let spec = operations::drain_spec(&request.into_inner()).map_err(|e| malformed(&e))?;
        let mut events = self.engine.watch();
        let drained = self.engine.drain(spec).await;
        let (_, begun) = drained.map_err(|error| in_request(&error))?;
        let (send, messages) = mpsc::channel(WAITING);
        let engine = Arc::clone(&self.engine);
        tokio::spawn(async move {
            let mut now = begun;
            loop {
                let drain = Some(operations::drain(&now));
                if send.send(Ok(v1::DrainResponse { drain })).await.is_err() || !now.is_running() {
                    return;
                }
                now = loop {
                    match events.recv().await.map(|happened| happened.event.clone()) {
                        Ok(Event::Drain(drain)) if is_same(&drain, &now) => break drain,
                        Ok(_) => {}
                        Err(RecvError::Closed) => return,
                        Err(RecvError::Lagged(_)) => {
                            match engine.lock().drain_of(&now.spec.key, now.spec.real).cloned() {
                                Some(drain) => break drain,
                                None => return,
                            }
                        }
                    }
                };
            }
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn cancel_drain(
        &self,
        request: Request<v1::CancelDrainRequest>,
    ) -> Answer<v1::CancelDrainResponse> {
        let request = request.into_inner();
        let named =
            operations::real_of_service(request.service.as_ref(), request.real_server.as_ref());
        let (key, real) = named.map_err(|error| malformed(&error))?;
        let cancelled = self.engine.cancel_drain(&key, real).await;
        let generation = cancelled.map_err(|error| in_request(&error))?;
        Ok(Response::new(v1::CancelDrainResponse { generation }))
    }

    async fn list_drains(
        &self,
        _: Request<v1::ListDrainsRequest>,
    ) -> Answer<v1::ListDrainsResponse> {
        let drains = self.engine.lock().drains().iter().map(operations::drain).collect();
        Ok(Response::new(v1::ListDrainsResponse { drains }))
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Answer<v1::ExplainResponse> {
        let asked = explain::asked(&self.engine, &request.into_inner());
        let (device, frame) = asked.map_err(|error| malformed(&error))?;
        let explained = self.aside(move |engine| explain::explain(engine, device, &frame)).await?;
        explained.map(Response::new).map_err(|error| Status::internal(error.to_string()))
    }

    async fn count_flows(
        &self,
        request: Request<v1::CountFlowsRequest>,
    ) -> Answer<v1::CountFlowsResponse> {
        let filter = filter(request.into_inner().filter)?;
        let states = self.aside(move |engine| engine.count_flows(&filter)).await?;
        let total = states.iter().map(|(_, _, flows)| flows).sum();
        Ok(Response::new(v1::CountFlowsResponse { states: operations::states(&states), total }))
    }

    async fn delete_flows(
        &self,
        request: Request<v1::DeleteFlowsRequest>,
    ) -> Answer<v1::DeleteFlowsResponse> {
        let request = request.into_inner();
        let filter = filter(request.filter)?;
        if filter.is_any() != request.all {
            let reason = "set either a field of it, or all";
            return Err(malformed(&FieldError::new("filter", reason)));
        }
        let deleted = self.aside(move |engine| engine.delete_flows(&filter)).await? as u64;
        Ok(Response::new(v1::DeleteFlowsResponse { deleted }))
    }

    async fn capture(&self, request: Request<v1::CaptureRequest>) -> Answer<Self::CaptureStream> {
        let asked = capture::asked(&self.engine, &request.into_inner());
        let asked = asked.map_err(|error| malformed(&error))?;
        let running = self.engine.capture(asked.filter.clone(), asked.snap).await;
        let running = running.map_err(|error| in_request(&error))?;
        let (send, messages) = mpsc::channel(WAITING);
        tokio::spawn(capture::stream(running, asked, send));
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn watch(&self, _: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
        let (send, messages) = mpsc::channel(WAITING);
        let engine = Arc::clone(&self.engine);
        tokio::spawn(async move {
            let mut events = engine.watch();
            let mut next = snapshot(&engine);
            while send.send(Ok(next)).await.is_ok() {
                next = match events.recv().await {
                    Ok(happened) => operations::happened(&happened),
                    Err(RecvError::Lagged(_)) => {
                        events = events.resubscribe();
                        snapshot(&engine)
                    }
                    Err(RecvError::Closed) => return,
                };
            }
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn watch_statistics(
        &self,
        request: Request<v1::WatchStatisticsRequest>,
    ) -> Answer<Self::WatchStatisticsStream> {
        let request = request.into_inner();
        let interval = match request.interval {
            Some(given) => {
                operations::duration("interval", given, INTERVALS).map_err(|e| malformed(&e))?
            }
            None => Duration::from_secs(1),
        };
        let (send, messages) = mpsc::channel(1);
        let engine = Arc::clone(&self.engine);
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(interval);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            loop {
                tokio::select! {
                    () = send.closed() => return,
                    _ = tick.tick() => {}
                }
                let services = if request.services { services(&engine).1 } else { Vec::new() };
                let message = v1::WatchStatisticsResponse {
                    time: Some(SystemTime::now().into()),
                    statistics: Some(Diagnostics::statistics(&engine)),
                    services,
                };
                if send.send(Ok(message)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

/// Whether two drains are about one real server.
fn is_same(one: &Drain, other: &Drain) -> bool {
    (one.spec.key, one.spec.real) == (other.spec.key, other.spec.real)
}

/// All services as they are listed, and their generation.
fn services(engine: &Engine) -> (u64, Vec<v1::ServiceStatus>) {
    let (generation, services) = engine.lock().services();
    (generation, services.iter().map(answer::service_status).collect())
}

/// What is.
fn snapshot(engine: &Engine) -> v1::WatchResponse {
    let (generation, services) = services(engine);
    let snapshot = v1::WatchSnapshot {
        generation,
        services,
        drains: engine.lock().drains().iter().map(operations::drain).collect(),
        workers: worker_statistics(engine),
    };
    v1::WatchResponse {
        time: Some(SystemTime::now().into()),
        event: Some(v1::watch_response::Event::Snapshot(snapshot)),
    }
}

fn filter(message: Option<v1::FlowFilter>) -> Result<FlowFilter, Status> {
    let filter = request::flow_filter(&message.unwrap_or_default());
    filter.map_err(|error| malformed(&error.within("filter")))
}

/// A refusal of a request that names a service and a real server.
fn in_request(error: &EngineError) -> Status {
    refused(error, str::to_owned)
}
