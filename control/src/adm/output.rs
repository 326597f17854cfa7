//! How a verb shows what the daemon answered: as a table for people, or as JSON or YAML for programs.
//!
//! Both have the API's own names and structure, with fields at their defaults; of what comes one by one
//! (flows, events) JSON has an object a line and YAML a document each.

use clap::ValueEnum;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Value;

use crate::proto::DESCRIPTORS;

/// In which form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
    /// For both.
    Yaml,
}

impl Format {
    /// A message of the API, called `name` there; `table` writes it for people.
    pub(super) fn show<M: Message>(
        self,
        name: &str,
        message: &M,
        table: impl FnOnce(&M) -> String,
    ) -> String {
        match self {
            Self::Table => table(message),
            Self::Json => format!("{:#}\n", value(name, message)),
            Self::Yaml => yaml(&value(name, message)),
        }
    }

    /// One of many messages.
    pub(super) fn show_one<M: Message>(
        self,
        name: &str,
        message: &M,
        table: impl FnOnce(&M) -> String,
    ) -> String {
        match self {
            Self::Json => format!("{}\n", value(name, message)),
            Self::Yaml => format!("---\n{}", self.show(name, message, table)),
            Self::Table => self.show(name, message, table),
        }
    }
}

/// A message as JSON.
fn value<M: Message>(name: &str, message: &M) -> Value {
    let pool = DescriptorPool::decode(DESCRIPTORS).expect("the descriptors of the same build");
    let descriptor = pool.get_message_by_name(&format!("xvs.v1.{name}"));
    let descriptor = descriptor.expect("a message of the same build");
    let mut dynamic = DynamicMessage::new(descriptor);
    dynamic.transcode_from(message).expect("a message is its own description");
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .skip_default_fields(false)
        .stringify_64_bit_integers(false);
    dynamic
        .serialize_with_options(serde_json::value::Serializer, &options)
        .expect("a message of the API is JSON")
}

fn yaml(value: &Value) -> String {
    serde_norway::to_string(value).expect("JSON is YAML")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1;

    #[test]
    fn programs_get_the_apis_names_and_numbers() {
        let settings = v1::GetSettingsResponse {
            settings: vec![v1::Setting { name: "hairpin".to_owned(), value: "1".to_owned() }],
        };
        let show = |format: Format| {
            format.show("GetSettingsResponse", &settings, |all| format!("{}\n", all.settings.len()))
        };
        assert_eq!(show(Format::Table), "1\n");
        assert_eq!(show(Format::Yaml), "settings:\n- name: hairpin\n  value: '1'\n");
        let json: Value = serde_json::from_str(&show(Format::Json)).unwrap();
        assert_eq!(json["settings"][0]["name"], "hairpin");
        let table = v1::FlowTableStatistics { capacity: 1 << 40, used: 0 };
        let line = Format::Json.show_one("FlowTableStatistics", &table, |_| String::new());
        assert_eq!(line, "{\"capacity\":1099511627776,\"used\":0}\n");
    }
}
