//! temporary, not committed
#![allow(missing_docs, reason = "temporary")]
pub mod enforce {
    use enforcer_core::ruleset::RulesetDigest;
    #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct ContainerId(String);
    impl From<String> for ContainerId {
        fn from(s: String) -> Self {
            Self(s)
        }
    }
    impl ContainerId {
        pub fn as_str(&self) -> &str {
            &self.0
        }
    }
    impl std::fmt::Display for ContainerId {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(&self.0)
        }
    }
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Stage {
        Created,
        Running,
    }
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Target {
        pub id: ContainerId,
        pub pid: i32,
        pub stage: Stage,
    }
    #[derive(Debug)]
    pub struct ArmedContainer {
        pub id: ContainerId,
        pub ruleset: RulesetDigest,
    }
    pub fn unload(_: &std::path::Path) -> Result<(), std::io::Error> {
        Ok(())
    }
}
pub mod event {
    use super::enforce::ContainerId;
    use enforcer_core::{
        decide::Verdict,
        ruleset::{Class, OriginId, RulesetDigest},
    };
    #[derive(Debug, Clone)]
    pub struct Event {
        pub container: Option<ContainerId>,
        pub ruleset: Option<RulesetDigest>,
        pub class: Class,
        pub op: Op,
        pub verdict: Verdict,
        pub by: EventBy,
        pub path: Vec<u8>,
        pub path_truncated: bool,
        pub source: Vec<u8>,
        pub host_pid: u32,
        pub host_tid: u32,
        pub host_ppid: u32,
        pub pid: u32,
        pub ppid: u32,
        pub uid: u32,
        pub comm: String,
        pub parent_comm: String,
        pub time_ns: u64,
    }
    #[derive(Debug, Clone, Copy)]
    pub enum EventBy {
        Rule(OriginId),
        DefaultPosture,
        Unresolved(Unresolved),
    }
    #[derive(Debug, Clone, Copy)]
    pub enum Op {
        OpenRead,
        Exec,
    }
    impl Op {
        pub fn as_str(self) -> &'static str {
            match self {
                Self::OpenRead => "open-read",
                Self::Exec => "exec",
            }
        }
    }
    #[derive(Debug, Clone, Copy)]
    pub enum Unresolved {
        TooDeep,
    }
    impl Unresolved {
        pub fn as_str(self) -> &'static str {
            "the path has too many components"
        }
    }
}
pub mod host {
    #[derive(Debug, serde::Serialize)]
    pub struct Check {
        pub name: String,
        pub ok: bool,
        pub detail: String,
        pub advice: String,
    }
    #[derive(Debug)]
    pub struct HostReport {
        pub checks: Vec<Check>,
    }
    impl HostReport {
        pub fn enforces(&self) -> bool {
            self.checks.iter().all(|c| c.ok)
        }
    }
    pub fn probe() -> HostReport {
        HostReport { checks: vec![] }
    }
}
