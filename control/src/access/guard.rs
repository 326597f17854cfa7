//! What stands before every method: is the caller allowed, and what did it do.

use std::{
    convert::Infallible,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use http_body_util::{BodyExt as _, Full};
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::Value;
use tonic::{
    Code, Status,
    body::Body,
    transport::server::{TcpConnectInfo, TlsConnectInfo, UdsConnectInfo},
};
use tower::{Layer, Service};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::{Access, Caller, Role, audit::Record, budget::Metered, role_of};
use crate::{proto::DESCRIPTORS, rpc::status};

/// Octets of the head of a message: compressed or not, and its length.
const MESSAGE_HEAD: usize = 5;

type Request = http::Request<Body>;
type Response = http::Response<Body>;

/// Puts a guard before a service.
#[derive(Clone, Debug)]
pub struct GuardLayer(pub Arc<Access>);

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { access: Arc::clone(&self.0), inner }
    }
}

/// A service behind its guard.
#[derive(Clone, Debug)]
pub struct Guard<S> {
    access: Arc<Access>,
    inner: S,
}

impl<S> Service<Request> for Guard<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        // The one that is ready is called; its copy is asked next.
        let copy = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, copy);
        let access = Arc::clone(&self.access);
        let path = request.uri().path().to_owned();
        let caller = caller(&request);
        Box::pin(async move {
            let needed = role_of(&path);
            let Some(role) = access.role(&caller) else {
                return Ok(refuse(&access, (&caller, &path), needed, &Value::Null));
            };
            // Held until there is an answer.
            let share = access.budgets.share(role);
            let metered = Arc::clone(&share);
            let request = request.map(|body| Body::new(Metered { body, share: metered }));
            if needed == Role::Read {
                return inner.call(request).await;
            }
            let most = if role < needed { REFUSED_MAX } else { MESSAGE_MAX };
            let (request, asked) = match read(request, &path, most).await {
                Ok(read) => read,
                Err(_) if role < needed => {
                    return Ok(refuse(&access, (&caller, &path), needed, &Value::Null));
                }
                Err(status) => return Ok(status.into_http()),
            };
            if role < needed {
                return Ok(refuse(&access, (&caller, &path), needed, &asked));
            }
            let response = inner.call(request).await?;
            let (outcome, message) = outcome(&response);
            access.audit.record(&Record {
                caller: &caller,
                method: &path,
                request: &asked,
                outcome: &outcome,
                message: &message,
            });
            Ok(response)
        })
    }
}

fn refuse(
    access: &Access,
    (caller, path): (&Caller, &str),
    needed: Role,
    request: &Value,
) -> Response {
    let status = status::not_allowed(path, needed, caller);
    let outcome = format!("{:?}", status.code());
    let message = status.message();
    access.audit.record(&Record { caller, method: path, request, outcome: &outcome, message });
    status.into_http()
}

/// What the transport knows of the caller.
fn caller(request: &Request) -> Caller {
    let extensions = request.extensions();
    if let Some(peer) = extensions.get::<UdsConnectInfo>().and_then(|info| info.peer_cred) {
        return Caller::Process { uid: peer.uid(), gid: peer.gid(), pid: peer.pid() };
    }
    let tls = extensions.get::<TlsConnectInfo<TcpConnectInfo>>();
    let certificates = tls.and_then(TlsConnectInfo::peer_certs);
    let own = certificates.as_ref().and_then(|certificates| certificates.first());
    own.map_or(Caller::Unknown, |certificate| Caller::Certificate(names(certificate)))
}

/// The common name and the DNS names of a certificate, which the transport has verified.
fn names(certificate: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let common = certificate.subject().iter_common_name();
    let mut names: Vec<String> =
        common.filter_map(|name| name.as_str().ok().map(str::to_owned)).collect();
    let others = certificate.subject_alternative_name().ok().flatten();
    for name in others.iter().flat_map(|others| &others.value.general_names) {
        if let GeneralName::DNSName(name) = name
            && !names.iter().any(|known| known == name)
        {
            names.push((*name).to_owned());
        }
    }
    names
}

/// Takes a request with one message apart, for the record, and puts it together again.
async fn read(request: Request, path: &str, most: usize) -> Result<(Request, Value), Status> {
    let (head, body) = request.into_parts();
    let limited = http_body_util::Limited::new(body, most);
    let octets = match limited.collect().await {
        Ok(octets) => octets.to_bytes(),
        Err(error) => {
            let status = error.downcast::<Status>();
            return Err(status.map_or_else(|error| status::unreadable(error.as_ref()), |own| *own));
        }
    };
    let asked = octets.get(MESSAGE_HEAD..).and_then(|message| told(path, message));
    let body = Body::new(Full::new(octets));
    Ok((Request::from_parts(head, body), asked.unwrap_or(Value::Null)))
}

/// Octets of a message that changes something at most: tonic's own limit, and its head.
const MESSAGE_MAX: usize = (4 << 20) + MESSAGE_HEAD;

/// Octets that are read of one that is refused, for the record.
const REFUSED_MAX: usize = 16 << 10;

/// A message as JSON.
fn told(path: &str, message: &[u8]) -> Option<Value> {
    static POOL: OnceLock<Option<DescriptorPool>> = OnceLock::new();
    let pool = POOL.get_or_init(|| DescriptorPool::decode(DESCRIPTORS).ok()).as_ref()?;
    let (service, method) = path.trim_start_matches('/').split_once('/')?;
    let service = pool.get_service_by_name(service)?;
    let input = service.methods().find(|each| each.name() == method)?.input();
    serde_json::to_value(DynamicMessage::decode(input, message).ok()?).ok()
}

/// What came of a request, as far as the head of the answer tells; a stream that breaks later has begun.
fn outcome(response: &Response) -> (String, String) {
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() != Code::Ok => {
            (format!("{:?}", status.code()), status.message().to_owned())
        }
        _ => ("ok".to_owned(), String::new()),
    }
}
