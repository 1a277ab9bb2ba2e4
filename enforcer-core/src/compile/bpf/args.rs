//! Lists of arguments (`allowedArgs`), and programs of many names: what a rule answers by what a program is started with.
//!
//! Each list has a number. The strings stand in a tree of their own, whose nodes say on which lists they are, so that the
//! programs look up each argument of a process once, however many rules list arguments.

use std::collections::{BTreeMap, BTreeSet};

use super::image::{ArgNodes, Builder, Node, Says};
use crate::ruleset::Args;

/// `ARG_PIECE`: bytes of an argument at one node.
const PIECE: usize = 248;
/// `LIST_WORDS`
const WORDS: usize = 8;
/// `MAX_LISTS`
pub(crate) const MAX_LISTS: usize = 64 * WORDS;
/// `MAX_ALTERNATIVES`, the end of them not counted.
pub(crate) const MAX_ALTERNATIVES: usize = 255;
/// `LIST_NOT`
const NOT: u32 = 0x4000_0000;
/// `LIST_ANY`
const ANY: u32 = 0x8000_0000;
/// `APPLET_SHIFT`
const APPLET_SHIFT: u32 = 9;

/// When an answer is given: what must hold of the arguments; nothing for always.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct When {
    /// Whether the list with this number holds all arguments.
    pub(super) list: Option<(u32, bool)>,
    /// The number of the applet that the program must be.
    pub(super) applet: Option<u32>,
}

impl When {
    pub(super) fn always(self) -> bool {
        self == Self::default()
    }

    fn condition(self) -> u32 {
        let list = match self.list {
            None => ANY,
            Some((list, true)) => list,
            Some((list, false)) => list | NOT,
        };
        // no more than `MAX_LISTS` of each
        list | self.applet.map_or(0, |applet| applet.saturating_add(1) << APPLET_SHIFT)
    }
}

/// The words of alternatives, of which the first whose condition holds is the answer.
pub(super) fn words(alternatives: &[(When, u32)]) -> Vec<u32> {
    let pair = |(when, decision): &(When, u32)| [when.condition(), *decision];
    alternatives.iter().flat_map(pair).chain([ANY, 0]).collect()
}

/// The lists and applets of a ruleset, by number.
#[derive(Debug, Default)]
pub(super) struct Lists {
    numbers: BTreeMap<Args, u32>,
    applets: BTreeMap<(Vec<u8>, bool), u32>,
}

/// On which lists something is: a bit for each.
type Bits = [u64; WORDS];

impl Lists {
    /// The number of a list.
    pub(super) fn number(&mut self, args: &Args) -> u32 {
        let next = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX); // the compiler looks at how many there are
        *self.numbers.entry(args.clone()).or_insert(next)
    }

    /// The number of an applet; `doubtful` for one that also holds where it cannot be told.
    pub(super) fn applet(&mut self, name: &[u8], doubtful: bool) -> u32 {
        let next = u32::try_from(self.applets.len()).unwrap_or(u32::MAX); // the same
        *self.applets.entry((name.to_vec(), doubtful)).or_insert(next)
    }

    pub(super) fn len(&self) -> usize {
        self.numbers.len().max(self.applets.len())
    }

    /// The trees of arguments and of applets: their nodes, with numbers from `next`, and where they begin.
    pub(super) fn plant(&self, mut next: impl FnMut() -> u32, image: &mut Builder) -> (ArgNodes, Vec<Node>) {
        let mut nodes = Vec::new();
        let mut begin = ArgNodes::default();
        let mut on: BTreeMap<&[u8], Bits> = BTreeMap::new();
        for (args, number) in &self.numbers {
            args.as_slice().iter().for_each(|arg| set(on.entry(arg.as_bytes()).or_default(), *number));
        }
        if !on.is_empty() {
            begin.empty = on.remove(&b""[..]).map_or(0, |bits| image.lists(bits));
            begin.root = grow(&on, &mut next, image, &mut nodes);
        }
        let mut names: BTreeMap<&[u8], Bits> = BTreeMap::new();
        let mut doubt = Bits::default();
        for ((name, doubtful), number) in &self.applets {
            set(names.entry(name).or_default(), *number);
            if *doubtful {
                set(&mut doubt, *number);
            }
        }
        if !names.is_empty() {
            begin.applets = grow(&names, &mut next, image, &mut nodes);
            begin.doubt = image.lists(doubt);
        }
        (begin, nodes)
    }
}

fn set(bits: &mut Bits, number: u32) {
    let word = usize::try_from(number / 64).ok().and_then(|word| bits.get_mut(word));
    word.into_iter().for_each(|word| *word |= 1 << (number % 64));
}

/// Adds a tree of strings to `nodes`; the node that stands for the beginning of one.
fn grow(
    on: &BTreeMap<&[u8], Bits>,
    next: &mut impl FnMut() -> u32,
    image: &mut Builder,
    nodes: &mut Vec<Node>,
) -> u32 {
    let root = next();
    // every beginning of a string that is as long as some pieces
    let ends = |text: &[u8]| {
        let len = text.len();
        (1..=len.div_ceil(PIECE)).map(move |n| (n * PIECE).min(len))
    };
    let beginnings: BTreeSet<&[u8]> =
        on.keys().flat_map(|text| ends(text).filter_map(|end| text.get(..end))).collect();
    let mut numbers: BTreeMap<&[u8], u32> = BTreeMap::from([(&b""[..], root)]);
    for beginning in beginnings {
        let before = (beginning.len() - 1) / PIECE * PIECE;
        let (before, name) = beginning.split_at_checked(before).unwrap_or_default();
        let Some(parent) = numbers.get(before).copied() else { continue }; // it sorts before what it begins
        let node = next();
        numbers.insert(beginning, node);
        let exact = on.get(beginning).map_or(0, |bits| image.lists(*bits));
        nodes.push(Node { parent, node, name: name.to_vec(), says: Says { exact, ..Says::default() } });
    }
    root
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
        let (begin, nodes) = lists.plant(next, &mut Builder::new(0));
        assert_eq!((begin.root, begin.applets, nodes.len()), (11, 0, 5));
        assert_ne!(begin.empty, 0);
        let lens: Vec<_> =
            nodes.iter().map(|node| (node.parent, node.name.len(), node.says.exact != 0)).collect();
        assert_eq!(
            lens,
            [(11, 1, true), (11, PIECE, false), (13, PIECE, false), (14, PIECE, true), (15, 1, true)],
            "the longest one is also the beginning of the other"
        );
    }
}
