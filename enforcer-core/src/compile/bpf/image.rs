//! The layout of an image, as `bpf/src/enforcer.h` has it, and the writer of its cells.
//!
//! This is the one place that repeats the C structures: it must build without clang. `tests/layout.rs` compares
//! every offset with the types generated from the compiled object.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use super::args::Lists;
use super::near::Near;
use crate::ruleset::{Class, Effect};

/// Bytes of a cell.
pub const CELL_BYTES: usize = 64;
/// The largest image: 64 MiB. A component of a rule takes about three cells.
pub const MAX_CELLS: usize = 1 << 20;

/// `IMAGE_VERSION`.
pub const VERSION: u32 = 3;
/// Cells that a rule mostly takes, its part of the table among them.
const CELLS_PER_RULE: usize = 8;
/// 32-bit words of a cell.
pub(super) const CELL_WORDS: u32 = 16;
/// Bytes of a component's name in its node.
pub(super) const NODE_INLINE: usize = 32;
/// The access writes.
pub(super) const COND_WRITE: u32 = 1;
/// The acting user owns the object.
pub(super) const COND_OWNER: u32 = 2;
/// The object is a directory that moves with all that lies below it. Not a condition of rules: the entries with this
/// bit hold what rules about paths below say.
pub(super) const COND_TREE: u32 = 4;
/// The task has a controlling terminal.
pub(super) const COND_TTY: u32 = 8;
/// Of a class alone: some rule lists arguments.
pub(super) const COND_ARGS: u32 = 16;
/// Combinations of conditions.
pub(super) const COND_COUNT: usize = 16;
/// Entries of an array by class.
const CLASS_SLOTS: usize = 8;
/// Which word of a class cell names the near cells: the last one.
const CLASS_NEAR: usize = 15;
/// Offset of the ruleset's id in the header, which is known only when the image is published.
const HEADER_RULESET: usize = 28;
/// Automata that may begin at one directory, and directories with automata on the way to one path.
pub(super) const MAX_AUTOMATA: usize = 8;
pub(super) const MAX_BEGUN: u32 = 8;
/// `RULE_POSTURE`: the default posture decided.
pub const RULE_POSTURE: u32 = 0x0fff_ffff;
/// `RULE_NONE`: no rule decided.
pub const RULE_NONE: u32 = RULE_POSTURE - 1;
/// `RULE_OBSERVED`: no rule decided, and the access is reported, since its class is to be seen.
pub const RULE_OBSERVED: u32 = RULE_POSTURE - 2;
/// Origins that a decision can name, excluded.
pub const RULE_LIMIT: usize = 0x0fff_fffd;
/// The rule decided by exempting the access.
pub const DECISION_EXEMPT: u32 = 0x8000_0000;
/// What rules answer hangs on the arguments; see [`args`](super::args).
const DECISION_ARGS: u32 = 0x4000_0000;
const EFFECT_SHIFT: u32 = 28;

/// Bytes of a block of automata.
pub const BLOCK_BYTES: usize = 32_768;
/// Bytes of a block of cells.
pub const CELL_BLOCK_BYTES: usize = 4_096;
/// Offset of the ruleset's id in a block.
const BLOCK_RULESET: usize = 256;

/// One cell.
pub type Cell = [u8; CELL_BYTES];
/// One block of automata.
pub type Block = [u8; BLOCK_BYTES];
/// One block of cells.
pub type CellBlock = [u8; CELL_BLOCK_BYTES];
/// An entry for each combination of conditions; 0 = no rule decides.
pub(super) type Decision = [u32; COND_COUNT];

/// A compiled ruleset: dead data, the same bytes for the same ruleset until it gets its id.
#[derive(Clone, PartialEq, Eq)]
pub struct BpfImage {
    cells: Vec<Cell>, // INVARIANT: whole blocks, the last one filled with zeros
    used: usize,      // cells that are not filling
    blocks: Vec<Block>,
    classes: u32,
    first: [First; 2],
    hints: u32,
}

/// A bit for each first component with which the path of a rule begins; see `struct armed`.
pub type First = [u64; 4];

