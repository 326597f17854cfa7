//! `xvs.v1.LoadBalancerService`.

use std::sync::Arc;

use dataplane::director::spec::ServiceKey;
use tonic::{Request, Response, Status};

use super::status::{malformed, real_server_field, refused, service_field};
use crate::{
    config::Desired,
    convert::{
        answer, health, marks, operations,
        request::{self, each},
    },
    engine::{Engine, EngineError},
    field::FieldError,
    proto::v1::{self as v1, load_balancer_service_server::LoadBalancerService},
};

type Answer<T> = Result<Response<T>, Status>;

/// The service over an engine.
#[derive(Clone, Debug)]
pub struct LoadBalancer {
    engine: Arc<Engine>,
}

impl LoadBalancer {
    /// Serves this engine.
    pub const fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }
}

#[tonic::async_trait]
impl LoadBalancerService for LoadBalancer {
    type ListServicesStream =
        tokio_stream::Iter<std::vec::IntoIter<Result<v1::ListServicesResponse, Status>>>;

    async fn list_services(
        &self,
        _: Request<v1::ListServicesRequest>,
    ) -> Answer<Self::ListServicesStream> {
        let (generation, services) = self.engine.lock().services();
        let message = |service| v1::ListServicesResponse {
            generation,
            service: Some(answer::service_status(service)),
        };
        let messages: Vec<_> = services.iter().map(|service| Ok(message(service))).collect();
        Ok(Response::new(tokio_stream::iter(messages)))
    }

    async fn get_service(
        &self,
        request: Request<v1::GetServiceRequest>,
    ) -> Answer<v1::GetServiceResponse> {
        let key = key("key", request.into_inner().key.as_ref())?;
        let found = self.engine.lock().service(&key);
        let (generation, service) = found.map_err(|error| in_service(&error.into()))?;
        let service = Some(answer::service_status(&service));
        Ok(Response::new(v1::GetServiceResponse { generation, service }))
    }

    async fn create_service(
        &self,
        request: Request<v1::CreateServiceRequest>,
    ) -> Answer<v1::CreateServiceResponse> {
        let spec = service(request.into_inner().service.as_ref())?;
        let change = self.engine.change(|state| state.add_service(&spec)).await;
        let (generation, ()) = change.map_err(|error| in_service(&error))?;
        Ok(Response::new(v1::CreateServiceResponse { generation }))
    }

    async fn update_service(
        &self,
        request: Request<v1::UpdateServiceRequest>,
    ) -> Answer<v1::UpdateServiceResponse> {
        let spec = service(request.into_inner().service.as_ref())?;
        let change = self.engine.change(|state| state.director.edit_service(&spec)).await;
        let (generation, ()) = change.map_err(|error| in_service(&error))?;
        Ok(Response::new(v1::UpdateServiceResponse { generation }))
    }

    async fn delete_service(
        &self,
        request: Request<v1::DeleteServiceRequest>,
    ) -> Answer<v1::DeleteServiceResponse> {
        let key = key("key", request.into_inner().key.as_ref())?;
        let change = self.engine.change(|state| state.director.delete_service(&key)).await;
        let (generation, ()) = change.map_err(|error| in_service(&error))?;
        Ok(Response::new(v1::DeleteServiceResponse { generation }))
    }

    async fn flush_services(
        &self,
        _: Request<v1::FlushServicesRequest>,
    ) -> Answer<v1::FlushServicesResponse> {
        let change = self.engine.change(|state| {
            state.director.flush();
            Ok::<_, EngineError>(())
        });
        let (generation, ()) = change.await.map_err(|error| in_service(&error))?;
        Ok(Response::new(v1::FlushServicesResponse { generation }))
    }

