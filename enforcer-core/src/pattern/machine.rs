//! A pattern as a machine that reads a path byte by byte and keeps every place of the pattern where it could be.
//! Time goes with the length of the path times that of the pattern, whatever either holds.

use super::{ByteSet, Part};

#[derive(Debug)]
pub(super) struct Machine {
    nodes: Vec<Node>,
    start: usize,
}

#[derive(Debug)]
enum Node {
    /// Reads one byte of the set, and goes on.
    Read(ByteSet, usize),
    /// Goes on in any of these ways.
    Split(Vec<usize>),
    /// The whole pattern was read.
    Accept,
}

impl Machine {
    pub(super) fn new(parts: &[Part]) -> Self {
        let mut machine = Self { nodes: vec![Node::Accept], start: 0 };
        machine.start = machine.sequence(parts, 0);
        machine
    }

    fn push(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Where a sequence that is followed by `next` begins. Built from its end on; nesting is bounded by the parser.
    fn sequence(&mut self, parts: &[Part], next: usize) -> usize {
        parts.iter().rev().fold(next, |next, part| self.part(part, next))
    }

    fn part(&mut self, part: &Part, next: usize) -> usize {
        match part {
            Part::Literal(bytes) => bytes
                .iter()
                .rev()
                .fold(next, |next, byte| self.push(Node::Read(ByteSet::default().with(*byte), next))),
            Part::AnyByte => self.push(Node::Read(ByteSet::not_slash(), next)),
            Part::Set(set) => self.push(Node::Read(*set, next)),
            Part::AnyRun => self.run(ByteSet::not_slash(), next),
            Part::AnyRunDeep => self.run(ByteSet::ALL, next),
            Part::Alternatives(alternatives) => {
                let starts = alternatives.iter().map(|parts| self.sequence(parts, next)).collect();
                self.push(Node::Split(starts))
            }
        }
    }

    fn run(&mut self, set: ByteSet, next: usize) -> usize {
        let split = self.nodes.len() + 1;
        let read = self.push(Node::Read(set, split));
        self.push(Node::Split(vec![read, next]))
    }

    pub(super) fn matches(&self, path: &[u8]) -> bool {
        self.after(path.iter().copied()).contains(0)
    }

    /// Whether there is something to read after `bytes` that leads to a match.
    pub(super) fn could_go_on(&self, bytes: impl Iterator<Item = u8>) -> bool {
        // Every node leads to the end: each set that a parser lets through has a byte in it.
        self.after(bytes).list.iter().any(|node| matches!(self.nodes.get(*node), Some(Node::Read(..))))
    }

    fn after(&self, bytes: impl Iterator<Item = u8>) -> Places {
        let mut here = Places::new(self.nodes.len());
        let mut there = Places::new(self.nodes.len());
        self.reach(&mut here, self.start);
        for byte in bytes {
            there.clear();
            for node in &here.list {
                if let Some(Node::Read(set, next)) = self.nodes.get(*node)
                    && set.contains(byte)
                {
                    self.reach(&mut there, *next);
                }
            }
            std::mem::swap(&mut here, &mut there);
            if here.list.is_empty() {
                break;
            }
        }
        here
    }

    /// Adds a node, and all that it leads to without reading.
    fn reach(&self, places: &mut Places, node: usize) {
        let mut todo = vec![node];
        while let Some(node) = todo.pop() {
            if places.add(node)
                && let Some(Node::Split(ways)) = self.nodes.get(node)
            {
                todo.extend(ways);
            }
        }
    }
}

/// A set of nodes.
struct Places {
    list: Vec<usize>,
    is_in: Vec<bool>,
}

impl Places {
    fn new(nodes: usize) -> Self {
        Self { list: Vec::new(), is_in: vec![false; nodes] }
    }

    fn contains(&self, node: usize) -> bool {
        self.is_in.get(node) == Some(&true)
    }

    /// Whether it was new.
    fn add(&mut self, node: usize) -> bool {
        match self.is_in.get_mut(node) {
            Some(is_in) if !*is_in => {
                *is_in = true;
                self.list.push(node);
                true
            }
            _ => false,
        }
    }

    fn clear(&mut self) {
        for node in self.list.drain(..) {
            self.is_in.iter_mut().skip(node).take(1).for_each(|is_in| *is_in = false);
        }
    }
}
