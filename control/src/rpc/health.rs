//! `xvs.v1.HealthCheckService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::status::{malformed, refused};
use crate::{
    convert::{health, request},
    engine::Engine,
    field::FieldError,
    proto::v1::{self as v1, health_check_service_server::HealthCheckService},
};

/// The service over an engine.
#[derive(Clone, Debug)]
pub struct HealthChecks {
    engine: Arc<Engine>,
}

impl HealthChecks {
    /// Serves this engine.
    pub const fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }
}

#[tonic::async_trait]
impl HealthCheckService for HealthChecks {
    async fn set_health_policy(
        &self,
        request: Request<v1::SetHealthPolicyRequest>,
    ) -> Result<Response<v1::SetHealthPolicyResponse>, Status> {
        let request = request.into_inner();
        let key = request.service.as_ref();
        let key = key.ok_or_else(|| malformed(&FieldError::missing("service")))?;
        let key = request::service_key(key);
        let key = key.map_err(|error| malformed(&error.within("service")))?;
        let policy = request.policy.as_ref().map(|policy| health::read(policy, &key)).transpose();
        let policy = policy.map_err(|error| malformed(&error.within("policy")))?;
        let change = self.engine.change(|state| state.set_policy(&key, policy)).await;
        let (generation, ()) = change.map_err(|error| refused(&error, str::to_owned))?;
        Ok(Response::new(v1::SetHealthPolicyResponse { generation }))
    }

    async fn list_health(
        &self,
        request: Request<v1::ListHealthRequest>,
    ) -> Result<Response<v1::ListHealthResponse>, Status> {
        let only = request.into_inner().service.map(|key| request::service_key(&key)).transpose();
        let only = only.map_err(|error| malformed(&error.within("service")))?;
        // What was asked for a moment ago is shown, though its first probe has yet to begin.
        self.engine.follow_policies();
        let board = self.engine.health();
        let asked = board.groups().iter().filter(|(key, _)| only.is_none_or(|only| only == **key));
        let services = asked.map(|(key, group)| health::service(key, group)).collect();
        Ok(Response::new(v1::ListHealthResponse { services }))
    }
}
