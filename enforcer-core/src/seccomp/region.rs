//! Sets of argument values.
//!
//! The unit is the cube: the values that agree with a value under a mask. It is what one `SCMP_CMP_MASKED_EQ` says, the
//! intersection of two is one or none, and every comparison is a union of disjoint cubes. A region has a cube for each of
//! the six arguments.

/// The most regions that the parts of one system call are cut into on the way. Past it the caller has to give up exactness.
pub(super) const MAX_REGIONS: usize = 4096;

/// `argument & mask == value`
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Cube {
    pub(super) mask: u64,
    pub(super) value: u64, // INVARIANT: no bit outside the mask
}

impl Cube {
    /// Every value.
    pub(super) const ANY: Self = Self { mask: 0, value: 0 };

    pub(super) const fn new(mask: u64, value: u64) -> Self {
        Self { mask, value: value & mask }
    }

    #[cfg(test)]
    pub(super) const fn contains(self, value: u64) -> bool {
        value & self.mask == self.value
    }

    pub(super) const fn intersect(self, other: Self) -> Option<Self> {
        if (self.value ^ other.value) & self.mask & other.mask != 0 {
            return None;
        }
        Some(Self { mask: self.mask | other.mask, value: self.value | other.value })
    }

    /// What of it is not in `other`, as disjoint cubes: one for each bit that only `other` wants, from the highest.
    fn without(self, other: Self) -> Vec<Self> {
        if self.intersect(other).is_none() {
            return vec![self];
        }
        let mut rest = Vec::new();
        let mut agreed = self;
        for bit in (0..u64::BITS).rev().map(|shift| 1_u64 << shift) {
            if other.mask & !self.mask & bit != 0 {
                let wanted = other.value & bit;
                rest.push(Self { mask: agreed.mask | bit, value: agreed.value | (wanted ^ bit) });
                agreed = Self { mask: agreed.mask | bit, value: agreed.value | wanted };
            }
        }
        rest
    }
}

/// The values from `low` to `high` of the lowest bits that `bits` has set, whatever the others are: blocks of powers of
/// two, at most two for each bit. Empty where `low` is greater.
pub(super) fn range(bits: u64, low: u64, high: u64) -> Vec<Cube> {
    let mut blocks = Vec::new();
    let mut next = Some(low).filter(|low| *low <= high);
    while let Some(start) = next {
        // The largest block that starts here and ends in time.
        let mut size_less_one = 0_u64;
        loop {
            let wider = (size_less_one << 1) | 1;
            let fits = wider <= bits
                && start & wider == 0
                && start.checked_add(wider).is_some_and(|end| end <= high);
            if !fits || wider == size_less_one {
                break;
            }
            size_less_one = wider;
        }
        blocks.push(Cube::new(bits & !size_less_one, start));
        next = start
            .checked_add(size_less_one)
            .and_then(|end| end.checked_add(1))
            .filter(|start| *start <= high);
    }
    blocks
}

/// What the six arguments may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Region(pub(super) [Cube; 6]);

impl Region {
    /// All arguments whatever.
    pub(super) const ANY: Self = Self([Cube::ANY; 6]);

    #[cfg(test)]
    pub(super) fn contains(&self, args: &[u64; 6]) -> bool {
        self.0.iter().zip(args).all(|(cube, value)| cube.contains(*value))
    }

    pub(super) fn intersect(&self, other: &Self) -> Option<Self> {
        let mut both = *self;
        for (mine, others) in both.0.iter_mut().zip(&other.0) {
            *mine = mine.intersect(*others)?;
        }
        Some(both)
    }

    /// What of it is not in `other`, as disjoint regions.
    pub(super) fn without(&self, other: &Self) -> Vec<Self> {
        if self.intersect(other).is_none() {
            return vec![*self];
        }
        let mut rest = Vec::new();
        let mut agreed = *self;
        for index in 0..6 {
            let (Some(mine), Some(others)) = (self.0.get(index), other.0.get(index)) else { continue };
            for cube in mine.without(*others) {
                let mut part = agreed;
                if let Some(slot) = part.0.get_mut(index) {
                    *slot = cube;
                }
                rest.push(part);
            }
            if let (Some(slot), Some(both)) = (agreed.0.get_mut(index), mine.intersect(*others)) {
                *slot = both;
            }
        }
        rest
    }
}