impl BpfImage {
    pub(super) fn new(mut cells: Vec<Cell>, blocks: Vec<Block>, near: [Near; 2]) -> Self {
        let header = cells.first().copied().unwrap_or([0; CELL_BYTES]);
        let by_class = header.as_chunks::<4>().0.iter().skip(8).take(CLASS_SLOTS);
        let classes =
            (0..).zip(by_class).filter(|(_, cell)| **cell != [0; 4]).map(|(class, _)| 1u32 << class);
        let classes = classes.fold(0, |all, class| all | class);
        let hints = (0..).zip(&near).fold(0, |all, (class, near)| all | near.hints() << class);
        let used = cells.len();
        cells.resize(used.next_multiple_of(CELL_BLOCK_BYTES / CELL_BYTES), [0; CELL_BYTES]);
        Self { cells, used, blocks, classes, first: near.map(|near| near.first), hints }
    }

    /// Writes in the id under which it is published, which everything in the kernel names that belongs to it.
    pub fn name(&mut self, ruleset: u32) {
        if let Some(header) = self.cells.first_mut() {
            put(header, HEADER_RULESET, ruleset);
        }
        self.blocks.iter_mut().for_each(|block| put(block, BLOCK_RULESET, ruleset));
    }

    /// The cells, the header first.
    #[must_use]
    pub fn cells(&self) -> &[Cell] {
        self.cells.get(..self.used).unwrap_or_default()
    }

    /// The same in blocks, the last one filled with zeros.
    #[must_use]
    pub fn cell_blocks(&self) -> &[CellBlock] {
        self.cells.as_flattened().as_chunks().0
    }

    /// The automata of patterns; often none.
    #[must_use]
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// A bit for each class with rules.
    #[must_use]
    pub fn classes(&self) -> u32 {
        self.classes
    }

    /// For processes and files: with which first components the paths of rules begin, by
    /// `first_bit`.
    #[must_use]
    pub fn first(&self) -> [First; 2] {
        self.first
    }

    /// What else is known without a look at the rules, for processes and files; see `struct armed`.
    #[must_use]
    pub fn hints(&self) -> u32 {
        self.hints
    }

    /// How many bytes it takes in the kernel.
    #[must_use]
    pub fn size(&self) -> usize {
        self.cells.len() * CELL_BYTES + self.blocks.len() * BLOCK_BYTES
    }
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes.iter_mut().skip(at).zip(value.to_ne_bytes()).for_each(|(to, from)| *to = from);
}

impl fmt::Debug for BpfImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BpfImage({} cells, {} blocks)", self.used, self.blocks.len())
    }
}

/// The bits of an effect in a decision.
pub(super) fn effect_bits(effect: Effect) -> u32 {
    let code = match effect {
        Effect::Allow => 1,
        Effect::Audit => 2,
        Effect::Block => 3,
    };
    code << EFFECT_SHIFT
}

/// What a decision word says; `None` for a word that no image holds.
#[must_use]
pub fn effect_of(decision: u32) -> Option<Effect> {
    match decision >> EFFECT_SHIFT & 3 {
        1 => Some(Effect::Allow),
        2 => Some(Effect::Audit),
        3 => Some(Effect::Block),
        _ => None,
    }
}

#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) parent: u32,
    pub(super) node: u32,
    pub(super) name: Vec<u8>, // 1..=255 bytes
    pub(super) says: Says,
}

/// The cells of a path in a tree: decisions about itself, what is directly in it, and what lies deeper; and the
/// automata that begin there. 0 where there is none.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Says {
    pub(super) exact: u32,
    pub(super) children: u32,
    pub(super) deep: u32,
    pub(super) automata: u32,
}

#[derive(Debug)]
pub(super) struct Root {
    pub(super) node: u32,
    pub(super) base: u32,
    pub(super) says: Says,
}

/// What is known of a class without looking at a path.
#[derive(Debug)]
pub(super) struct ClassFacts {
    pub(super) root: u32,
    pub(super) otherwise: u32,
    pub(super) unresolved: u32,
    pub(super) conditions: u32,
    pub(super) has_source: bool,
    pub(super) args: ArgNodes,
    pub(super) near: u32,
}

/// Where the arguments stand that rules list.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ArgNodes {
    pub(super) root: u32,    // node; 0 = no rule lists any
    pub(super) empty: u32,   // cell of lists; 0 = the empty argument is on none
    pub(super) applets: u32, // node; 0 = no rule names any
    pub(super) doubt: u32,   // cell of the applets that hold where it cannot be told which it is
}

