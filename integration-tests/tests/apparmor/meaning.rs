//! What the parser makes of random rulesets against `decide`.

use std::collections::BTreeMap;

use enforcer_core::capability::Capability;
use enforcer_core::compile::apparmor::{AppArmorProfile, Native, Options, child_of, compile};
use enforcer_core::coverage::GapReason;
use enforcer_core::decide::{Access, DecidedBy, Decision, PathAccess, PathClass, Target, Verdict};
use enforcer_core::network::{Protocol, SocketAccess, SocketOp};
use enforcer_core::policy::{Kind, PolicyId};
use enforcer_core::ruleset::{
    AbsPath, Class, Conditions, Effect, Object, Origin, PostureAction, Postures, Rule, Ruleset,
};
use lab::apparmor::compiled;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::binary::{APPEND, EXEC, LINK, LOCK, Leads, MAP, Profile, READ, WRITE, profiles};
use crate::world;

/// Rulesets in one run of the parser.
const BATCH: usize = 20;
/// Runs of the parser, unless `PROFILE_BATCHES` says otherwise; `PROFILE_SEED` is a number, too.
const BATCHES: u64 = 3;

/// Capabilities by which paths are got round.
const WITHHELD: [&str; 2] = ["dac_read_search", "sys_admin"];

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect(variable))
}

/// What AppArmor can say of the rules, by the tables in the documentation of `compile::apparmor`.
fn left(rules: &[Rule], postures: Postures) -> (Ruleset, Ruleset) {
    let whole = world::ruleset(rules, postures);
    let mut kept = Vec::new();
    for rule in whole.rules() {
        let conditions = Conditions { no_terminal: false, args: None, ..rule.conditions.clone() };
        let narrowed = conditions != rule.conditions;
        let allows_nothing = narrowed && rule.effect == Effect::Allow;
        let withheld = gives(rule) && denies_paths(&whole);
        if !unsayable(&rule.object) && !allows_nothing && !withheld {
            kept.push(Rule { conditions, ..rule.clone() });
        }
    }
    let origins: Vec<Origin> = whole.origins().iter().map(|origin| origin.as_ref().clone()).collect();
    let lists: Vec<Class> = Class::ALL.into_iter().filter(|class| whole.whitelisted(*class)).collect();
    (Ruleset::with_whitelists(kept, origins, postures, &lists).unwrap(), whole)
}

fn unsayable(object: &Object) -> bool {
    matches!(
        object,
        Object::Destination(_)
            | Object::Listener(_)
            | Object::Sockets(Protocol::Dccp)
            | Object::Syscall(_)
            | Object::Preset(_)
    )
}

/// Whether a rule lets a capability pass by which paths are got round.
fn gives(rule: &Rule) -> bool {
    matches!(&rule.object, Object::Capability(one) if WITHHELD.contains(&one.name()))
        && rule.effect != Effect::Block
}

/// Whether anybody is denied anything of paths.
fn denies_paths(rules: &Ruleset) -> bool {
    [Class::File, Class::Process].into_iter().any(|class| {
        let blocks = |rule: &Rule| rule.class == class && rule.effect == Effect::Block;
        rules.posture(class) == PostureAction::Block || rules.rules().iter().any(blocks)
    })
}

struct Case {
    whole: Ruleset,
    left: Ruleset,
    made: AppArmorProfile,
}

fn options(name: &str) -> Options {
    Options::named(name.parse().unwrap())
}

fn sources(ruleset: &Ruleset) -> Vec<AbsPath> {
    let mut found: Vec<_> = ruleset.rules().iter().filter_map(|rule| rule.source.clone()).collect();
    found.sort();
    found.dedup();
    found
}

fn paths() -> Vec<String> {
    let mut paths = vec![String::new()];
    for depth in 0..3 {
        let deeper: Vec<String> = paths
            .iter()
            .filter(|path| path.matches('/').count() == depth)
            .flat_map(|path| ["a", "b", "c", "ab", "d"].map(|name| format!("{path}/{name}")))
            .collect();
        paths.extend(deeper);
    }
    paths[0] = "/".to_owned();
    paths.extend(["/s", "/t", "/a/b/c/a", "/a/b/c/a/b"].map(str::to_owned));
    paths
}

fn access<'a>(class: PathClass, path: &'a str, write: bool, tree: bool, owner: bool) -> Access<'a> {
    let path = path.as_bytes();
    let owner = Some(if owner { 1 } else { 2 });
    let target = PathAccess { class, path, write, tree, owner, argv0: None, args: None };
    Access { uid: 1, ..Access::to(Target::Path(target)) }
}

