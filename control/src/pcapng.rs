//! Writes pcapng: a section, its interfaces, and packets with directions and comments.
//!
//! Little of the format is needed, and no library that is kept writes options. Everything is in the
//! machine's own byte order, as the format has it. Source: draft-ietf-opsawg-pcapng, sections 4.1 to 4.3.

/// Block types.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;

/// Says which byte order the section is in.
const BYTE_ORDER: u32 = 0x1a2b_3c4d;

/// Link type.
const ETHERNET: u16 = 1;

/// Options.
const COMMENT: u16 = 1;
const APPLICATION: u16 = 4;
const INTERFACE_NAME: u16 = 2;
const INTERFACE_RESOLUTION: u16 = 9;
const PACKET_FLAGS: u16 = 2;

/// Time stamps count nanoseconds.
const NANOSECONDS: u8 = 9;

/// Which way a packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// It came.
    In = 1,
    /// It left.
    Out = 2,
}

/// A packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    /// Number of its interface in the section.
    pub(crate) interface: u32,
    /// Nanoseconds since 1970.
    pub(crate) nanos: u64,
    /// Its whole length.
    pub(crate) length: u32,
    /// What was kept of it.
    pub(crate) data: &'a [u8],
    /// Which way it went.
    pub(crate) way: Way,
    /// What is said of it.
    pub(crate) comment: &'a str,
}

/// The beginning of a file with these interfaces.
pub(crate) fn head(application: &str, interfaces: &[String], snap: u32) -> Vec<u8> {
    let mut out = Vec::new();
    // Version 1.0, of a section whose length is not known.
    let mut body = BYTE_ORDER.to_ne_bytes().to_vec();
    body.extend(1_u16.to_ne_bytes());
    body.extend(0_u16.to_ne_bytes());
    body.extend((-1_i64).to_ne_bytes());
    option(&mut body, APPLICATION, application.as_bytes());
    end(&mut body);
    block(&mut out, SECTION, &body);
    for name in interfaces {
        let mut body = ETHERNET.to_ne_bytes().to_vec();
        body.extend(0_u16.to_ne_bytes());
        body.extend(snap.to_ne_bytes());
        option(&mut body, INTERFACE_NAME, name.as_bytes());
        option(&mut body, INTERFACE_RESOLUTION, &[NANOSECONDS]);
        end(&mut body);
        block(&mut out, INTERFACE, &body);
    }
    out
}

/// Adds a packet.
pub(crate) fn packet(out: &mut Vec<u8>, packet: &Packet<'_>) {
    let [high, low] = [packet.nanos >> 32, packet.nanos & u64::from(u32::MAX)];
    let word = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let kept = u32::try_from(packet.data.len()).unwrap_or(u32::MAX);
    let mut body = Vec::with_capacity(packet.data.len() + 96);
    for field in [packet.interface, word(high), word(low), kept, packet.length] {
        body.extend(field.to_ne_bytes());
    }
    body.extend(packet.data);
    pad(&mut body);
    option(&mut body, PACKET_FLAGS, &(packet.way as u32).to_ne_bytes());
    option(&mut body, COMMENT, packet.comment.as_bytes());
    end(&mut body);
    block(out, PACKET, &body);
}

fn block(out: &mut Vec<u8>, kind: u32, body: &[u8]) {
    // Type, length, and the length once more behind.
    let length = u32::try_from(body.len() + 12).unwrap_or(u32::MAX).to_ne_bytes();
    out.extend(kind.to_ne_bytes());
    out.extend(length);
    out.extend(body);
    out.extend(length);
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = &value[..value.len().min(u16::MAX.into())];
    body.extend(code.to_ne_bytes());
    body.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_ne_bytes());
    body.extend(value);
    pad(body);
}

/// The end of options.
fn end(body: &mut Vec<u8>) {
    body.extend([0; 4]);
}

/// Everything begins at a multiple of 4.
fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}
