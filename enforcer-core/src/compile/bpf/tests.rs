use super::*;
use crate::capability::Capability;
use crate::network::Protocol;
use crate::path::AbsPath;
use crate::policy::{Kind, PolicyId};
use crate::preset::Preset;
use crate::ruleset::{Conditions, Object, Origin, OriginId, Postures, Rule};
use crate::syscall::Syscall;
use crate::visibility::Visibility;

fn path(text: &str) -> AbsPath {
    text.parse().unwrap()
}

fn ruleset(rules: &[(Object, Effect)]) -> Ruleset {
    ruleset_of(Class::File, rules)
}

fn ruleset_of(class: Class, rules: &[(Object, Effect)]) -> Ruleset {
    let origins = rules
        .iter()
        .enumerate()
        .map(|(n, (_, action))| Origin {
            policy: PolicyId { kind: Kind::KubeArmorPolicy, namespace: "default".into(), name: "p".into() },
            rule: format!("spec.file.matchPaths[{n:05}]"),
            severity: 1,
            tags: vec![],
            message: String::new(),
            action: *action,
        })
        .collect();
    let rules = rules
        .iter()
        .enumerate()
        .map(|(n, (object, effect))| Rule {
            class,
            source: None,
            object: object.clone(),
            conditions: Conditions::default(),
            effect: *effect,
            origin: OriginId(u32::try_from(n).unwrap()),
        })
        .collect();
    Ruleset::new(rules, origins, Postures::default()).unwrap()
}

