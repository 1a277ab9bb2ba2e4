//! Rules about sockets: prefixes in a hash table, ports as sorted intervals, kinds of sockets as short lists.
//!
//! What the programs find for a prefix and a port is a list of kinds with a decision for each, of which the first that
//! fits the socket decides: so the order of precedence is worked out here, once for tasks with a terminal and once for
//! those without. A list ends at a rule about every kind, and names no kind twice.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::image::{Builder, CELL_BYTES, CELL_WORDS, Cell, Fields, to_cells};
use super::plain::{Answer, answer, word};
use super::table::{mix, place_by};
use crate::network::{AF_INET, AF_INET6, Cidr, Endpoint, Ports, Protocol};
use crate::ruleset::{Effect, Object, Rule};

/// `SOCKET_KINDS`
const KINDS: u32 = 16;
/// `PAIR_END`
const PAIR_END: u32 = u32::MAX;
/// `WAYS`
const WAYS: usize = 4;
const CONNECT: u32 = 0;
/// `WAY_LISTEN`
const LISTEN: u32 = 2;

/// The kind's number in tables and lists: `enum enforcer_socket_kind`.
fn kind_of(protocol: Option<Protocol>) -> u32 {
    match protocol {
        None | Some(Protocol::All) => ALL,
        Some(Protocol::Tcp) => 1,
        Some(Protocol::Udp) => 2,
        Some(Protocol::Icmp) => 3,
        Some(Protocol::Icmpv6) => 4,
        Some(Protocol::Sctp) => 5,
        Some(Protocol::Dccp) => 6,
        Some(Protocol::Raw) => 7,
        Some(Protocol::Stream) => 8,
        Some(Protocol::Dgram) => 9,
        Some(Protocol::Rdm) => 10,
        Some(Protocol::Seqpacket) => 11,
        Some(Protocol::Packet) => 12,
    }
}

/// `SOCKET_ALL`
const ALL: u32 = 0;

/// How special a rule about an endpoint is: the longer prefix, then the narrower range of ports.
fn rank(endpoint: &Endpoint) -> u32 {
    let prefix = endpoint.net.map_or(0, |net| 1 + u32::from(net.prefix()));
    prefix << 16 | u32::from(u16::MAX - endpoint.ports.width())
}

/// An address as the table knows it: a number with its first bit on top.
fn number_of(address: IpAddr) -> (u64, u64) {
    let bits = match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let half = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).unwrap_or(0);
    (half(bits >> 64), half(bits))
}

/// A rule about an endpoint.
#[derive(Debug, Clone, Copy)]
struct About<'r> {
    endpoint: &'r Endpoint,
    rule: &'r Rule,
}

/// Kinds with their decisions, the most special first.
type List = Vec<(u32, u32)>;

/// Ports from `from` on, until the next interval.
#[derive(Debug)]
struct Interval {
    from: u16,
    lists: [usize; 2], // without and with a terminal; index in the pool
}

/// The rules of one source.
#[derive(Debug)]
struct Root {
    cell: u32,
    any: [Vec<Interval>; 2],
    wild: [Vec<Interval>; 2],
    lens: [BTreeSet<Reverse<u8>>; WAYS],
    tables: Vec<u32>,
}

/// A prefix of a root.
#[derive(Debug)]
struct Prefix {
    key: u32,
    len: u8,
    address: (u64, u64),
    ports: Vec<Interval>,
}

impl Prefix {
    fn hash(&self, seed: u32) -> u64 {
        let (high, low) = self.address;
        let key = u64::from(self.key) << 8 | u64::from(self.len);
        mix(mix(mix(u64::from(seed), key), high), low)
    }
}

/// The rules about sockets of all sources, while they are collected.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    roots: Vec<Root>,
    prefixes: Vec<Prefix>,
    pool: BTreeMap<List, usize>,
}