fn index_of(class: Class) -> usize {
    match class {
        Class::Process => 0,
        Class::File => 1,
        Class::Network => 2,
        Class::Capability => 3,
        Class::Syscall => 4,
        Class::Preset => 5,
    }
}

/// Collects cells. Their numbers are final: the table, whose size is known last, comes after them.
#[derive(Debug)]
pub(super) struct Builder {
    cells: Vec<Cell>, // the header first, empty until the end
    decisions: BTreeMap<Cell, u32>,
    alternatives: BTreeMap<Vec<u32>, u32>,
    of_lists: BTreeMap<[u64; 8], u32>,
    pub(super) lists: Lists,
    classes: [u32; CLASS_SLOTS],
}

impl Builder {
    /// For about so many rules.
    pub(super) fn new(rules: usize) -> Self {
        let mut cells = Vec::with_capacity(1 + rules.saturating_mul(CELLS_PER_RULE).min(MAX_CELLS));
        cells.push([0; CELL_BYTES]);
        Self {
            cells,
            decisions: BTreeMap::new(),
            alternatives: BTreeMap::new(),
            of_lists: BTreeMap::new(),
            lists: Lists::default(),
            classes: [0; CLASS_SLOTS],
        }
    }

    /// The number of the cell that comes next.
    fn next(&self) -> u32 {
        u32::try_from(self.cells.len()).unwrap_or(u32::MAX) // the size is checked at the end
    }

    fn push(&mut self, cell: Cell) -> u32 {
        let number = self.next();
        self.cells.push(cell);
        number
    }

    /// A cell of another module's making.
    pub(super) fn cell(&mut self, cell: Cell) -> u32 {
        self.push(cell)
    }

    /// Such cells, one after another; the number of the first.
    pub(super) fn cells(&mut self, cells: Vec<Cell>) -> u32 {
        let first = self.next();
        self.cells.extend(cells);
        first
    }

    /// Fills in a cell that was made before what it holds was known.
    pub(super) fn set(&mut self, number: u32, cell: Cell) {
        let place = usize::try_from(number).ok().and_then(|index| self.cells.get_mut(index));
        place.into_iter().for_each(|place| *place = cell);
    }

    /// The cell of a decision, shared by all nodes that say the same; 0 where no rule decides in any case.
    pub(super) fn decision(&mut self, decision: Decision) -> u32 {
        if decision == [0; COND_COUNT] {
            return 0;
        }
        let next = self.next();
        match self.decisions.entry(words(&decision)) {
            Entry::Occupied(there) => *there.get(),
            Entry::Vacant(free) => {
                self.cells.push(*free.key());
                *free.insert(next)
            }
        }
    }

    /// An entry of a decision for these alternatives, which are shared by all that say the same.
    pub(super) fn alternatives(&mut self, words: Vec<u32>, strongest: Effect) -> u32 {
        let cell = match self.alternatives.get(&words) {
            Some(cell) => *cell,
            None => {
                let cell = self.cells(to_cells(&words));
                self.alternatives.insert(words, cell);
                cell
            }
        };
        // an image has fewer words than an entry can name: see `MAX_CELLS`
        DECISION_ARGS | effect_bits(strongest) | cell.saturating_mul(CELL_WORDS) & RULE_POSTURE
    }

    /// The cell of something that is on these lists.
    pub(super) fn lists(&mut self, bits: [u64; 8]) -> u32 {
        if let Some(cell) = self.of_lists.get(&bits) {
            return *cell;
        }
        let cell = self.push(bits.into_iter().fold(Fields::default(), Fields::u64).cell());
        self.of_lists.insert(bits, cell);
        cell
    }

    pub(super) fn root(&mut self, root: &Root) -> u32 {
        let Root { node, base, says: Says { exact, children, deep, automata } } = *root;
        self.push(words(&[node, base, exact, children, deep, automata]))
    }

    pub(super) fn source(&mut self, roots: &[(Class, u32)]) -> u32 {
        let mut by_class = [0; CLASS_SLOTS];
        for (class, root) in roots {
            by_class.iter_mut().skip(index_of(*class)).take(1).for_each(|slot| *slot = *root);
        }
        self.push(words(&by_class))
    }

