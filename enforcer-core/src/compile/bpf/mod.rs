//! A ruleset as an image for the BPF programs: an array of 64-byte cells.
//!
//! For each class and source there is a tree of path components. Its nodes stand in one hash table, where each has
//! two possible slots (cuckoo hashing): the program looks at two cells for a component and compares the name byte by
//! byte. What rules say at a node is worked out here, for every combination of conditions that an access can have,
//! so that the program only reads an entry.
//!
//! The layout is that of `bpf/src/enforcer.h`; [`image`] writes it, and a test compares it with the types generated
//! from the compiled object.

mod args;
mod automaton;
pub mod image;
mod near;
mod net;
mod plain;
mod table;
mod tree;

pub use image::{BpfImage, CELL_BYTES, MAX_CELLS};

use std::cmp::Reverse;

use crate::coverage::GapReason;
use crate::parallel;
use crate::ruleset::{Class, Conditions, Effect, Object, PostureAction, Rule, Ruleset};
use crate::support::Support;
pub(crate) use args::{MAX_ALTERNATIVES, MAX_LISTS};
use image::{
    ArgNodes, Builder, COND_ARGS, COND_OWNER, COND_TTY, COND_WRITE, ClassFacts, DECISION_EXEMPT, RULE_LIMIT,
    RULE_NONE, RULE_OBSERVED, RULE_POSTURE, effect_bits,
};
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
    /// A pattern whose automaton has too many states.
    #[error("the pattern of `{rule}` is too complex; write several simpler ones")]
    PatternTooComplex {
        /// The rule.
        rule: String,
    },
    /// Patterns that need more automata than the programs run for one path.
    #[error(
        "too many or too complex patterns about the same directories, `{rule}` among them; give them longer beginnings without wildcards"
    )]
    TooManyPatterns {
        /// One of the rules.
        rule: String,
    },
    /// The states of automata cannot name all decisions.
    #[error("more patterns than an image can hold")]
    TooManyDecisions,
    /// More different lists of arguments, or applets, than the programs tell apart.
    #[error("{0} different lists of `allowedArgs`, or names of one program, more than {MAX_LISTS}")]
    TooManyLists(usize),
    /// More answers for one object, by its arguments, than the programs look through.
    #[error("too many rules about the same object with `allowedArgs`, `{rule}` among them")]
    TooManyAlternatives {
        /// One of the rules.
        rule: String,
    },
    /// The programs know nothing of such a rule. Resolving policies makes none of these.
    #[error("the rule `{rule}`: {reason}")]
    Unsupported {
        /// The rule.
        rule: String,
        /// What of it the programs do not know.
        reason: GapReason,
    },
}

/// Rulesets for which it is worth to begin a thread: compiling one of 50 rules takes some 100 microseconds.
const WORTH: usize = 16;

/// Compiles many rulesets, on as many CPUs as this process may use; what comes of each, in their order.
#[must_use]
pub fn compile_all(rulesets: &[&Ruleset]) -> Vec<Result<BpfImage, CompileError>> {
    parallel::map(rulesets, WORTH, |ruleset| compile(ruleset))
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
    let mut image = Builder::new(ruleset.rules().len());

    // Decisions first, so that nodes can name them; then the roots; then the table, whose slots name everything.
    let plain = plain::roots(ruleset, &mut image);
    let mut trees = Trees::number(&forest, &plain, &mut image)?;
    let [near_process, near_file] = [Class::Process, Class::File].map(|class| {
        let passes = image::effect_of(otherwise(ruleset, class)) == Some(Effect::Allow);
        trees.near(&forest, class, passes)
    });
    for class in Class::ALL {
        if ruleset.whitelisted(class)
            || ruleset.observes(class)
            || ruleset.rules().iter().any(|rule| rule.class == class)
        {
            let of_class = || ruleset.rules().iter().filter(|rule| rule.class == class);
            let facts = ClassFacts {
                root: trees.root(class),
                otherwise: otherwise(ruleset, class),
                unresolved: unresolved(ruleset, class),
                conditions: of_class().map(conditions_of).fold(0, |all, one| all | one),
                has_source: of_class().any(|rule| rule.source.is_some()),
                args: if class == Class::Process { trees.args() } else { ArgNodes::default() },
                near: match class {
                    Class::Process => near_process.write(&mut image),
                    Class::File => near_file.write(&mut image),
                    _ => 0,
                },
            };
            image.class(class, &facts);
        }
    }
    let blocks = trees.take_blocks();
    let nodes = trees.nodes();
    let (seed, slots) = place(nodes);
    let cells = image.finish(seed, trees.source_node(), &slots, nodes);
    if cells.len() > MAX_CELLS {
        return Err(CompileError::TooLarge(cells.len()));
    }
    Ok(BpfImage::new(cells, blocks, [near_process, near_file]))
}

/// The decision where no rule decides: what would pass in a class that is observed is reported.
fn otherwise(ruleset: &Ruleset, class: Class) -> u32 {
    match ruleset.observes(class) {
        true => effect_bits(Effect::Audit) | RULE_OBSERVED,
        false => unseen(ruleset, class),
    }
}

/// The same without visibility.
fn unseen(ruleset: &Ruleset, class: Class) -> u32 {
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
/// answered, in the name of the rule that would have, so that no rule is got round by making a path unreadable.
fn unresolved(ruleset: &Ruleset, class: Class) -> u32 {
    let rules = ruleset.rules().iter().filter(|rule| rule.class == class);
    let strongest = rules.map(|rule| (rule.effect, Reverse(rule.origin.0))).max();
    match strongest {
        // an audited access stays one of its rule, also where others are observed
        Some((effect, Reverse(origin))) if image::effect_of(unseen(ruleset, class)) < Some(effect) => {
            entry(effect, false, origin)
        }
        _ => otherwise(ruleset, class),
    }
}

/// The conditions of an access that a rule asks about.
fn conditions_of(rule: &Rule) -> u32 {
    let Conditions { read_only, owner_only, no_terminal, args } = &rule.conditions;
    let by_args = args.is_some() || matches!(rule.object, Object::Applet { .. });
    let asked =
        [(*read_only, COND_WRITE), (*owner_only, COND_OWNER), (*no_terminal, COND_TTY), (by_args, COND_ARGS)];
    asked.into_iter().filter(|(asked, _)| *asked).fold(0, |all, (_, bit)| all | bit)
}

/// One entry of a decision.
fn entry(effect: Effect, exempt: bool, origin: u32) -> u32 {
    effect_bits(effect) | origin | if exempt { DECISION_EXEMPT } else { 0 }
}

#[cfg(test)]
mod tests;
