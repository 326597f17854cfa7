//! Listings, compared: the kernel's text against ours.
//!
//! Equal but for two things. Seconds until expiry may differ by one. Flows are listed in the order
//! of the kernel's hash table, and so are services in `/proc/net/ip_vs`: their lines and blocks are
//! compared as a set.

/// What a line is compared by: the line with its expiry cut out, and the expiry in seconds.
type Line = (String, Option<u32>);

/// How far expiries may lie apart, in seconds.
const EXPIRY_SLACK_S: u32 = 1;

/// Compares the output of `command`. `Err` is the first line that differs: the kernel's and ours.
pub(super) fn compare(command: &str, expected: &str, got: &str) -> Result<(), (String, String)> {
    let (expected, got) = (rates_cut(command, expected), rates_cut(command, got));
    if is_flows(command) {
        let (expected, got) = (flow_lines(&expected), flow_lines(&got));
        return pairs(&expected, &got, same_flow, |(line, expiry)| match expiry {
            Some(seconds) => format!("{line} ({seconds} s)"),
            None => line.clone(),
        });
    }
    let same = |a: &String, b: &String| a == b;
    if command.ends_with("/proc/net/ip_vs") {
        return pairs(&blocks(&expected), &blocks(&got), same, |block| block.trim_end().to_owned());
    }
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    pairs(&lines(&expected), &lines(&got), same, Clone::clone)
}

/// Columns of the five rates that end a line.
const RATES: usize = 45;

/// `/proc/net/ip_vs_stats` ends in rates, which depend on when the kernel's estimator last ran.
fn rates_cut(command: &str, text: &str) -> String {
    if command.contains("--rate") {
        let cut = |line: &str| {
            let split = line.len().checked_sub(RATES).and_then(|at| line.split_at_checked(at));
            let rates = |text: &str| text.chars().all(|c| c == ' ' || c.is_ascii_digit());
            split.filter(|(_, tail)| rates(tail)).map_or(line, |(head, _)| head).to_owned()
        };
        return text.lines().map(|line| format!("{}\n", cut(line))).collect();
    }
    let totals = match command {
        _ if command.contains("ip_vs_stats_percpu") => 4,
        _ if command.contains("ip_vs_stats") => 3,
        _ => usize::MAX,
    };
    text.lines().take(totals).map(|line| format!("{line}\n")).collect()
}

/// Whether a command lists flows.
pub(super) fn is_flows(command: &str) -> bool {
    let lists_flows = |word: &str| {
        let letters = word.strip_prefix('-').filter(|letters| !letters.starts_with('-'));
        letters.is_some_and(|letters| letters.contains('c') && !letters.contains('-'))
            || word == "--connection"
            || word.contains("ip_vs_conn")
    };
    command.split_whitespace().any(lists_flows)
}

/// How many seconds must go by until no flow expires more than a second later here than there.
pub(super) fn late(expected: &str, got: &str) -> u32 {
    let (expected, got) = (flow_lines(expected), flow_lines(got));
    let apart = expected.iter().filter_map(|(line, theirs)| {
        let ours = got.iter().find(|(known, _)| known == line)?.1;
        Some(ours?.saturating_sub(*theirs.as_ref()?))
    });
    apart.max().unwrap_or(0).saturating_sub(EXPIRY_SLACK_S)
}

/// The lines of a list of flows, sorted, with `MM:SS`, or the number of seconds that ends a line of
/// `/proc`, taken out.
fn flow_lines(text: &str) -> Vec<Line> {
    let mut lines: Vec<_> = text.lines().map(flow_line).collect();
    lines.sort();
    lines
}

fn flow_line(line: &str) -> Line {
    let clock = |word: &str| {
        let (minutes, seconds) = word.split_once(':')?;
        minutes.parse::<u32>().ok()?.checked_mul(60)?.checked_add(seconds.parse().ok()?)
    };
    for (at, word) in words(line).take(2) {
        if let Some(expiry) = clock(word) {
            return (format!("{}--:--{}", &line[..at], &line[at + word.len()..]), Some(expiry));
        }
    }
    // In /proc the time stands after the state, which is no hexadecimal number.
    let ends_in_seconds = words(line).skip(8).find_map(|(at, word)| {
        let expiry = word.parse::<u32>().ok()?;
        Some((at, word, expiry))
    });
    match ends_in_seconds {
        Some((at, word, expiry)) => {
            let head = line[..at].trim_end();
            (format!("{head} --{}", &line[at + word.len()..]), Some(expiry))
        }
        None => (line.to_owned(), None),
    }
}

