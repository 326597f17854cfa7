//! The real servers of one service together: quorum, panic, the sorry server.
//!
//! Pure: what happened and when are arguments. The quorum is keepalived's (`check_api.c`,
//! `update_quorum_state`): weights of those that are up, with hysteresis.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use dataplane::director::spec::{ServiceKey, Share};

use super::{
    board::{Effect, Finding, What},
    member::Member,
    policy::Policy,
};
use crate::words::RealName;

/// One service.
#[derive(Clone, Debug)]
pub struct Group {
    /// How it is checked.
    pub policy: Policy,
    /// Its real servers.
    pub members: BTreeMap<RealName, Member>,
    /// Whether enough of them are up.
    pub quorum: bool,
    /// Too few are up: all are used.
    pub panic: bool,
    /// The sorry server is in its place.
    pub sorry: bool,
}

impl Group {
    pub(super) const fn new(policy: Policy) -> Self {
        // Where everybody begins down, nothing is lost by that.
        let quorum = !policy.start_down;
        Self { policy, members: BTreeMap::new(), quorum, panic: false, sorry: false }
    }

    /// Decides everything anew: what the director must be told, and what happened.
    pub(super) fn decide(
        &mut self,
        key: &ServiceKey,
        (now, at): (Duration, SystemTime),
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        let tell =
            |what, real, note: String| Effect::Found(Finding { key: *key, real, what, note });
        for (name, member) in &mut self.members {
            if let Some(why) = member.decide(&self.policy, now, at) {
                let what = if member.up { What::Up } else { What::Down };
                effects.push(tell(what, Some(*name), why));
            }
        }
        let (quorum, panic) = (self.quorum, self.panic);
        let (weight, up, all) = self.strength();
        self.quorum = self.holds(weight);
        self.panic = up < all && up * 100 < u64::from(self.policy.panic_percent) * all;
        if self.quorum != quorum {
            let what = if self.quorum { What::QuorumReached } else { What::QuorumLost };
            effects.push(tell(what, None, format!("weight {weight} of {}", self.policy.quorum)));
        }
        if self.panic != panic {
            let what = if self.panic { What::PanicBegan } else { What::PanicEnded };
            effects.push(tell(what, None, format!("{up} of {all} real servers are up")));
        }
        effects.extend(self.standby(key));
        effects.extend(self.shares(key, now));
        effects
    }

    /// Weight of the real servers that are up, how many they are, and how many there are. Those without
    /// weight do not count.
    pub fn strength(&self) -> (u64, u64, u64) {
        let counted = self.members.values().filter(|member| member.spec.weight > 0);
        counted.fold((0, 0, 0), |(weight, up, all), member| {
            let mine = u64::from(member.up);
            (weight + mine * u64::from(member.spec.weight), up + mine, all + 1)
        })
    }

    /// Whether the service stands with so much weight.
    fn holds(&self, weight: u64) -> bool {
        let (quorum, hysteresis) = (self.policy.quorum.into(), self.policy.hysteresis.into());
        let quorum: u64 = quorum;
        if self.quorum {
            weight > 0 && weight >= quorum.saturating_sub(hysteresis)
        } else {
            weight > 0 && weight >= quorum.saturating_add(hysteresis)
        }
    }

    /// Puts the sorry server in its place, or takes it away.
    fn standby(&mut self, key: &ServiceKey) -> Option<Effect> {
        let wanted = !self.quorum && self.policy.sorry.is_some();
        if wanted == self.sorry {
            return None;
        }
        self.sorry = wanted;
        let spec = self.policy.sorry?;
        Some(Effect::Standby { key: *key, spec, wanted })
    }

    /// What is left of each real server, where that changed.
    fn shares(&mut self, key: &ServiceKey, now: Duration) -> Vec<Effect> {
        let Self { policy, members, panic, sorry, .. } = self;
        let mut effects = Vec::new();
        for (&name, member) in members {
            let share = if *sorry {
                // They keep their flows; new ones are the sorry server's.
                Share { percent: 0, templates: false, present: true }
            } else if member.up || *panic {
                Share { percent: member.percent(policy, now), ..Share::default() }
            } else {
                Member::down(policy.on_down)
            };
            if share != member.told {
                member.told = share;
                effects.push(Effect::Share { key: *key, real: name, share });
            }
        }
        effects
    }

    /// When something changes here although nothing happens.
    pub(super) fn wakes(&self, now: Duration) -> Option<Duration> {
        self.members.values().filter_map(|member| member.wakes(&self.policy, now)).min()
    }
}
