//! Reads the recordings and runs their command lines.

use std::{fmt::Write as _, fs, net::Ipv4Addr, path::Path};

use xvs_dataplane::{
    addr::Addr,
    ipvsadm::{Backend, Dialect, Names, Session, Stream},
};

/// One recorded command line.
pub(crate) struct Step {
    pub(crate) command: String,
    /// Everything up to and with the line of the exit status.
    pub(crate) output: String,
}

/// The head of a recording, and its steps.
pub(crate) fn read(name: &str) -> (String, Vec<Step>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/golden/text").join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let mut parts = text.split("\n$ ");
    let head = parts.next().unwrap().to_owned();
    let steps = parts.map(|part| {
        let (command, rest) = part.split_once('\n').unwrap();
        let start = rest.find("[exit ").unwrap();
        let end = start + rest[start..].find('\n').map_or(rest.len() - start, |end| end + 1);
        // What a step of errors.txt led to stands behind its status.
        let rule = rest[end..].lines().find(|line| line.starts_with("[rule] "));
        let rule = rule.map_or_else(String::new, |rule| format!("{rule}\n"));
        Step { command: command.to_owned(), output: format!("{}{rule}", &rest[..end]) }
    });
    (head, steps.collect())
}

/// What a command printed, and its exit status.
#[derive(Default)]
pub(crate) struct Output {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) status: u8,
}

/// Runs a line of the little shell language that the recordings use: commands divided by `;`,
/// `printf -- TEXT | ipvsadm -R`, and `| grep PATTERN` behind a command.
pub(crate) fn run(line: &str, backend: &mut dyn Backend) -> Output {
    run_as(Dialect::Ipvsadm, line, backend)
}

/// The same in one's own dialect.
pub(crate) fn run_as(dialect: Dialect, line: &str, backend: &mut dyn Backend) -> Output {
    let mut all = Output::default();
    for command in line.split("; ") {
        let (input, command) = match command.strip_prefix("printf -- '") {
            Some(rest) => {
                let (text, command) = rest.split_once("' | ").unwrap();
                (text.replace("\\n", "\n"), command)
            }
            None => (String::new(), command),
        };
        let (command, pattern) = match command.split_once(" | grep ") {
            Some((command, pattern)) => (command, Some(pattern.trim_start_matches("-- "))),
            None => (command, None),
        };
        let mut output = ipvsadm(dialect, command, &input, backend);
        if let Some(pattern) = pattern {
            let pattern = pattern.trim_matches('\'');
            let lines = output.out.lines().filter(|line| line.contains(pattern));
            output.out = lines.map(|line| format!("{line}\n")).collect();
            output.status = u8::from(output.out.is_empty());
        }
        all.out += &output.out;
        all.err += &output.err;
        all.status = output.status;
    }
    all
}

fn ipvsadm(dialect: Dialect, command: &str, input: &str, backend: &mut dyn Backend) -> Output {
    let mut words = command.split(' ');
    assert_eq!(words.next(), Some("ipvsadm"), "{command}");
    let words: Vec<_> = words.collect();
    let mut output = Output::default();
    let mut print = |stream, text: &str| match stream {
        Stream::Out => output.out.write_str(text).unwrap(),
        Stream::Err => output.err.write_str(text).unwrap(),
    };
    let mut session =
        Session { program: "ipvsadm", dialect, names: &Recorded, backend, print: &mut print };
    let status = session.run(&words, &mut input.lines().map(str::to_owned));
    Output { status, ..output }
}

/// The names that the recorded system knew.
pub(crate) struct Recorded;

impl Recorded {
    const SERVICES: &[(&str, u16, &[u8])] =
        &[("http", 80, &[6]), ("https", 443, &[6, 17]), ("domain", 53, &[6, 17])];
}

impl Names for Recorded {
    fn host_addr(&self, _: &str) -> Option<Ipv4Addr> {
        None
    }

    fn service_port(&self, name: &str, protocol: u8) -> Option<u16> {
        let mut known = Self::SERVICES.iter();
        known
            .find(|(known, _, protocols)| *known == name && protocols.contains(&protocol))
            .map(|(_, port, _)| *port)
    }

    fn host_name(&self, _: Addr) -> Option<String> {
        None
    }

    fn service_name(&self, port: u16, protocol: u8) -> Option<String> {
        let mut known = Self::SERVICES.iter();
        known
            .find(|(_, known, protocols)| *known == port && protocols.contains(&protocol))
            .map(|(name, ..)| (*name).to_owned())
    }
}
