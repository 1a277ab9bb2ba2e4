use super::*;
use crate::decide::{Access, DecidedBy, Verdict};
use crate::policy::{Kind, PolicyId, parse};
use crate::ruleset::Postures;
use crate::subject::Subject;

/// The ruleset of one policy with this `spec`, without its selector.
fn ruleset(spec: &str, postures: Postures) -> Ruleset {
    let text = format!(
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {{name: p, namespace: d}}\n\
         spec:\n  selector: {{}}\n{spec}"
    );
    let parsed = parse("p.yaml", &text);
    assert_eq!(parsed.errors, []);
    let subject = Subject { namespace: "d".into(), ..Subject::default() };
    Ruleset::resolve(&parsed.policies, &postures, &subject).ruleset
}

fn path(text: &str) -> AbsPath {
    let components: Vec<&[u8]> = text
        .split('/')
        .filter(|name| !name.is_empty())
        .map(|name| if name == "..*" { ROTATING } else { name.as_bytes() })
        .collect();
    AbsPath::from_components(components).unwrap()
}

/// Answers from lines of `path place target via...`.
fn table(lines: &[&str]) -> impl FnMut(&AbsPath) -> Resolution {
    let answers: BTreeMap<AbsPath, Resolution> = lines
        .iter()
        .map(|line| {
            let mut words = line.split(' ').map(path);
            let mut next = || words.next().unwrap();
            let (asked, place, target) = (next(), next(), next());
            let name = OtherName { place, target, via: words.collect() };
            (asked, Resolution { names: vec![name], unknown: None })
        })
        .collect();
    move |path| answers.get(path).cloned().unwrap_or_default()
}

const USR: &str = "/bin/ls /usr/bin/ls /usr/bin/ls /bin";

fn verdict(ruleset: &Ruleset, access: &Access<'_>) -> Verdict {
    ruleset.decide(access).verdict
}

const BLOCK_LS: &str = "  process: {matchPaths: [{path: /bin/ls}]}\n";

fn block() -> Postures {
    Postures { file: PostureAction::Block, ..Postures::default() }
}

#[test]
fn both_names_count_and_the_alert_names_the_rule() {
    let plain = ruleset(BLOCK_LS, Postures::default());
    assert_eq!(verdict(&plain, &Access::exec(b"/usr/bin/ls")), Verdict::Allow, "what it was");
    let linked = plain.with_links(table(&[USR]));
    assert_eq!(linked.gaps, []);
    for name in ["/bin/ls", "/usr/bin/ls"] {
        let decision = linked.ruleset.decide(&Access::exec(name.as_bytes()));
        let DecidedBy::Rule(id) = decision.by else { panic!("{name}: {decision:?}") };
        assert_eq!(decision.verdict, Verdict::Block);
        assert_eq!(linked.ruleset.origin(id).unwrap().rule, "spec.process.matchPaths[0]");
    }
    let id = linked.ruleset.rules()[0].origin;
    let written =
        |path: &str| linked.ruleset.written_as(id, path.as_bytes()).map(|link| link.path.to_string());
    assert_eq!(written("/usr/bin/ls").as_deref(), Some("/bin/ls"));
    assert_eq!((written("/bin/ls"), written("/usr/bin/cat")), (None, None));
    let links: Vec<String> = linked.ruleset.links().iter().map(ToString::to_string).collect();
    assert_eq!(links, ["/bin/ls (resolves to /usr/bin/ls)"]);
}

#[test]
fn sources_and_directories_have_other_names_too() {
    let spec =
        "  file: {matchDirectories: [{dir: /var/run/x/, recursive: true, fromSource: [{path: /bin/cat}]}]}\n";
    let linked = ruleset(spec, Postures::default())
        .with_links(table(&["/bin/cat /usr/bin/cat /usr/bin/cat /bin", "/var/run/x /run/x /run/x /var/run"]));
    for dir in ["/var/run/x", "/run/x"] {
        for source in ["/bin/cat", "/usr/bin/cat"] {
            let file = format!("{dir}/a/b");
            let access = Access::read(file.as_bytes()).from(source.as_bytes());
            assert_eq!(verdict(&linked.ruleset, &access), Verdict::Block, "{file} {source}");
            assert_eq!(verdict(&linked.ruleset, &access.from(b"/bin/dog")), Verdict::Allow);
        }
    }
}