impl Sockets {
    /// Takes the rules of one source (or none); the number of their root cell, which [`finish`](Self::finish) writes.
    pub(super) fn root(&mut self, rules: &[&Rule], image: &mut Builder) -> u32 {
        let cell = image.cell([0; CELL_BYTES]);
        let mut to = Vec::new();
        let mut at = Vec::new();
        for rule in rules {
            match &rule.object {
                Object::Destination(endpoint) => to.push(About { endpoint, rule }),
                Object::Listener(endpoint) => at.push(About { endpoint, rule }),
                _ => {}
            }
        }
        let mut lens: [BTreeSet<Reverse<u8>>; WAYS] = Default::default();
        let mut any = [Vec::new(), Vec::new()];
        for ((direction, about), any) in [(CONNECT, &to), (LISTEN, &at)].into_iter().zip(&mut any) {
            let mut by_net: BTreeMap<Option<Cidr>, Vec<About<'_>>> = BTreeMap::new();
            for about in about {
                by_net.entry(about.endpoint.net).or_default().push(*about);
            }
            for (net, about) in by_net {
                let ports = self.intervals(&about);
                let Some(net) = net else {
                    *any = ports;
                    continue;
                };
                let way = direction | u32::from(net.address().is_ipv6());
                for (lens, _) in lens.iter_mut().zip(0..).filter(|(_, number)| *number == way) {
                    lens.insert(Reverse(net.prefix()));
                }
                let key = (cell << 2 | way) + 1;
                let address = number_of(net.address());
                self.prefixes.push(Prefix { key, len: net.prefix(), address, ports });
            }
        }
        let wild = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]
            .map(|any: IpAddr| at.iter().filter(|at| meets(at, any)).copied().collect::<Vec<_>>())
            .map(|about| self.intervals(&about));
        let tables = [sockets(rules), creation(&to, &at)].concat();
        self.roots.push(Root { cell, any, wild, lens, tables });
        cell
    }

    /// The rules about one prefix, or that meet one address, as intervals.
    fn intervals(&mut self, about: &[About<'_>]) -> Vec<Interval> {
        if about.is_empty() {
            return Vec::new();
        }
        let orders = [false, true].map(|terminal| Order::of(about, terminal));
        let mut starts = BTreeSet::from([0]);
        for about in about {
            let ports = about.endpoint.ports;
            starts.insert(ports.first());
            starts.extend(ports.last().checked_add(1));
        }
        let mut sweeps = orders.each_ref().map(Sweep::new);
        let mut intervals: Vec<Interval> = Vec::new();
        for from in starts {
            let lists = sweeps.each_mut().map(|sweep| self.pooled(sweep.list(from)));
            if intervals.last().is_none_or(|last| last.lists != lists) {
                intervals.push(Interval { from, lists });
            }
        }
        intervals
    }

    fn pooled(&mut self, list: List) -> usize {
        let next = self.pool.len();
        *self.pool.entry(list).or_insert(next)
    }

    /// Writes everything; what is too large is found when the image is complete.
    pub(super) fn finish(self, image: &mut Builder) {
        if self.roots.is_empty() {
            return;
        }
        // The lists in the order of their numbers; where each begins is known when the first cell is.
        let mut lists: Vec<_> = self.pool.into_iter().collect();
        lists.sort_by_key(|(_, number)| *number);
        let mut words = Vec::new();
        let mut starts = Vec::new();
        for (list, _) in lists {
            starts.push(if list.is_empty() { None } else { u32::try_from(words.len()).ok() });
            if !list.is_empty() {
                words.extend(list.into_iter().flat_map(|(kind, decision)| [kind, decision]));
                words.extend([PAIR_END, 0]);
            }
        }
        let pool = image.cells(to_cells(&words)).saturating_mul(CELL_WORDS);
        let word_of =
            |list: usize| starts.get(list).copied().flatten().map_or(0, |start| pool.saturating_add(start));
        let ports = |intervals: &[Interval], image: &mut Builder| -> [u32; 2] {
            if intervals.is_empty() {
                return [0, 0];
            }
            let words: Vec<u32> = intervals
                .iter()
                .flat_map(|Interval { from, lists: [without, with] }| {
                    [u32::from(*from), word_of(*without), word_of(*with), 0]
                })
                .collect();
            let count = u32::try_from(intervals.len()).unwrap_or(u32::MAX);
            [image.cells(to_cells(&words)), count]
        };

        let nodes: Vec<Cell> = self
            .prefixes
            .iter()
            .map(|prefix| {
                let (high, low) = prefix.address;
                Fields::default()
                    .u32s(&[prefix.key, u32::from(prefix.len)])
                    .u64(high)
                    .u64(low)
                    .u32s(&ports(&prefix.ports, image))
                    .cell()
            })
            .collect();
        let half = |seed: u64| u32::try_from(seed >> 32).unwrap_or(0);
        let hash = |index: usize, seed: u64| self.prefixes.get(index).map(|prefix| prefix.hash(half(seed)));
        let (seed, slots) = place_by(nodes.len(), hash);
        let mask = u32::try_from(slots.len().saturating_sub(1)).unwrap_or(u32::MAX);
        let in_slot = |slot: &Option<usize>| slot.and_then(|index| nodes.get(index).copied());
        let table = image.cells(slots.iter().map(|slot| in_slot(slot).unwrap_or([0; CELL_BYTES])).collect());

        for root in &self.roots {
            let ways = root.lens.each_ref().map(|lens| {
                let bytes: Vec<u8> = lens.iter().map(|Reverse(len)| *len).collect();
                let count = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                if bytes.is_empty() {
                    0
                } else {
                    image.cells(Fields::default().bytes(&bytes).cells()) << 8 | count
                }
            });
            let [any_to, any_at] = root.any.each_ref().map(|any| ports(any, image));
            let [wild4, wild6] = root.wild.each_ref().map(|wild| ports(wild, image));
            let tables = image.cells(to_cells(&root.tables));
            let cell = Fields::default()
                .u32s(&ways)
                .u32s(&[any_to, any_at, wild4, wild6].concat())
                .u32s(&[tables, table, mask, half(seed)])
                .cell();
            image.set(root.cell, cell);
        }
    }
}