/// A function of the arguments as far as it has been told: disjoint regions and what holds in each, and what is left.
#[derive(Debug, Clone)]
pub(super) struct Partition<T> {
    pub(super) parts: Vec<(Region, T)>,
    pub(super) rest: Vec<Region>,
    most: usize,
}

/// More regions than are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooMany;

impl<T: Copy> Partition<T> {
    /// Nothing told yet, in these disjoint regions.
    pub(super) fn of(domain: Vec<Region>) -> Self {
        Self::at_most(MAX_REGIONS, domain)
    }

    /// The same, for a function that is of no use in more regions.
    pub(super) fn at_most(most: usize, domain: Vec<Region>) -> Self {
        Self { parts: Vec::new(), rest: domain, most }
    }

    /// Says what holds in `region`, as far as nothing has been said about it.
    pub(super) fn say(&mut self, region: &Region, value: T) -> Result<(), TooMany> {
        let mut rest = Vec::with_capacity(self.rest.len());
        for left in &self.rest {
            match left.intersect(region) {
                None => rest.push(*left),
                Some(both) => {
                    self.parts.push((both, value));
                    rest.extend(left.without(region));
                }
            }
        }
        self.rest = rest;
        if self.parts.len() + self.rest.len() > self.most { Err(TooMany) } else { Ok(()) }
    }

    /// The whole function, with this for what is left.
    pub(super) fn finish(self, otherwise: T) -> Vec<(Region, T)> {
        let Self { mut parts, rest, most: _ } = self;
        parts.extend(rest.into_iter().map(|region| (region, otherwise)));
        parts
    }
}

/// Two functions of one domain as one: what holds in each intersection.
pub(super) fn product<A: Copy, B: Copy, C: Copy>(
    left: &[(Region, A)],
    right: &[(Region, B)],
    most: usize,
    both: impl Fn(A, B) -> C,
) -> Result<Vec<(Region, C)>, TooMany> {
    let mut parts = Vec::new();
    for (a, of_a) in left {
        for (b, of_b) in right {
            if let Some(region) = a.intersect(b) {
                parts.push((region, both(*of_a, *of_b)));
            }
        }
        if parts.len() > most {
            return Err(TooMany);
        }
    }
    Ok(parts)
}

/// The same function in fewer regions: two with one value that differ in one argument, and there in one bit, are one.
pub(super) fn join<T: Copy + Ord>(mut parts: Vec<(Region, T)>) -> Vec<(Region, T)> {
    let mut prints: Vec<u64> = parts.iter().map(|part| fingerprint(&part.0)).collect();
    loop {
        let before = parts.len();
        for index in 0..6 {
            let compared =
                parts.iter().filter_map(|part| part.0.0.get(index)).fold(0, |bits, cube| bits | cube.mask);
            for bit in (0..u64::BITS).map(|shift| 1 << shift).filter(|bit| compared & bit != 0) {
                if join_bit(&mut parts, &prints, index, bit) {
                    prints = parts.iter().map(|part| fingerprint(&part.0)).collect();
                }
            }
        }
        if parts.len() == before {
            parts.sort_unstable();
            return parts;
        }
    }
}

/// Whether parts may have been joined: they stand in another order then. `prints`: their fingerprints.
fn join_bit<T: Copy + Ord>(parts: &mut Vec<(Region, T)>, prints: &[u64], index: usize, bit: u64) -> bool {
    let cube = |part: &(Region, T)| part.0.0.get(index).copied().unwrap_or(Cube::ANY);
    if parts.len() < 2 {
        return false;
    }
    // Most bits join nothing, and numbers are sorted much faster than regions.
    let wanting = parts.iter().zip(prints).filter(|(part, _)| cube(part).mask & bit != 0);
    let mut halves: Vec<u64> = wanting.map(|(part, print)| without(*print, index, cube(part), bit)).collect();
    halves.sort_unstable();
    if halves.windows(2).all(|pair| pair.first() != pair.last()) {
        return false;
    }
    // Without the bit both halves are equal, and stand side by side once sorted.
    let key = |part: &(Region, T)| {
        let mut region = part.0;
        if let Some(slot) = region.0.get_mut(index) {
            slot.value &= !bit;
        }
        (region, part.1)
    };
    parts.sort_unstable_by_key(|part| (key(part), cube(part).value));
    let mut joined: Vec<(Region, T)> = Vec::with_capacity(parts.len());
    for part in parts.drain(..) {
        match joined.last_mut() {
            Some(last)
                if cube(&part).mask & bit != 0
                    && key(last) == key(&part)
                    && cube(last).value ^ cube(&part).value == bit =>
            {
                if let Some(slot) = last.0.0.get_mut(index) {
                    *slot = Cube::new(slot.mask & !bit, slot.value);
                }
            }
            _ => joined.push(part),
        }
    }
    *parts = joined;
    true
}

