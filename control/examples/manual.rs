//! Writes the manual pages, the JSON schema of the configuration and the completions for shells into a folder: what was written by hand,
//! with what the programs themselves say about their options and verbs.

use std::{env, fs, io, path::Path, process::ExitCode};

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;
use serde_json::Value;
use xvs_control::{adm, arguments::Args, config};

fn main() -> ExitCode {
    let Some(folder) = env::args_os().nth(1) else {
        return ExitCode::from(2);
    };
    match write(Path::new(&folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn write(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let daemon = Man::new(Args::command());
    let (mut synopsis, mut options) = (Vec::new(), Vec::new());
    daemon.render_synopsis_section(&mut synopsis)?;
    daemon.render_options_section(&mut options)?;
    let page = include_str!("../man/xvsd.8")
        .replace(".\\\" SYNOPSIS\n", &text(synopsis))
        .replace(".\\\" OPTIONS\n", &text(options));
    fs::write(folder.join("xvsd.8"), page)?;

    let page = include_str!("../man/xvsadm.8").replace(".\\\" VERBS\n", &verbs()?);
    fs::write(folder.join("xvsadm.8"), page)?;
    let schema = config::schema();
    fs::write(folder.join("xvsd.schema.json"), format!("{schema:#}\n"))?;
    let page = include_str!("../man/xvsd.toml.5").replace(".\\\" FIELDS\n", &fields(&schema));
    fs::write(folder.join("xvsd.toml.5"), page)?;
    for (shell, name) in [("bash", "xvsadm"), ("zsh", "_xvsadm"), ("fish", "xvsadm.fish")] {
        fs::write(folder.join(name), adm::completion(shell).expect("a shell of ours"))?;
    }
    Ok(())
}

/// A section for each table of the configuration, with its fields.
fn fields(schema: &Value) -> String {
    let mut out = String::new();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        table(schema, name, field, &mut out);
    }
    out
}

/// A table's section, and those of the tables in it.
fn table(schema: &Value, path: &str, field: &Value, out: &mut String) {
    let reference = field["$ref"].as_str().or_else(|| field["items"]["$ref"].as_str());
    let fields = reference.map_or(&Value::Null, |reference| {
        &schema["$defs"][reference.trim_start_matches("#/$defs/")]["properties"]
    });
    let (open, close) = if field["type"] == "array" { ("[[", "]]") } else { ("[", "]") };
    let about = field["description"].as_str().unwrap_or_default();
    out.push_str(&format!(".SS {open}{path}{close}\n{}\n", plain(about)));
    let mut below = Vec::new();
    for (name, field) in fields.as_object().into_iter().flatten() {
        if !field["$ref"].is_null() || !field["items"]["$ref"].is_null() {
            below.push((format!("{path}.{name}"), field));
            continue;
        }
        let bounds = match (field["minimum"].as_i64(), field["maximum"].as_i64()) {
            (Some(least), Some(most)) => format!(", {least} to {most}"),
            _ => String::new(),
        };
        let kind = field["type"].as_str().unwrap_or("any");
        let about = field["description"].as_str().unwrap_or_default();
        out.push_str(&format!(".TP\n\\fB{name}\\fR ({kind}{bounds})\n{}\n", plain(about)));
    }
    for (path, field) in below {
        table(schema, &path, field, out);
    }
}

/// Text in which roff sees no commands.
fn plain(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\*(Aq");
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}

fn text(octets: Vec<u8>) -> String {
    String::from_utf8(octets).expect("clap's texts are UTF-8")
}

/// A section for each verb, and for each verb below one.
fn verbs() -> io::Result<String> {
    let mut out = String::new();
    let mut all = adm::verbs();
    all.build();
    for verb in all.get_subcommands().filter(|verb| verb.get_name() != "help") {
        section(verb.clone(), &mut out)?;
        let below = verb.get_subcommands().filter(|verb| verb.get_name() != "help");
        below.into_iter().try_for_each(|verb| section(verb.clone(), &mut out))?;
    }
    Ok(out)
}

/// How a verb is written, what it is for, and its arguments.
fn section(verb: Command, out: &mut String) -> io::Result<()> {
    let usage = verb.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").replace('\n', " ").replace('-', "\\-");
    out.push_str(&format!(".SS {usage}\n"));
    let verb = verb.mut_arg("help", |help| help.hide(true));
    let has_arguments = verb.get_arguments().any(|argument| !argument.is_hide_set());
    let page = Man::new(verb);
    let mut part = Vec::new();
    page.render_description_section(&mut part)?;
    if has_arguments {
        page.render_options_section(&mut part)?;
    }
    let lines = text(part);
    // Headings are ours; the apostrophe is defined once for the page.
    let others = [".SH ", ".ie ", ".el "];
    let lines = lines.lines().filter(|line| !others.iter().any(|other| line.starts_with(other)));
    out.extend(lines.flat_map(|line| [line, "\n"]));
    Ok(())
}
