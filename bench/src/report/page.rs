//! The page: what was measured, in the order in which one asks.

use std::fmt::Write as _;

use super::{
    data::{MANY, METHODS, Rig, Run, among, each, flows},
    svg::{Bar, Series, Value, bars, count, escaped, lines, number},
};
use crate::rig;

/// Colours, for light and dark, and what little layout there is.
const STYLE: &str = include_str!("page.css");

/// Plots of the wire: title, what it is, unit, quantity.
const PEERS: [(&str, &str, &str, &str); 5] = [
    (
        "Forwarding small packets",
        "UDP packets of 64 octets over 10,000 flows from client to real server. The generator, the \
         kernel's receive path and its own forwarding share CPU 0; user-space forwarders run on CPU 1.",
        "million packets per second",
        "mpps",
    ),
    (
        "New connections",
        "TCP SYNs, each of a new connection, forwarded to the real server.",
        "thousand connections per second",
        "new_kps",
    ),
    (
        "HTTP, each request on a connection of its own",
        "wrk with 64 connections against Apache; client, load balancer and server share the CPUs.",
        "requests per second",
        "http_new",
    ),
    (
        "Its latency",
        "The 99th percentile of the same requests; shorter is better.",
        "microseconds, 99th percentile",
        "http_new_p99",
    ),
    (
        "One TCP stream",
        "iperf3, one connection from client to real server.",
        "gigabits per second",
        "bulk",
    ),
];

/// The whole page.
pub(super) fn written(runs: &[Run], rig: &Rig) -> String {
    let mut out = String::from(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>xvs, measured</title><style>",
    );
    out.push_str(STYLE);
    out.push_str("</style></head><body><main>");
    header(&mut out, rig);
    targets(&mut out, rig);
    in_memory(&mut out, runs);
    on_the_wire(&mut out, rig);
    out.push_str("</main></body></html>\n");
    out
}

fn header(out: &mut String, rig: &Rig) {
    let Rig { machine, kernel, cpus, commit, rounds, seconds, date, .. } = rig;
    out.push_str("<header><h1>xvs, measured</h1>");
    if rig.results.is_empty() {
        out.push_str("<p>Nothing was measured on the wire: that needs root.</p></header>");
        return;
    }
    write!(
        out,
        "<p>{} &middot; {cpus} CPUs &middot; Linux {} &middot; commit <code>{}</code> &middot; {}</p>\
         <p class=\"quiet\">Medians of {rounds} interleaved rounds; on the wire {seconds} s each. \
         Whiskers and brackets: least to greatest of the rounds. Only ratios within one run can be \
         compared between machines.</p></header>",
        escaped(machine),
        escaped(kernel),
        escaped(commit),
        day(*date)
    )
    .ok();
}

/// The date of a moment in seconds since 1970. Source: Howard Hinnant, "chrono-Compatible
/// Low-Level Date Algorithms", civil_from_days.
fn day(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}")
}

/// Ratios that are wanted, as tiles.
fn targets(out: &mut String, rig: &Rig) {
    let targets =
        rig::targets(|contender, quantity| rig.find(contender, quantity).map(|value| value.median));
    if targets.is_empty() {
        return;
    }
    out.push_str("<section><h2>xvsd in proportion</h2><div class=\"tiles\">");
    for rig::Target { title, ratio, wanted } in targets {
        let (class, word) =
            if ratio >= wanted { ("good", "reached") } else { ("bad", "not reached") };
        let aim = if wanted > 0.0 {
            format!("<span class=\"{class}\">{word}</span> wanted {wanted:.2}")
        } else {
            "for comparison".to_owned()
        };
        write!(
            out,
            "<div class=\"tile\"><b>{ratio:.2}&times;</b><span>{}</span><small>{aim}</small></div>",
            escaped(title)
        )
        .ok();
    }
    out.push_str("</div></section>");
}

fn in_memory(out: &mut String, runs: &[Run]) {
    let nat = |flows: u32, new: bool| {
        move |run: &Run| {
            run.method == "nat" && run.workers == 1 && run.flows == flows && run.new == new
        }
    };
    let series = |name: &str, class, get: &dyn Fn(u32) -> Option<Value>| Series {
        name: name.to_owned(),
        class,
        points: flows(runs).into_iter().filter_map(|n| Some((f64::from(n), get(n)?))).collect(),
    };
    let all = [
        series("new flow", "s1", &|n| among(runs, nat(n, true), |run| run.ns_per_packet)),
        series("known flow", "s0", &|n| among(runs, nat(n, false), |run| run.ns_per_packet)),
        series("memory alone", "s2", &|n| among(runs, nat(n, false), |run| run.bound_ns)),
    ];
    if all.iter().all(|series| series.points.is_empty()) {
        return;
    }
    section(
        out,
        "What a packet costs",
        "nat over IPv4 in memory, one worker, flows in random order. <em>Memory alone</em> is what two \
         dependent random lines of the same memory cost in the same run: no table can be faster.",
        &lines("Cost of a packet", "flows in the table", "nanoseconds per packet", &all),
    );
    let mut head = vec!["flows".to_owned()];
    head.extend(all.iter().map(|series| format!("{}, ns", series.name)));
    let rows = flows(runs).into_iter().map(|n| {
        let cell = |series: &Series| {
            let point = series.points.iter().find(|(at, _)| *at == f64::from(n));
            point.map_or_else(String::new, |(_, value)| spread(*value))
        };
        [count(f64::from(n))].into_iter().chain(all.iter().map(cell)).collect()
    });
    table(out, &head, rows.collect());
    by_workers(out, runs);
}

