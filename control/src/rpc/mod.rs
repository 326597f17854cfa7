//! gRPC: requests into changes of the engine, and its state into answers.

mod capture;
mod diagnostics;
pub(crate) mod explain;
mod health;
mod load_balancer;
mod operations;
pub mod status;

pub use diagnostics::Diagnostics;
pub use health::HealthChecks;
pub use load_balancer::LoadBalancer;
pub use operations::Operations;
