//! What `apparmor_parser` makes of a profile, read as the kernel reads it (security/apparmor/policy_unpack.c, match.c and
//! file.c of Linux 6.1): so that the meaning of a text is the parser's, and no opinion of ours about it.

use std::collections::BTreeMap;

use enforcer_core::decide::Verdict;

/// `MAY_EXEC` and those beside it.
pub const EXEC: u32 = 1;
pub const WRITE: u32 = 2;
pub const READ: u32 = 4;
pub const APPEND: u32 = 8;
pub const LINK: u32 = 0x10;
pub const LOCK: u32 = 0x20;
pub const MAP: u32 = 0x40;
const MODES: u32 = 0x7f;
/// `AA_CLASS_NET`
const CLASS_NET: u8 = 14;

/// A profile in the form for the kernel.
pub struct Profile {
    files: Dfa,
    others: Dfa,
    allowed: u64,
    audited: u64,
    targets: Vec<String>,
}

/// What executing a program leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Leads {
    Inherit,
    To(String),
}

/// The profiles of a stream, by name.
pub fn profiles(bytes: &[u8]) -> BTreeMap<String, Profile> {
    let starts = find(bytes, b"\x04\x08\x00profile\0\x07");
    let mut ends = starts.iter().skip(1).copied().chain([bytes.len()]);
    starts.iter().map(|start| profile(&bytes[*start..ends.next().unwrap()])).collect()
}

fn find(bytes: &[u8], what: &[u8]) -> Vec<usize> {
    bytes.windows(what.len()).enumerate().filter(|(_, here)| *here == what).map(|(at, _)| at).collect()
}

fn string(bytes: &[u8]) -> (String, usize) {
    assert_eq!(bytes[0], 5, "no string");
    let len = usize::from(u16::from_le_bytes([bytes[1], bytes[2]]));
    (String::from_utf8(bytes[3..3 + len - 1].to_vec()).unwrap(), 3 + len)
}

fn profile(bytes: &[u8]) -> (String, Profile) {
    let (name, _) = string(&bytes[12..]);
    let caps = find(bytes, b"\x04\x07\x00caps64\0")[0];
    let number = |at: usize| {
        assert_eq!(bytes[at], 2, "no number");
        u64::from(u32::from_le_bytes(bytes[at + 1..at + 5].try_into().unwrap()))
    };
    let (low, high) = (caps - 20, caps + 11);
    let dfas: Vec<Dfa> =
        find(bytes, b"\x04\x06\x00aadfa\0").iter().map(|at| Dfa::new(&bytes[*at..])).collect();
    let [others, files] = <[Dfa; 2]>::try_from(dfas).ok().expect("two machines");
    let mut targets = Vec::new();
    if let Some(at) = find(bytes, b"\x04\x07\x00xtable\0").first() {
        let mut at = at + 10 + 1; // its name and the tag of its struct
        assert_eq!(bytes[at - 1], 7);
        assert_eq!(bytes[at], 11, "no array");
        let count = u16::from_le_bytes([bytes[at + 1], bytes[at + 2]]);
        at += 3;
        for _ in 0..count {
            let (target, len) = string(&bytes[at..]);
            targets.push(target);
            at += len;
        }
    }
    let profile = Profile {
        files,
        others,
        allowed: number(low) | number(high) << 32,
        audited: number(low + 5) | number(high + 5) << 32,
        targets,
    };
    (name, profile)
}

impl Profile {
    /// What becomes of an access of this kind to a path.
    pub fn file(&self, path: &[u8], owner: bool, mode: u32) -> Verdict {
        let mut state = self.files.walk(1, path);
        let shift = if owner { 0 } else { 14 };
        if mode == LINK && self.files.at(state).0 >> shift & LINK != 0 {
            // what may be linked to is told in the state after both names
            state = self.files.walk(state, b"\0/some/file");
        }
        let (allow, audit) = self.files.at(state);
        let (allow, audit, quiet) =
            (allow >> shift & MODES, audit >> shift & MODES, audit >> (shift + 7) & MODES);
        if allow & mode != mode {
            assert_eq!(quiet & mode, 0, "denied without a report");
            Verdict::Block
        } else if audit & mode != 0 {
            Verdict::Audit
        } else {
            Verdict::Allow
        }
    }