fn by_workers(out: &mut String, runs: &[Run]) {
    let mut drawn = Vec::new();
    for method in METHODS {
        for workers in 1..=64 {
            let is = |run: &Run| {
                (run.method == method && run.workers == workers && run.flows == MANY) && !run.new
            };
            if let Some(value) = among(runs, is, |run| run.mpps) {
                let plural = if workers == 1 { "" } else { "s" };
                let name = format!("{method}, {workers} worker{plural}");
                drawn.push(Bar { name, ours: workers > 1, value });
            }
        }
    }
    section(
        out,
        "More workers",
        "Packets per second over 1,000,000 flows in one table that all workers share.",
        &bars("Packets by workers", "million packets per second", &drawn),
    );
}

fn on_the_wire(out: &mut String, rig: &Rig) {
    for (title, about, unit, quantity) in PEERS {
        let of = rig.of(quantity);
        if of.is_empty() {
            continue;
        }
        let bar = |&(name, value): &(&str, Value)| Bar {
            name: name.to_owned(),
            ours: name.starts_with("xvsd"),
            value,
        };
        let drawn: Vec<_> = of.iter().map(bar).collect();
        section(out, title, about, &bars(title, unit, &drawn));
    }
    let mut rows = Vec::new();
    for (title, list, key, unit) in [
        ("CPU of an idle xvsd", &rig.light, "idle_cpu_percent", "% of a core"),
        ("CPU at 1,000 packets/s", &rig.light, "light_cpu_percent", "% of a core"),
        ("Client to real server, kernel, median", &rig.light, "ip_forward_way_p50_us", "us"),
        ("Client to real server, xvsd, median", &rig.light, "xvsd_way_p50_us", "us"),
        ("Client to real server, xvsd, 99th percentile", &rig.light, "xvsd_way_p99_us", "us"),
        (
            "Added to a packet: 99th percentile less the kernel's median",
            &rig.light,
            "added_p99_us",
            "us",
        ),
        ("Round trip, kernel, median", &rig.light, "ip_forward_p50_us", "us"),
        ("Round trip, kernel, 99th percentile", &rig.light, "ip_forward_p99_us", "us"),
        ("Round trip, xvsd, median", &rig.light, "xvsd_p50_us", "us"),
        ("Round trip, xvsd, 99th percentile", &rig.light, "xvsd_p99_us", "us"),
        ("A change in force after", &rig.change, "p50_ms", "ms"),
        ("The slowest of 50 changes", &rig.change, "max_ms", "ms"),
        ("A change stops a worker for at most", &rig.change, "longest_adoption_us", "us"),
        ("Longest turn of a worker", &rig.change, "longest_turn_us", "us"),
    ] {
        if let Some(value) = each(list, key) {
            rows.push(vec![title.to_owned(), format!("{} {unit}", spread(value))]);
        }
    }
    if rows.is_empty() {
        return;
    }
    out.push_str(
        "<section><h2>Little to do, and changes</h2><p>One datagram each millisecond, which passes \
         the load balancer on its way to the real server, and once more on its way back. Changes: \
         the weight of one real server among 1,000 services of 20, by <code>xvsadm</code>, under full load; times include the program's start.</p>",
    );
    table(out, &["".to_owned(), "median (least to greatest)".to_owned()], rows);
    out.push_str("</section>");
}

fn section(out: &mut String, title: &str, about: &str, drawing: &str) {
    if drawing.is_empty() {
        return;
    }
    let title = escaped(title);
    write!(out, "<section><h2>{title}</h2><p>{about}</p><figure>{drawing}</figure></section>").ok();
}

fn spread(value: Value) -> String {
    let Value { median, min, max } = value;
    format!("{} ({} to {})", number(median), number(min), number(max))
}

fn table(out: &mut String, head: &[String], rows: Vec<Vec<String>>) {
    let cells = |cells: &[String], tag: &str| -> String {
        cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect()
    };
    write!(out, "<div class=\"table\"><table><thead><tr>{}</tr></thead><tbody>", cells(head, "th"))
        .ok();
    for row in rows {
        write!(out, "<tr>{}</tr>", cells(&row, "td")).ok();
    }
    out.push_str("</tbody></table></div>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_told_as_its_date() {
        assert_eq!(day(0), "1970-01-01");
        assert_eq!(day(951_782_400), "2000-02-29");
        assert_eq!(day(1_764_115_200), "2025-11-26");
    }

    #[test]
    fn a_page_shows_what_there_is_and_says_what_is_missing() {
        let run = |flows, ns| Run {
            method: "nat".into(),
            flows,
            workers: 1,
            new: false,
            ns_per_packet: ns,
            mpps: 1000.0 / ns,
            hot_ns: 40.0,
            bound_ns: 20.0,
            bytes_per_flow: 102.0,
        };
        let page = written(&[run(1000, 40.0), run(MANY, 50.0)], &Rig::default());
        assert!(page.contains("that needs root"), "{page}");
        assert_eq!(page.matches("<figure>").count(), 2, "costs and workers");
        assert!(page.contains("50.0 (50.0 to 50.0)"), "{page}");
    }
}
