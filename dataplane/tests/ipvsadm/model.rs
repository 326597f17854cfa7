//! The least that answers as the kernel does: a list of services with IPVS's rules of changing it.

use std::net::IpAddr;

use xvs_dataplane::{
    director::spec::{
        Counters, DirectorError, FlowInfo, Hold, Rates, RealInfo, RealSpec, ServiceInfo,
        ServiceKey, ServiceSpec, Share, TimeoutSpec,
    },
    ipvsadm::{Backend, Command, Failure},
};

/// The names of IPVS's schedulers.
const SCHEDULERS: &str = "rr wrr lc wlc lblc lblcr sh dh sed nq fo ovf mh twos";

#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) services: Vec<ServiceInfo>,
    pub(crate) flows: Vec<FlowInfo>,
    timeouts: TimeoutSpec,
}

impl Model {
    pub(crate) fn new() -> Self {
        let timeouts = TimeoutSpec { tcp_s: 900, tcp_fin_s: 120, udp_s: 300 };
        Self { services: Vec::new(), flows: Vec::new(), timeouts }
    }

    fn find(&mut self, key: &ServiceKey) -> Result<&mut ServiceInfo, DirectorError> {
        let found = self.services.iter_mut().find(|service| service.spec.key == *key);
        found.ok_or(DirectorError::NoSuchService)
    }

    fn add(&mut self, spec: &ServiceSpec) -> Result<(), DirectorError> {
        if self.find(&spec.key).is_ok() {
            return Err(DirectorError::ServiceExists);
        }
        check_service(spec)?;
        let (counters, rates) = (Counters::default(), Rates::default());
        let spec = spec.clone();
        self.services.push(ServiceInfo { spec, counters, rates, reals: Vec::new() });
        Ok(())
    }

    fn real(
        &mut self,
        key: &ServiceKey,
        spec: &RealSpec,
    ) -> Result<(&mut Vec<RealInfo>, Option<usize>), DirectorError> {
        let service = self.find(key)?;
        if spec.lower > spec.upper {
            let reason = "more than the upper threshold".to_owned();
            return Err(DirectorError::Invalid { field: "lower", reason });
        }
        let place = service
            .reals
            .iter()
            .position(|real| real.spec.addr == spec.addr && real.spec.port == spec.port);
        Ok((&mut service.reals, place))
    }
}

fn check_service(spec: &ServiceSpec) -> Result<(), DirectorError> {
    let known = SCHEDULERS.split(' ').any(|name| name == spec.scheduler);
    let engine = spec.engine.as_deref().is_none_or(|engine| engine == "sip");
    if known && engine { Ok(()) } else { Err(DirectorError::NoSuchScheduler) }
}

fn info(spec: RealSpec) -> RealInfo {
    RealInfo {
        spec,
        hold: Hold::default(),
        share: Share::default(),
        standby: false,
        active: 0,
        inactive: 0,
        persistent: 0,
        counters: Counters::default(),
        rates: Rates::default(),
    }
}

impl Backend for Model {
    fn change(&mut self, command: &Command) -> Result<(), Failure> {
        match command {
            Command::AddService(spec) => self.add(spec)?,
            Command::EditService(spec) => {
                let service = self.find(&spec.key)?;
                check_service(spec)?;
                service.spec = spec.clone();
            }
            Command::DeleteService(key) => {
                self.find(key)?;
                self.services.retain(|service| service.spec.key != *key);
            }
            Command::Flush => self.services.clear(),
            Command::AddReal { service, real } => match self.real(service, real)? {
                (_, Some(_)) => return Err(DirectorError::RealExists.into()),
                (_, None) if matches!(real.addr.to_ip(), IpAddr::V4(ip) if ip.is_multicast()) => {
                    let reason = "not unicast".to_owned();
                    return Err(DirectorError::Invalid { field: "addr", reason }.into());
                }
                (reals, None) => reals.insert(0, info(*real)),
            },
            Command::EditReal { service, real } => match self.real(service, real)? {
                (reals, Some(place)) => reals[place].spec = *real,
                (_, None) => return Err(DirectorError::NoSuchReal.into()),
            },
            Command::DeleteReal { service, addr, port } => {
                let reals = &mut self.find(service)?.reals;
                let place = reals
                    .iter()
                    .position(|real| real.spec.addr == *addr && real.spec.port == *port);
                reals.remove(place.ok_or(DirectorError::NoSuchReal)?);
            }
            Command::Zero(key) => {
                if let Some(key) = key {
                    self.find(key)?;
                }
                let meant = |service: &&mut ServiceInfo| key.is_none_or(|k| k == service.spec.key);
                for service in self.services.iter_mut().filter(meant) {
                    service.counters = Counters::default();
                    for real in &mut service.reals {
                        real.counters = Counters::default();
                    }
                }
            }
            Command::SetTimeouts(asked) => {
                let now = &mut self.timeouts;
                let pairs = [
                    (&mut now.tcp_s, asked.tcp_s),
                    (&mut now.tcp_fin_s, asked.tcp_fin_s),
                    (&mut now.udp_s, asked.udp_s),
                ];
                for (now, asked) in pairs {
                    *now = if asked == 0 { *now } else { asked };
                }
            }
            other => panic!("{other:?} is no change"),
        }
        Ok(())
    }

    fn services(&mut self) -> Result<Vec<ServiceInfo>, Failure> {
        Ok(self.services.clone())
    }

    fn service(&mut self, key: &ServiceKey) -> Result<ServiceInfo, Failure> {
        Ok(self.find(key)?.clone())
    }

    fn flows(&mut self, each: &mut dyn FnMut(&[FlowInfo])) -> Result<(), Failure> {
        self.flows.chunks(3).for_each(each);
        Ok(())
    }

    fn timeouts(&mut self) -> Result<TimeoutSpec, Failure> {
        Ok(self.timeouts)
    }

    fn table_size(&mut self) -> Result<u64, Failure> {
        Ok(4096)
    }
}
