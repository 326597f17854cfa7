//! errors.txt against the director itself: its rules of changing things are IPVS's.

use std::sync::Arc;

use xvs_dataplane::{
    director::{
        Director,
        spec::{FlowInfo, ServiceInfo, ServiceKey, TimeoutSpec},
    },
    endpoint::Endpoints,
    ipvsadm::{Backend, Command, Failure, parse_rules},
    stats::Stats,
};

use crate::{
    errors::{DAEMONS, as_recorded},
    golden::{Recorded, Step, read, run},
};

/// Endpoints enough for every step.
const ENDPOINTS: usize = 64;

struct Directed(Director);

impl Directed {
    fn new() -> Self {
        let endpoints = Arc::new(Endpoints::new(ENDPOINTS));
        Self(Director::new(endpoints, Stats::new(1, ENDPOINTS)))
    }
}

impl Backend for Directed {
    fn change(&mut self, command: &Command) -> Result<(), Failure> {
        let director = &mut self.0;
        match command {
            Command::AddService(spec) => director.add_service(spec)?,
            Command::EditService(spec) => director.edit_service(spec)?,
            Command::DeleteService(key) => director.delete_service(key)?,
            Command::Flush => director.flush(),
            Command::AddReal { service, real } => director.add_real(service, real)?,
            Command::EditReal { service, real } => director.edit_real(service, real)?,
            Command::DeleteReal { service, addr, port } => {
                director.delete_real(service, *addr, *port)?;
            }
            Command::Zero(key) => director.zero(key.as_ref())?,
            Command::SetTimeouts(timeouts) => director.set_timeouts(*timeouts),
            other => panic!("{other:?} is no change"),
        }
        Ok(())
    }

    fn services(&mut self) -> Result<Vec<ServiceInfo>, Failure> {
        Ok(self.0.services())
    }

    fn service(&mut self, key: &ServiceKey) -> Result<ServiceInfo, Failure> {
        Ok(self.0.get_service(key)?)
    }

    fn flows(&mut self, _: &mut dyn FnMut(&[FlowInfo])) -> Result<(), Failure> {
        Ok(())
    }

    fn timeouts(&mut self) -> Result<TimeoutSpec, Failure> {
        Ok(self.0.timeouts())
    }

    fn table_size(&mut self) -> Result<u64, Failure> {
        Ok(4096)
    }
}

#[test]
fn the_director_refuses_what_the_kernel_refuses_in_the_same_words() {
    let (_, steps) = read("errors.txt");
    let (mut wrong, mut compared) = (Vec::new(), 0);
    for Step { command, output } in &steps {
        let got = as_recorded(&mut Directed::new(), command);
        if DAEMONS.contains(&command.as_str()) {
            continue;
        }
        if got != *output {
            wrong.push(format!("$ {command}\nexpected:\n{output}got:\n{got}"));
        }
        compared += 1;
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(compared, 124);
}

#[test]
fn what_ipvsadm_saved_is_a_way_in_with_names_and_without() {
    let (_, steps) = read("listings.txt");
    let recorded = |wanted: &str| {
        let step = steps.iter().find(|step| step.command == wanted).unwrap();
        step.output.split_once("[exit ").unwrap().0.to_owned()
    };
    let numeric = recorded("ipvsadm -Sn");
    for command in ["ipvsadm -S", "ipvsadm -Sn"] {
        let saved = recorded(command);
        let mut director = Directed::new();
        let restore = format!("printf -- '{}' | ipvsadm -R", saved.replace('\n', "\\n"));
        let output = run(&restore, &mut director);
        assert_eq!((output.status, output.err.as_str()), (0, ""), "{command}");
        assert_eq!(run("ipvsadm -Sn", &mut director).out, numeric, "{command}");
        // The same as a file: every line is a rule, and every rule is taken.
        let mut director = Directed::new();
        let rules = parse_rules(&saved, &Recorded).unwrap();
        assert_eq!(rules.len(), saved.lines().count());
        for rule in rules {
            director.change(&rule.command).unwrap();
        }
        assert_eq!(run("ipvsadm -Sn", &mut director).out, numeric, "{command} as a file");
    }
}
