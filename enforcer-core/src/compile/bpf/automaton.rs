//! Patterns as deterministic automata over bytes, packed into blocks.
//!
//! The components of a pattern before its first wildcard are edges of the tree; what is compiled here is the rest, from
//! a `/` on. The patterns that begin at one directory make one automaton, or a few where one would not fit its block.

use std::collections::BTreeMap;

use super::CompileError;
use super::image::{BLOCK_BYTES, Block, Builder, COND_TREE, Decision, MAX_AUTOMATA};
use super::near::{Bytes, Ends};
use super::tree::{below, decide};
use crate::pattern::{ByteSet, Part, Pattern};
use crate::ruleset::Rule;

/// `BLOCK_NUMBERS`: 16-bit numbers in a block.
const NUMBERS: usize = BLOCK_BYTES / 2;
/// `STATE_DEAD`: the first row.
const DEAD: usize = 132;
/// `ROW_EDGES`: numbers of a row before its edges.
const EDGES: usize = 2;
/// `STAYS_IN_NAME` and `STAYS`.
const STAYS_IN_NAME: u16 = 1;
const STAYS: u16 = 2;
/// The longest component that a file system allows (`NAME_MAX`).
const NAME_MAX: usize = 255;

/// What a pattern says below the directory where its first wildcard comes.
#[derive(Debug, Clone)]
pub(super) struct Rest<'r> {
    parts: Vec<Part>,
    rule: &'r Rule,
}

impl Rest<'_> {
    pub(super) fn rule(&self) -> &Rule {
        self.rule
    }
}

/// The components before a pattern's first wildcard, and the rest.
pub(super) fn split<'r>(pattern: &'r Pattern, rule: &'r Rule) -> (Vec<&'r [u8]>, Rest<'r>) {
    let Some((Part::Literal(literal), more)) = pattern.parts().split_first() else {
        return (Vec::new(), Rest { parts: pattern.parts().to_vec(), rule });
    };
    let mut components = Vec::new();
    let mut rest = literal.as_slice();
    while let Some(tail) = rest.strip_prefix(b"/")
        && let Some(end) = tail.iter().position(|byte| *byte == b'/')
        && let Some((name, tail)) = tail.split_at_checked(end)
        // No path has the others; in the tree `..` stands for something else.
        && (1..=NAME_MAX).contains(&name.len())
        && name != b"."
        && name != b".."
    {
        components.push(name);
        rest = tail;
    }
    let parts = std::iter::once(Part::Literal(rest.to_vec())).chain(more.iter().cloned()).collect();
    (components, Rest { parts, rule })
}

/// Places in the patterns, as one machine that may be at several of them.
#[derive(Debug, Default)]
struct Machine {
    nodes: Vec<Node>,
}

#[derive(Debug)]
enum Node {
    Read(ByteSet, usize),
    Split(Vec<usize>),
    Accept,
}

/// Where the machine can be: nodes that read or accept, in order. Each with the rule that it is of.
type Places = Vec<(usize, usize)>;

