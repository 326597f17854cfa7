//! Compiles the BPF programs, if feature `xsk` wants them.
//!
//! Needs clang, libbpf's headers and the kernel's: on Debian the packages clang, libbpf-dev and
//! linux-libc-dev.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// Where the programs' sources lie, below the package, and what each becomes.
const PROGRAMS: [(&str, &str); 2] =
    [("src/steering/steer.c", "steer.o"), ("src/io/xsk/send.c", "send.o")];

/// What it includes.
const HEADER: &str = "src/steering/packet.h";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_XSK").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed={HEADER}");
    println!("cargo::rerun-if-env-changed=CLANG");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for (source, object) in PROGRAMS {
        println!("cargo::rerun-if-changed={source}");
        if let Err(message) = compile(source, &out.join(object)) {
            println!("cargo::error={message}");
        }
    }
}

/// Runs clang; the error says which Debian package is missing.
fn compile(source: &str, out: &Path) -> Result<(), String> {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets the target's architecture");
    let run = Command::new(&clang)
        .args(["-target", "bpf", "-O2", "-g", "-Wall", "-Wextra", "-Werror"])
        // Debian keeps <asm/types.h> in the directory of the architecture.
        .arg(format!("-I/usr/include/{arch}-linux-gnu"))
        .args(["-fdebug-compilation-dir=.", "-c", source, "-o"])
        .arg(out)
        .output();
    let output = run.map_err(|error| {
        format!(
            "feature xsk compiles {source} with {clang}, which does not run ({error}): \
             install the Debian package clang, or name a clang in the variable CLANG"
        )
    })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    for line in text.lines() {
        println!("cargo::warning={line}");
    }
    Err(match text.lines().find(|line| line.contains("file not found")) {
        Some(line) if line.contains("bpf/") => {
            format!("{source} needs libbpf's headers: install the Debian package libbpf-dev")
        }
        Some(_) => format!(
            "{source} needs the kernel's headers: install the Debian package linux-libc-dev"
        ),
        None => format!("{clang} refuses {source}"),
    })
}