/// Compares one profile for those who may act under it; tells how many accesses were asked about.
fn compare(
    case: &Case,
    profile: &Profile,
    actors: &[Option<&AbsPath>],
    exact: bool,
) -> Result<usize, String> {
    let decide = |access: Access<'_>| {
        let by = |actor: &Option<&AbsPath>| {
            case.left.decide(&Access { source: actor.map(AbsPath::as_bytes), ..access }).verdict
        };
        actors.iter().map(by).max().unwrap()
    };
    let tree_gap = case.made.gaps.iter().any(|gap| gap.reason == GapReason::AppArmorTree);
    let mut asked = 0;
    let mut check = |what: &dyn Fn() -> String, found: Verdict, wanted: Verdict, exact: bool| {
        asked += 1;
        // who could be anybody is denied what anybody is, and is not always reported
        let as_wanted =
            if exact { found == wanted } else { (found == Verdict::Block) >= (wanted == Verdict::Block) };
        if as_wanted { Ok(()) } else { Err(format!("{}: {found}, not {wanted}", what())) }
    };
    for path in paths() {
        for owner in [true, false] {
            let who = if owner { "its owner" } else { "another" };
            for (mode, write) in [(READ, false), (WRITE, true), (APPEND, true), (LINK, true)] {
                let found = profile.file(path.as_bytes(), owner, mode);
                if mode == LINK && !owner && found != Verdict::Block {
                    return Err(format!("{who}, a link at {path}: {found}"));
                } else if mode == LINK && !owner {
                    continue;
                }
                let wanted = decide(access(PathClass::File, &path, write, false, owner));
                check(&|| format!("{who}, {mode:#x} of {path}"), found, wanted, exact)?;
            }
            if profile.file(path.as_bytes(), owner, LOCK) != Verdict::Allow {
                return Err(format!("no lock on {path}"));
            }
            if path != "/" {
                let directory = format!("{path}/");
                let found = |mode| profile.file(directory.as_bytes(), owner, mode);
                let wanted = decide(access(PathClass::File, &path, false, false, owner));
                check(&|| format!("{who}, reading {directory}"), found(READ), wanted, exact)?;
                let moved = decide(access(PathClass::File, &path, true, !tree_gap, owner));
                check(&|| format!("{who}, renaming {directory}"), found(WRITE), moved, exact && !tree_gap)?;
            }
            let wanted = decide(access(PathClass::Process, &path, false, false, owner));
            let found = profile.file(path.as_bytes(), owner, EXEC);
            check(&|| format!("{who}, executing {path}"), found, wanted, exact)?;
            // a program that is named may not be run by `ld.so` either, and libraries in places that are may be mapped
            let mapped = profile.file(path.as_bytes(), owner, MAP);
            let acting = actors.last().unwrap().map(AbsPath::as_bytes);
            let asked = Access { source: acting, ..access(PathClass::Process, &path, false, false, owner) };
            let named = match case.left.decide(&asked) {
                Decision { verdict: Verdict::Block, by: DecidedBy::Rule(id) } => {
                    let mut rules = case.left.rules().iter().filter(|rule| rule.origin == id);
                    rules.any(|rule| matches!(rule.object, Object::Path(_) | Object::BaseName(_)))
                }
                _ => false,
            };
            let about = |rule: &Rule| {
                rule.class == Class::Process
                    && rule.effect == Effect::Block
                    && matches!(rule.object, Object::Path(_) | Object::BaseName(_))
            };
            let any = case.left.rules().iter().any(about);
            if (named && mapped != Verdict::Block) || (!any && mapped == Verdict::Block) {
                return Err(format!("{who}: mapping {path}: {mapped}"));
            }
        }
    }
    for family in [1, 2, 10, 16, 17, 40, 43] {
        for kind in [1, 2, 3, 4, 5, 10] {
            let of = |protocol| {
                let socket =
                    SocketAccess { op: SocketOp::Connect, family, kind, protocol, address: None, port: 0 };
                decide(Access::socket(socket))
            };
            let wanted = match (family, kind) {
                (2, 3) => of(0).max(of(1)),
                (10, 3) => of(0).max(of(58)),
                _ => of(0),
            };
            check(&|| format!("socket {family} {kind}"), profile.socket(family, kind), wanted, true)?;
        }
    }
    for capability in Capability::all() {
        let withheld = WITHHELD.contains(&capability.name()) && denies_paths(&case.whole);
        let wanted = if withheld { Verdict::Block } else { decide(Access::capability(capability)) };
        let found = profile.capability(capability.number());
        check(&|| capability.to_string(), found, wanted, true)?;
    }
    Ok(asked)
}

/// Where executing leads to, in every profile of a ruleset.
fn transitions(case: &Case, found: &BTreeMap<String, Profile>) -> Result<(), String> {
    let name = case.made.name.as_str();
    let sources = sources(&case.left);
    for (profile, of) in found.iter().filter(|(profile, _)| belongs(profile, name)) {
        for path in paths() {
            for owner in [true, false] {
                if of.file(path.as_bytes(), owner, EXEC) == Verdict::Block {
                    continue;
                }
                let leads = of.leads(path.as_bytes(), owner);
                let source = sources.iter().find(|source| source.as_bytes() == path.as_bytes());
                let wanted = match source {
                    Some(source) => Leads::To(format!("{name}//{}", child_of(source))),
                    None if sources.is_empty() || *profile == format!("{name}//other") => Leads::Inherit,
                    None => Leads::To(format!("{name}//other")),
                };
                if leads != wanted {
                    return Err(format!("{profile}: {path} leads to {leads:?}, not {wanted:?}"));
                }
            }
        }
    }
    Ok(())
}

