//! Profiles that were compiled lately. Compiling one takes milliseconds, for which a container's creation waits, and pods of
//! one workload are created with the same policies over the same profile.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use enforcer_core::seccomp::{Base, SeccompProfile};

use super::profiles::Together;

/// How many are kept, some 100 KB each: only those over profiles that are not read from anywhere, which could be of any size.
/// Those that were wanted longest ago go first.
const KEPT: usize = 32;

struct Entry {
    policies: Together, // kept in place, so that no other policy gets its address
    base: Base,
    profile: Arc<SeccompProfile>,
}

impl Entry {
    fn is_of(&self, policies: &Together, base: &Base) -> bool {
        self.policies.len() == policies.len()
            && self.policies.iter().zip(policies).all(|(one, other)| Arc::ptr_eq(one, other))
            && self.base == *base
    }
}

/// The profiles, by the very policies and the profile below them.
#[derive(Default)]
pub(super) struct Compiled(Mutex<VecDeque<Entry>>);

impl Compiled {
    /// The profile, made where it was not made lately. What cannot be made is tried again each time.
    pub(super) fn get<E>(
        &self,
        policies: &Together,
        base: &Base,
        make: impl FnOnce() -> Result<SeccompProfile, E>,
    ) -> Result<SeccompProfile, E> {
        if matches!(base, Base::Profile(_)) {
            return make();
        }
        if let Some(profile) = self.wanted(policies, base) {
            return Ok(SeccompProfile::clone(&profile));
        }
        // without the lock: others are created meanwhile
        let profile = make()?;
        let entry =
            Entry { policies: policies.clone(), base: base.clone(), profile: Arc::new(profile.clone()) };
        let mut entries = self.entries();
        entries.truncate(KEPT.saturating_sub(1));
        entries.push_front(entry);
        Ok(profile)
    }

    fn wanted(&self, policies: &Together, base: &Base) -> Option<Arc<SeccompProfile>> {
        let mut entries = self.entries();
        let at = entries.iter().position(|entry| entry.is_of(policies, base))?;
        let entry = entries.remove(at)?;
        let profile = Arc::clone(&entry.profile);
        entries.push_front(entry);
        Some(profile)
    }

    // after a panic in another thread at worst something is made again
    fn entries(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use enforcer_core::policy::parse;
    use enforcer_core::seccomp::{Arch, Node, compile};

    use super::*;
    use crate::seccomp::base::runtime_default;
    use crate::seccomp::tests::policy;

    fn together(name: &str) -> Together {
        let parsed = parse("p.yaml", &policy(name, "web", "  syscalls: [mkdir]\n  action: Block"));
        parsed.seccomp.into_iter().map(Arc::new).collect()
    }

    #[test]
    fn the_same_is_made_once_and_anything_else_by_itself() {
        let (compiled, made) = (Compiled::default(), Cell::new(0));
        let get = |policies: &Together, base: &Base| {
            let make = || {
                made.set(made.get() + 1);
                let node = Node { arch: Arch::X86_64, libseccomp: (2, 5, 4) };
                compile(&policies.iter().map(AsRef::as_ref).collect::<Vec<_>>(), base, &node)
            };
            compiled.get(policies, base, make).unwrap()
        };
        let one = together("p");
        let first = get(&one, &runtime_default());
        assert_eq!((get(&one, &runtime_default()), made.get()), (first.clone(), 1));
        assert_ne!(get(&one, &Base::Unconfined), first);
        assert_eq!(made.get(), 2, "another base");
        // what a runtime or pod brought may be of any size
        let brought = Base::Profile(first.oci.clone());
        for _ in 0..2 {
            get(&one, &brought);
        }
        assert_eq!((made.take(), compiled.entries().len()), (4, 2), "made each time, and not kept");
        made.set(2);
        // the same text is another policy: it may have replaced one of the same name
        assert_eq!((get(&together("p"), &runtime_default()), made.get()), (first.clone(), 3));
        assert_eq!((get(&one, &runtime_default()), made.get()), (first, 3));
        let many: Vec<Together> = (0..KEPT).map(|number| together(&format!("p{number}"))).collect();
        many.iter().for_each(|policies| drop(get(policies, &Base::Unconfined)));
        assert_eq!(compiled.entries().len(), KEPT);
        let before = made.get();
        get(&one, &runtime_default());
        assert_eq!(made.get(), before + 1, "it was wanted longest ago");
    }
}
