//! An HTTP/1.1 request is answered with a good status, and a body that holds a text if one is asked
//! for.

use ::http::{Request, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;

use super::{BODY_MAX, Found, Good, Means, connect::connect, target};
use crate::health::{
    board::Probe,
    policy::{Http, authority},
};

/// What we call ourselves.
const AGENT: &str = concat!("xvsd/", env!("CARGO_PKG_VERSION"), " (health check)");

pub(super) async fn run(probe: &Probe, http: &Http, means: &Means) -> Found {
    let stream = connect(probe, means).await?;
    match &http.tls {
        None => ask(stream, probe, http).await,
        Some(policy) => {
            let stream = means.tls.connect(stream, policy, &name(probe, http), b"http/1.1").await?;
            ask(stream, probe, http).await
        }
    }
}

/// The name that is asked for: the host without its port, else the address.
fn name(probe: &Probe, http: &Http) -> String {
    let host = http.host.parse::<::http::uri::Authority>();
    host.map_or_else(|_empty| target(probe).ip().to_string(), |host| host.host().to_owned())
}

async fn ask(stream: impl super::Stream + 'static, probe: &Probe, http: &Http) -> Found {
    let io = TokioIo::new(stream);
    let (mut sender, connection) = http1::handshake(io).await.map_err(|error| told(&error))?;
    let request = Request::get(&http.path)
        .header(header::HOST, host(probe, http))
        .header(header::USER_AGENT, AGENT)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let asked = async {
        let response = sender.send_request(request).await.map_err(|error| told(&error))?;
        judge(response, http).await
    };
    tokio::pin!(asked);
    tokio::select! {
        biased;
        found = &mut asked => found,
        ended = connection => match ended {
            // The answer may have come with the end.
            Ok(()) => asked.await,
            Err(error) => Err(told(&error)),
        },
    }
}

fn host(probe: &Probe, http: &Http) -> String {
    if http.host.is_empty() { authority(target(probe).ip().into()) } else { http.host.clone() }
}

async fn judge(response: ::http::Response<Incoming>, http: &Http) -> Found {
    let status = response.status().as_u16();
    let good = http.status.iter().any(|&(first, last)| (first..=last).contains(&status));
    if !good {
        return Err(format!("HTTP {status}"));
    }
    if !http.body.is_empty() {
        let body = body(response.into_body()).await?;
        let wanted = http.body.as_bytes();
        if !body.windows(wanted.len()).any(|window| window == wanted) {
            return Err(format!("HTTP {status}, but `{}` is not in the body", http.body));
        }
    }
    Ok(Good::new(format!("HTTP {status}")))
}

/// The beginning of a body.
async fn body(mut incoming: Incoming) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while body.len() < BODY_MAX
        && let Some(frame) = incoming.frame().await
    {
        let frame = frame.map_err(|error| told(&error))?;
        let data = frame.data_ref().map(Bytes::as_ref).unwrap_or_default();
        body.extend_from_slice(&data[..data.len().min(BODY_MAX - body.len())]);
    }
    Ok(body)
}

fn told(error: &hyper::Error) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("HTTP: {error}{}", cause.unwrap_or_default())
}
