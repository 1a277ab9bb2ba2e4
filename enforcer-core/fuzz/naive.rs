//! The meaning of patterns once more, as one would first write it down: try everything. For short inputs.

use enforcer_core::pattern::Part;

/// Whether the parts match the whole of `path`; `None` when that took more than a million steps to find out.
pub fn matches(parts: &[Part], path: &[u8]) -> Option<bool> {
    let mut steps = 0;
    let found = from(parts, path, &mut steps, &mut |rest: &[u8], _: &mut u32| rest.is_empty());
    (steps <= MOST).then_some(found)
}

const MOST: u32 = 1_000_000;

fn from(parts: &[Part], path: &[u8], steps: &mut u32, then: &mut dyn FnMut(&[u8], &mut u32) -> bool) -> bool {
    *steps += 1;
    if *steps > MOST {
        return false;
    }
    let Some((part, rest)) = parts.split_first() else { return then(path, steps) };
    let run =
        |deep: bool| if deep { path.len() } else { path.iter().take_while(|byte| **byte != b'/').count() };
    match part {
        Part::Literal(bytes) => {
            path.strip_prefix(&bytes[..]).is_some_and(|path| from(rest, path, steps, then))
        }
        Part::AnyRun | Part::AnyRunDeep => {
            let longest = run(*part == Part::AnyRunDeep);
            (0..=longest).any(|len| from(rest, path.get(len..).unwrap_or_default(), steps, then))
        }
        Part::AnyByte => match path.split_first() {
            Some((byte, path)) => *byte != b'/' && from(rest, path, steps, then),
            None => false,
        },
        Part::Set(set) => match path.split_first() {
            Some((byte, path)) => *byte != b'/' && set.contains(*byte) && from(rest, path, steps, then),
            None => false,
        },
        Part::Alternatives(alternatives) => alternatives.iter().any(|parts| {
            from(parts, path, steps, &mut |path: &[u8], steps: &mut u32| from(rest, path, steps, then))
        }),
    }
}