    async fn create_real_server(
        &self,
        request: Request<v1::CreateRealServerRequest>,
    ) -> Answer<v1::CreateRealServerResponse> {
        let request = request.into_inner();
        let key = key("service", request.service.as_ref())?;
        let spec = real_server(request.real_server.as_ref(), &key)?;
        let change = self.engine.change(|state| state.add_real(&key, &spec)).await;
        let (generation, ()) = change.map_err(|error| in_real_server(&error))?;
        Ok(Response::new(v1::CreateRealServerResponse { generation }))
    }

    async fn update_real_server(
        &self,
        request: Request<v1::UpdateRealServerRequest>,
    ) -> Answer<v1::UpdateRealServerResponse> {
        let request = request.into_inner();
        let key = key("service", request.service.as_ref())?;
        let spec = real_server(request.real_server.as_ref(), &key)?;
        let change = self.engine.change(|state| state.director.edit_real(&key, &spec)).await;
        let (generation, ()) = change.map_err(|error| in_real_server(&error))?;
        Ok(Response::new(v1::UpdateRealServerResponse { generation }))
    }

    async fn delete_real_server(
        &self,
        request: Request<v1::DeleteRealServerRequest>,
    ) -> Answer<v1::DeleteRealServerResponse> {
        let request = request.into_inner();
        let key = key("service", request.service.as_ref())?;
        let real = required("real_server", request.real_server.as_ref())?;
        let real = request::real_key(real, &key);
        let (addr, port) = real.map_err(|error| malformed(&error.within("real_server")))?;
        let change = self.engine.change(|state| state.director.delete_real(&key, addr, port));
        let (generation, ()) = change.await.map_err(|error| in_real_server(&error))?;
        Ok(Response::new(v1::DeleteRealServerResponse { generation }))
    }

    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Answer<v1::ApplyResponse> {
        let request = request.into_inner();
        let desired = desired(&request).map_err(|error| malformed(&error))?;
        let expected = request.expected_generation;
        let outcome = if request.validate_only {
            let state = self.engine.lock();
            state.plan(&desired, expected).map(|plan| (state.director.generation(), plan))
        } else {
            self.engine.change(|state| state.apply(&desired, expected)).await
        };
        let (generation, changes) = outcome.map_err(|error| refused(&error, str::to_owned))?;
        let changes = changes.iter().map(operations::change).collect();
        Ok(Response::new(v1::ApplyResponse { generation, changes }))
    }

    async fn plan(&self, request: Request<v1::PlanRequest>) -> Answer<v1::PlanResponse> {
        let request = request.into_inner();
        let apply = required("apply", request.apply.as_ref())?;
        let within = |error: FieldError| malformed(&error.within("apply"));
        let desired = desired(apply).map_err(within)?;
        let state = self.engine.lock();
        let planned = state.plan(&desired, apply.expected_generation);
        let changes = planned.map_err(|error| refused(&error, |field| format!("apply.{field}")))?;
        let changes = changes.iter().map(operations::change).collect();
        Ok(Response::new(v1::PlanResponse { generation: state.director.generation(), changes }))
    }

    async fn get_timeouts(
        &self,
        _: Request<v1::GetTimeoutsRequest>,
    ) -> Answer<v1::GetTimeoutsResponse> {
        let timeouts = Some(answer::timeouts(&self.engine.lock().director.timeouts()));
        Ok(Response::new(v1::GetTimeoutsResponse { timeouts }))
    }

    async fn set_timeouts(
        &self,
        request: Request<v1::SetTimeoutsRequest>,
    ) -> Answer<v1::SetTimeoutsResponse> {
        let request = request.into_inner();
        let timeouts = required("timeouts", request.timeouts.as_ref())?;
        let timeouts = request::timeouts(timeouts);
        let timeouts = timeouts.map_err(|error| malformed(&error.within("timeouts")))?;
        let change = self.engine.change(|state| {
            state.director.set_timeouts(timeouts);
            Ok::<_, EngineError>(())
        });
        let (generation, ()) = change.await.map_err(|error| refused(&error, str::to_owned))?;
        Ok(Response::new(v1::SetTimeoutsResponse { generation }))
    }

