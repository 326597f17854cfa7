//! Compiles the rig's traffic programs. Needs what the steering program needs: clang, libbpf's
//! headers and the kernel's.

use std::{env, path::PathBuf, process::Command};

/// Where the programs' source lies, below the package.
const SOURCE: &str = "src/rig/load.c";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=CLANG");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("load.o");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets the target's architecture");
    let run = Command::new(&clang)
        .args(["-target", "bpf", "-O2", "-g", "-Wall", "-Wextra", "-Werror"])
        // Debian keeps <asm/types.h> in the directory of the architecture.
        .arg(format!("-I/usr/include/{arch}-linux-gnu"))
        .args(["-fdebug-compilation-dir=.", "-c", SOURCE, "-o"])
        .arg(out)
        .output();
    match run {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            for line in String::from_utf8_lossy(&output.stderr).lines() {
                println!("cargo::warning={line}");
            }
            println!("cargo::error={clang} refuses {SOURCE}; `make setup` installs what it needs");
        }
        Err(error) => println!("cargo::error={clang} does not run ({error}): `make setup`"),
    }
}
