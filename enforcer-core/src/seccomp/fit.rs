//! One set of entries for architectures of both sizes.
//!
//! On an architecture of 32 bits libseccomp compares the lower halves alone: an entry for the value `0x1_0000_0026` is one
//! for `0x26` there, and one for "some upper bit is set" is one for everything. So where a profile is for both sizes, an
//! entry that wants upper bits is left out, unless its lower half alone would be answered in the same way; what it was
//! about gets the default, which has to be as strict.

use super::action::Action;
use super::merge::Function;
use super::region::{Cube, MAX_REGIONS, Region, join};
use super::width::mask;

const LOWER: u64 = 0xffff_ffff;

/// A function whose parts, cut to their lower halves, still say what it does where the upper halves are zero; `default` is
/// for what no entry speaks about.
pub(super) fn both_sizes(function: &Function, default: Action, widths: [u8; 6]) -> Function {
    let (low, high): (Vec<_>, Vec<_>) =
        function.parts.iter().copied().partition(|(region, _)| is_low(region));
    if high.is_empty() {
        return function.clone();
    }
    let mut fitted = Function { parts: low.clone(), cut: function.cut };
    for (region, action) in &high {
        if *action == default {
            continue;
        }
        let meant = meant(region, widths);
        let others = low.iter().filter(|(_, other)| other != action).map(|(region, _)| lower_half(region));
        let mut kept: Vec<Region> = meant.into_iter().collect();
        let mut lost = false;
        for other in others {
            lost |= kept.iter().any(|region| region.intersect(&other).is_some());
            kept = kept.iter().flat_map(|region| region.without(&other)).collect();
            if kept.len() > MAX_REGIONS / 16 {
                (kept, lost) = (Vec::new(), true);
            }
        }
        let whole = meant == Some(*region) && !lost;
        if !whole && default.rank() < action.rank() {
            return function.cut();
        }
        // A call that somebody could mean is answered more strictly.
        fitted.cut |= lost && default.rank() > action.rank();
        fitted.parts.extend(kept.into_iter().map(|region| (region, *action)));
    }
    fitted.parts = join(fitted.parts);
    // Where no entry speaks, the default holds: without these the rest could look like all there is.
    fitted.parts.extend(high.iter().map(|(region, _)| (*region, default)));
    fitted
}

/// A function without entries that are only about stray bits: some argument has some above those that the kernel looks at,
/// neither all zero nor all like the sign. They get the default, where that is as strict. `small`: so do negative numbers,
/// of which a profile for both sizes says nothing more that is sure.
pub(super) fn terse(function: &Function, default: Action, widths: [u8; 6], small: bool) -> Function {
    let stray = |region: &Region| {
        region.0.iter().zip(widths).any(|(cube, width)| {
            let upper = !mask(width);
            let sign = (mask(width) >> 1) + 1;
            width < 64
                && cube.intersect(Cube::new(upper, 0)).is_none()
                && cube.intersect(Cube::new(upper | sign, u64::MAX)).is_none()
        })
    };
    let to_default = |region: &Region, action: Action| match small && action.rank() == default.rank() {
        true => !is_low(region),
        false => action.rank() <= default.rank() && stray(region),
    };
    let parts = function.parts.iter().map(|(region, action)| match to_default(region, *action) {
        true => (*region, default),
        false => (*region, *action),
    });
    Function { parts: parts.collect(), cut: function.cut }
}

/// A function where no upper half is ever set: what is about those says nothing.
pub(super) fn lower_halves(function: &Function) -> Function {
    let low = function.parts.iter().filter(|(region, _)| is_low(region));
    Function { parts: low.map(|(region, action)| (lower_half(region), *action)).collect(), cut: function.cut }
}

fn is_low(region: &Region) -> bool {
    region.0.iter().all(|cube| cube.value <= LOWER)
}

/// The part of a region whose narrow arguments are those of negative numbers: nobody means other upper bits in them.
fn meant(region: &Region, widths: [u8; 6]) -> Option<Region> {
    let mut meant = *region;
    for (cube, width) in meant.0.iter_mut().zip(widths) {
        if cube.value > LOWER && width < 64 {
            *cube = cube.intersect(Cube::new(!(mask(width) >> 1), u64::MAX))?;
        }
    }
    Some(meant)
}

fn lower_half(region: &Region) -> Region {
    Region(region.0.map(|cube| Cube::new(cube.mask & LOWER, cube.value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::condition::regions;
    use crate::seccomp::oci::{Arg, Op};

    fn function(op: Op, value: u64, then: Action, otherwise: Action) -> Function {
        let mut partition = crate::seccomp::region::Partition::of(vec![Region::ANY]);
        for region in regions(&[Arg { index: 0, op, value, value_two: 0 }], [64; 6]).unwrap() {
            partition.say(&region, then).unwrap();
        }
        Function { parts: join(partition.finish(otherwise)), cut: false }
    }

    fn answer(function: &Function, default: Action, first: u64) -> Action {
        let args = [first, 0, 0, 0, 0, 0];
        function.parts.iter().find(|(region, _)| region.contains(&args)).map_or(default, |part| part.1)
    }

    #[test]
    fn an_upper_half_is_no_reason_to_allow_the_lower_one() {
        let deny = Action::Errno(1);
        let wide = function(Op::Equal, 0x1_0000_0026, Action::Allow, deny);
        let fitted = both_sizes(&wide, deny, [64; 6]);
        assert_eq!(answer(&fitted, deny, 0x1_0000_0026), deny);
        assert!(fitted.cut, "somebody could mean that call");
        let fitted = both_sizes(&wide, deny, [32; 6]);
        assert_eq!((answer(&fitted, deny, 0x1_0000_0026), fitted.cut), (deny, false));
    }

    #[test]
    fn a_negative_number_is_still_another() {
        let deny = Action::Errno(1);
        let fitted = both_sizes(&function(Op::NotEqual, 5, Action::Allow, deny), deny, [32; 6]);
        assert!(!fitted.cut);
        for (value, wanted) in
            [(5, deny), (6, Action::Allow), (0xffff_ffff_ffff_ff9c, Action::Allow), (0x1_0000_0006, deny)]
        {
            assert_eq!(answer(&fitted, deny, value), wanted, "{value:#x}");
        }
    }

    #[test]
    fn what_is_denied_stays_denied() {
        let fitted = both_sizes(
            &function(Op::Greater, 0xffff_ffff, Action::Errno(1), Action::Allow),
            Action::Allow,
            [64; 6],
        );
        assert_eq!((fitted.uniform(), fitted.cut), (Some(Action::Errno(1)), true));
    }
}
