//! The verb `top`: what happens now, on a screen that is drawn anew every second.
//!
//! Where standard output is no terminal, one screen is printed, without colours. `q` ends it, `s`
//! changes the order: as configured, by packets, by active flows.

use std::{
    collections::HashMap,
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant, SystemTime},
};

use crossterm::{
    cursor, event,
    event::{Event, KeyCode, KeyEvent, KeyModifiers},
    execute, queue,
    style::Print,
    terminal,
};
use dataplane::{
    director::spec::{RealInfo, ServiceInfo},
    ipvsadm::{Backend as _, Failure},
};

use super::{
    client::Client,
    health::since,
    operate::{named, service},
    verbs,
};
use crate::{
    proto::v1,
    words::{RealName, ServiceName, method_name},
};

/// How often it looks.
const PERIOD: Duration = Duration::from_secs(1);

/// Lines for people whose terminal has no size.
const LINES: usize = 1000;

/// In which order real servers stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Order {
    /// As they are configured.
    #[default]
    Configured,
    /// Most packets first.
    Packets,
    /// Most active flows first.
    Active,
}

impl Order {
    const fn next(self) -> Self {
        match self {
            Self::Configured => Self::Packets,
            Self::Packets => Self::Active,
            Self::Active => Self::Configured,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Configured => "as configured",
            Self::Packets => "by packets",
            Self::Active => "by active flows",
        }
    }
}

/// What the daemon said at one moment.
struct Look {
    at: Instant,
    services: Vec<ServiceInfo>,
    statistics: v1::GetStatisticsResponse,
    states: States,
}

/// How real servers are that drain or are checked, by the names of the service and their own.
type States = HashMap<(String, String), String>;

/// The terminal, given back as it was.
struct Screen;

impl Screen {
    fn open() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        let screen = Self;
        execute!(io::stdout(), terminal::EnterAlternateScreen, cursor::Hide)?;
        Ok(screen)
    }

    fn draw(lines: &[String]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        queue!(out, cursor::MoveTo(0, 0))?;
        for (row, line) in (0..).zip(lines) {
            let clear = terminal::Clear(terminal::ClearType::UntilNewLine);
            queue!(out, cursor::MoveTo(0, row), Print(line), clear)?;
        }
        queue!(out, terminal::Clear(terminal::ClearType::FromCursorDown))?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        execute!(io::stdout(), cursor::Show, terminal::LeaveAlternateScreen).ok();
        terminal::disable_raw_mode().ok();
    }
}

/// Shows it until somebody has seen enough.
pub(super) fn top(client: &mut Client<'_>) -> Result<String, Failure> {
    let mut last = look(client)?;
    if !io::stdout().is_terminal() {
        std::thread::sleep(PERIOD);
        let now = look(client)?;
        return Ok(lines(&last, &now, Order::default(), (120, LINES)).join("\n") + "\n");
    }
    let failed = |error: io::Error| Failure::Other(verbs::failed(&format!("terminal: {error}")));
    let mut order = Order::default();
    let _screen = Screen::open().map_err(failed)?;
    loop {
        let now = look(client)?;
        let (width, height) = terminal::size().map_err(failed)?;
        Screen::draw(&lines(&last, &now, order, (width.into(), height.into()))).map_err(failed)?;
        let due = Instant::now() + PERIOD;
        while let Some(left) = due.checked_duration_since(Instant::now()) {
            if !event::poll(left).map_err(failed)? {
                break;
            }
            match event::read().map_err(failed)? {
                Event::Key(key) if ends(key) => return Ok(String::new()),
                Event::Key(KeyEvent { code: KeyCode::Char('s'), .. }) => order = order.next(),
                _ => continue,
            }
            break;
        }
        if now.at.duration_since(last.at) >= PERIOD / 2 {
            last = now;
        }
    }
}

fn ends(key: KeyEvent) -> bool {
    let interrupt = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
    interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
}

fn look(client: &mut Client<'_>) -> Result<Look, Failure> {
    let request = v1::GetStatisticsRequest {};
    let statistics = client.diagnose(async |client| client.get_statistics(request).await)?;
    let request = v1::ListHealthRequest::default();
    let health = client.examine(async |client| client.list_health(request).await)?;
    let drains =
        client.operate(async |client| client.list_drains(v1::ListDrainsRequest {}).await)?;
    let states = states(&health, &drains, SystemTime::now());
    Ok(Look { at: Instant::now(), services: client.services()?, statistics, states })
}

