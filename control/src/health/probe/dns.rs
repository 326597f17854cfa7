//! A DNS query over UDP is answered without an error, and with a record of the type asked for.
//! Source: RFC 1035, sections 4.1 and 4.2.1.

use std::str::FromStr as _;

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RecordType},
};

use super::{Found, Good, udp};
use crate::{field::FieldError, health::board::Probe};

/// Types of records that are asked for in checks.
const RECORDS: [&str; 9] = ["A", "AAAA", "SOA", "NS", "MX", "TXT", "CNAME", "SRV", "PTR"];

/// Refuses what cannot be asked.
pub(in crate::health) fn check(name: &str, record: &str) -> Result<(), FieldError> {
    if !RECORDS.contains(&record) {
        let reason = crate::field::unknown("type of record", record, RECORDS);
        return Err(FieldError::new("record", reason));
    }
    match Name::from_str(name) {
        Ok(_) => Ok(()),
        Err(error) => Err(FieldError::new("name", format!("`{name}`: {error}"))),
    }
}

pub(super) async fn run(probe: &Probe, (name, record): (&str, &str)) -> Found {
    let name = Name::from_str(name).map_err(|error| error.to_string())?;
    let record = RecordType::from_str(record).map_err(|error| error.to_string())?;
    let mut query = Message::new();
    query.set_recursion_desired(true).add_query(Query::query(name, record));
    let wanted = query.id();
    let octets = query.to_vec().map_err(|error| error.to_string())?;
    let socket = udp::socket(super::target(probe)).await?;
    socket.send(&octets).await.map_err(|error| super::connect::words(&error))?;
    // An answer to an earlier query may come first.
    let answer = loop {
        let octets = udp::answer(&socket).await?;
        let answer = Message::from_vec(&octets).map_err(|error| format!("DNS: {error}"))?;
        if answer.id() == wanted {
            break answer;
        }
    };
    if answer.response_code() != ResponseCode::NoError {
        return Err(format!("DNS: {}", answer.response_code()));
    }
    let records = answer.answers().iter().filter(|found| found.record_type() == record).count();
    match records {
        0 => Err(format!("DNS: no {record} record in the answer")),
        count => Ok(Good::new(format!("{count} {record} records"))),
    }
}
