//! `xvs-bench`: replays captures, judges xvs against recordings of the kernel, measures.

fn main() {}
