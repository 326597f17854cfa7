//! How busy a real server is, as schedulers and thresholds count it.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// How busy a real server is: exact after every packet, as schedulers and thresholds need it.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Load {
    /// Flows in a state that IPVS counts as active.
    pub active: AtomicU32,
    /// The other flows.
    pub inactive: AtomicU32,
    /// Persistence templates.
    pub persistent: AtomicU32,
    /// What names this endpoint otherwise: flows by their virtual or local end.
    pub refs: AtomicU32,
    /// 1 while overloaded (`IP_VS_DEST_F_OVERLOAD`).
    pub overloaded: AtomicU32,
}

impl Load {
    /// Active and inactive flows together.
    #[inline]
    pub fn total(&self) -> u32 {
        self.active.load(Relaxed).wrapping_add(self.inactive.load(Relaxed))
    }

    /// Whether something in the table names this endpoint. A flow that turns active or inactive meanwhile
    /// may be overlooked, so what must not be named any more is asked time and again.
    pub fn is_named(&self) -> bool {
        let Self { active, inactive, persistent, refs, .. } = self;
        [active, inactive, persistent, refs].iter().any(|count| count.load(Relaxed) != 0)
    }

    /// Moves a flow from inactive to active or back.
    #[inline]
    pub fn shift(&self, to_active: bool) {
        let (more, less) =
            if to_active { (&self.active, &self.inactive) } else { (&self.inactive, &self.active) };
        more.fetch_add(1, Relaxed);
        less.fetch_sub(1, Relaxed);
    }
}

/// As what something in the table counts at its real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// An active flow.
    Active,
    /// An inactive flow.
    Inactive,
    /// A persistence template.
    Template,
}