#[test]
fn equal_answers_give_equal_digests_and_no_links_change_nothing() {
    let plain = ruleset(BLOCK_LS, Postures::default());
    let none = plain.with_links(|_| Resolution::default());
    assert_eq!((none.ruleset.digest(), &none.ruleset), (plain.digest(), &plain));
    let (one, two) = (plain.with_links(table(&[USR])), plain.with_links(table(&[USR])));
    assert_eq!(one, two);
    assert_ne!(one.ruleset.digest(), plain.digest());
    let other = plain.with_links(table(&["/bin/ls /sbin/ls /sbin/ls /bin"]));
    assert_ne!(one.ruleset.digest(), other.ruleset.digest());
}

#[test]
fn a_program_of_many_names_is_not_taken_for_one_of_them() {
    for target in ["/bin/toybox", "/usr/bin/coreutils"] {
        let answers = [format!("/bin/ls /usr/bin/ls {target} /bin /usr/bin/ls")];
        let answers = answers.each_ref().map(String::as_str);
        let linked = ruleset(BLOCK_LS, Postures::default()).with_links(table(&answers));
        assert_eq!(verdict(&linked.ruleset, &Access::exec(target.as_bytes())), Verdict::Allow);
        assert_eq!(verdict(&linked.ruleset, &Access::exec(b"/usr/bin/ls")), Verdict::Block);
        assert_eq!(linked.gaps.len(), 1);
        assert_eq!(linked.gaps[0].reason, GapReason::MultiCall);
        assert!(linked.gaps[0].advice.contains(target), "{}", linked.gaps[0]);
    }
    // its own name is meant, and a file rule is about the file
    let own = ruleset("  process: {matchPaths: [{path: /bin/busybox}]}\n", Postures::default());
    let linked = own.with_links(table(&["/bin/busybox /usr/bin/busybox /usr/bin/busybox /bin"]));
    assert_eq!(verdict(&linked.ruleset, &Access::exec(b"/usr/bin/busybox")), Verdict::Block);
    let file = ruleset("  file: {matchPaths: [{path: /bin/ls}]}\n", Postures::default());
    let linked = file.with_links(table(&["/bin/ls /bin/ls /bin/busybox /bin/ls"]));
    assert_eq!(verdict(&linked.ruleset, &Access::read(b"/bin/busybox")), Verdict::Block);
    // as a source it would make every one of its names act
    let source = ruleset(
        "  file: {matchPaths: [{path: /x, fromSource: [{path: /bin/sh}]}]}\n  action: Allow\n",
        block(),
    );
    let linked = source.with_links(table(&["/bin/sh /bin/sh /bin/busybox /bin/sh"]));
    assert_eq!(verdict(&linked.ruleset, &Access::read(b"/x").from(b"/bin/busybox")), Verdict::Block);
    assert_eq!(linked.gaps[0].reason, GapReason::MultiCall);
}