/// In few words; a drain says more than health.
fn states(
    health: &v1::ListHealthResponse,
    drains: &v1::ListDrainsResponse,
    now: SystemTime,
) -> States {
    let mut states = States::new();
    for group in &health.services {
        for real in &group.real_servers {
            let since = since(real, now);
            let state = match (real.up, real.share_percent) {
                (false, _) => format!("DOWN {since}"),
                (true, 100) => format!("up {since}"),
                (true, share) => format!("up at {share} %"),
            };
            let name = named(&real.real_server.clone().unwrap_or_default());
            states.insert((service(group.service.as_ref()), name), state);
        }
    }
    for drain in &drains.drains {
        let left = drain.active_flows + drain.inactive_flows;
        let state = match drain.phase() {
            v1::drain::Phase::Draining => format!("drains, {} left", short(left.into())),
            v1::drain::Phase::Drained => "drained".to_owned(),
            v1::drain::Phase::Expired => "drained by force".to_owned(),
            _ => continue,
        };
        let name = named(&drain.real_server.clone().unwrap_or_default());
        states.insert((service(drain.service.as_ref()), name), state);
    }
    states
}

/// The screen, at most so wide and high.
fn lines(last: &Look, now: &Look, order: Order, (width, height): (usize, usize)) -> Vec<String> {
    let mut out = Vec::new();
    head(now, order, &mut out);
    workers(last, now, &mut out);
    drops(last, now, &mut out);
    out.push(String::new());
    let mut rows = vec![COLUMNS.map(|(name, _)| name.to_owned())];
    for service in &now.services {
        reals(service, &now.states, order, &mut rows);
    }
    table(&rows, &mut out);
    if out.len() > height {
        let hidden = out.len() - height + 1;
        out.truncate(height.saturating_sub(1));
        out.push(format!("and {hidden} lines more"));
    }
    out.iter().map(|line| line.chars().take(width).collect()).collect()
}

fn head(now: &Look, order: Order, out: &mut Vec<String>) {
    let rates = now.statistics.rates.unwrap_or_default();
    let table = now.statistics.flow_table.unwrap_or_default();
    out.push(format!(
        "xvs  generation {}  flows {} of {}  {}  q: end, s: order",
        now.statistics.generation,
        table.used,
        table.capacity,
        order.name()
    ));
    out.push(format!(
        "new flows/s {}  packets/s in {} out {}  bit/s in {} out {}",
        short(rates.flows),
        short(rates.in_packets),
        short(rates.out_packets),
        short(8 * rates.in_bytes),
        short(8 * rates.out_bytes)
    ));
}

fn workers(last: &Look, now: &Look, out: &mut Vec<String>) {
    let seconds = now.at.duration_since(last.at).as_secs_f64().max(0.001);
    for worker in &now.statistics.workers {
        let before = last.statistics.workers.iter().find(|other| other.worker == worker.worker);
        let since =
            |of: fn(&v1::WorkerStatistics) -> u64| of(worker).saturating_sub(before.map_or(0, of));
        let (turns, bursts) = (since(|worker| worker.turns), since(|worker| worker.bursts));
        let busy = 100 * bursts / turns.max(1);
        let state = if worker.running { "forwards" } else { "IS DOWN" };
        out.push(format!(
            "worker {} {state}  busy turns {busy} %  packets/s {}  longest turn {} us  restarts {}",
            worker.worker,
            short(per_second(since(|worker| worker.received), seconds)),
            worker.longest_turn_nanoseconds.div_ceil(1000),
            worker.restarts
        ));
    }
}

/// Those that went on since the last look; how many there were at all.
fn drops(last: &Look, now: &Look, out: &mut Vec<String>) {
    let seconds = now.at.duration_since(last.at).as_secs_f64().max(0.001);
    let mut line = String::new();
    for drop in &now.statistics.drops {
        let before = last.statistics.drops.iter().find(|other| other.reason == drop.reason);
        let since = drop.packets - before.map_or(0, |before| before.packets).min(drop.packets);
        let rate = short(per_second(since, seconds));
        write!(line, "  {} {rate}/s ({})", drop.reason, short(drop.packets))
            .expect("a string takes everything");
    }
    if !line.is_empty() {
        out.push(format!("drops{line}"));
    }
    let missed = |look: &Look| look.statistics.devices.iter().map(|device| device.missed).sum();
    let (before, missed): (u64, u64) = (missed(last), missed(now));
    if missed > 0 {
        let rate = short(per_second(missed.saturating_sub(before), seconds));
        out.push(format!("missed, as workers are too slow  {rate}/s ({})", short(missed)));
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate for people"
)]
fn per_second(count: u64, seconds: f64) -> u64 {
    (count as f64 / seconds).round() as u64
}

/// What stands about a real server, and how wide it is at least.
const COLUMNS: [(&str, usize); 10] = [
    ("Service", 20),
    ("Real server", 20),
    ("Method", 7),
    ("State", 16),
    ("Weight", 7),
    ("Active", 7),
    ("InAct", 7),
    ("New/s", 6),
    ("Packets/s", 9),
    ("Bit/s", 7),
];

