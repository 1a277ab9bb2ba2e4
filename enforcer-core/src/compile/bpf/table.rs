//! Places for nodes: cuckoo hashing with two slots for each.
//!
//! The hash is that of `bpf/src/match.bpf.h`. It only says where to look; the program compares names, so neither
//! the seed nor the hash is a secret.

use super::image::Node;

/// Slots per node: at most 0.45 of the table is in use, which leaves placements in plenty (two choices work up to
/// one half).
const SLOTS_PER_NODE: usize = 11; // over 5
const SEEDS_PER_SIZE: u64 = 16;
/// Evictions before a seed is given up.
const MAX_MOVES: usize = 512;

pub(super) fn mix(a: u64, b: u64) -> u64 {
    let a = (a ^ b).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    a ^ (a >> 32)
}

/// The hash of a component: its bytes as words, the last one filled with zeros; then its length.
pub(super) fn component_hash(seed: u64, name: &[u8]) -> u64 {
    let word = |chunk: &[u8]| {
        let mut word = [0; 8];
        word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
        u64::from_ne_bytes(word)
    };
    mix(name.chunks(8).map(word).fold(seed, mix), u64::try_from(name.len()).unwrap_or(u64::MAX))
}

/// The bit of a first component among 256; `None` for one that the programs do not look at in that way.
pub(super) fn first_bit(name: &[u8]) -> Option<u8> {
    let word: Vec<u8> = name.iter().copied().chain(std::iter::repeat(0)).take(8).collect();
    let word = u64::from_ne_bytes(word.try_into().ok()?);
    let len = u64::try_from(name.len()).ok().filter(|len| (1..=8).contains(len))?;
    mix(word, len).to_be_bytes().first().copied()
}

/// The lower half of a hash.
fn half(hash: u64) -> u32 {
    let [a, b, c, d, ..] = hash.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn hash_of(node: &Node, seed: u64) -> u64 {
    mix(component_hash(seed, &node.name), u64::from(node.parent))
}

fn slots_of(hash: u64, mask: u32) -> [usize; 2] {
    [half(hash), half(hash >> 32)].map(|h| usize::try_from(h & mask).unwrap_or(0))
}

/// A seed and, for each slot of the table, the index of the node in it. The number of slots is a power of two.
pub(super) fn place(nodes: &[Node]) -> (u64, Vec<Option<usize>>) {
    place_by(nodes.len(), |index, seed| nodes.get(index).map(|node| hash_of(node, seed)))
}

/// The same for `count` things of any kind that hash differently with some seed.
pub(super) fn place_by(count: usize, hash: impl Fn(usize, u64) -> Option<u64>) -> (u64, Vec<Option<usize>>) {
    let mut size = (count * SLOTS_PER_NODE / 5).max(1).next_power_of_two();
    let mut seed = 0;
    loop {
        for _ in 0..SEEDS_PER_SIZE {
            seed = mix(seed, 1);
            if let Some(slots) = try_place(count, |index| hash(index, seed), size) {
                return (seed, slots);
            }
        }
        // Ends: parent and name differ between any two nodes, so with slots enough some seed keeps them apart.
        size *= 2;
    }
}

fn try_place(count: usize, hash: impl Fn(usize) -> Option<u64>, size: usize) -> Option<Vec<Option<usize>>> {
    let mask = u32::try_from(size - 1).ok()?;
    let mut slots = vec![None; size];
    for index in 0..count {
        let mut homeless = index;
        let mut from = None;
        let mut moves = 0;
        loop {
            let [first, second] = slots_of(hash(homeless)?, mask);
            // To the slot that it was not just driven from.
            let wanted = if from == Some(first) { second } else { first };
            let other = if wanted == first { second } else { first };
            let at = match (slots.get(wanted)?, slots.get(other)?) {
                (None, _) => wanted,
                (_, None) if from.is_none() => other,
                _ => wanted,
            };
            match slots.get_mut(at)?.replace(homeless) {
                None => break,
                Some(driven_out) => {
                    homeless = driven_out;
                    from = Some(at);
                }
            }
            moves += 1;
            if moves > MAX_MOVES {
                return None;
            }
        }
    }
    Some(slots)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: u32) -> Vec<Node> {
        (1..=count)
            .map(|n| Node {
                parent: 1 + n / 7,
                node: n + 1,
                name: format!("name-{n}").into(),
                ..Node::default()
            })
            .collect()
    }

    #[test]
    fn every_node_stands_in_one_of_its_two_slots() {
        for count in [0, 1, 2, 3, 50, 1000, 20_000] {
            let nodes = nodes(count);
            let (seed, slots) = place(&nodes);
            assert!(slots.len().is_power_of_two());
            let mask = u32::try_from(slots.len() - 1).unwrap();
            let mut seen = vec![false; nodes.len()];
            for (slot, index) in slots.iter().enumerate() {
                if let Some(index) = *index {
                    assert!(slots_of(hash_of(&nodes[index], seed), mask).contains(&slot));
                    assert!(!std::mem::replace(&mut seen[index], true), "one place each");
                }
            }
            assert!(seen.into_iter().all(|placed| placed));
            assert!(slots.len() <= 8 * nodes.len().max(1), "{count} nodes in {} slots", slots.len());
        }
    }

    #[test]
    fn words_are_filled_with_zeros_and_the_length_tells_them_apart() {
        assert_ne!(component_hash(1, b"a"), component_hash(1, b"a\0"));
        let words = [u64::from_ne_bytes(*b"12345678"), u64::from_ne_bytes(*b"9\0\0\0\0\0\0\0")];
        assert_eq!(component_hash(7, b"123456789"), mix(words.into_iter().fold(7, mix), 9));
    }
}