#[test]
fn busybox_is_told_by_the_name_that_it_is_started_by() {
    for target in ["/bin/busybox", "/bin/busybox.musl"] {
        let answers = [format!("/bin/ls /usr/bin/ls {target} /bin /usr/bin/ls")];
        let answers = answers.each_ref().map(String::as_str);
        let exec = Access::exec(target.as_bytes()).with_args(&[]);
        let linked = ruleset(BLOCK_LS, Postures::default()).with_links(table(&answers));
        assert_eq!(linked.gaps, []);
        let called = |name| verdict(&linked.ruleset, &exec.called(name));
        assert_eq!([called(b"/bin/ls"), called(b"-ls"), called(b"ls")], [Verdict::Block; 3]);
        assert_eq!([called(b"/bin/cat"), called(b"busybox"), called(b"lsx")], [Verdict::Allow; 3]);
        let own = exec.called(b"busybox");
        assert_eq!(verdict(&linked.ruleset, &own.with_args(&[b"busybox", b"/x/ls"])), Verdict::Block);
        assert_eq!(verdict(&linked.ruleset, &own.with_args(&[b"sh", b"ls"])), Verdict::Allow);
        assert_eq!(verdict(&linked.ruleset, &Access::exec(target.as_bytes())), Verdict::Block, "not known");
        assert_eq!(verdict(&linked.ruleset, &Access::exec(b"/usr/bin/ls")), Verdict::Block);
        let origin = linked.ruleset.rules()[0].origin;
        assert_eq!(linked.ruleset.written_as(origin, target.as_bytes()).unwrap().path.as_bytes(), b"/bin/ls");

        let allow = BLOCK_LS.replace("Block", "Allow") + "  action: Allow\n";
        let linked = ruleset(&allow, block()).with_links(table(&answers));
        let called = |name| verdict(&linked.ruleset, &exec.called(name));
        assert_eq!(called(b"/x/ls"), Verdict::Allow);
        assert_eq!(
            [called(b"sh"), called(b"busybox"), called(b""), called(b"/bin/ls/")],
            [Verdict::Block; 4]
        );
        let own = exec.called(b"busybox");
        assert_eq!(verdict(&linked.ruleset, &own.with_args(&[b"ls"])), Verdict::Allow);
        assert_eq!(verdict(&linked.ruleset, &own.with_args(&[b"sh", b"ls"])), Verdict::Block);
        assert_eq!(verdict(&linked.ruleset, &Access::exec(target.as_bytes())), Verdict::Block, "not known");
    }
    // a rule about the whole program, and one that names a directory, are as strong as they were
    let both = "  process: {matchPaths: [{path: /bin/ls, action: Allow}, {path: /bin/busybox}]}\n";
    let linked = ruleset(both, block()).with_links(table(&["/bin/ls /bin/ls /bin/busybox /bin/ls"]));
    let exec = Access::exec(b"/bin/busybox").called(b"ls").with_args(&[]);
    assert_eq!(verdict(&linked.ruleset, &exec), Verdict::Block);
    let both = "  process: {matchPaths: [{path: /x/ls, action: Allow}], matchDirectories: [{dir: /bin/}]}\n";
    let linked = ruleset(both, block()).with_links(table(&["/x/ls /x/ls /bin/busybox /x/ls"]));
    assert_eq!(verdict(&linked.ruleset, &exec), Verdict::Block);
    assert_eq!(linked.gaps[0].reason, GapReason::Link);
}

#[test]
fn a_link_by_a_name_of_busybox_itself_means_all_of_it() {
    let answers = ["/bin/busybox /bin/busybox /bin/busybox.nosuid /bin/busybox"];
    for action in ["Block", "Audit"] {
        let spec = format!("  process: {{matchPaths: [{{path: /bin/busybox}}]}}\n  action: {action}\n");
        let linked = ruleset(&spec, Postures::default()).with_links(table(&answers));
        assert_eq!(linked.gaps, []);
        let exec = Access::exec(b"/bin/busybox.nosuid").with_args(&[]);
        for name in [&b"sh"[..], b"busybox", b"/bin/wget"] {
            let by = linked.ruleset.decide(&exec.called(name)).by;
            assert!(matches!(by, DecidedBy::Rule(_)), "{action} {by:?}");
        }
    }
    // an Allow rule does not become wider, and says so
    let spec = "  process: {matchPaths: [{path: /bin/busybox}]}\n  action: Allow\n";
    let linked = ruleset(spec, block()).with_links(table(&answers));
    let exec = Access::exec(b"/bin/busybox.nosuid").with_args(&[]).called(b"sh");
    assert_eq!(verdict(&linked.ruleset, &exec), Verdict::Block);
    assert_eq!(linked.gaps[0].reason, GapReason::MultiCall);
}

