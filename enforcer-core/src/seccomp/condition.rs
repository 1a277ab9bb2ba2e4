//! Comparisons with arguments, and the values for which they hold. Of the value of a masked comparison the bits under the
//! mask count, as libseccomp has it.

use super::oci::{Arg, Op};
use super::region::{Cube, MAX_REGIONS, Region, TooMany, range};
use super::width::mask;

impl Arg {
    /// Whether it holds for these arguments. There are six; of a seventh nothing holds.
    #[must_use]
    pub fn holds(&self, args: &[u64; 6]) -> bool {
        self.holds_within(args, [64; 6])
    }

    /// The same for a call of which only the lowest bits of each argument count.
    #[must_use]
    pub fn holds_within(&self, args: &[u64; 6], widths: [u8; 6]) -> bool {
        let index = usize::try_from(self.index).unwrap_or(usize::MAX);
        let (Some(argument), Some(width)) = (args.get(index), widths.get(index)) else { return false };
        let bits = mask(*width);
        let (argument, value) = (argument & bits, self.value & bits);
        match self.op {
            Op::NotEqual => argument != value,
            Op::Less => argument < value,
            Op::LessOrEqual => argument <= value,
            Op::Equal => argument == value,
            Op::GreaterOrEqual => argument >= value,
            Op::Greater => argument > value,
            Op::MaskedEqual => argument & value == self.value_two & value,
        }
    }

    /// The values of its argument for which it holds, as disjoint cubes.
    fn cubes(&self, width: u8) -> Vec<Cube> {
        let bits = mask(width);
        let value = self.value & bits;
        let below = || value.checked_sub(1).map_or_else(Vec::new, |high| range(bits, 0, high));
        let above = || if value == bits { Vec::new() } else { range(bits, value.saturating_add(1), bits) };
        match self.op {
            Op::NotEqual => [below(), above()].concat(),
            Op::Less => below(),
            Op::LessOrEqual => range(bits, 0, value),
            Op::Equal => vec![Cube::new(bits, value)],
            Op::GreaterOrEqual => range(bits, value, bits),
            Op::Greater => above(),
            Op::MaskedEqual => vec![Cube::new(value, self.value_two)],
        }
    }
}

/// Where all of these hold, as disjoint regions; none where they cannot. Only the lowest bits of the arguments count, as
/// many as `widths` says.
pub(super) fn regions(conditions: &[Arg], widths: [u8; 6]) -> Result<Vec<Region>, TooMany> {
    let mut found = vec![Region::ANY];
    for condition in conditions {
        let index = usize::try_from(condition.index).unwrap_or(usize::MAX);
        let Some(width) = widths.get(index) else { return Ok(Vec::new()) };
        let cubes = condition.cubes(*width);
        let mut narrowed = Vec::new();
        for region in &found {
            for cube in &cubes {
                let mut other = Region::ANY;
                if let Some(slot) = other.0.get_mut(index) {
                    *slot = *cube;
                }
                narrowed.extend(region.intersect(&other));
            }
            if narrowed.len() > MAX_REGIONS {
                return Err(TooMany);
            }
        }
        found = narrowed;
    }
    Ok(found)
}

/// Whether there are no arguments for which all of these hold. Of too many comparisons to tell it is said that there are.
pub(crate) fn never_hold(conditions: &[Arg], widths: [u8; 6]) -> bool {
    regions(conditions, widths).is_ok_and(|regions| regions.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OPS: [Op; 7] = [
        Op::NotEqual,
        Op::Less,
        Op::LessOrEqual,
        Op::Equal,
        Op::GreaterOrEqual,
        Op::Greater,
        Op::MaskedEqual,
    ];

    fn value() -> impl Strategy<Value = u64> {
        prop_oneof![0..4_u64, any::<u64>(), Just(u64::MAX), Just(0xffff_ffff), Just(0x1_0000_0000)]
    }

    proptest! {
        #[test]
        fn regions_are_where_conditions_hold(
            conditions in prop::collection::vec((0..2_u32, 0..7_usize, value(), value()), 0..3),
            points in prop::collection::vec([value(), value(), value(), value(), value(), value()], 20),
            width in prop_oneof![Just(64_u8), Just(32), Just(16)],
        ) {
            let conditions: Vec<Arg> = conditions.into_iter().map(|(index, op, value, two)| {
                Arg { index, op: OPS[op], value, value_two: two }
            }).collect();
            let widths = [width; 6];
            let regions = regions(&conditions, widths).unwrap();
            for point in points {
                let wanted = conditions.iter().all(|condition| condition.holds_within(&point, widths));
                let found = regions.iter().filter(|region| region.contains(&point)).count();
                prop_assert_eq!(found, usize::from(wanted), "{:?} {:x?}", conditions, point);
            }
        }
    }

    #[test]
    fn high_bits_are_no_way_round() {
        let af_alg = [Arg { index: 0, op: Op::Equal, value: 38, value_two: 0 }];
        let call = [0x1_0000_0026, 0, 0, 0, 0, 0];
        assert!(!regions(&af_alg, [64; 6]).unwrap()[0].contains(&call));
        assert!(regions(&af_alg, [32; 6]).unwrap()[0].contains(&call));
        assert_eq!(regions(&[Arg { index: 6, ..af_alg[0] }], [64; 6]), Ok(Vec::new()));
    }
}
