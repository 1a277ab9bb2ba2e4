//! How much one peer may hold of what there is for all, so that it cannot hold all of it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who asks, by address; `None`: root, at the socket of the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peer(pub(super) Option<IpAddr>);

/// What each peer holds. Clones count together.
#[derive(Debug, Clone, Default)]
pub(super) struct Peers(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl Peers {
    /// One more for this peer; `None`: it holds `most` already. Root has no limit.
    pub(super) fn take(&self, Peer(address): Peer, most: usize) -> Option<Share> {
        if let Some(address) = address {
            let mut held = self.held();
            let count = held.get(&address).copied().unwrap_or(0);
            if count >= most {
                return None;
            }
            held.insert(address, count + 1);
        }
        Some(Share { peers: self.clone(), address })
    }

    // numbers are whole after a panic, too
    fn held(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a peer holds, as long as this is there.
#[derive(Debug)]
pub(super) struct Share {
    peers: Peers,
    address: Option<IpAddr>,
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some(address) = &self.address else { return };
        let mut held = self.peers.held();
        match held.get_mut(address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                held.remove(address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_peer_has_its_share_and_root_has_no_limit() {
        let peers = Peers::default();
        let [one, other] = ["127.0.0.1", "::2"].map(|text| Peer(Some(text.parse().unwrap())));
        let mut shares: Vec<_> = (0..3).map(|_| peers.take(one, 3).unwrap()).collect();
        assert!(peers.take(one, 3).is_none());
        let _others = peers.take(other, 3).unwrap();
        let _roots: Vec<_> = (0..100).map(|_| peers.take(Peer(None), 3).unwrap()).collect();
        shares.pop();
        assert!(peers.take(one, 3).is_some());
        drop(shares);
        assert_eq!(peers.held().len(), 1, "nothing is remembered of those who are gone");
    }
}