#[test]
fn links_to_busybox_past_the_bound_are_gaps() {
    use crate::compile::bpf::{MAX_ALTERNATIVES, MAX_LISTS, compile};

    // one more than there is room for beside the rule about busybox itself
    let spec = |count: usize, action: &str| {
        let paths: Vec<_> = (0..count).map(|at| format!("{{path: /bin/a{at}}}")).collect();
        format!("  process: {{matchPaths: [{}]}}\n  action: {action}\n", paths.join(", "))
    };
    let leads = |programs: usize| {
        move |path: &AbsPath| {
            let at: usize =
                path.to_string().trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
            let target: AbsPath = format!("/x{}/busybox", at % programs).parse().unwrap();
            let name = OtherName { place: path.clone(), target, via: [path.clone()].into() };
            Resolution { names: vec![name], unknown: None }
        }
    };
    for (count, programs, left_out) in
        [(MAX_ALTERNATIVES, 1, 0), (MAX_ALTERNATIVES + 1, 1, 1), (MAX_LISTS, 4, 0), (MAX_LISTS + 2, 4, 2)]
    {
        for action in ["Block", "Allow"] {
            let plain = ruleset(&spec(count, action), block());
            let linked = plain.with_links(leads(programs));
            assert_eq!(linked.gaps.len(), left_out, "{count} {action}: {:?}", linked.gaps.first());
            assert!(linked.gaps.iter().all(|gap| gap.reason == GapReason::Link));
            compile(&linked.ruleset).unwrap();
        }
    }
    // the strongest stay, and a rule about the program takes room too
    let blocked =
        "  process: {matchPaths: [{path: /x0/busybox, action: Audit, allowedArgs: [-x]}, {path: /bin/z0}, ";
    let spec = spec(MAX_ALTERNATIVES - 2, "Allow").replace("  process: {matchPaths: [", blocked);
    let spec = spec.replace("{path: /bin/z0}", "{path: /bin/z0, action: Block}");
    let plain = ruleset(&spec, block());
    let linked = plain.with_links(|path| {
        if path.as_bytes() == b"/x0/busybox" { Resolution::default() } else { leads(1)(path) }
    });
    let blocked = Access::exec(b"/x0/busybox").with_args(&[]).called(b"z0");
    assert_eq!(verdict(&linked.ruleset, &blocked), Verdict::Block);
    assert_eq!(
        linked.gaps.iter().filter(|gap| gap.reason == GapReason::Link).count(),
        1,
        "{:?}",
        linked.gaps
    );
    compile(&linked.ruleset).unwrap();
}

const TOKEN: [&str; 2] = [
    "/run/sa/token /run/sa/token /run/sa/..*/token /run/sa/token /run/sa/..data",
    "/run/sa/..data /run/sa/..data /run/sa/..* /run/sa/..data",
];

#[test]
fn a_rule_about_a_token_holds_on_every_day() {
    let rules = ruleset(
        "  file:\n    matchPaths: [{path: /run/sa/token}]\n    matchDirectories: [{dir: /run/sa/, action: Allow}]\n",
        block(),
    );
    let linked = rules.with_links(table(&TOKEN));
    assert_eq!(linked.gaps, []);
    for day in ["..2026_11_22", "..2026_11_23.1"] {
        let token = format!("/run/sa/{day}/token");
        assert_eq!(verdict(&linked.ruleset, &Access::read(token.as_bytes())), Verdict::Block, "exact");
        let ca = format!("/run/sa/{day}/ca.crt");
        assert_eq!(verdict(&linked.ruleset, &Access::read(ca.as_bytes())), Verdict::Allow, "directory");
        let dir = format!("/run/sa/{day}");
        let moved = Access::rename_directory(dir.as_bytes());
        assert_eq!(verdict(&linked.ruleset, &moved), Verdict::Block, "the token moves with its day");
    }
    assert_eq!(verdict(&linked.ruleset, &Access::read(b"/run/sa/.other/token")), Verdict::Block, "posture");
    assert_eq!(verdict(&linked.ruleset, &Access::write(b"/run/sa/..data")), Verdict::Block);
    assert_eq!(verdict(&linked.ruleset, &Access::read(b"/run/sa/..data")), Verdict::Allow);
}

