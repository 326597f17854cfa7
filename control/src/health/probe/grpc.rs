//! The standard gRPC health service says SERVING.
//! Source: grpc.health.v1 (github.com/grpc/grpc, doc/health-checking.md).

use std::{io, sync::Mutex};

use hyper_util::rt::TokioIo;
use tonic::{Code, transport::Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tower::service_fn;

use super::{Found, Good, Means, Stream, connect::connect, target};
use crate::health::{
    board::Probe,
    policy::{TlsPolicy, authority},
};

pub(super) async fn run(
    probe: &Probe,
    (service, tls): (&str, Option<&TlsPolicy>),
    means: &Means,
) -> Found {
    let stream = connect(probe, means).await?;
    let address = target(probe);
    let stream: Box<dyn Stream> = match tls {
        None => stream,
        Some(policy) => {
            let name = address.ip().to_string();
            Box::new(means.tls.connect(stream, policy, &name, b"h2").await?)
        }
    };
    let uri = format!("http://{}:{}", authority(address.ip().into()), probe.port);
    let endpoint = Endpoint::from_shared(uri).map_err(|error| error.to_string())?;
    // There is one connection; whoever wants another one is refused.
    let stream = Mutex::new(Some(TokioIo::new(stream)));
    let connector = service_fn(move |_| {
        let taken = stream.lock().expect("nothing panics under the lock").take();
        async move { taken.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
    });
    let channel = endpoint.connect_with_connector(connector).await;
    let channel = channel.map_err(|error| format!("gRPC: {error}"))?;
    let request = HealthCheckRequest { service: service.to_owned() };
    match HealthClient::new(channel).check(request).await {
        Ok(answer) => match answer.into_inner().status() {
            ServingStatus::Serving => Ok(Good::new("SERVING")),
            other => Err(other.as_str_name().to_owned()),
        },
        Err(status) if status.code() == Code::NotFound => {
            Err(format!("gRPC: the service `{service}` is not known"))
        }
        Err(status) => Err(format!("gRPC: {:?} {}", status.code(), status.message())),
    }
}