/// A line of the table.
type Row = [String; COLUMNS.len()];

/// As many of the first columns hold words, the others numbers.
const WORDS: usize = 4;

fn reals(service: &ServiceInfo, states: &States, order: Order, rows: &mut Vec<Row>) {
    let name = ServiceName(&service.spec.key).to_string();
    let packets = |real: &RealInfo| real.rates.in_pps + real.rates.out_pps;
    let mut reals: Vec<_> = service.reals.iter().collect();
    match order {
        Order::Configured => {}
        Order::Packets => reals.sort_by_key(|real| std::cmp::Reverse(packets(real))),
        Order::Active => reals.sort_by_key(|real| std::cmp::Reverse(real.active)),
    }
    if reals.is_empty() {
        let mut row = Row::default();
        row[..2].clone_from_slice(&[name.clone(), "no real servers".to_owned()]);
        rows.push(row);
    }
    for (place, real) in reals.into_iter().enumerate() {
        let spec = &real.spec;
        let real_name = RealName { addr: spec.addr, port: spec.port }.to_string();
        let known = (name.clone(), real_name);
        let state = states.get(&known).cloned();
        let weight =
            if real.hold.weight { format!("0 ({})", spec.weight) } else { spec.weight.to_string() };
        rows.push([
            if place == 0 { known.0 } else { String::new() },
            known.1,
            method_name(spec.method).to_owned(),
            state.unwrap_or_else(|| if real.hold.weight { "held" } else { "-" }.to_owned()),
            weight,
            short(real.active.into()),
            short(real.inactive.into()),
            short(real.rates.cps),
            short(packets(real)),
            short(8 * (real.rates.in_bps + real.rates.out_bps)),
        ]);
    }
}

/// Each column as wide as its widest cell.
fn table(rows: &[Row], out: &mut Vec<String>) {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or_default().max(COLUMNS[column].1)
    };
    let widths: [usize; COLUMNS.len()] = std::array::from_fn(width);
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            if column < WORDS {
                write!(line, "{cell:<width$} ")
            } else {
                write!(line, "{cell:>width$} ")
            }
            .expect("a string takes everything");
        }
        out.push(line.trim_end().to_owned());
    }
}

/// 1234567 as `1.23M`.
fn short(number: u64) -> String {
    for (size, unit) in [(1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")] {
        if number >= size {
            let (whole, rest) = (number / size, number % size * 100 / size);
            return match whole {
                0..10 => format!("{whole}.{rest:02}{unit}"),
                10..100 => format!("{whole}.{}{unit}", rest / 10),
                _ => format!("{whole}{unit}"),
            };
        }
    }
    number.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_three_digits_and_a_unit() {
        let cases = [(0, "0"), (999, "999"), (1000, "1.00k"), (12_340, "12.3k"), (999_999, "999k")];
        for (number, text) in cases {
            assert_eq!(short(number), text);
        }
        assert_eq!(short(1_234_567_890), "1.23G");
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let at = Instant::now();
        let look = || Look {
            at,
            services: Vec::new(),
            statistics: v1::GetStatisticsResponse {
                workers: vec![v1::WorkerStatistics::default(); 20],
                ..Default::default()
            },
            states: States::new(),
        };
        let shown = lines(&look(), &look(), Order::Configured, (20, 10));
        assert_eq!(shown.len(), 10);
        assert_eq!(shown[9], "and 15 lines more");
        assert!(shown.iter().all(|line| line.chars().count() <= 20));
    }

    #[test]
    fn a_real_server_that_is_down_or_drains_says_so() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let key = |last: u8| {
            Some(v1::RealServerKey { address: format!("10.2.0.{last}"), port: Some(80) })
        };
        let real = |last, up, share_percent| v1::RealServerHealth {
            real_server: key(last),
            up,
            share_percent,
            since: Some(prost_types::Timestamp { seconds: 955, nanos: 0 }),
            ..v1::RealServerHealth::default()
        };
        let health = v1::ListHealthResponse {
            services: vec![v1::ServiceHealth {
                real_servers: vec![
                    real(1, true, 100),
                    real(2, true, 30),
                    real(3, false, 0),
                    real(4, true, 100),
                ],
                ..v1::ServiceHealth::default()
            }],
        };
        let mut drain = v1::Drain { real_server: key(4), ..v1::Drain::default() };
        drain.set_phase(v1::drain::Phase::Draining);
        (drain.active_flows, drain.inactive_flows) = (12, 1000);
        let said = states(&health, &v1::ListDrainsResponse { drains: vec![drain] }, now);
        let of = |last: u8| said[&(service(None), format!("10.2.0.{last}:80"))].as_str();
        assert_eq!(
            [1, 2, 3, 4].map(of),
            ["up 45 s", "up at 30 %", "DOWN 45 s", "drains, 1.01k left"]
        );
    }
}