/// Whether a rule about listening is about a socket that is bound to no address in particular: one that denies or
/// reports is about every such socket that could receive for its own addresses.
fn meets(at: &About<'_>, any: IpAddr) -> bool {
    at.endpoint.net.is_none_or(|net| {
        net.contains(any) || (at.rule.effect > Effect::Allow && (any.is_ipv6() || net.address().is_ipv4()))
    })
}

/// Rules about endpoints in the order in which they decide.
#[derive(Debug)]
struct Order {
    rules: Vec<(Ports, u32, u32)>, // the most special first: ports, kind, decision
}

impl Order {
    fn of(about: &[About<'_>], terminal: bool) -> Self {
        let mut answers: Vec<(u32, Answer, &About<'_>)> = about
            .iter()
            .filter_map(|about| Some((rank(about.endpoint), answer(about.rule, terminal)?, about)))
            .collect();
        answers.sort_by_key(|(rank, answer, _)| Reverse((*rank, *answer)));
        let rules = answers.into_iter().map(|(_, answer, About { endpoint, .. })| {
            (endpoint.ports, kind_of(endpoint.protocol), word(Some(answer)))
        });
        Self { rules: rules.collect() }
    }
}

/// Goes through the ports, knowing which rules apply.
#[derive(Debug)]
struct Sweep<'o> {
    order: &'o Order,
    begin: Vec<(u16, usize)>, // the next one last
    end: Vec<(u16, usize)>,
    active: BTreeMap<u32, BTreeSet<usize>>, // by kind
}

impl<'o> Sweep<'o> {
    fn new(order: &'o Order) -> Self {
        let numbered = || order.rules.iter().enumerate();
        let mut begin: Vec<_> = numbered().map(|(n, (ports, ..))| (ports.first(), n)).collect();
        let mut end: Vec<_> = numbered().map(|(n, (ports, ..))| (ports.last(), n)).collect();
        for list in [&mut begin, &mut end] {
            list.sort_unstable_by_key(|next| Reverse(*next));
        }
        Self { order, begin, end, active: BTreeMap::new() }
    }

    /// The list for the ports from `from` on; to be asked in ascending order.
    fn list(&mut self, from: u16) -> List {
        let kind = |order: &Order, n: usize| order.rules.get(n).map_or(ALL, |(_, kind, _)| *kind);
        while let Some((_, n)) = self.begin.pop_if(|(first, _)| *first <= from) {
            self.active.entry(kind(self.order, n)).or_default().insert(n);
        }
        while let Some((_, n)) = self.end.pop_if(|(last, _)| *last < from) {
            self.active.entry(kind(self.order, n)).or_default().remove(&n);
        }
        let mut first: Vec<usize> =
            self.active.values().filter_map(|of_kind| of_kind.first().copied()).collect();
        first.sort_unstable();
        let mut list = Vec::new();
        for (_, kind, decision) in first.into_iter().filter_map(|n| self.order.rules.get(n)) {
            list.push((*kind, *decision));
            if *kind == ALL {
                break;
            }
        }
        list
    }
}

/// Decisions of the rules about kinds of sockets, by terminal and kind.
fn sockets(rules: &[&Rule]) -> Vec<u32> {
    let of = |kind, terminal| {
        let about = rules.iter().filter(
            |rule| matches!(&rule.object, Object::Sockets(protocol) if kind_of(Some(*protocol)) == kind),
        );
        word(about.filter_map(|rule| answer(rule, terminal)).max())
    };
    [false, true].into_iter().flat_map(|terminal| (0..KINDS).map(move |kind| of(kind, terminal))).collect()
}

/// What Allow rules about endpoints say about creating a socket: pairs of rank and decision by family, terminal, kind.
fn creation(to: &[About<'_>], at: &[About<'_>]) -> Vec<u32> {
    let of = |family: u16, terminal: bool, kind: u32| {
        let about = to.iter().chain(at).filter(|about| {
            let v6 = about.endpoint.net.is_some_and(|net| net.address().is_ipv6());
            about.rule.effect == Effect::Allow
                && kind_of(about.endpoint.protocol) == kind
                && (family == AF_INET6 || !v6)
        });
        let best =
            about.filter_map(|about| Some((rank(about.endpoint), answer(about.rule, terminal)?))).max();
        [best.map_or(0, |(rank, _)| rank), word(best.map(|(_, answer)| answer))]
    };
    let mut pairs = Vec::new();
    for family in [AF_INET, AF_INET6] {
        for terminal in [false, true] {
            pairs.extend((0..KINDS).flat_map(|kind| of(family, terminal, kind)));
        }
    }
    pairs
}