impl Machine {
    fn push(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Where a sequence that is followed by `next` begins. The parser bounds the nesting.
    fn sequence(&mut self, parts: &[Part], next: usize) -> usize {
        parts.iter().rev().fold(next, |next, part| match part {
            Part::Literal(bytes) => {
                bytes.iter().rev().fold(next, |next, byte| self.push(Node::Read(ByteSet::of(*byte), next)))
            }
            Part::AnyByte => self.push(Node::Read(ByteSet::not_slash(), next)),
            Part::Set(set) => self.push(Node::Read(*set, next)),
            Part::AnyRun => self.run(ByteSet::not_slash(), next),
            Part::AnyRunDeep => self.run(ByteSet::ALL, next),
            Part::Alternatives(all) => {
                let starts = all.iter().map(|parts| self.sequence(parts, next)).collect();
                self.push(Node::Split(starts))
            }
        })
    }

    fn run(&mut self, set: ByteSet, next: usize) -> usize {
        let split = self.nodes.len() + 1;
        let read = self.push(Node::Read(set, split));
        self.push(Node::Split(vec![read, next]))
    }

    /// What is reached from `nodes` without reading.
    fn reach(&self, nodes: impl IntoIterator<Item = (usize, usize)>) -> Places {
        let mut todo: Vec<(usize, usize)> = nodes.into_iter().collect();
        let mut seen = std::collections::BTreeSet::new();
        while let Some((node, rule)) = todo.pop() {
            if seen.insert((node, rule))
                && let Some(Node::Split(ways)) = self.nodes.get(node)
            {
                todo.extend(ways.iter().map(|way| (*way, rule)));
            }
        }
        seen.into_iter().filter(|(node, _)| !matches!(self.nodes.get(*node), Some(Node::Split(_)))).collect()
    }

    fn after(&self, places: &Places, byte: u8) -> Places {
        self.reach(places.iter().filter_map(|(node, rule)| match self.nodes.get(*node)? {
            Node::Read(set, next) if set.contains(byte) => Some((*next, *rule)),
            _ => None,
        }))
    }

    fn accepted<'a>(&'a self, places: &'a Places) -> impl Iterator<Item = usize> + Clone + 'a {
        let accepts = |(node, _): &&(usize, usize)| matches!(self.nodes.get(*node), Some(Node::Accept));
        places.iter().filter(accepts).map(|(_, rule)| *rule)
    }

    /// The rules of which there is more to read.
    fn going_on<'a>(&'a self, places: &'a Places) -> impl Iterator<Item = usize> + 'a {
        let reads = |(node, _): &&(usize, usize)| matches!(self.nodes.get(*node), Some(Node::Read(..)));
        places.iter().filter(reads).map(|(_, rule)| *rule)
    }
}

/// A deterministic automaton. State 0 is dead, 1 the first.
#[derive(Debug)]
struct Automaton {
    /// Class of each byte.
    classes: Vec<u8>,
    states: Vec<State>,
}

#[derive(Debug)]
struct State {
    decision: Decision,
    edges: Vec<usize>, // by class
}

/// States of an automaton in a block of its own, with the fewest classes there can be.
const MAX_STATES: usize = (NUMBERS - DEAD) / (EDGES + 2);

impl Automaton {
    /// `None` where it has too many states.
    fn new(patterns: &[Rest<'_>], image: &mut Builder) -> Result<Option<Self>, CompileError> {
        let mut machine = Machine::default();
        let starts: Vec<(usize, usize)> = patterns
            .iter()
            .enumerate()
            .map(|(rule, rest)| {
                let end = machine.push(Node::Accept);
                (machine.sequence(&rest.parts, end), rule)
            })
            .collect();
        let (classes, examples) = classes(&machine);
        let mut numbers = BTreeMap::from([(Places::new(), 0)]);
        let mut all = vec![Places::new()];
        let mut number = |places: Places, all: &mut Vec<Places>| {
            *numbers.entry(places).or_insert_with_key(|places| {
                all.push(places.clone());
                all.len() - 1
            })
        };
        number(machine.reach(starts), &mut all);
        let mut states = Vec::new();
        while let Some(places) = all.get(states.len()).cloned() {
            let edges: Vec<usize> =
                examples.iter().map(|byte| number(machine.after(&places, *byte), &mut all)).collect();
            let rule = |index: usize| patterns.get(index).map(|rest| rest.rule);
            let accepted = machine.accepted(&places).filter_map(rule);
            let mut decision = decide(accepted, image)?;
            let beyond = machine.after(&places, b'/');
            below(&mut decision, machine.going_on(&beyond).filter_map(rule));
            states.push(State { decision, edges });
            if all.len() * (EDGES + examples.len()) > NUMBERS - DEAD || all.len() > MAX_STATES {
                return Ok(None);
            }
        }
        Ok(Some(Self { classes, states }))
    }

    /// The last bytes of what leads to a decision.
    fn ends(&self) -> Ends {
        let decides = |state: &State| {
            let mut entries = (0u32..).zip(state.decision);
            entries.any(|(condition, entry)| condition & COND_TREE == 0 && entry != 0)
        };
        let decides: Vec<bool> = self.states.iter().map(decides).collect();
        let (before, last) = self.leading_to(&decides);
        let (_, last_but_one) = self.leading_to(&before);
        Ends { last, last_but_one }
    }

    /// The states that are one byte before those, and these bytes.
    fn leading_to(&self, wanted: &[bool]) -> (Vec<bool>, Bytes) {
        let leads = |to: &usize| wanted.get(*to).copied().unwrap_or(true);
        let mut by_class = vec![false; usize::from(u8::MAX) + 1];
        let mut before = Vec::with_capacity(self.states.len());
        for state in &self.states {
            before.push(state.edges.iter().any(leads));
            by_class.iter_mut().zip(&state.edges).for_each(|(by, to)| *by |= leads(to));
        }
        let mut bytes = Bytes::default();
        for (byte, class) in (0..=u8::MAX).zip(&self.classes) {
            if by_class.get(usize::from(*class)).copied().unwrap_or(true) {
                bytes.insert(byte);
            }
        }
        (before, bytes)
    }

    fn next(&self, state: &State, byte: usize) -> usize {
        let class = self.classes.get(byte).copied().unwrap_or(0);
        state.edges.get(usize::from(class)).copied().unwrap_or(0)
    }
}

/// The class of each byte, and one byte of each class. Bytes of a class are in the same sets of the machine, and `/`
/// is in one of its own.
fn classes(machine: &Machine) -> (Vec<u8>, Vec<u8>) {
    let mut sets: Vec<&ByteSet> = machine
        .nodes
        .iter()
        .filter_map(|node| match node {
            Node::Read(set, _) => Some(set),
            _ => None,
        })
        .collect();
    sets.sort_unstable();
    sets.dedup();
    number_bytes(|byte| (byte == b'/', sets.iter().map(|set| set.contains(byte)).collect::<Vec<_>>()))
}

/// Numbers bytes by what is said of them, in the order in which they come.
fn number_bytes<K: Ord>(key: impl Fn(u8) -> K) -> (Vec<u8>, Vec<u8>) {
    let mut numbers = BTreeMap::new();
    let mut examples = Vec::new();
    let classes = (0..=u8::MAX)
        .map(|byte| {
            *numbers.entry(key(byte)).or_insert_with(|| {
                examples.push(byte);
                u8::try_from(examples.len() - 1).unwrap_or(u8::MAX) // there are 256 bytes
            })
        })
        .collect();
    (classes, examples)
}

/// Automata that share a block, and their first state's number.
#[derive(Debug, Default)]
struct Packed {
    automata: Vec<Automaton>,
    classes: Vec<u8>,
    examples: Vec<u8>,
    states: usize, // without the dead one
}

impl Packed {
    /// Takes `automaton` in, or gives it back where it does not fit.
    fn take(&mut self, automaton: Automaton) -> Result<(), Automaton> {
        let old = |byte: u8| self.classes.get(usize::from(byte)).copied();
        let own = |byte: u8| automaton.classes.get(usize::from(byte)).copied();
        let (classes, examples) = number_bytes(|byte| (old(byte), own(byte)));
        let states = self.states + automaton.states.len() - 1;
        if (states + 1) * (EDGES + examples.len()) > NUMBERS - DEAD {
            return Err(automaton);
        }
        *self = Self { automata: std::mem::take(&mut self.automata), classes, examples, states };
        self.automata.push(automaton);
        Ok(())
    }