    async fn get_settings(
        &self,
        _: Request<v1::GetSettingsRequest>,
    ) -> Answer<v1::GetSettingsResponse> {
        let settings = self.engine.lock().director.settings_shown();
        let setting = |(name, value): (&str, u32)| v1::Setting {
            name: name.into(),
            value: value.to_string(),
        };
        let settings = settings.into_iter().map(setting).collect();
        Ok(Response::new(v1::GetSettingsResponse { settings }))
    }

    async fn set_setting(
        &self,
        request: Request<v1::SetSettingRequest>,
    ) -> Answer<v1::SetSettingResponse> {
        let request = request.into_inner();
        let setting = required("setting", request.setting.as_ref())?;
        let setting = request::setting(setting);
        let (name, value) = setting.map_err(|error| malformed(&error.within("setting")))?;
        let change = self.engine.change(|state| state.director.set_setting(&name, value)).await;
        let path = |field: &str| match field {
            "setting" => "setting.name".to_owned(),
            _ => "setting.value".to_owned(),
        };
        let (generation, ()) = change.map_err(|error| refused(&error, path))?;
        Ok(Response::new(v1::SetSettingResponse { generation }))
    }

    async fn list_mark_rules(
        &self,
        _: Request<v1::ListMarkRulesRequest>,
    ) -> Answer<v1::ListMarkRulesResponse> {
        let state = self.engine.lock();
        let rules = state.director.mark_rules().iter().map(marks::write).collect();
        let (generation, rules) = (state.director.generation(), Some(v1::MarkRules { rules }));
        Ok(Response::new(v1::ListMarkRulesResponse { generation, rules }))
    }

    async fn set_mark_rules(
        &self,
        request: Request<v1::SetMarkRulesRequest>,
    ) -> Answer<v1::SetMarkRulesResponse> {
        let request = request.into_inner();
        let rules = required("rules", request.rules.as_ref())?;
        let rules = each("rules.rules", &rules.rules, marks::read);
        let rules = rules.map_err(|error| malformed(&error))?;
        let change = self.engine.change(|state| state.set_mark_rules(rules)).await;
        let (generation, ()) = change.map_err(|error| refused(&error, str::to_owned))?;
        Ok(Response::new(v1::SetMarkRulesResponse { generation }))
    }

    async fn create_mark_rule(
        &self,
        request: Request<v1::CreateMarkRuleRequest>,
    ) -> Answer<v1::CreateMarkRuleResponse> {
        let rule = mark_rule(request.into_inner().rule.as_ref())?;
        let change = self.engine.change(|state| state.director.add_mark_rule(rule)).await;
        let (generation, ()) = change.map_err(|error| refused(&error, mark_path))?;
        Ok(Response::new(v1::CreateMarkRuleResponse { generation }))
    }

    async fn delete_mark_rule(
        &self,
        request: Request<v1::DeleteMarkRuleRequest>,
    ) -> Answer<v1::DeleteMarkRuleResponse> {
        let rule = mark_rule(request.into_inner().rule.as_ref())?;
        let change = self.engine.change(|state| state.director.delete_mark_rule(&rule)).await;
        let (generation, ()) = change.map_err(|error| refused(&error, mark_path))?;
        Ok(Response::new(v1::DeleteMarkRuleResponse { generation }))
    }

    async fn get_local_pool(
        &self,
        _: Request<v1::GetLocalPoolRequest>,
    ) -> Answer<v1::GetLocalPoolResponse> {
        let local_pool = Some(answer::local_pool(self.engine.lock().director.locals()));
        Ok(Response::new(v1::GetLocalPoolResponse { local_pool }))
    }

