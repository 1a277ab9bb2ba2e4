//! What a change of the policies leaves of the look-ups before: only paths that are new are looked up before the rules
//! come into force, and all of them once more right after.

use std::collections::HashMap;
use std::sync::Arc;

use enforcer_core::links::LookUps;
use enforcer_core::path::AbsPath;

use crate::roots::Found;

/// Work that containers with the same paths share, by addresses, which the entries keep in place.
#[derive(Debug, Default)]
pub(super) struct Reuse {
    fewer: HashMap<[usize; 2], (Arc<LookUps>, Paths)>,
    complete: HashMap<[usize; 4], (Arc<Found>, Answers, Paths)>,
}

type Paths = [Arc<LookUps>; 2];
type Answers = [Arc<Found>; 2];

fn address<T>(of: &Arc<T>) -> usize {
    Arc::as_ptr(of).addr()
}

impl Reuse {
    /// Forgets all of it.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// What of `wanted` was not asked for `before`.
    pub(super) fn fewer(&mut self, before: &Arc<LookUps>, wanted: &Arc<LookUps>) -> Arc<LookUps> {
        let key = [address(before), address(wanted)];
        let make = || (Arc::new(fewer(before, wanted)), [Arc::clone(before), Arc::clone(wanted)]);
        Arc::clone(&self.fewer.entry(key).or_insert_with(make).0)
    }

    /// The answers to all that is `wanted`: those that were `found` now to what was `asked`, and for the rest those that
    /// were `kept`.
    pub(super) fn complete(
        &mut self,
        [found, kept]: [&Arc<Found>; 2],
        [asked, wanted]: [&Arc<LookUps>; 2],
        share: impl FnOnce(Found) -> Arc<Found>,
    ) -> Arc<Found> {
        let key = [address(found), address(kept), address(asked), address(wanted)];
        let make = || {
            let all = share(complete(found, kept, asked, wanted));
            (all, [found, kept].map(Arc::clone), [asked, wanted].map(Arc::clone))
        };
        Arc::clone(&self.complete.entry(key).or_insert_with(make).0)
    }
}

fn fewer(before: &LookUps, wanted: &LookUps) -> LookUps {
    let twin = |path: &AbsPath| wanted.twins.contains(path);
    let new =
        |path: &&_| before.paths.binary_search(path).is_err() || twin(path) && !before.twins.contains(*path);
    let paths: Vec<_> = wanted.paths.iter().filter(new).cloned().collect();
    let twins = paths.iter().filter(|path| twin(path)).cloned().collect();
    LookUps { paths, twins }
}

fn complete(found: &Found, kept: &Found, asked: &LookUps, wanted: &LookUps) -> Found {
    let has = |paths: &LookUps, path: &AbsPath| paths.paths.binary_search(path).is_ok();
    let still = kept.iter().filter(|(path, _)| has(wanted, path) && !has(asked, path));
    let mut all: Found = still.chain(found).cloned().collect();
    all.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use enforcer_core::links::Resolution;

    fn paths(texts: &[&str]) -> Vec<AbsPath> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn look_ups(all: &[&str], twins: &[&str]) -> Arc<LookUps> {
        Arc::new(LookUps { paths: paths(all), twins: paths(twins).into_iter().collect() })
    }

    fn found(texts: &[&str]) -> Arc<Found> {
        Arc::new(paths(texts).into_iter().map(|path| (path, Resolution::default())).collect())
    }

    #[test]
    fn what_was_asked_before_is_not_asked_again() {
        let mut reuse = Reuse::default();
        let (before, wanted) =
            (look_ups(&["/a", "/b", "/d"], &["/a"]), look_ups(&["/a", "/b", "/c"], &["/a", "/b"]));
        // now its hard links matter, too
        let asked = reuse.fewer(&before, &wanted);
        assert_eq!(*asked, *look_ups(&["/b", "/c"], &["/b"]));
        assert!(Arc::ptr_eq(&asked, &reuse.fewer(&before, &wanted)));

        // `/b` has no other name any more
        let (new, kept) = (found(&["/c"]), found(&["/a", "/b", "/d"]));
        let mut complete = || reuse.complete([&new, &kept], [&asked, &wanted], Arc::new);
        let all = complete();
        assert_eq!(all, found(&["/a", "/c"]));
        assert!(Arc::ptr_eq(&all, &complete()));
    }
}
