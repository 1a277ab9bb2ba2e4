//! The canonical encoding of a ruleset, and its hash.
//!
//! Every variable-length field is preceded by its length and every choice by a tag, so that no two rulesets share
//! an encoding.

use std::fmt;

use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::{Object, Origin, Rule, Whitelists};

/// Changes with the encoding, so that digests of two encodings never meet.
const VERSION: &[u8] = b"nri-enforcer ruleset 1";

/// SHA-256 over the canonical encoding of a [`Ruleset`](super::Ruleset). Prints as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RulesetDigest([u8; 32]);

impl RulesetDigest {
    /// A digest read back from where it was stored.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for RulesetDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// As it prints.
impl Serialize for RulesetDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Debug for RulesetDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RulesetDigest({self})")
    }
}

struct Encoder(Sha256);

impl Encoder {
    fn tag(&mut self, tag: u8) {
        self.0.update([tag]);
    }

    fn number(&mut self, number: usize) {
        // A usize has at most 64 bits on every target, and little-endian zero padding keeps its value.
        let mut bytes = [0u8; 8];
        bytes.iter_mut().zip(number.to_le_bytes()).for_each(|(to, from)| *to = from);
        self.0.update(bytes);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len());
        self.0.update(bytes);
    }
}

pub(super) fn digest(rules: &[Rule], origins: &[Origin], whitelists: Whitelists) -> RulesetDigest {
    let mut encoder = Encoder(Sha256::new());
    encoder.bytes(VERSION);
    encoder.number(origins.len());
    origins.iter().for_each(|origin| encode_origin(&mut encoder, origin));
    encoder.number(rules.len());
    rules.iter().for_each(|rule| encode_rule(&mut encoder, rule));
    for posture in whitelists {
        encoder.tag(posture.map_or(0, |posture| 1 + posture as u8));
    }
    RulesetDigest(encoder.0.finalize().into())
}

fn encode_origin(encoder: &mut Encoder, origin: &Origin) {
    let Origin { policy, rule, severity, tags, message, action } = origin;
    encoder.tag(policy.kind as u8);
    encoder.bytes(policy.namespace.as_bytes());
    encoder.bytes(policy.name.as_bytes());
    encoder.bytes(rule.as_bytes());
    encoder.tag(*severity);
    encoder.number(tags.len());
    tags.iter().for_each(|tag| encoder.bytes(tag.as_bytes()));
    encoder.bytes(message.as_bytes());
    encoder.tag(*action as u8);
}

fn encode_rule(encoder: &mut Encoder, rule: &Rule) {
    let Rule { class, source, object, conditions, effect, origin } = rule;
    encoder.tag(*class as u8);
    match source {
        None => encoder.tag(0),
        Some(source) => {
            encoder.tag(1);
            encoder.bytes(source.as_bytes());
        }
    }
    match object {
        Object::Path(path) => {
            encoder.tag(0);
            encoder.bytes(path.as_bytes());
        }
        Object::BaseName(name) => {
            encoder.tag(1);
            encoder.bytes(name.as_bytes());
        }
        Object::Directory { dir, recursive } => {
            encoder.tag(2);
            encoder.bytes(dir.as_bytes());
            encoder.tag(u8::from(*recursive));
        }
    }
    encoder.tag(u8::from(conditions.read_only));
    encoder.tag(u8::from(conditions.owner_only));
    encoder.tag(*effect as u8);
    encoder.bytes(&origin.0.to_le_bytes());
}
