//! Captures: begun for a client, ended when nobody holds them any more.

use std::{sync::Arc, time::SystemTime};

use dataplane::{
    capture::{Capture, Filter},
    clock::{Clock as _, SystemClock},
};

use super::{Engine, EngineError};

/// A capture that runs as long as this is held.
#[derive(Debug)]
pub struct Running {
    engine: Arc<Engine>,
    /// Where workers put what they see.
    pub capture: Arc<Capture>,
    /// The names of the interfaces, by their numbers.
    pub interfaces: Vec<String>,
    /// A moment by the workers' clock, and by everybody's.
    began: (u64, SystemTime),
}

impl Running {
    /// When something was by the workers' clock, by everybody's: nanoseconds since 1970.
    pub fn nanos(&self, at: u64) -> u64 {
        let (mono, wall) = self.began;
        let wall = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let wall = u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX);
        wall.saturating_add(at).saturating_sub(mono)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.engine.lock().director.end_capture(&self.capture);
        self.engine.changed.notify_one();
    }
}

impl Engine {
    /// Begins a capture; every worker heeds it when this returns.
    ///
    /// # Errors
    ///
    /// [`EngineError::TooManyCaptures`], or [`EngineError::WorkersLate`].
    pub async fn capture(
        self: &Arc<Self>,
        filter: Filter,
        snap: usize,
    ) -> Result<Running, EngineError> {
        let capture = Arc::new(Capture::new(filter, snap));
        let generation = {
            let mut state = self.lock();
            if !state.director.begin_capture(&capture) {
                return Err(EngineError::TooManyCaptures);
            }
            state.director.generation()
        };
        let interfaces = self.report().borrow().names();
        let began = (SystemClock.nanos(), SystemTime::now());
        let running = Running { engine: Arc::clone(self), capture, interfaces, began };
        self.changed.notify_one();
        self.reached(generation).await?;
        Ok(running)
    }
}
