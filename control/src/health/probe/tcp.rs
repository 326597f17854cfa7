//! A TCP connection is accepted. It is ended with a reset, as nothing was said.

use super::{Found, Good, Means, connect::connect};
use crate::health::board::Probe;

pub(super) async fn run(probe: &Probe, means: &Means) -> Found {
    connect(probe, means).await.map(|_stream| Good::new("connected"))
}
