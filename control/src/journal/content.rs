//! What a journal keeps, and how records say it.

use std::collections::{HashMap, HashSet};

use dataplane::director::spec::ServiceKey;
use prost::Message as _;

use crate::{
    config::Desired,
    convert::{answer, health, marks, operations, request},
    field::FieldError,
    proto::v1,
    words::RealName,
};

/// A real server that is held for a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The service.
    pub key: ServiceKey,
    /// Its real server.
    pub real: RealName,
    /// Whether templates are told too.
    pub templates: bool,
}

/// Everything that is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Services, settings, time-outs, rules of marks.
    pub desired: Desired,
    /// Real servers that drain or have been drained.
    pub held: Vec<Held>,
}

impl Content {
    /// A record that says all of it.
    pub(super) fn whole(&self, base: u64) -> v1::JournalRecord {
        let record = self.after(&Self::default(), base);
        v1::JournalRecord { whole: true, ..record }
    }

    /// A record that says what differs from `before`.
    pub(super) fn after(&self, before: &Self, base: u64) -> v1::JournalRecord {
        let old: HashMap<_, _> = before.desired.services.iter().map(|s| (s.0.key, s)).collect();
        let differs = |service: &&_| {
            let key = key_of(service);
            old.get(&key).is_none_or(|before| before != service)
                || self.desired.policy(&key) != before.desired.policy(&key)
        };
        let entry =
            |service: &_| answer::service_entry(service, self.desired.policy(&key_of(service)));
        let left: HashSet<_> = self.desired.services.iter().map(key_of).collect();
        let gone = before.desired.services.iter().map(key_of).filter(|key| !left.contains(key));
        let rules = self.desired.mark_rules.iter().flatten().map(marks::write).collect();
        v1::JournalRecord {
            whole: false,
            base,
            deleted: gone.map(|key| answer::service_key(&key)).collect(),
            services: self.desired.services.iter().filter(differs).map(entry).collect(),
            timeouts: self.desired.timeouts.as_ref().map(answer::timeouts),
            settings: self
                .desired
                .settings
                .iter()
                .map(|(name, value)| v1::Setting { name: name.clone(), value: value.to_string() })
                .collect(),
            mark_rules: Some(v1::MarkRules { rules }),
            drains: self.held.iter().map(drain).collect(),
            local_pool: self.desired.locals.as_ref().map(answer::local_pool),
        }
    }

    /// Tells one state from another: a checksum, not a secret.
    pub fn sum(&self) -> u64 {
        let octets = self.whole(0).encode_to_vec();
        u64::from(crc32c::crc32c(&octets)) << 32 | octets.len() as u64
    }

    /// Lays a record over this.
    pub(super) fn lay_over(&mut self, record: &v1::JournalRecord) -> Result<(), FieldError> {
        if record.whole {
            *self = Self::default();
        }
        let mut gone = HashSet::new();
        for key in &record.deleted {
            gone.insert(request::service_key(key)?);
        }
        let policies = self.desired.policies.get_or_insert_default();
        policies.retain(|key, _| !gone.contains(key));
        for entry in &record.services {
            let key = entry.service.as_ref().and_then(|service| service.key.as_ref());
            let key = request::service_key(key.ok_or_else(|| FieldError::missing("key"))?)?;
            match &entry.health {
                Some(policy) => policies.insert(key, health::read(policy, &key)?),
                None => policies.remove(&key),
            };
        }
        let services = &mut self.desired.services;
        services.retain(|service| !gone.contains(&key_of(service)));
        let mut places: HashMap<_, _> =
            services.iter().enumerate().map(|(at, service)| (key_of(service), at)).collect();
        for entry in &record.services {
            let service = request::service_entry(entry)?;
            match places.get(&key_of(&service)) {
                Some(at) => services[*at] = service,
                None => {
                    places.insert(key_of(&service), services.len());
                    services.push(service);
                }
            }
        }
        self.desired.timeouts = record.timeouts.as_ref().map(request::timeouts).transpose()?;
        let settings = record.settings.iter().map(request::setting);
        self.desired.settings = settings.collect::<Result<_, _>>()?;
        let rules = record.mark_rules.iter().flat_map(|rules| &rules.rules).map(marks::read);
        self.desired.mark_rules = Some(rules.collect::<Result<_, _>>()?);
        self.desired.locals = record.local_pool.as_ref().map(request::local_pool).transpose()?;
        self.held = record.drains.iter().map(held).collect::<Result<_, _>>()?;
        Ok(())
    }
}

fn key_of<R>(service: &(dataplane::director::spec::ServiceSpec, R)) -> ServiceKey {
    service.0.key
}

fn drain(held: &Held) -> v1::DrainRequest {
    v1::DrainRequest {
        service: Some(answer::service_key(&held.key)),
        real_server: Some(answer::real_server_key(held.real.addr, held.real.port)),
        templates: held.templates,
        ..v1::DrainRequest::default()
    }
}

fn held(drain: &v1::DrainRequest) -> Result<Held, FieldError> {
    let spec = operations::drain_spec(drain)?;
    Ok(Held { key: spec.key, real: spec.real, templates: spec.templates })
}
