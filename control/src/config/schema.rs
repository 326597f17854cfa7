//! The JSON schema of the configuration, for editors and for whoever writes configurations: made of the
//! types that read the file (`file`), so it knows every field and no other.

use schemars::{generate::SchemaSettings, transform::RestrictFormats};
use serde_json::Value;

use super::file::File;

/// The schema, in the dialect of 2020-12.
///
/// It says what a field is and its bounds; that values go together only [`super::Config::parse`] says.
pub fn schema() -> Value {
    let generator =
        SchemaSettings::draft2020_12().with_transform(RestrictFormats::default()).into_generator();
    let mut schema = generator.into_root_schema_for::<File>().to_value();
    without_null(&mut schema);
    schema["title"] = "xvsd.toml".into();
    schema
}

/// TOML has no null: what may be left out is left out. And a description is one line.
fn without_null(value: &mut Value) {
    match value {
        Value::Object(object) => {
            if let Some(Value::String(text)) = object.get_mut("description") {
                *text = text.replace('\n', " ");
            }
            if object.get("default").is_some_and(Value::is_null) {
                object.remove("default");
            }
            if let Some([kind, other]) =
                object.get("type").and_then(Value::as_array).map(Vec::as_slice)
                && other == "null"
            {
                let kind = kind.clone();
                object.insert("type".to_owned(), kind);
            }
            if let Some([kind, _]) =
                object.get("anyOf").and_then(Value::as_array).map(Vec::as_slice)
                && let Some(Value::String(reference)) = kind.get("$ref").cloned()
            {
                object.remove("anyOf");
                object.insert("$ref".to_owned(), reference.into());
            }
            object.values_mut().for_each(without_null);
        }
        Value::Array(array) => array.iter_mut().for_each(without_null),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// Every table of the schema by its name, with its fields.
    fn tables() -> Vec<(String, serde_json::Map<String, Value>)> {
        let schema = schema();
        let own = ("File".to_owned(), schema["properties"].as_object().unwrap().clone());
        let others = schema["$defs"].as_object().unwrap().iter();
        let fields = |table: &Value| table["properties"].as_object().unwrap().clone();
        let others = others.map(|(name, table)| (name.clone(), fields(table)));
        std::iter::once(own).chain(others).collect()
    }

    #[test]
    fn every_field_is_described() {
        for (table, fields) in tables() {
            for (name, field) in fields {
                assert!(field["description"].is_string(), "{table}.{name} has no description");
            }
        }
    }

    /// A file that gives one field of a table a value, and is fine but for that.
    fn file(table: &str, field: &str, value: i64) -> String {
        let given = format!("{field} = {value}\n");
        match table {
            "Daemon" => format!("[daemon]\n{given}"),
            "Timeouts" => format!("[timeouts]\n{given}"),
            "Mark" => format!("[[mark]]\nto = \"10.0.0.1\"\n{given}"),
            "Service" if field == "mark" => format!("[[service]]\n{given}"),
            "Service" => {
                let port = if field == "port" { "" } else { "port = 80\n" };
                format!(
                    "[[service]]\nprotocol = \"tcp\"\naddress = \"10.0.0.1\"\n{port}{}{given}",
                    if field == "port" { "persistence_seconds = 9\n" } else { "" }
                )
            }
            "Real" => format!(
                "[[service]]\nmark = 1\n[[service.real]]\naddress = \"10.0.0.2\"\n\
                 method = \"nat\"\n{}{given}",
                if field == "lower_threshold" { "upper_threshold = 2147483647\n" } else { "" }
            ),
            "Tunnel" => format!(
                "[[service]]\nmark = 1\n[[service.real]]\naddress = \"10.0.0.2\"\n\
                 method = \"gue\"\ntunnel = {{ {field} = {value} }}\n"
            ),
            "Health" | "Passive" | "Check" => {
                let policy = match table {
                    "Health" => {
                        let quorum =
                            if field == "quorum_hysteresis" { "quorum = 4294967295\n" } else { "" };
                        format!(
                            "[service.health]\n{quorum}{given}[[service.health.check]]\nkind = \"tcp\"\n"
                        )
                    }
                    "Passive" => format!("[service.health.passive]\n{given}"),
                    _ => format!("[[service.health.check]]\nkind = \"tcp\"\n{given}"),
                };
                let port = if field == "port" { "" } else { "port = 80\n" };
                format!(
                    "[[service]]\nmark = 1\n[[service.real]]\naddress = \"10.0.0.2\"\n{port}method = \"nat\"\n{policy}"
                )
            }
            "Otlp" => format!("[otlp]\nendpoint = \"http://localhost:4317\"\n{given}"),
            other => panic!("no example of a table {other}: add one"),
        }
    }

    #[test]
    fn the_bounds_it_states_are_those_in_force() {
        let mut seen = 0;
        for (table, fields) in tables() {
            for (name, field) in fields {
                let (Some(least), Some(most)) =
                    (field["minimum"].as_i64(), field["maximum"].as_i64())
                else {
                    assert_ne!(field["type"], "integer", "{table}.{name} has no bounds");
                    continue;
                };
                seen += 1;
                for value in [least - 1, most + 1] {
                    let error = Config::parse(&file(&table, &name, value)).unwrap_err().to_string();
                    let said = format!("{value} is not within {least} to {most}");
                    assert!(error.contains(&said), "{table}.{name}: {error}");
                }
                for value in [least, most] {
                    let refused = Config::parse(&file(&table, &name, value)).err();
                    let error = refused.map(|error| error.to_string()).unwrap_or_default();
                    assert!(!error.contains("is not within"), "{table}.{name}: {error}");
                }
            }
        }
        assert!(seen > 15, "only {seen} fields with bounds");
    }
}