#[test]
fn a_whitelisted_token_may_be_read_on_every_day_and_its_neighbour_may_not() {
    let rules = ruleset("  file: {matchPaths: [{path: /run/sa/token}]}\n  action: Allow\n", block());
    let linked = rules.with_links(table(&TOKEN));
    assert_eq!(linked.gaps, []);
    assert_eq!(verdict(&linked.ruleset, &Access::read(b"/run/sa/..2026/token")), Verdict::Allow);
    // what the container makes of the link, which it may write, is another thing
    let neighbour = "/run/sa/token /run/sa/token /run/sa/..*/key /run/sa/token /run/sa/..data";
    let linked = rules.with_links(table(&[neighbour]));
    assert_eq!(verdict(&linked.ruleset, &Access::read(b"/run/sa/..2026/key")), Verdict::Block);
    assert_eq!(linked.gaps.len(), 1);
}

#[test]
fn a_recursive_directory_needs_no_link_of_the_day() {
    let rules =
        ruleset("  file: {matchDirectories: [{dir: /run/sa/, recursive: true}]}\n", Postures::default());
    assert_eq!(rules.paths_to_resolve(), [path("/run/sa")].into());
    let flat = ruleset("  file: {matchDirectories: [{dir: /run/sa/}]}\n", Postures::default());
    assert_eq!(flat.paths_to_resolve(), [path("/run/sa"), path("/run/sa/..data")].into());
}

#[test]
fn links_to_what_is_blocked_cannot_be_replaced() {
    let rules = ruleset("  file: {matchPaths: [{path: /var/run/key}]}\n", Postures::default());
    let linked = rules.with_links(table(&["/var/run/key /run/key /run/key /var/run"]));
    assert_eq!(verdict(&rules, &Access::write(b"/var/run")), Verdict::Allow);
    assert_eq!(verdict(&linked.ruleset, &Access::write(b"/var/run")), Verdict::Block);
    assert_eq!(verdict(&linked.ruleset, &Access::read(b"/var/run")), Verdict::Allow);
    assert_eq!(verdict(&linked.ruleset, &Access::write(b"/var/lib")), Verdict::Allow);

    // by one rule for each link, which is the first of those that need it
    let rules =
        ruleset("  file: {matchPaths: [{path: /var/run/b}, {path: /var/run/a}]}\n", Postures::default());
    let linked =
        rules.with_links(table(&["/var/run/a /run/a /run/a /var/run", "/var/run/b /run/b /run/b /var/run"]));
    let about: Vec<&Rule> =
        linked.ruleset.rules().iter().filter(|rule| rule.object == Object::Path(path("/var/run"))).collect();
    let [protecting] = about.as_slice() else { panic!("{about:?}") };
    assert_eq!(linked.ruleset.origin(protecting.origin).unwrap().rule, "spec.file.matchPaths[0]");
}

#[test]
fn a_link_never_weakens_a_stronger_rule() {
    let secret = "/data/log /etc/secret/key /etc/secret/key /data/log";
    for (weak, why) in [
        ("{path: /data/log, action: Audit}", "an exact path beats a directory"),
        ("{path: /data/log, action: Allow}", "so does one that allows"),
        ("{path: /data/log, ownerOnly: true}", "or exempts"),
        ("{path: /data/log, action: Allow, fromSource: [{path: /bin/a}]}", "and a source beats them all"),
    ] {
        let spec = format!(
            "  file:\n    matchPaths: [{weak}]\n    matchDirectories: [{{dir: /etc/secret/, recursive: true}}]\n"
        );
        let rules = ruleset(&spec, Postures::default());
        let linked = rules.with_links(table(&[secret]));
        let access = Access::read(b"/etc/secret/key").from(b"/bin/a");
        assert_eq!(verdict(&linked.ruleset, &access), Verdict::Block, "{why}");
        assert_eq!(linked.gaps.len(), 1, "{why}");
        assert_eq!(linked.gaps[0].reason, GapReason::Link);
    }
    // a stronger one is welcome
    let spec = "  file:\n    matchPaths: [{path: /data/log}]\n    matchDirectories: [{dir: /etc/secret/, action: Audit}]\n";
    let linked = ruleset(spec, Postures::default()).with_links(table(&[secret]));
    assert_eq!(verdict(&linked.ruleset, &Access::read(b"/etc/secret/key")), Verdict::Block);
    assert_eq!(linked.gaps, []);
}