    /// Where executing a path leads to.
    pub fn leads(&self, path: &[u8], owner: bool) -> Leads {
        let (allow, _) = self.files.at(self.files.walk(1, path));
        let index = allow >> if owner { 0 } else { 14 } & 0x3fff;
        assert_eq!(index & 0x80, 0, "unconfined");
        match index >> 10 & 0xf {
            0 if index & 0x200 != 0 => Leads::Inherit,
            table @ 4.. => Leads::To(self.targets[usize::try_from(table).unwrap() - 4].clone()),
            other => panic!("a transition of another kind: {other}, {index:x}"),
        }
    }

    /// What becomes of using a socket.
    pub fn socket(&self, family: u16, kind: u16) -> Verdict {
        let state = self.others.walk(1, &[CLASS_NET]);
        let state = self.others.walk(state, &[family.to_be_bytes(), kind.to_be_bytes()].concat());
        match self.others.at(state) {
            (0, _) => Verdict::Block,
            (_, audit) if audit & MODES != 0 => Verdict::Audit,
            _ => Verdict::Allow,
        }
    }

    /// What becomes of using a capability.
    pub fn capability(&self, number: u8) -> Verdict {
        match (self.allowed >> number & 1, self.audited >> number & 1) {
            (0, _) => Verdict::Block,
            (_, 0) => Verdict::Allow,
            _ => Verdict::Audit,
        }
    }
}

/// A machine that reads bytes: flex's tables, compressed.
struct Dfa {
    tables: [Vec<u32>; 9],
}

impl Dfa {
    fn new(bytes: &[u8]) -> Self {
        let magic = [0x1b, 0x5e, 0x78, 0x3d];
        let bytes = &bytes[find(&bytes[..40], &magic)[0]..];
        let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        let half = |at: usize| u16::from_be_bytes(bytes[at..at + 2].try_into().unwrap());
        let size = |at: usize| usize::try_from(word(at)).unwrap();
        let (mut at, end) = (size(4), size(8));
        let mut tables: [Vec<u32>; 9] = Default::default();
        while at < end {
            let (id, width, len) = (half(at), usize::from(half(at + 2)), size(at + 8));
            let data = at + 12;
            let entry = |index: usize| match width {
                1 => u32::from(bytes[data + index]),
                2 => u32::from(half(data + 2 * index)),
                4 => word(data + 4 * index),
                _ => panic!("entries of {width} bytes"),
            };
            tables[usize::from(id)] = (0..len).map(entry).collect();
            at = (data + width * len).next_multiple_of(8);
        }
        Self { tables }
    }

    fn entry(&self, table: usize, index: usize) -> u32 {
        self.tables[table][index]
    }

    /// Where the machine is after `bytes`, from `state` on.
    fn walk(&self, state: usize, bytes: &[u8]) -> usize {
        let [base, check, default, classes, next] = [2, 3, 4, 5, 8];
        bytes.iter().fold(state, |state, byte| {
            let class = if !self.tables[classes].is_empty() {
                self.entry(classes, usize::from(*byte))
            } else {
                u32::from(*byte)
            };
            let of_state = self.entry(base, state);
            assert_eq!(of_state >> 24, 0, "states that are encoded as differences");
            let at = usize::try_from(of_state + class).unwrap();
            let same = usize::try_from(self.entry(check, at)).unwrap() == state;
            usize::try_from(if same { self.entry(next, at) } else { self.entry(default, state) }).unwrap()
        })
    }

    fn at(&self, state: usize) -> (u32, u32) {
        (self.entry(1, state), self.entry(7, state))
    }
}
