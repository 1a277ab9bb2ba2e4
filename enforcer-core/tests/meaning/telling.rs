//! The meaning told another way: as passes over the rules, each narrower question before the wider one; paths as text,
//! patterns by trying everything, addresses as strings of bits.

use std::net::IpAddr;

use enforcer_core::decide::{Access, DecidedBy, Decision, PathAccess, Target, Verdict};
use enforcer_core::network::{Cidr, Endpoint, Protocol, SocketAccess, SocketOp};
use enforcer_core::ruleset::{Conditions, Effect, Object, OriginId, Rule, Ruleset};

use crate::naive;
use crate::world::SOCKETS;

type Question<'a> = Box<dyn Fn(&Rule) -> bool + 'a>;

/// The decision.
pub fn by_passes(set: &Ruleset, access: &Access<'_>) -> Decision {
    let mut decision = by_questions(set, access);
    let Target::Path(path) = access.target else { return decision };
    let below = format!("{}/", std::str::from_utf8(path.path).unwrap());
    let mut rules: Vec<_> =
        set.rules().iter().filter(|rule| path.tree && rule.class == access.class()).collect();
    rules.sort_by_key(|rule| rule.origin);
    for rule in rules {
        let lies_there = match &rule.object {
            Object::Path(path) | Object::Directory { dir: path, .. } => path.to_string().starts_with(&below),
            Object::Pattern(pattern) => pattern.could_match_below(path.path),
            _ => false,
        };
        let acting = rule.source.as_ref().is_none_or(|path| Some(path.as_bytes()) == access.source);
        if acting && lies_there && Verdict::from(rule.effect) > decision.verdict {
            decision = Decision { verdict: rule.effect.into(), by: DecidedBy::Rule(rule.origin) };
        }
    }
    decision
}

fn by_questions(set: &Ruleset, access: &Access<'_>) -> Decision {
    let sources = [access.source.map(|source| Some(source.to_vec())), Some(None)];
    for source in sources.into_iter().flatten() {
        let pass: Vec<_> = set
            .rules()
            .iter()
            .filter(|rule| rule.class == access.class())
            .filter(|rule| rule.source.as_ref().map(|path| path.as_bytes().to_vec()) == source)
            .collect();
        let questions = match access.target {
            Target::Path(path) => about_path(path),
            Target::Socket(socket) => about_socket(socket),
            Target::Capability(used) => vec![same(Object::Capability(used))],
            Target::Syscall(made) => vec![same(Object::Syscall(made))],
            Target::Preset(done) => vec![same(Object::Preset(done))],
        };
        for question in questions {
            if let Some(decision) = strongest(pass.iter().copied().filter(|rule| question(rule)), access) {
                return decision;
            }
        }
    }
    if set.rules().iter().any(|rule| rule.class == access.class() && rule.effect == Effect::Allow) {
        Decision { verdict: set.posture(access.class()).into(), by: DecidedBy::DefaultPosture }
    } else {
        Decision { verdict: Verdict::Allow, by: DecidedBy::NoRule }
    }
}

fn same(object: Object) -> Question<'static> {
    Box::new(move |rule| rule.object == object)
}

/// Of equally specific rules.
fn strongest<'r>(rules: impl Iterator<Item = &'r Rule>, access: &Access<'_>) -> Option<Decision> {
    let mut best: Option<(u8, OriginId, bool)> = None;
    for rule in rules {
        let (all, any) = holding(&rule.conditions, access);
        let (rank, exempt) = match rule.effect {
            Effect::Allow if !all => continue,
            Effect::Allow => (0, false),
            _ if any => (0, true),
            Effect::Audit => (1, false),
            Effect::Block => (2, false),
        };
        if best.is_none_or(|(other, origin, _)| rank > other || (rank == other && rule.origin < origin)) {
            best = Some((rank, rule.origin, exempt));
        }
    }
    let (rank, origin, exempt) = best?;
    let verdict = [Verdict::Allow, Verdict::Audit, Verdict::Block][usize::from(rank)];
    let by = if exempt { DecidedBy::Exempt(origin) } else { DecidedBy::Rule(origin) };
    Some(Decision { verdict, by })
}

/// Whether all of the conditions hold, and whether any does.
fn holding(conditions: &Conditions, access: &Access<'_>) -> (bool, bool) {
    let Conditions { read_only, owner_only, no_terminal, args } = conditions;
    let mut holds = vec![];
    if let Target::Path(path) = access.target {
        if *read_only {
            holds.push(!path.write);
        }
        if *owner_only {
            holds.push(path.owner.is_none() || path.owner == Some(access.uid));
        }
        if let Some(allowed) = args {
            let listed = |arg: &&[u8]| allowed.as_slice().iter().any(|other| other.as_bytes() == *arg);
            holds.push(path.args.is_some_and(|given| given.iter().all(listed)));
        }
    }
    if *no_terminal {
        holds.push(!access.terminal);
    }
    (!holds.contains(&false), holds.contains(&true))
}

