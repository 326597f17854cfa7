//! The page's form: what would become of a packet, in the words of `xvsadm explain`.

use std::net::SocketAddr;

use crate::{
    adm::explain::told,
    engine::Engine,
    proto::v1::{self, explain_request::Packet},
    rpc::explain::{asked, explain},
    words,
};

/// Answers a query `protocol=tcp&from=ADDRESS:PORT&to=ADDRESS:PORT`.
///
/// # Errors
///
/// What is wrong with it, in a sentence.
pub(super) fn answer(engine: &Engine, query: &str) -> Result<String, String> {
    let request = request(query)?;
    let (device, frame) = asked(engine, &request).map_err(|error| error.to_string())?;
    let said = explain(engine, device, &frame).map_err(|error| error.to_string())?;
    Ok(told(&said))
}

fn request(query: &str) -> Result<v1::ExplainRequest, String> {
    let value = |wanted: &str| {
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        pairs.find(|(name, _)| name == wanted).map(|(_, value)| value.trim().to_owned())
    };
    let end = |name: &str| {
        let text = value(name).unwrap_or_default();
        text.parse::<SocketAddr>().map_err(|_unparsed| {
            format!("{name}: `{text}` is not an address and port as 10.9.0.1:4711 or [fd00::1]:80")
        })
    };
    let protocol = words::parse_protocol(&value("protocol").unwrap_or_default())?;
    let (from, to) = (end("from")?, end("to")?);
    let tuple = v1::FiveTuple {
        protocol: protocol.into(),
        source_address: from.ip().to_string(),
        source_port: from.port().into(),
        destination_address: to.ip().to_string(),
        destination_port: to.port().into(),
        tcp_flags: value("flags").unwrap_or_default(),
    };
    Ok(v1::ExplainRequest { packet: Some(Packet::Tuple(tuple)), interface: String::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_a_packet_or_what_is_wrong_with_it() {
        let read = request("protocol=tcp&from=%5Bfd00%3A%3A1%5D%3A4711&to=[fd01::100]:80").unwrap();
        let Some(Packet::Tuple(tuple)) = read.packet else { panic!("no tuple") };
        assert_eq!((tuple.source_address.as_str(), tuple.source_port), ("fd00::1", 4711));
        assert_eq!((tuple.destination_address.as_str(), tuple.destination_port), ("fd01::100", 80));
        assert!(request("protocol=tcp&from=10.0.0.1&to=10.0.0.2:80").unwrap_err().contains("from"));
        assert!(
            request("protocol=tpc&from=10.0.0.1:1&to=10.0.0.2:80").unwrap_err().contains("tcp")
        );
    }
}
