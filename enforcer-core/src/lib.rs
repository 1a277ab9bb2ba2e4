//! enforcer-core
