//! What `-h` and `-v` print.

/// The answer to `-v`, and the first line of the answer to `-h`: scripts look for the version
/// of the grammar here.
pub const VERSION: &str = "ipvsadm v1.31 2019/12/24 (compiled with popt and IPVS v1.2.1)\n";

/// The answer to `-h` of a program called `program`.
pub fn help(program: &str) -> String {
    format!("{VERSION}{}", include_str!("help.txt").replace("{program}", program))
}