    /// The cell of the automata that begin at one directory.
    pub(super) fn automata(&mut self, first: &[u32]) -> u32 {
        self.push(words(first))
    }

    pub(super) fn class(&mut self, class: Class, facts: &ClassFacts) {
        let ClassFacts { root, otherwise, unresolved, conditions, has_source, args, near } = *facts;
        let has_source = u32::from(has_source);
        let ArgNodes { root: args, empty, applets, doubt } = args;
        let known = [root, otherwise, conditions, has_source, unresolved, args, empty, applets, doubt];
        let mut fields = [0; 16];
        fields.iter_mut().zip(known).for_each(|(to, from)| *to = from);
        fields.iter_mut().skip(CLASS_NEAR).for_each(|to| *to = near);
        let cell = self.push(words(&fields));
        self.classes.iter_mut().skip(index_of(class)).take(1).for_each(|slot| *slot = cell);
    }

    /// The finished cells.
    pub(super) fn finish(
        mut self,
        seed: u64,
        source_node: u32,
        slots: &[Option<usize>],
        nodes: &[Node],
    ) -> Vec<Cell> {
        let tails: Vec<u32> = nodes.iter().map(|node| self.name_tail(&node.name)).collect();
        let table = self.next();
        self.cells.reserve(slots.len());
        for slot in slots {
            let cell = match slot.and_then(|index| Some((nodes.get(index)?, *tails.get(index)?))) {
                Some((node, more)) => node_cell(node, more),
                None => [0; CELL_BYTES],
            };
            self.cells.push(cell);
        }
        let mask = u32::try_from(slots.len().saturating_sub(1)).unwrap_or(u32::MAX);
        let cells = self.next();
        let header = Fields::default()
            .u32s(&[VERSION, cells, table, mask])
            .u64(seed)
            .u32s(&[source_node, 0])
            .u32s(&self.classes)
            .cell();
        if let Some(first) = self.cells.first_mut() {
            *first = header;
        }
        self.cells
    }

    /// String cells with a name's bytes from [`NODE_INLINE`] on; 0 where there are none.
    fn name_tail(&mut self, name: &[u8]) -> u32 {
        let mut first = 0;
        for chunk in name.get(NODE_INLINE..).unwrap_or_default().chunks(CELL_BYTES) {
            let cell = self.push(cell_of(chunk));
            if first == 0 {
                first = cell;
            }
        }
        first
    }
}

fn node_cell(node: &Node, more: u32) -> Cell {
    let Node { parent, node, name, says: Says { exact, children, deep, automata } } = node;
    let len = u32::try_from(name.len()).unwrap_or(u32::MAX);
    let mut cell = words(&[*parent, len, 0, 0, *node, more, *exact, *children, *deep, *automata]);
    // the first 8 bytes of the name, and those up to `NODE_INLINE`, to the cell's end
    let (first, on) = name.split_at_checked(8).unwrap_or((name, &[]));
    cell.iter_mut().skip(8).zip(first).for_each(|(to, from)| *to = *from);
    cell.iter_mut().skip(40).zip(on).for_each(|(to, from)| *to = *from);
    cell
}

fn words(values: &[u32]) -> Cell {
    let mut cell = [0; CELL_BYTES];
    let fields = cell.as_chunks_mut::<4>().0.iter_mut();
    fields.zip(values).for_each(|(to, from)| *to = from.to_ne_bytes());
    cell
}

/// The fields of a cell, one after another in the machine's byte order; what is not written is zero.
#[derive(Debug, Default)]
pub(super) struct Fields(Vec<u8>);

impl Fields {
    pub(super) fn u32s(mut self, values: &[u32]) -> Self {
        values.iter().for_each(|value| self.0.extend(value.to_ne_bytes()));
        self
    }

    pub(super) fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    pub(super) fn cell(self) -> Cell {
        cell_of(&self.0)
    }

    /// As many cells as it takes.
    pub(super) fn cells(self) -> Vec<Cell> {
        self.0.chunks(CELL_BYTES).map(cell_of).collect()
    }
}

fn cell_of(bytes: &[u8]) -> Cell {
    let mut cell = [0; CELL_BYTES];
    cell.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    cell
}

/// Words in as many cells as they take.
pub(super) fn to_cells(words: &[u32]) -> Vec<Cell> {
    Fields::default().u32s(words).cells()
}
