//! What the programs know about a path by its first component and its end alone.

use super::image::{Builder, Fields, First};
use super::table::first_bit;

/// `NEAR_SLOTS`.
const SLOTS: usize = 16;
/// `HINT_NEAR`, `HINT_ANYWHERE` and `HINT_TOLD`, of the first class.
const HINT_NEAR: u32 = 1;
const HINT_ANYWHERE: u32 = 0x100;
const HINT_TOLD: u32 = 0x1_0000;

/// A bit for each byte.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Bytes([u64; 4]);

impl Bytes {
    pub(super) fn insert(&mut self, byte: u8) {
        let word = self.0.get_mut(usize::from(byte / 64));
        word.into_iter().for_each(|word| *word |= 1 << (byte % 64));
    }

    pub(super) fn join(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(to, from)| *to |= from);
    }

    /// The others. Of the byte 0, which is in no path, nothing is claimed: it is what the programs get where they
    /// cannot read.
    fn others(self) -> [u64; 4] {
        let mut others = self.0.map(|word| !word);
        others.iter_mut().take(1).for_each(|word| *word &= !1);
        others
    }
}

/// Bytes that can be the last one, and the last but one, of a path that some pattern matches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) last: Bytes,
    pub(super) last_but_one: Bytes,
}

impl Ends {
    pub(super) fn join(&mut self, other: Self) {
        self.last.join(other.last);
        self.last_but_one.join(other.last_but_one);
    }
}

/// What is known of one class.
#[derive(Debug)]
pub(super) struct Near {
    /// Bits of the first components with which rules' paths begin; all where that tells nothing.
    pub(super) first: First,
    /// First components at and below which everything is allowed, if no pattern from `/` on says otherwise.
    open: [u64; SLOTS],
    /// Of the patterns from `/` on; `None`: there are none.
    anywhere: Option<Ends>,
}

impl Near {
    pub(super) fn new<'a>(
        first: First,
        open: impl Iterator<Item = &'a [u8]>,
        anywhere: Option<Ends>,
    ) -> Self {
        let mut slots = [0; SLOTS];
        for name in open {
            let (Some(bit), Some(word)) = (first_bit(name), word_of(name)) else { continue };
            let [lower, upper] = [bit % 16, bit / 16].map(usize::from);
            // One that finds both of its slots taken is looked up among the rules.
            for slot in [lower, upper] {
                if let Some(slot) = slots.get_mut(slot).filter(|slot| **slot == 0) {
                    *slot = word;
                    break;
                }
            }
        }
        Self { first, open: slots, anywhere }
    }

    fn opens(&self) -> bool {
        self.open.iter().any(|word| *word != 0)
    }

    /// Whether there is more to tell than `first` says.
    fn needs_cells(&self) -> bool {
        self.opens() || (self.anywhere.is_some() && self.first != [u64::MAX; 4])
    }

    pub(super) fn hints(&self) -> u32 {
        let anywhere = if self.anywhere.is_some() { HINT_ANYWHERE } else { 0 };
        let near = if self.needs_cells() { HINT_NEAR } else { 0 };
        let told = if self.opens() || self.first != [u64::MAX; 4] { HINT_TOLD } else { 0 };
        anywhere | near | told
    }

    /// The cells; 0 where nothing is told.
    pub(super) fn write(&self, image: &mut Builder) -> u32 {
        if !self.needs_cells() {
            return 0;
        }
        let Ends { last, last_but_one } = self.anywhere.unwrap_or_default();
        let words = self.open.into_iter().chain(last.others()).chain(last_but_one.others());
        image.cells(words.fold(Fields::default(), Fields::u64).cells())
    }
}

/// A name of at most 8 bytes as a word, filled with zeros.
fn word_of(name: &[u8]) -> Option<u64> {
    let mut word = [0; 8];
    word.get_mut(..name.len())?.copy_from_slice(name);
    Some(u64::from_le_bytes(word))
}