#[test]
fn what_the_container_may_replace_does_not_widen_a_whitelist() {
    let link = "/data/x /etc/shadow /etc/shadow /data/x";
    let spec = |rules: &str| format!("  file:\n    matchPaths: [{rules}]\n  action: Allow\n");
    let writable = ruleset(&spec("{path: /data/x}"), block()).with_links(table(&[link]));
    assert_eq!(verdict(&writable.ruleset, &Access::read(b"/etc/shadow")), Verdict::Block);
    assert_eq!(writable.gaps.len(), 1);
    let above = ruleset(&spec("{path: /data/x, readOnly: true}, {path: /data}"), block());
    assert_eq!(
        verdict(&above.with_links(table(&[link])).ruleset, &Access::read(b"/etc/shadow")),
        Verdict::Block
    );
    let fixed = ruleset(&spec("{path: /data/x, readOnly: true}"), block()).with_links(table(&[link]));
    assert_eq!(verdict(&fixed.ruleset, &Access::read(b"/etc/shadow")), Verdict::Allow);
    assert_eq!(fixed.gaps, []);
    // where the posture lets everything pass there is nothing to widen
    let open = ruleset(&spec("{path: /data/x}"), Postures::default()).with_links(table(&[link]));
    assert_eq!(open.gaps, []);
}

#[test]
fn what_could_not_be_looked_up_is_a_gap_and_the_rule_stands_as_written() {
    for why in [Unknown::Unreadable, Unknown::TooMany, Unknown::Late] {
        let rules = ruleset(BLOCK_LS, Postures::default());
        let linked = rules.with_links(|_| Resolution { names: vec![], unknown: Some(why) });
        assert_eq!(linked.ruleset, rules);
        let [gap] = linked.gaps.as_slice() else { panic!("{:?}", linked.gaps) };
        assert_eq!((gap.field.as_str(), gap.reason), ("spec.process.matchPaths[0]", GapReason::Link));
    }
}

#[test]
fn two_names_of_two_lookups_both_count() {
    // what a container's links were when it started, and what it made of them since
    let mut names = Vec::new();
    for target in ["/usr/bin/ls", "/elsewhere/ls"] {
        names.push(OtherName { place: path(target), target: path(target), via: [path("/bin")].into() });
    }
    let linked = ruleset(BLOCK_LS, Postures::default())
        .with_links(|_| Resolution { names: names.clone(), unknown: None });
    for name in ["/bin/ls", "/usr/bin/ls", "/elsewhere/ls"] {
        assert_eq!(verdict(&linked.ruleset, &Access::exec(name.as_bytes())), Verdict::Block, "{name}");
    }
}

/// File rules for patterns and whole directories.
fn of_file(patterns: &[(&str, Effect)], dirs: &[(&str, Effect)]) -> Ruleset {
    let pattern = |(text, effect): &(&str, Effect)| (Object::Pattern(text.parse().unwrap()), *effect);
    let dir =
        |(text, effect): &(&str, Effect)| (Object::Directory { dir: path(text), recursive: true }, *effect);
    let objects: Vec<_> = patterns.iter().map(pattern).chain(dirs.iter().map(dir)).collect();
    let origin = |(object, action): &(Object, Effect)| Origin {
        policy: PolicyId { kind: Kind::KubeArmorPolicy, namespace: "d".into(), name: "p".into() },
        rule: object.to_string(),
        severity: 1,
        tags: vec![],
        message: String::new(),
        action: *action,
    };
    let origins = objects.iter().map(origin).collect();
    let rules = (0..).zip(objects).map(|(id, (object, effect))| Rule {
        class: Class::File,
        source: None,
        object,
        conditions: Conditions::default(),
        effect,
        origin: OriginId(id),
    });
    Ruleset::new(rules.collect(), origins, Postures::default()).unwrap()
}