/// The words of a line, with the offset of each.
fn words(line: &str) -> impl Iterator<Item = (usize, &str)> {
    line.split(' ')
        .scan(0, |at, word| {
            let start = *at;
            *at += word.len() + 1;
            Some((start, word))
        })
        .filter(|(_, word)| !word.is_empty())
}

fn same_flow(a: &Line, b: &Line) -> bool {
    let close = match (a.1, b.1) {
        (Some(a), Some(b)) => a.abs_diff(b) <= EXPIRY_SLACK_S,
        (a, b) => a == b,
    };
    a.0 == b.0 && close
}

/// The head, and every service with its real servers, sorted.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    for line in text.lines() {
        if !line.starts_with("  ->") || blocks.is_empty() {
            blocks.push(String::new());
        }
        let block = blocks.len() - 1;
        blocks[block].push_str(line);
        blocks[block].push('\n');
    }
    blocks.sort();
    blocks
}

/// Compares item by item.
fn pairs<T>(
    expected: &[T],
    got: &[T],
    same: impl Fn(&T, &T) -> bool,
    show: impl Fn(&T) -> String,
) -> Result<(), (String, String)> {
    let line = |item: Option<&T>| {
        item.map_or_else(|| "no more lines".to_owned(), |item| format!("`{}`", show(item)))
    };
    for at in 0..expected.len().max(got.len()) {
        match (expected.get(at), got.get(at)) {
            (Some(expected), Some(got)) if same(expected, got) => {}
            (expected, got) => return Err((line(expected), line(got))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOWS: &str = "IPVS connection entries\n\
        pro expire state       source             virtual            destination\n\
        TCP 00:59  SYN_RECV    10.9.0.7:1002      10.0.0.1:80        10.2.0.11:80\n\
        TCP 14:59  ESTABLISHED 10.9.0.7:1001      10.0.0.1:80        10.2.0.12:80\n";

    #[test]
    fn flows_may_be_in_any_order_and_a_second_apart() {
        let mut ours: Vec<_> = FLOWS.lines().collect();
        ours.swap(2, 3);
        let ours = ours.join("\n").replace("14:59", "15:00");
        assert_eq!(compare("ipvsadm -Lcn", FLOWS, &ours), Ok(()));
        let late = ours.replace("15:00", "15:01");
        assert!(compare("ipvsadm -Lcn", FLOWS, &late).is_err());
        let (expected, got) =
            compare("ipvsadm -Lcn", FLOWS, &ours.replace(":1002", ":1003")).unwrap_err();
        assert!(expected.contains(":1002") && got.contains(":1003"));
    }

    #[test]
    fn seconds_in_proc_are_found_behind_the_state() {
        let ours = "TCP 0A090007 9C57 0A000001 0050 0A02000B 1F90 SYN_RECV         55\n";
        let theirs = ours.replace("  55", "  56");
        assert_eq!(compare("cat /proc/net/ip_vs_conn", &theirs, ours), Ok(()));
        let theirs = ours.replace(" 55", "157");
        assert!(compare("cat /proc/net/ip_vs_conn", &theirs, ours).is_err());
        let ours = "TCP 0A090007 9C57 0A000001 0050 0A02000B 1F90 SYN_RECV    LOCAL       55\n";
        let theirs = ours.replace("  55", "  54");
        assert_eq!(compare("cat /proc/net/ip_vs_conn_sync", &theirs, ours), Ok(()));
    }

    #[test]
    fn services_in_proc_may_be_in_any_order_but_not_their_real_servers() {
        let theirs = "head\nTCP  A rr  \n  -> 1\n  -> 2\nUDP  B rr  \n  -> 3\n";
        let ours = "head\nUDP  B rr  \n  -> 3\nTCP  A rr  \n  -> 1\n  -> 2\n";
        assert_eq!(compare("cat /proc/net/ip_vs", theirs, ours), Ok(()));
        let ours = ours.replace("  -> 1\n  -> 2", "  -> 2\n  -> 1");
        assert!(compare("cat /proc/net/ip_vs", theirs, &ours).is_err());
    }

    #[test]
    fn other_listings_are_compared_to_the_letter() {
        assert_eq!(compare("ipvsadm -Ln", "a\nb \n", "a\nb \n"), Ok(()));
        let no_more = "no more lines".to_owned();
        assert_eq!(compare("ipvsadm -Ln", "a\n", ""), Err(("`a`".to_owned(), no_more)));
        assert!(compare("ipvsadm -Ln", "a \n", "a\n").is_err());
    }
}