    async fn set_local_pool(
        &self,
        request: Request<v1::SetLocalPoolRequest>,
    ) -> Answer<v1::SetLocalPoolResponse> {
        let request = request.into_inner();
        let pool = request::local_pool(required("local_pool", request.local_pool.as_ref())?);
        let pool = pool.map_err(|error| malformed(&error.within("local_pool")))?;
        let change = self.engine.change(|state| state.director.set_locals(&pool)).await;
        let (generation, ()) =
            change.map_err(|error| refused(&error, |field| format!("local_pool.{field}")))?;
        Ok(Response::new(v1::SetLocalPoolResponse { generation }))
    }

    async fn zero_counters(
        &self,
        request: Request<v1::ZeroCountersRequest>,
    ) -> Answer<v1::ZeroCountersResponse> {
        let service = match &request.into_inner().service {
            Some(service) => Some(key("service", Some(service))?),
            None => None,
        };
        let zeroed = self.engine.lock().zero(service.as_ref());
        zeroed.map_err(|error| in_service(&error.into()))?;
        Ok(Response::new(v1::ZeroCountersResponse {}))
    }

    async fn list_flows(
        &self,
        request: Request<v1::ListFlowsRequest>,
    ) -> Answer<v1::ListFlowsResponse> {
        let page = request::flow_page(&request.into_inner()).map_err(|error| malformed(&error))?;
        let (flows, next) = self.engine.flows(&page);
        Ok(Response::new(v1::ListFlowsResponse {
            flows: flows.iter().map(answer::flow).collect(),
            next_page_token: next.map_or_else(String::new, |slot| slot.to_string()),
        }))
    }
}

/// A message that the request must have.
fn required<'a, T>(path: &str, message: Option<&'a T>) -> Result<&'a T, Status> {
    message.ok_or_else(|| malformed(&FieldError::missing(path)))
}

fn key(path: &str, message: Option<&v1::ServiceKey>) -> Result<ServiceKey, Status> {
    let key = request::service_key(required(path, message)?);
    key.map_err(|error| malformed(&error.within(path)))
}

fn service(
    message: Option<&v1::Service>,
) -> Result<dataplane::director::spec::ServiceSpec, Status> {
    let spec = request::service_spec(required("service", message)?);
    spec.map_err(|error| malformed(&error.within("service")))
}

fn real_server(
    message: Option<&v1::RealServer>,
    service: &ServiceKey,
) -> Result<dataplane::director::spec::RealSpec, Status> {
    let spec = request::real_spec(required("real_server", message)?, service);
    spec.map_err(|error| malformed(&error.within("real_server")))
}

fn mark_rule(
    message: Option<&v1::MarkRule>,
) -> Result<dataplane::director::spec::MarkRule, Status> {
    let rule = marks::read(required("rule", message)?);
    rule.map_err(|error| malformed(&error.within("rule")))
}

/// The path of what the director calls `field`, in a request about one rule.
fn mark_path(field: &str) -> String {
    format!("rule.selector.{field}")
}

fn desired(request: &v1::ApplyRequest) -> Result<Desired, FieldError> {
    let timeouts = match &request.timeouts {
        Some(timeouts) => {
            Some(request::timeouts(timeouts).map_err(|error| error.within("timeouts"))?)
        }
        None => None,
    };
    let mark_rules = match &request.mark_rules {
        Some(rules) => Some(each("mark_rules.rules", &rules.rules, marks::read)?),
        None => None,
    };
    let locals = match &request.local_pool {
        Some(pool) => Some(request::local_pool(pool).map_err(|error| error.within("local_pool"))?),
        None => None,
    };
    Ok(Desired {
        locals,
        services: each("services", &request.services, request::service_entry)?,
        timeouts,
        settings: each("settings", &request.settings, request::setting)?,
        mark_rules,
        policies: if request.keep_health_policies {
            None
        } else {
            Some(health::policies(&request.services)?)
        },
    })
}

fn in_service(error: &EngineError) -> Status {
    refused(error, |field| format!("service.{}", service_field(field)))
}

fn in_real_server(error: &EngineError) -> Status {
    refused(error, |field| format!("real_server.{}", real_server_field(field)))
}