fn about_path(access: PathAccess<'_>) -> Vec<Question<'_>> {
    let text = std::str::from_utf8(access.path).unwrap().to_owned();
    let trimmed = text.trim_end_matches('/').to_owned();
    let name = trimmed.rsplit('/').next().unwrap_or_default().to_owned();
    // The path's own directory reading first, then each parent, up to the root.
    let mut dirs = vec![];
    let mut rest = trimmed.as_str();
    loop {
        dirs.push(if rest.is_empty() { "/".to_owned() } else { rest.to_owned() });
        match rest.rfind('/') {
            Some(slash) => rest = &rest[..slash],
            None => break,
        }
    }
    let mut questions: Vec<Question<'_>> = vec![
        Box::new(move |rule| matches!(&rule.object, Object::Path(path) if path.to_string() == text)),
        Box::new(
            move |rule| matches!(&rule.object, Object::BaseName(other) if !name.is_empty() && *other == name),
        ),
        Box::new(
            move |rule| matches!(&rule.object, Object::Pattern(pattern) if naive::matches(pattern.parts(), access.path) == Some(true)),
        ),
    ];
    for (up, wanted) in dirs.into_iter().enumerate() {
        questions.push(Box::new(move |rule| {
            matches!(&rule.object, Object::Directory { dir, recursive } if dir.to_string() == wanted && (*recursive || up <= 1))
        }));
    }
    questions
}

fn about_socket(access: SocketAccess) -> Vec<Question<'static>> {
    let mut questions: Vec<Question<'_>> = vec![];
    for prefix in (0..=128).rev().map(Some).chain([None]) {
        // the widths that this world has
        for width in [0, 1, 3, u16::MAX] {
            questions.push(Box::new(move |rule| {
                let (Object::Destination(end) | Object::Listener(end)) = &rule.object else { return false };
                end.net.map(|net| net.prefix()) == prefix
                    && end.ports.last() - end.ports.first() == width
                    && concerns(rule, end, &access)
            }));
        }
    }
    questions.push(Box::new(move |rule| matches!(rule.object, Object::Sockets(kind) if is_a(&access, kind))));
    questions
}

fn is_a(access: &SocketAccess, kind: Protocol) -> bool {
    let known = SOCKETS.iter().find(|(socket, _)| *socket == (access.family, access.kind, access.protocol));
    known.unwrap().1.split(' ').any(|name| name == kind.as_str())
}

fn concerns(rule: &Rule, end: &Endpoint, access: &SocketAccess) -> bool {
    let kind = end.protocol.is_none_or(|protocol| is_a(access, protocol));
    let port = (end.ports.first()..=end.ports.last()).contains(&access.port);
    let going = matches!(access.op, SocketOp::Connect | SocketOp::Send);
    let staying = matches!(access.op, SocketOp::Bind | SocketOp::Listen);
    let mut bits = access.address.map(bits);
    if going {
        // to nowhere in particular is to the machine itself
        let v4 = format!("4{}", "0".repeat(32));
        let v6 = format!("6{}", "0".repeat(128));
        if bits.as_ref() == Some(&v4) {
            bits = Some(format!("401111111{}1", "0".repeat(23)));
        } else if bits.as_ref() == Some(&v6) {
            bits = Some(format!("6{}1", "0".repeat(127)));
        }
    }
    let inside = |bits: &String| end.net.is_none_or(|net| bits.starts_with(&net_bits(net)));
    match rule.object {
        _ if access.op == SocketOp::Create => {
            let only_v6 = end.net.is_some_and(|net| net.to_string().contains(':'));
            let families: &[u16] = if only_v6 { &[10, 43] } else { &[2, 10, 43] };
            rule.effect == Effect::Allow && families.contains(&access.family) && kind
        }
        Object::Destination(_) => going && kind && port && bits.as_ref().is_some_and(inside),
        _ => {
            let all_of = |bits: &String| {
                let nothing_set = !bits[1..].contains('1');
                let v6_net = end.net.is_some_and(|net| net.to_string().contains(':'));
                rule.effect != Effect::Allow && nothing_set && (bits.starts_with('6') || !v6_net)
            };
            staying && kind && port && bits.as_ref().is_some_and(|bits| inside(bits) || all_of(bits))
        }
    }
}

/// `4` or `6`, and then the bits.
fn bits(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("4{:032b}", u32::from(v4)),
        IpAddr::V6(v6) => {
            let bits = format!("{:0128b}", u128::from(v6));
            let mapped = format!("{}{}", "0".repeat(80), "1".repeat(16));
            bits.strip_prefix(&mapped).map_or_else(|| format!("6{bits}"), |v4| format!("4{v4}"))
        }
    }
}

fn net_bits(net: Cidr) -> String {
    bits(net.address())[..=usize::from(net.prefix())].to_owned()
}
