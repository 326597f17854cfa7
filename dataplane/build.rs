//! Compiles the steering program, if feature `xsk` wants it.
//!
//! Needs clang, libbpf's headers and the kernel's: on Debian the packages clang, libbpf-dev and
//! linux-libc-dev.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// Where the program's source lies, below the package.
const SOURCE: &str = "src/steering/steer.c";

/// What it includes.
const HEADER: &str = "src/steering/packet.h";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_XSK").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-changed={HEADER}");
    println!("cargo::rerun-if-env-changed=CLANG");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("steer.o");
    if let Err(message) = compile(&out) {
        println!("cargo::error={message}");
    }
}

/// Runs clang; the error says which Debian package is missing.
fn compile(out: &Path) -> Result<(), String> {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets the target's architecture");
    let run = Command::new(&clang)
        .args(["-target", "bpf", "-O2", "-g", "-Wall", "-Wextra", "-Werror"])
        // Debian keeps <asm/types.h> in the directory of the architecture.
        .arg(format!("-I/usr/include/{arch}-linux-gnu"))
        .args(["-fdebug-compilation-dir=.", "-c", SOURCE, "-o"])
        .arg(out)
        .output();
    let output = run.map_err(|error| {
        format!(
            "feature xsk compiles {SOURCE} with {clang}, which does not run ({error}): \
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
            format!("{SOURCE} needs libbpf's headers: install the Debian package libbpf-dev")
        }
        Some(_) => format!(
            "{SOURCE} needs the kernel's headers: install the Debian package linux-libc-dev"
        ),
        None => format!("{clang} refuses {SOURCE}"),
    })
}