fn belongs(profile: &str, name: &str) -> bool {
    profile == name || profile.strip_prefix(name).is_some_and(|rest| rest.starts_with("//"))
}

/// Each rule that the documentation calls inexpressible has a gap.
fn told(case: &Case) -> Result<(), String> {
    for rule in case.whole.rules() {
        let origin = case.whole.origin(rule.origin).unwrap();
        let has = |reason| case.made.gaps.iter().any(|gap| gap.field == origin.rule && gap.reason == reason);
        let object = unsayable(&rule.object);
        let wanted = [
            (GapReason::AppArmorObject, object),
            (
                GapReason::AppArmorCondition,
                !object && (rule.conditions.no_terminal || rule.conditions.args.is_some()),
            ),
            (GapReason::AppArmorProcess, rule.class == Class::Process),
            (GapReason::AppArmorCapability, gives(rule) && denies_paths(&case.whole)),
            (GapReason::AppArmorSource, !object && rule.source.is_some()),
        ];
        for (reason, wanted) in wanted {
            if has(reason) != wanted {
                return Err(format!("{rule}: {reason}: {}, not {wanted}", has(reason)));
            }
        }
    }
    Ok(())
}

#[test]
fn the_parser_understands_what_decide_means() {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number("PROFILE_SEED", 1).to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let strategy = (world::rules(), world::postures());
    let mut asked = 0;
    for batch in 0..number("PROFILE_BATCHES", BATCHES) {
        let mut cases = Vec::new();
        let mut text = String::new();
        for number in 0..BATCH {
            let (rules, postures) = strategy.new_tree(&mut runner).unwrap().current();
            let (left, whole) = left(&rules, postures);
            let made = compile(&whole, &[], &options(&format!("nri-enforcer.case-{batch}-{number}")));
            assert_eq!(made, compile(&whole, &[], &options(made.name.as_str())), "the same bytes");
            text.push_str(&made.text);
            // the same where nobody can change profiles
            let alone = Options { no_new_privs: true, ..options(&format!("{}-alone", made.name)) };
            text.push_str(&compile(&whole, &[], &alone).text);
            cases.push(Case { whole, left, made });
        }
        let found = profiles(&compiled(&text).unwrap());
        for case in &cases {
            match judge(case, &found) {
                Ok(count) => asked += count,
                Err(problem) => panic!("{problem}\n{}{}", case.whole, case.made.text),
            }
        }
    }
    println!("{asked} accesses");
    assert!(asked >= 100_000, "only {asked} accesses");
}

fn judge(case: &Case, found: &BTreeMap<String, Profile>) -> Result<usize, String> {
    told(case)?;
    transitions(case, found)?;
    let name = case.made.name.as_str();
    let sources = sources(&case.left);
    if sources.is_empty() {
        return compare(case, &found[name], &[None], true);
    }
    let everybody: Vec<_> = [None].into_iter().chain(sources.iter().map(Some)).collect();
    let mut asked = compare(case, &found[name], &everybody, false).map_err(|e| format!("{name}: {e}"))?;
    let alone = &found[&format!("{name}-alone")];
    asked += compare(case, alone, &everybody, false).map_err(|e| format!("alone: {e}"))?;
    if alone.file(b"/s", true, EXEC) != Verdict::Block && alone.leads(b"/s", true) != Leads::Inherit {
        return Err("a transition where none is possible".to_owned());
    }
    let other = format!("{name}//other");
    asked += compare(case, &found[&other], &[None], true).map_err(|e| format!("other: {e}"))?;
    for source in &sources {
        let profile = &found[&format!("{name}//{}", child_of(source))];
        asked += compare(case, profile, &[Some(source)], true).map_err(|e| format!("{source}: {e}"))?;
    }
    Ok(asked)
}

/// The kernel compares a new name with the old one for the owner of a file alone.
#[test]
fn a_native_rule_opens_nothing_by_a_link() {
    let whole = world::ruleset(&[], Postures::default());
    let policy = PolicyId { kind: Kind::KubeArmorPolicy, namespace: "d".into(), name: "n".into() };
    let native = Native { policy, text: "/a/** rwl, audit /b/** l, owner /c/** l,".into() };
    let made = compile(&whole, &[native], &options("nri-enforcer.native"));
    let found = profiles(&compiled(&made.text).unwrap());
    for path in ["/a/x", "/b/x", "/c/x"] {
        let link = |owner| found["nri-enforcer.native"].file(path.as_bytes(), owner, LINK);
        assert_eq!(link(false), Verdict::Block, "{path}");
        assert_ne!(link(true), Verdict::Block, "{path}");
    }
}
