//! The control plane of xvs.
