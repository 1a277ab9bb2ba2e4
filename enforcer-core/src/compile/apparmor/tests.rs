use super::*;
use crate::coverage::GapReason;
use crate::policy::{Kind, PolicyId, parse};
use crate::posture::{PostureAction, Postures};
use crate::subject::Subject;

fn options() -> Options {
    Options::named("nri-enforcer.test".parse().unwrap())
}

/// The profile of a policy for all pods, with a posture that blocks.
fn compiled(spec: &str) -> AppArmorProfile {
    let text = format!(
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {{ name: p }}\nspec:\n  selector: {{}}\n{spec}"
    );
    let parsed = parse("policy.yaml", &text);
    assert_eq!(parsed.errors, []);
    let subject = Subject { namespace: "default".into(), ..Subject::default() };
    let block = PostureAction::Block;
    let postures = Postures { file: block, network: block, capabilities: block, process: Some(block) };
    let ruleset = Ruleset::resolve(&parsed.policies, &postures, &subject).ruleset;
    compile(&ruleset, &Native::of(&parsed.policies, &subject), &options())
}

fn has(profile: &AppArmorProfile, line: &str) -> bool {
    profile.text.lines().any(|found| found.trim() == line)
}

#[test]
fn names_are_ours_and_safe() {
    for name in ["nri-enforcer.a", "nri-enforcer.web_1-main.x"] {
        assert_eq!(name.parse::<ProfileName>().unwrap().to_string(), name);
    }
    let long = format!("nri-enforcer.{}", "a".repeat(MAX_NAME));
    for name in [
        "",
        "docker-default",
        "nri-enforcer.",
        "nri-enforcer.a//b",
        "nri-enforcer.a b",
        "nri-enforcer.a\n",
        &long,
    ] {
        assert!(name.parse::<ProfileName>().is_err(), "{name:?}");
    }
}

