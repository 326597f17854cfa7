//! `xvsadm`: see [`xvs_control::adm`].

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> =
        std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    ExitCode::from(xvs_control::adm::run(&arguments))
}
