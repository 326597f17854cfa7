//! What is shown over HTTP: metrics for Prometheus, and the status page. Nothing can be changed by it. The
//! same metrics can be pushed to a collector ([`otlp`]).
//!
//! Bounded: 64 connections, of which those beyond wait in the kernel's backlog; 10 seconds and 16 KiB for
//! the head of a request. A name in its `Host` that is no address must be one that the configuration
//! knows, so that no page of somebody else's reads this one by a name that it makes point here.

mod catalog;
mod explain;
mod metrics;
pub mod otlp;
mod page;
mod status;
mod view;

use std::{convert::Infallible, net::IpAddr, net::TcpListener, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderValue, REFERRER_POLICY,
        X_CONTENT_TYPE_OPTIONS,
    },
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Semaphore, watch};

use self::view::View;
use crate::{engine::Engine, server::ServeError};

/// Connections at a time.
const CLIENTS: usize = 64;

/// How long the head of a request may take, and a connection idle.
const HEAD: Duration = Duration::from_secs(10);

/// Octets of a request's head at most.
const HEAD_OCTETS: usize = 16 << 10;

/// Nothing from elsewhere, nothing inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const TEXT: &str = "text/plain; charset=utf-8";

type Answer = Response<Full<Bytes>>;

/// What a request is answered from.
#[derive(Debug)]
struct Site {
    engine: Arc<Engine>,
    /// Names under which the page may be asked for, besides addresses and localhost.
    names: Vec<String>,
}

/// Serves until `stop` says so.
///
/// # Errors
///
/// The listener cannot be used.
pub async fn serve(
    listener: TcpListener,
    engine: Arc<Engine>,
    names: Vec<String>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), ServeError> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let site = Arc::new(Site { engine, names });
    let room = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let permit = Arc::clone(&room).acquire_owned().await.expect("nobody closes it");
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => return Ok(()),
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            // Out of descriptors, perhaps: it may get better.
            Err(error) => {
                tracing::warn!("http: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (site, stop) = (Arc::clone(&site), stop.clone());
        tokio::spawn(async move {
            converse(site, stream, stop).await;
            drop(permit);
        });
    }
}

/// Answers one client's requests.
async fn converse(site: Arc<Site>, stream: tokio::net::TcpStream, mut stop: watch::Receiver<bool>) {
    let answer = service_fn(move |request| {
        let site = Arc::clone(&site);
        async move { Ok::<_, Infallible>(site.answer(&request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_OCTETS)
        .serve_connection(TokioIo::new(stream), answer);
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            tracing::debug!("http: {error}");
        },
        () = stopped(&mut stop) => {}
    }
}

/// Ends when the daemon stops; that nobody is left to say so is a stop too.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    stop.wait_for(|stop| *stop).await.map(|_| ()).unwrap_or_default();
}

impl Site {
    async fn answer(&self, request: &Request<Incoming>) -> Answer {
        if !is_ours(request.headers().get(HOST), &self.names) {
            return plain(StatusCode::MISDIRECTED_REQUEST, "this name is not known here\n");
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "nothing can be changed here\n");
        }
        match request.uri().path() {
            "/metrics" => {
                let text = |engine: &Engine| metrics::text(&View::of(engine));
                self.aside(move |engine| found(metrics::CONTENT_TYPE, text(engine))).await
            }
            "/status.json" => {
                let text = |engine: &Engine| status::json(engine).to_string();
                self.aside(move |engine| found("application/json", text(engine))).await
            }
            "/explain" => {
                let query = request.uri().query().unwrap_or_default().to_owned();
                self.aside(move |engine| explained(engine, &query)).await
            }
            "/ready" if self.engine.report().borrow().all_running() => {
                plain(StatusCode::OK, "every worker forwards\n")
            }
            "/ready" => plain(StatusCode::SERVICE_UNAVAILABLE, "a worker is down\n"),
            path => match page::FILES.iter().find(|file| file.path == path) {
                Some(file) => found(file.kind, file.text.to_owned()),
                None => plain(StatusCode::NOT_FOUND, "no such page\n"),
            },
        }
    }

    /// Makes an answer on a thread of its own: with many real servers it takes a while.
    async fn aside(&self, make: impl FnOnce(&Engine) -> Answer + Send + 'static) -> Answer {
        let engine = Arc::clone(&self.engine);
        let made = tokio::task::spawn_blocking(move || make(&engine)).await;
        made.unwrap_or_else(|error| {
            tracing::error!("http: {error}");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "this went wrong; the log says more\n")
        })
    }
}

fn explained(engine: &Engine, query: &str) -> Answer {
    match explain::answer(engine, query) {
        Ok(text) => found(TEXT, text),
        Err(error) => {
            let mut answer = found(TEXT, error + "\n");
            *answer.status_mut() = StatusCode::BAD_REQUEST;
            answer
        }
    }
}

/// Whether a request names this box: by address, as localhost, or by a name that it knows.
fn is_ours(host: Option<&HeaderValue>, names: &[String]) -> bool {
    let Some(host) = host.and_then(|host| host.to_str().ok()) else { return false };
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, _)) => name,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || names.iter().any(|known| name.eq_ignore_ascii_case(known))
}

fn found(kind: &'static str, text: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    let headers = answer.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}

fn plain(status: StatusCode, text: &'static str) -> Answer {
    let mut answer = found(TEXT, text.to_owned());
    *answer.status_mut() = status;
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_are_known_and_addresses_are_answered() {
        let names = ["lb1.example".to_owned()];
        let ours = |host: &str| is_ours(Some(&HeaderValue::from_str(host).unwrap()), &names);
        for host in ["127.0.0.1:7381", "[::1]:7381", "[::1]", "LOCALHOST", "lb1.example:80"] {
            assert!(ours(host), "{host}");
        }
        for host in ["evil.example", "evil.example:7381", "", "lb1.example.evil"] {
            assert!(!ours(host), "{host}");
        }
        assert!(!is_ours(None, &names));
    }
}