/// A number that equal regions share, and others rarely do: a sum, so that one argument can be exchanged.
fn fingerprint(region: &Region) -> u64 {
    region.0.iter().enumerate().map(|(index, cube)| print_of(index, *cube)).fold(0, u64::wrapping_add)
}

/// The fingerprint without a bit of the value of one argument, which is `cube`.
fn without(print: u64, index: usize, cube: Cube, bit: u64) -> u64 {
    let less = Cube { value: cube.value & !bit, ..cube };
    print.wrapping_sub(print_of(index, cube)).wrapping_add(print_of(index, less))
}

fn print_of(index: usize, cube: Cube) -> u64 {
    // an odd factor loses no bit (Knuth's, for 64 bits)
    let with = |number: u64, half: u64| (number ^ half).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let place = u64::try_from(index).unwrap_or(u64::MAX);
    with(with(with(1, place), cube.mask), cube.value).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = u64> {
        prop_oneof![0..20_u64, any::<u64>(), Just(u64::MAX), (0..64_u32).prop_map(|shift| 1 << shift)]
    }

    #[test]
    fn what_differs_in_one_bit_is_one_in_as_many_steps_as_it_takes() {
        let part = |value| {
            let mut region = Region::ANY;
            region.0[2] = Cube::new(0xff, value);
            (region, 1)
        };
        let joined = |values: &[u64]| join(values.iter().map(|value| part(*value)).collect()).len();
        assert_eq!(joined(&[4, 5]), 1);
        assert_eq!(joined(&[4, 5, 6, 7]), 1);
        assert_eq!(joined(&[0, 1, 3]), 2);
        assert_eq!(joined(&[1, 2, 4, 8]), 4);
    }

    proptest! {
        #[test]
        fn a_range_has_what_is_within(low in value(), high in value(), x in value(), narrow in any::<bool>()) {
            let bits = if narrow { 0xffff_ffff } else { u64::MAX };
            let (low, high) = (low & bits, high & bits);
            let cubes = range(bits, low, high);
            for probe in [x, low, high, low.wrapping_sub(1) & bits, high.wrapping_add(1) & bits] {
                let within = cubes.iter().filter(|cube| cube.contains(probe)).count();
                let wanted = low <= probe & bits && probe & bits <= high;
                prop_assert_eq!(within, usize::from(wanted), "{:#x} in {:#x}..={:#x}", probe, low, high);
            }
            prop_assert!(cubes.len() <= 126);
        }

        #[test]
        fn subtraction_and_joining_keep_the_set(
            cubes in prop::collection::vec((value(), value(), 0..6_usize), 1..6),
            points in prop::collection::vec([value(), value(), value(), value(), value(), value()], 20),
        ) {
            let regions: Vec<Region> = cubes.iter().map(|(mask, value, index)| {
                let mut region = Region::ANY;
                region.0[*index] = Cube::new(mask & 0b1011, *value);
                region
            }).collect();
            let mut partition = Partition::of(vec![Region::ANY]);
            for (number, region) in regions.iter().enumerate() {
                prop_assert_eq!(partition.say(region, number % 2), Ok(()));
            }
            let parts = partition.finish(9);
            let joined = join(parts.clone());
            prop_assert!(joined.len() <= parts.len());
            for point in &points {
                let wanted = regions.iter().position(|region| region.contains(point)).map_or(9, |number| number % 2);
                for parts in [&parts, &joined] {
                    let found: Vec<_> = parts.iter().filter(|(region, _)| region.contains(point)).collect();
                    prop_assert_eq!(found.len(), 1);
                    prop_assert_eq!(found[0].1, wanted);
                }
            }
        }
    }
}