    /// The number of a row in the block.
    fn row(&self, state: usize) -> u16 {
        u16::try_from(DEAD + state * (EDGES + self.examples.len())).unwrap_or(u16::MAX) // below NUMBERS
    }

    fn write(&self, image: &mut Builder) -> Result<(Block, Vec<u16>), CompileError> {
        let mut numbers = vec![self.row(0); EDGES + self.examples.len()];
        numbers.iter_mut().zip([0, STAYS]).for_each(|(to, from)| *to = from);
        let mut firsts = Vec::new();
        let mut before = 0;
        for automaton in &self.automata {
            let place = |state: usize| self.row(if state == 0 { 0 } else { before + state });
            firsts.push(place(1));
            for (index, state) in automaton.states.iter().enumerate().skip(1) {
                let own = place(index);
                let next = |byte: &u8| (*byte, place(automaton.next(state, usize::from(*byte))));
                let edges: Vec<(u8, u16)> = self.examples.iter().map(next).collect();
                let leaves =
                    |skip: Option<u8>| edges.iter().any(|(byte, to)| Some(*byte) != skip && *to != own);
                let stays = match (leaves(None), leaves(Some(b'/'))) {
                    (false, _) => STAYS,
                    (_, false) => STAYS_IN_NAME,
                    _ => 0,
                };
                let cell = image.decision(state.decision);
                numbers.push(u16::try_from(cell).map_err(|_| CompileError::TooManyDecisions)?);
                numbers.push(stays);
                numbers.extend(edges.iter().map(|(_, to)| *to));
            }
            before += automaton.states.len() - 1;
        }
        let mut block = [0; BLOCK_BYTES];
        block.iter_mut().zip(&self.classes).for_each(|(to, from)| *to = *from);
        let bytes = numbers.into_iter().flat_map(u16::to_ne_bytes);
        block.iter_mut().skip(2 * DEAD).zip(bytes).for_each(|(to, from)| *to = from);
        Ok((block, firsts))
    }
}

/// All automata of a ruleset.
#[derive(Debug, Default)]
pub(super) struct Automata {
    blocks: Vec<Block>,
    open: Packed,
    waiting: Vec<Vec<(usize, usize)>>, // for each directory: its automata, as block and number in it
    ends: Vec<Ends>,                   // for each directory
    firsts: Vec<Vec<u16>>,             // by block
}

impl Automata {
    /// Compiles the patterns that begin at one directory; which of the [`refer`](Self::cells)ences is theirs.
    pub(super) fn add(&mut self, patterns: &[Rest<'_>], image: &mut Builder) -> Result<usize, CompileError> {
        let mut places = Vec::new();
        let mut ends = Ends::default();
        let mut todo = vec![patterns];
        while let Some(some) = todo.pop() {
            match Automaton::new(some, image)? {
                Some(automaton) => {
                    ends.join(automaton.ends());
                    places.push(self.pack(automaton, image)?);
                }
                None if some.len() > 1 => todo.extend(<[_; 2]>::from(some.split_at(some.len() / 2))),
                None => {
                    let rule = some.first().map(|rest| rest.rule.to_string()).unwrap_or_default();
                    return Err(CompileError::PatternTooComplex { rule });
                }
            }
        }
        if places.len() > MAX_AUTOMATA {
            let rule = patterns.first().map(|rest| rest.rule.to_string()).unwrap_or_default();
            return Err(CompileError::TooManyPatterns { rule });
        }
        self.waiting.push(places);
        self.ends.push(ends);
        Ok(self.waiting.len() - 1)
    }

    /// How paths end that the patterns of a directory match; `number` counts from 1, and 0 means no patterns.
    pub(super) fn ends(&self, number: u32) -> Option<Ends> {
        self.ends.get(usize::try_from(number).ok()?.checked_sub(1)?).copied()
    }

    fn pack(&mut self, automaton: Automaton, image: &mut Builder) -> Result<(usize, usize), CompileError> {
        if let Err(automaton) = self.open.take(automaton) {
            self.close(image)?;
            // On its own it fits: `Automaton::new` has made sure.
            self.open.take(automaton).ok();
        }
        Ok((self.blocks.len(), self.open.automata.len().saturating_sub(1)))
    }

    fn close(&mut self, image: &mut Builder) -> Result<(), CompileError> {
        let packed = std::mem::take(&mut self.open);
        if !packed.automata.is_empty() {
            let (block, firsts) = packed.write(image)?;
            self.blocks.push(block);
            self.firsts.push(firsts);
        }
        Ok(())
    }

    /// The blocks, and for each directory the cell of its automata.
    pub(super) fn finish(mut self, image: &mut Builder) -> Result<(Vec<Block>, Vec<u32>), CompileError> {
        self.close(image)?;
        let mut cells = Vec::with_capacity(self.waiting.len());
        for places in &self.waiting {
            let mut firsts = Vec::with_capacity(places.len());
            for (block, number) in places {
                let first = self.firsts.get(*block).and_then(|firsts| firsts.get(*number)).copied();
                let block = u16::try_from(*block).map_err(|_| CompileError::TooManyDecisions)?;
                firsts.push(u32::from(block) << 16 | u32::from(first.unwrap_or(0)));
            }
            cells.push(image.automata(&firsts));
        }
        Ok((self.blocks, cells))
    }
}
