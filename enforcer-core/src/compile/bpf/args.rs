//! Lists of arguments (`allowedArgs`): which lists an argument is on, and what a rule answers by that.
//!
//! Each list has a number. The strings stand in a tree of their own, whose nodes say on which lists they are, so that the
//! programs look up each argument of a process once, however many rules list arguments.

use std::collections::{BTreeMap, BTreeSet};

use super::image::{Builder, Node, Says};
use crate::ruleset::Args;

/// `ARG_PIECE`: bytes of an argument at one node.
const PIECE: usize = 248;
/// `LIST_WORDS`
const WORDS: usize = 8;
/// `MAX_LISTS`
pub(super) const MAX_LISTS: usize = 64 * WORDS;
/// `MAX_ALTERNATIVES`, the end of them not counted.
pub(super) const MAX_ALTERNATIVES: usize = 255;
/// `LIST_NOT`
const NOT: u32 = 0x4000_0000;
/// `LIST_ANY`
const ANY: u32 = 0x8000_0000;
/// `LIST_END`
const END: u32 = u32::MAX;

/// When an answer is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum When {
    /// Whatever the arguments.
    Always,
    /// The list with this number holds all arguments.
    Held(u32),
    /// It does not.
    NotHeld(u32),
}

/// The words of alternatives, of which the first whose condition holds is the answer.
pub(super) fn words(alternatives: &[(When, u32)]) -> Vec<u32> {
    let pair = |(when, decision): &(When, u32)| {
        let condition = match when {
            When::Always => ANY,
            When::Held(list) => *list,
            When::NotHeld(list) => *list | NOT,
        };
        [condition, *decision]
    };
    alternatives.iter().flat_map(pair).chain([END, 0]).collect()
}

/// The lists of a ruleset, by number.
#[derive(Debug, Default)]
pub(super) struct Lists {
    numbers: BTreeMap<Args, u32>,
}

/// On which lists something is: a bit for each.
type Bits = [u64; WORDS];

impl Lists {
    /// The number of a list.
    pub(super) fn number(&mut self, args: &Args) -> u32 {
        let next = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX); // the compiler looks at how many there are
        *self.numbers.entry(args.clone()).or_insert(next)
    }

    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// The tree of arguments: its nodes, with numbers from `next`. The node that stands for the beginning of an
    /// argument, 0 where there is no list; and the cell of the empty argument.
    pub(super) fn plant(&self, mut next: impl FnMut() -> u32, image: &mut Builder) -> (u32, u32, Vec<Node>) {
        if self.numbers.is_empty() {
            return (0, 0, Vec::new());
        }
        let mut on: BTreeMap<&[u8], Bits> = BTreeMap::new();
        for (args, number) in &self.numbers {
            for arg in args.as_slice() {
                let bits = on.entry(arg.as_bytes()).or_default();
                let word = usize::try_from(number / 64).ok().and_then(|word| bits.get_mut(word));
                word.into_iter().for_each(|word| *word |= 1 << (number % 64));
            }
        }
        let root = next();
        let empty = on.remove(&b""[..]).map_or(0, |bits| image.lists(bits));
        // every beginning of an argument that is as long as some pieces, and what stands there
        let ends = |arg: &[u8]| {
            (1..=arg.len().div_ceil(PIECE)).map(|n| (n * PIECE).min(arg.len())).collect::<Vec<_>>()
        };
        let beginnings: BTreeSet<&[u8]> =
            on.keys().flat_map(|arg| ends(arg).into_iter().filter_map(|end| arg.get(..end))).collect();
        let mut numbers: BTreeMap<&[u8], u32> = BTreeMap::from([(&b""[..], root)]);
        let mut nodes = Vec::new();
        for beginning in beginnings {
            let (before, name) =
                beginning.split_at_checked((beginning.len() - 1) / PIECE * PIECE).unwrap_or_default();
            let Some(parent) = numbers.get(before).copied() else { continue }; // a beginning sorts before what it begins
            let node = next();
            numbers.insert(beginning, node);
            let exact = on.get(beginning).map_or(0, |bits| image.lists(*bits));
            nodes.push(Node { parent, node, name: name.to_vec(), says: Says { exact, ..Says::default() } });
        }
        (root, empty, nodes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_stand_in_pieces() {
        let mut lists = Lists::default();
        let long = "x".repeat(3 * PIECE);
        let some = Args::new(["a".into(), long.clone(), String::new()]);
        assert_eq!(lists.number(&some), 0);
        assert_eq!(lists.number(&Args::new([long + "y"])), 1);
        assert_eq!(lists.number(&some), 0);
        let mut last = 10;
        let next = || {
            last += 1;
            last
        };
        let (root, empty, nodes) = lists.plant(next, &mut Builder::new());
        assert_eq!((root, nodes.len()), (11, 5));
        assert_ne!(empty, 0);
        let lens: Vec<_> =
            nodes.iter().map(|node| (node.parent, node.name.len(), node.says.exact != 0)).collect();
        assert_eq!(
            lens,
            [(11, 1, true), (11, PIECE, false), (13, PIECE, false), (14, PIECE, true), (15, 1, true)],
            "the longest one is also the beginning of the other"
        );
    }
}