fn header(image: &BpfImage) -> Vec<u32> {
    image.cells()[0].chunks(4).map(|b| u32::from_ne_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn many_are_compiled_as_each_alone_and_an_error_is_only_its_own() {
    let links = |n: usize| {
        (Object::Applet { program: path("/bin/busybox"), name: n.to_string().into() }, Effect::Block)
    };
    let too_many = {
        let rules: Vec<_> = (0..=MAX_ALTERNATIVES).map(links).collect();
        ruleset_of(Class::Process, &rules)
    };
    let mut rulesets: Vec<_> =
        (0..5 * WORTH).map(|n| ruleset(&[(Object::Path(path(&format!("/{n}"))), Effect::Block)])).collect();
    rulesets.insert(3 * WORTH, too_many);
    let rulesets: Vec<&Ruleset> = rulesets.iter().collect();
    for some in [&rulesets[..], &rulesets[..1], &[]] {
        let each: Vec<_> =
            some.iter().map(|ruleset| compile(ruleset).map_err(|error| error.to_string())).collect();
        let all: Vec<_> =
            compile_all(some).into_iter().map(|result| result.map_err(|error| error.to_string())).collect();
        assert!(all == each);
        assert_eq!(all.iter().filter(|result| result.is_err()).count(), usize::from(some.len() > 1));
    }
}

#[test]
fn the_same_rules_give_the_same_bytes_whatever_their_order() {
    let mut rules = vec![
        (Object::Path(path("/etc/passwd")), Effect::Block),
        (Object::Directory { dir: path("/tmp"), recursive: true }, Effect::Audit),
        (Object::BaseName("wget".into()), Effect::Block),
    ];
    let one = compile(&ruleset(&rules)).unwrap();
    rules.reverse();
    // other origins' numbers, so compare what does not depend on them: the shape
    let two = compile(&ruleset(&rules)).unwrap();
    assert_eq!(one.cells().len(), two.cells().len());
    assert_eq!(one, compile(&ruleset(&[rules[2].clone(), rules[1].clone(), rules[0].clone()])).unwrap());
}

#[test]
fn an_empty_ruleset_has_no_class() {
    let mut image = compile(&ruleset(&[])).unwrap();
    image.name(7);
    assert_eq!(header(&image)[7..], [7, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(image.classes(), 0);
}

#[test]
fn what_cannot_be_found_out_is_answered_by_the_strongest_rule_or_posture() {
    let (a, b) = (Object::Path(path("/a")), Object::Path(path("/b")));
    let both = ruleset(&[(a, Effect::Block), (b.clone(), Effect::Audit)]);
    let blocking = both.rules().iter().find(|rule| rule.effect == Effect::Block).unwrap().origin.0;
    assert_eq!(unresolved(&both, Class::File), entry(Effect::Block, false, blocking), "in the rule's name");
    assert_eq!(unresolved(&both, Class::Process), effect_bits(Effect::Allow) | RULE_NONE);
    let audit = ruleset(&[(b.clone(), Effect::Audit)]);
    assert_eq!(unresolved(&audit, Class::File), entry(Effect::Audit, false, 0));
    // an Allow rule makes a whitelist, whose posture is audit by default
    let allow = ruleset(&[(b, Effect::Allow)]);
    assert_eq!(unresolved(&allow, Class::File), effect_bits(Effect::Audit) | RULE_POSTURE);
}

#[test]
fn what_is_observed_is_reported_and_what_is_not_asked_for_costs_nothing() {
    let seen = Visibility::of([Class::File]);
    let nothing = || Ruleset::new(vec![], vec![], Postures::default()).unwrap();
    let classes = |ruleset: &Ruleset| header(&compile(ruleset).unwrap())[8..14].to_vec();
    assert_eq!(classes(&nothing()), [0; 6]);
    let of_file = classes(&nothing().observing(seen));
    assert!(of_file[1] != 0 && of_file.iter().filter(|cell| **cell != 0).count() == 1, "{of_file:?}");
    let reported = effect_bits(Effect::Audit) | RULE_OBSERVED;
    assert_eq!(otherwise(&nothing().observing(seen), Class::File), reported);
    assert_eq!(unresolved(&nothing().observing(seen), Class::File), reported);
    // an audited access whose path cannot be told stays one of the rule
    let audit = ruleset(&[(Object::Path(path("/b")), Effect::Audit)]).observing(seen);
    assert_eq!(unresolved(&audit, Class::File), entry(Effect::Audit, false, 0));
    assert_eq!(otherwise(&audit, Class::File), reported);
}

#[test]
fn the_deepest_path_and_ten_thousand_rules_compile() {
    let deep = format!("/{}", ["x"; 2047].join("/"));
    let mut rules = vec![(Object::Path(path(&deep)), Effect::Block)];
    rules.extend(
        (0..10_000).map(|n| (Object::Path(path(&format!("/srv/{}/file-{n}", n % 100))), Effect::Block)),
    );
    let image = compile(&ruleset(&rules)).unwrap();
    assert!(image.cells().len() < 8 * 12_200, "{} cells", image.cells().len());
}

#[test]
fn fifty_rules_fit_in_sixty_four_kilobytes() {
    let rules: Vec<_> =
        (0..50).map(|n| (Object::Path(path(&format!("/usr/lib/d{n}/file"))), Effect::Block)).collect();
    let image = compile(&ruleset(&rules)).unwrap();
    assert!(image.size() <= 64 << 10, "{} bytes", image.size());
}

#[test]
fn what_the_programs_do_not_know_is_refused_and_not_left_out() {
    let all = [
        Object::Path(path("/a")),
        Object::Pattern("/a*".parse().unwrap()),
        Object::Sockets(Protocol::Tcp),
        Object::Capability(Capability::by_name("kill").unwrap()),
        Object::Syscall(Syscall::by_name("kill").unwrap()),
        Object::Preset(Preset::Exec),
    ];
    for object in all {
        let class = Class::ALL.into_iter().rev().find(|class| object.fits(*class)).unwrap();
        let origin = Origin {
            policy: PolicyId { kind: Kind::KubeArmorPolicy, namespace: "default".into(), name: "p".into() },
            rule: "r".into(),
            severity: 1,
            tags: vec![],
            message: String::new(),
            action: Effect::Audit,
        };
        let conditions = Conditions::default();
        let rule =
            Rule { class, source: None, object, conditions, effect: Effect::Audit, origin: OriginId(0) };
        let compiled = compile(&Ruleset::new(vec![rule.clone()], vec![origin], Postures::default()).unwrap());
        match Support::default().rule_gap(&rule) {
            None => assert!(compiled.is_ok(), "{rule}"),
            Some(reason) => {
                assert_eq!(compiled, Err(CompileError::Unsupported { rule: rule.to_string(), reason }));
            }
        }
    }
}
