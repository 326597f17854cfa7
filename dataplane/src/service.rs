//! The immutable configuration a worker reads: services, real servers, paths and settings.
//!
//! Control compiles one snapshot per change and hands it to every worker, who swaps it between
//! two bursts. Nothing in it is written on the packet path.
