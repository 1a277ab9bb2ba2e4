//! A ruleset as an image for the BPF programs: an array of 64-byte cells.
//!
//! For each class and source there is a tree of path components. Its nodes stand in one hash table, where each has
//! two possible slots (cuckoo hashing): the program looks at two cells for a component and compares the name byte by
//! byte. What rules say at a node is worked out here, for every combination of conditions that an access can have,
//! so that the program only reads an entry.
//!
//! The layout is that of `bpf/src/enforcer.h`; [`image`] writes it, and a test compares it with the types generated
//! from the compiled object.

pub mod image;
mod net;
mod plain;
mod table;
mod tree;

pub use image::{BpfImage, CELL_BYTES, MAX_CELLS};

use crate::coverage::GapReason;
use crate::ruleset::{Class, Effect, PostureAction, Ruleset};
use crate::support::Support;
use image::{Builder, DECISION_EXEMPT, RULE_LIMIT, RULE_NONE, RULE_POSTURE, effect_bits};
use table::place;
use tree::{Forest, Trees};

/// Why a ruleset does not fit the BPF programs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// More origins than an entry of a decision can name.
    #[error("{0} rules with an origin of their own, more than the {RULE_LIMIT} that an image can name")]
    TooManyOrigins(usize),
    /// The image would be larger than [`MAX_CELLS`].
    #[error("the compiled rules take {0} cells of {CELL_BYTES} bytes, more than {MAX_CELLS}")]
    TooLarge(usize),
    /// The programs know nothing of such a rule. Resolving policies makes none of these.
    #[error("the rule `{rule}`: {reason}")]
    Unsupported {
        /// The rule.
        rule: String,
        /// What of it the programs do not know.
        reason: GapReason,
    },
}

/// Compiles `ruleset`.
///
/// # Errors
/// When it is larger than an image can be, or has a rule that the programs cannot enforce; see [`CompileError`].
pub fn compile(ruleset: &Ruleset) -> Result<BpfImage, CompileError> {
    if ruleset.origins().len() >= RULE_LIMIT {
        return Err(CompileError::TooManyOrigins(ruleset.origins().len()));
    }
    for rule in ruleset.rules() {
        if let Some(reason) = Support::default().rule_gap(rule) {
            return Err(CompileError::Unsupported { rule: rule.to_string(), reason });
        }
    }
    let forest = Forest::grow(ruleset);
    let mut image = Builder::new();

    // Decisions first, so that nodes can name them; then the roots; then the table, whose slots name everything.
    let plain = plain::roots(ruleset, &mut image);
    let trees = Trees::number(&forest, &plain, &mut image);
    for class in Class::ALL {
        if ruleset.whitelisted(class) || ruleset.rules().iter().any(|rule| rule.class == class) {
            let root = trees.root(class);
            image.class(class, root, otherwise(ruleset, class), unresolved(ruleset, class));
        }
    }
    let nodes = trees.nodes();
    let (seed, slots) = place(nodes);
    let cells = image.finish(seed, trees.source_node(), &slots, nodes);
    if cells.len() > MAX_CELLS {
        return Err(CompileError::TooLarge(cells.len()));
    }
    Ok(BpfImage::new(cells))
}

/// The decision where no rule decides.
fn otherwise(ruleset: &Ruleset, class: Class) -> u32 {
    if !ruleset.whitelisted(class) {
        return effect_bits(Effect::Allow) | RULE_NONE;
    }
    let effect = match ruleset.posture(class) {
        PostureAction::Allow => Effect::Allow,
        PostureAction::Audit => Effect::Audit,
        PostureAction::Block => Effect::Block,
    };
    effect_bits(effect) | RULE_POSTURE
}

/// What becomes of an access whose path or actor cannot be found out: the strongest thing that the class could have
/// answered, so that no rule is got round by making a path unreadable.
fn unresolved(ruleset: &Ruleset, class: Class) -> Effect {
    let rules = ruleset.rules().iter().filter(|rule| rule.class == class).map(|rule| rule.effect);
    let posture = match ruleset.posture(class) {
        PostureAction::Allow => Effect::Allow,
        PostureAction::Audit => Effect::Audit,
        PostureAction::Block => Effect::Block,
    };
    rules.chain([posture]).max().unwrap_or(Effect::Allow)
}

/// One entry of a decision.
fn entry(effect: Effect, exempt: bool, origin: u32) -> u32 {
    effect_bits(effect) | origin | if exempt { DECISION_EXEMPT } else { 0 }
}

#[cfg(test)]
mod tests;