#[test]
fn a_policy_that_only_blocks_needs_no_priorities() {
    let profile = compiled(
        "  file: { matchDirectories: [{ dir: /etc/, recursive: true }], matchPaths: [{ path: /etc/passwd }] }",
    );
    assert!(has(&profile, r#"audit deny "/etc{,/,/**}" rwl,"#), "{}", profile.text);
    assert!(has(&profile, r#"audit deny "/etc/" w,"#), "the directory above");
    assert!(!profile.text.contains("priority="));
    assert!(!profile.text.contains("//other"), "no source, no child");
    assert_eq!(profile.gaps, []);
}

#[test]
fn a_hole_in_what_is_blocked_has_a_priority_and_the_base_a_higher_one() {
    let profile = compiled(
        "  file:\n    matchDirectories: [{ dir: /proc/, recursive: true }]\n    matchPaths: [{ path: /proc/mem, action: Allow }]",
    );
    assert!(has(&profile, r#"priority=1 "/proc/mem{,/}" rw,"#), "{}", profile.text);
    assert!(
        has(&profile, r#"priority=1 deny "/proc/{sysrq-trigger,mem,kmem,kcore}" rwklmx,"#),
        "{}",
        profile.text
    );
}

#[test]
fn without_transitions_one_profile_is_for_all() {
    let parsed = parse(
        "policy.yaml",
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: { name: p }\nspec:\n  selector: {}\n  \
         file: { matchPaths: [{ path: /key, fromSource: [{ path: /bin/a }] }] }",
    );
    let subject = Subject { namespace: "default".into(), ..Subject::default() };
    let ruleset = Ruleset::resolve(&parsed.policies, &Postures::default(), &subject).ruleset;
    let apart = compile(&ruleset, &[], &options());
    let one = compile(&ruleset, &[], &Options { no_new_privs: true, ..options() });
    assert!(
        apart.text.contains("profile source-198e4d3cf6bc0322 ")
            && apart.text.contains(r#""/bin/a" mpx -> "nri-enforcer.test//source-198e4d3cf6bc0322""#)
    );
    assert!(!one.text.contains("//source") && !one.text.contains("px"), "{}", one.text);
    for profile in [&apart, &one] {
        assert!(has(profile, r#"audit deny "/key{,/}" rwl,"#), "{}", profile.text);
        assert_eq!(profile.gaps.first().map(|gap| gap.reason), Some(GapReason::AppArmorSource));
    }
    assert_ne!(apart.gaps, one.gaps);
}

/// What a child of the profile denies: its lines.
fn child<'a>(profile: &'a AppArmorProfile, name: &str) -> Vec<&'a str> {
    let begin = format!("profile {name} ");
    let lines = profile.text.lines().map(str::trim).skip_while(|line| !line.starts_with(&begin));
    lines.take_while(|line| *line != "}").collect()
}

/// Else a process in a child would have the rules of another source after other policies came.
#[test]
fn the_child_of_a_source_is_its_own_whatever_other_sources_there_are() {
    let of = |path: &str| child_of(&path.parse().unwrap());
    let rule = |path: &str, source: &str| format!("{{ path: {path}, fromSource: [{{ path: {source} }}] }}");
    let one = compiled(&format!("  file: {{ matchPaths: [{}] }}", rule("/secret", "/bin/b")));
    let both = [rule("/other", "/bin/a"), rule("/secret", "/bin/b")].join(", ");
    let both = compiled(&format!("  file: {{ matchPaths: [{both}] }}"));
    let denied = r#"audit deny "/secret{,/}" rwl,"#;
    assert!(child(&one, &of("/bin/b")).contains(&denied), "{}", one.text);
    assert!(child(&both, &of("/bin/b")).contains(&denied), "{}", both.text);
    assert!(!child(&both, &of("/bin/a")).contains(&denied) && !child(&both, &of("/bin/a")).is_empty());
}

/// Else the kernel would keep them as they were, with the processes that are in them.
#[test]
fn children_that_the_kernel_has_are_in_every_profile_that_takes_the_place() {
    let parsed = parse(
        "policy.yaml",
        "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: { name: p }\nspec:\n  selector: {}\n  \
         file: { matchPaths: [{ path: /secret }, { path: /key, fromSource: [{ path: /bin/a }] }] }",
    );
    let subject = Subject { namespace: "default".into(), ..Subject::default() };
    let ruleset = Ruleset::resolve(&parsed.policies, &Postures::default(), &subject).ruleset;
    let nothing = Ruleset::resolve([], &Postures::default(), &subject).ruleset;
    let keep: BTreeSet<String> = ["other", "source-0"].map(str::to_owned).into();
    let [secret, key] = ["/secret", "/key"].map(|path| format!(r#"audit deny "{path}{{,/}}" rwl,"#));
    for no_new_privs in [false, true] {
        let options = Options { no_new_privs, keep: keep.clone(), ..options() };
        let kept = compile(&ruleset, &[], &options);
        for name in ["source-0", "other"] {
            assert!(child(&kept, name).contains(&&*secret), "{name}: {}", kept.text);
            assert!(kept.profiles.contains(&format!("nri-enforcer.test//{name}")));
        }
        assert!(child(&kept, "source-0").contains(&&*key), "it may be anybody");
        assert_eq!(child(&kept, "other").contains(&&*key), no_new_privs, "{}", kept.text);
        // no rule has a source any more
        let kept = compile(&nothing, &[], &options);
        assert_eq!(kept.profiles.len(), 3);
        assert!(!kept.text.contains(" -> "), "nothing leads to them: {}", kept.text);
        assert!(!child(&kept, "other").is_empty() && !child(&kept, "source-0").is_empty());
    }
}

#[test]
fn more_sources_than_names_are_one_profile() {
    let sources = |count| {
        let paths: Vec<String> = (0..count).map(|n| format!("{{ path: /bin/{n} }}")).collect();
        compiled(&format!("  file: {{ matchPaths: [{{ path: /key, fromSource: [{}] }}] }}", paths.join(", ")))
    };
    assert_eq!(sources(MAX_SOURCES).text.matches("profile source-").count(), MAX_SOURCES);
    assert!(!sources(MAX_SOURCES + 1).text.contains("profile source-"));
    assert!(has(&sources(MAX_SOURCES + 1), r#"audit deny "/key{,/}" rwl,"#));
}

#[test]
fn native_rules_are_taken_where_they_are_safe() {
    let taken = compiled(
        "  apparmor: |\n    # a comment, with a comma\n    deny /etc/{a,b}/** rwx,\n    audit owner /var/log/*.log rw,\n    \
         deny network inet raw,\n    capability net_raw chown,\n    file r /srv/,\n",
    );
    for line in [
        r#"deny "/etc/{a,b}/**" rwx,"#,
        r#"audit owner "/var/log/*.log" rw,"#,
        "deny network inet raw,",
        "capability chown net_raw,",
        r#""/srv/" r,"#,
    ] {
        assert!(
            has(&taken, line) || has(&taken, &line.replace("chown net_raw", "net_raw chown")),
            "{line}\n{}",
            taken.text
        );
    }
    assert_eq!(taken.gaps, []);
}

/// Others could read by a link what a rule denies.
#[test]
fn a_native_rule_lets_the_owner_alone_make_links() {
    let profile = compiled(
        "  apparmor: |\n    audit /tmp/** rwl,\n    /srv/** l,\n    owner /home/** rl,\n    deny /etc/** wl,\n",
    );
    for line in [
        r#"audit "/tmp/**" rw,"#,
        r#"audit owner "/tmp/**" l,"#,
        r#"owner "/srv/**" l,"#,
        r#"owner "/home/**" rl,"#,
        r#"deny "/etc/**" wl,"#,
    ] {
        assert!(has(&profile, line), "{line}\n{}", profile.text);
    }
    assert!(
        !profile.text.contains(r#""/tmp/**" rwl"#) && !has(&profile, r#""/srv/**" l,"#),
        "{}",
        profile.text
    );
    assert_eq!(profile.gaps, []);
}

/// Who may mount anything, be it in a user namespace, has other paths for files.
#[test]
fn what_gets_round_paths_is_denied_where_rules_deny_paths() {
    let withheld = "audit deny capability dac_read_search sys_admin,";
    for spec in [
        "  file: { matchPaths: [{ path: /x }] }",
        "  process: { matchPaths: [{ path: /x }] }",
        "  process: { matchPaths: [{ path: /x, action: Allow }] }",
        "  file: { matchPaths: [{ path: /x, fromSource: [{ path: /bin/a }] }] }",
        "  apparmor: \"deny /x r,\"",
    ] {
        let profile = compiled(spec);
        let profiles = profile.text.matches("profile ").count();
        assert_eq!(profile.text.matches(withheld).count(), profiles, "{}", profile.text);
        assert!(profile.gaps.iter().all(|gap| gap.reason != GapReason::AppArmorCapability));
    }
    for spec in [
        "  file: { matchPaths: [{ path: /x, action: Audit }] }",
        "  capabilities: { matchCapabilities: [{ capability: net_raw }] }",
        "  apparmor: \"/x r, deny network raw,\"",
    ] {
        let profile = compiled(spec);
        assert!(!profile.text.contains(withheld), "{}", profile.text);
    }
}

#[test]
fn a_rule_that_allows_what_is_withheld_is_a_gap() {
    let allows = "  capabilities: { matchCapabilities: [{ capability: sys_admin, action: Allow }] }\n  apparmor: \"capability,\"";
    let told = |spec: &str| {
        let gaps = compiled(spec).gaps.into_iter();
        let ours = gaps.filter(|gap| gap.reason == GapReason::AppArmorCapability);
        ours.map(|gap| gap.field).collect::<Vec<_>>()
    };
    assert_eq!(
        told(&format!("{allows}\n  file: {{ matchPaths: [{{ path: /x }}] }}")),
        ["spec.apparmor", "spec.capabilities.matchCapabilities[0]"]
    );
    assert_eq!(told(allows), [""; 0]);
}

#[test]
fn native_rules_open_nothing() {
    for rule in [
        "/** ux",
        "/** px -> unconfined",
        "/bin/sh Ux",
        "change_profile",
        "change_profile -> unconfined",
        "mount",
        "umount",
        "ptrace",
        "signal",
        "unix",
        "dbus",
        "pivot_root",
        "userns",
        "all",
        "file",
        "include <x>",
        "#include <x>",
        "@{HOME}/** r",
        "/a} profile b { /** rw",
        "}",
        "{",
        "/a[ r",
        "/{a} r",
        "/{a,b r",
        "\"/a\\\" r",
        "/a r }",
        "priority=1000 /** rw",
        "/a\\040 r",
        "profile x { }",
        "^hat { }",
        "/** ix",
        "/a wa",
        "/a",
        "capability everything",
        "network evil",
        "owner capability chown",
        "set rlimit nofile <= 3",
        "link /a -> /b",
        "a r",
        "alias /a -> /b",
        "$x = 1",
        "abi <abi/3.0>",
        "/a r -> x",
        "/a \"r",
    ] {
        let profile = compiled(&format!("  apparmor: {:?}", format!("{rule},")));
        let reasons: Vec<_> = profile.gaps.iter().map(|gap| gap.reason).collect();
        assert!(
            !reasons.is_empty() && reasons.iter().all(|reason| *reason == GapReason::AppArmorNative),
            "{rule}: {reasons:?}"
        );
        assert_eq!(profile.text, compiled("  apparmor: \"#\"").text, "{rule}");
    }
}

#[test]
fn a_pattern_that_is_too_complex_is_a_gap() {
    let ends: Vec<String> = (0..80).map(|n| format!("a{n}/*")).collect();
    let patterns = format!("[{{ pattern: \"/{{{}}}\" }}, {{ pattern: \"/ok/*\" }}]", ends.join(","));
    let profile = compiled(&format!("  file: {{ matchPatterns: {patterns} }}"));
    let told: Vec<_> = profile.gaps.iter().map(|gap| (gap.field.as_str(), gap.reason)).collect();
    assert_eq!(told, [("spec.file.matchPatterns[0]", GapReason::AppArmorPattern)]);
    assert!(has(&profile, r#"audit deny "/ok/*?{,/}" rwl,"#), "{}", profile.text);
}

#[test]
fn natives_come_in_one_order() {
    let native = |name: &str, text: &str| Native {
        policy: PolicyId { kind: Kind::KubeArmorPolicy, namespace: "d".into(), name: name.into() },
        text: text.into(),
    };
    let (one, two) = (native("a", "/a r,"), native("b", "/b r,"));
    let ruleset = Ruleset::new(vec![], vec![], Postures::default()).unwrap();
    let both = |natives: &[Native]| compile(&ruleset, natives, &options());
    assert_eq!(both(&[one.clone(), two.clone()]), both(&[two, one]));
}