#[test]
fn a_pattern_begins_in_directories_that_may_be_links() {
    for (pattern, dir) in [
        ("/bin/*sh", Some("/bin")),
        ("/usr/lib/python3.?/site", Some("/usr/lib")),
        ("/var/run/x{a,b/c}", Some("/var/run")),
        ("/a/b\\*/c*", Some("/a")),
        ("/*/x", None),
        ("**/x", None),
    ] {
        let pattern: Pattern = pattern.parse().unwrap();
        assert_eq!(split(&pattern).map(|(dir, _)| dir), dir.map(path), "{pattern}");
    }
    assert_eq!(join_pattern(&path("/a*/..*"), "/t?k").unwrap().as_str(), "/a\\*/..*/t?k");
    let rules = of_file(&[("/var/run/sa/tok*", Effect::Block)], &[]);
    assert_eq!(rules.paths_to_resolve(), [path("/var/run/sa"), path("/var/run/sa/..data")].into());
    let linked = rules.with_links(table(&[
        "/var/run/sa /run/sa /run/sa /var/run",
        "/var/run/sa/..data /run/sa/..data /run/sa/..* /var/run /run/sa/..data",
    ]));
    assert_eq!(linked.gaps, []);
    for (file, wanted) in [
        ("/run/sa/token", Verdict::Block),
        ("/run/sa/..2026/token", Verdict::Block),
        ("/run/sa/..2026/ca.crt", Verdict::Allow),
        ("/run/sa/other/token", Verdict::Allow),
    ] {
        assert_eq!(verdict(&linked.ruleset, &Access::read(file.as_bytes())), wanted, "{file}");
    }
    // one that allows does not weaken a directory that blocks
    let rules = of_file(&[("/data/*", Effect::Allow)], &[("/etc", Effect::Block)]);
    let linked = rules.with_links(table(&["/data /etc/secret /etc/secret /data"]));
    assert_eq!(verdict(&linked.ruleset, &Access::read(b"/etc/secret/key")), Verdict::Block);
    assert_eq!(linked.gaps.len(), 1);
}

#[test]
fn names_by_hard_links_count_where_a_file_is_kept_from_being_read_or_changed() {
    let twin = OtherName { place: path("/work/link"), target: path("/work/link"), via: [].into() };
    let answer = |unknown| move |_: &AbsPath| Resolution { names: vec![twin.clone()], unknown };
    let file = "  file: {matchPaths: [{path: /prot/secret}]}\n";
    let blocked = ruleset(file, Postures::default()).with_links(answer.clone()(None));
    assert_eq!(blocked.gaps, []);
    assert_eq!(verdict(&blocked.ruleset, &Access::read(b"/work/link")), Verdict::Block);
    assert_eq!(blocked.ruleset.links()[0].to_string(), "/prot/secret (resolves to /work/link)");
    let missing = ruleset(file, Postures::default()).with_links(answer.clone()(Some(Unknown::HardLinks)));
    assert_eq!(missing.gaps.len(), 1, "{:?}", missing.gaps);
    assert!(missing.gaps[0].advice.contains("hard links"), "{:?}", missing.gaps);
    assert_eq!(
        verdict(&missing.ruleset, &Access::read(b"/work/link")),
        Verdict::Block,
        "what was found counts"
    );

    // programs are what they are called, and a whitelist does not grow
    for text in [
        "  process: {matchPaths: [{path: /prot/secret}]}\n",
        "  action: Allow\n  file: {matchPaths: [{path: /prot/secret}]}\n",
    ] {
        let plain = ruleset(text, block());
        let linked = plain.with_links(answer.clone()(Some(Unknown::HardLinks)));
        assert_eq!((linked.gaps.len(), linked.ruleset.digest()), (0, plain.digest()), "{text}");
        assert!(LookUps::of(&plain).twins.is_empty(), "{text}");
    }
    assert_eq!(LookUps::of(&ruleset(file, block())).twins, [path("/prot/secret")].into());
}
