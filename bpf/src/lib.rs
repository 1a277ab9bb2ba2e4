//! enforcer-bpf
