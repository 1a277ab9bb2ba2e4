//! Visibility: what is told of accesses that no policy concerns, and to whom. They are logs, never alerts, and have a
//! limit, a queue and a ring of their own: whoever makes many of them costs other logs, and no alert.

pub mod log;
pub mod logs;
pub mod watches;
