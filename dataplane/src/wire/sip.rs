//! SIP, as far as one header of it: the Call-ID.
//!
//! The message begins with a line of its own; headers follow, one a line. A line ends with CR, LF or
//! CR LF, and goes on in the next one that begins with a blank. The name is taken in any case, or
//! as its compact form `i`. The identifier is a word, or two with `@` between them (RFC 3261,
//! sections 7.3, 20.8 and 25.1).
//! Source of what counts as one: Linux `net/netfilter/ipvs/ip_vs_pe_sip.c`, `get_callid`;
//! `net/netfilter/nf_conntrack_sip.c`, `ct_sip_get_header`, `callid_len`.

/// Longest identifier taken, in octets: IP_VS_PEDATA_MAXLEN.
pub const CALL_ID_MAX: usize = 255;

/// The header's name.
const NAME: &[u8] = b"Call-ID";

/// The identifier of the call that a message belongs to; `None` if it names none, names it badly, or
/// at too great a length.
///
/// Passes over the message once for each header that names no identifier, and from behind that
/// header.
pub fn call_id(message: &[u8]) -> Option<&[u8]> {
    let mut from = 0;
    loop {
        let start = header(message, from)?;
        let length = identifier(&message[start..]);
        if length > 0 {
            let ended = matches!(message.get(start + length), Some(b'\r' | b'\n'));
            return (ended && length <= CALL_ID_MAX).then(|| &message[start..start + length]);
        }
        from += start;
    }
}

/// Where the value of the first such header behind `from` begins.
fn header(message: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while at < message.len() {
        if !matches!(message[at], b'\r' | b'\n') {
            at += 1;
            continue;
        }
        at = line_start(message, at)?;
        let rest = &message[at..];
        if matches!(rest[0], b' ' | b'\t') {
            at += 1;
            continue;
        }
        let compact = matches!(rest, [b'i' | b'I', next, ..] if !is_letter(*next));
        let name = rest.get(..NAME.len()).filter(|name| name.eq_ignore_ascii_case(NAME));
        at += match name {
            Some(name) => name.len(),
            None if compact => 1,
            None => {
                at += 1;
                continue;
            }
        };
        at = skip_blanks(message, at)?;
        if message.get(at) != Some(&b':') || at + 1 >= message.len() {
            return None;
        }
        return skip_blanks(message, at + 1);
    }
    None
}

/// The first octet behind the end of line at `at`.
fn line_start(message: &[u8], at: usize) -> Option<usize> {
    let pair = message[at] == b'\r' && message.get(at + 1) == Some(&b'\n');
    let start = at + if pair { 2 } else { 1 };
    (start < message.len()).then_some(start)
}

/// The first octet from `at` on that is no blank. An end of line is one if the next line goes on
/// with this one.
fn skip_blanks(message: &[u8], at: usize) -> Option<usize> {
    let blanks = |at: usize| {
        at + message[at..].iter().take_while(|octet| matches!(octet, b' ' | b'\t')).count()
    };
    let at = blanks(at);
    if !matches!(message.get(at), Some(b'\r' | b'\n')) {
        return Some(at);
    }
    let next = line_start(message, at)?;
    matches!(message[next], b' ' | b'\t').then(|| blanks(next))
}

/// Octets of the identifier at the start of a text; 0 if there is none.
fn identifier(text: &[u8]) -> usize {
    let word = |text: &[u8]| text.iter().take_while(|octet| is_word(**octet)).count();
    let local = word(text);
    if local == 0 || text.get(local) != Some(&b'@') {
        return local;
    }
    match word(&text[local + 1..]) {
        0 => 0,
        domain => local + 1 + domain,
    }
}

/// Whether an octet may stand in a word; letters are those of Latin-1, as in the kernel.
const fn is_word(octet: u8) -> bool {
    is_letter(octet)
        || octet.is_ascii_digit()
        || matches!(octet, b'!' | b'"' | b'%' | b'\'' | b'('..=b'+' | b'-'..=b'/' | b':' | b'<')
        || matches!(octet, b'>' | b'?' | b'['..=b']' | b'_' | b'`' | b'{' | b'}' | b'~')
}

/// Whether an octet is a letter of Latin-1.
const fn is_letter(octet: u8) -> bool {
    octet.is_ascii_alphabetic() || (octet >= 0xc0 && octet != 0xd7 && octet != 0xf7)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<&str> {
        call_id(text.as_bytes()).map(|id| std::str::from_utf8(id).unwrap())
    }

    #[test]
    fn the_identifier_is_read_in_all_its_forms() {
        for (text, id) in [
            ("INVITE sip:a@b SIP/2.0\r\nCall-ID: abc123@10.9.1.7\r\n\r\n", "abc123@10.9.1.7"),
            ("INVITE\r\nVia: x\r\ncall-id :  a\r\n", "a"),
            ("INVITE\ni: a-b.c~d@host\n", "a-b.c~d@host"),
            ("INVITE\rI:\r\n x\r", "x"),
            ("INVITE\r\nCall-ID: @x\r\nCall-ID: y@z\r\n", "y@z"),
            ("INVITE\r\nSubject: one\r\n Call-ID: no\r\nCALL-ID: yes\r\n", "yes"),
        ] {
            assert_eq!(read(text), Some(id), "{text:?}");
        }
    }

    #[test]
    fn what_names_no_call_has_no_identifier() {
        let long = format!("INVITE\r\nCall-ID: {}\r\n", "x".repeat(CALL_ID_MAX + 1));
        let longest = format!("INVITE\r\nCall-ID: {}\r\n", "x".repeat(CALL_ID_MAX));
        assert!(read(&longest).is_some());
        for text in [
            "",
            "Call-ID: first-line\r\n",
            "INVITE\r\nCall-ID: unfinished",
            "INVITE\r\nCall-ID: two words\r\n",
            "INVITE\r\nCall-ID: a@\r\n",
            "INVITE\r\nCall-ID a\r\nCall-ID: b\r\n",
            "INVITE\r\nCall-ID:",
            "INVITE\r\nCall-ID:\r\n",
            "INVITE\r\nid: a\r\n",
            "INVITE\r\n",
            "INVITE\r",
            long.as_str(),
        ] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    #[test]
    fn no_message_is_read_past_its_end() {
        let message = b"INVITE\r\nCall-ID:\r\n \ta@b\r\ni:@\ri: x\r\n";
        for end in 0..message.len() {
            for start in 0..=end {
                call_id(&message[start..end]);
            }
        }
    }
}
