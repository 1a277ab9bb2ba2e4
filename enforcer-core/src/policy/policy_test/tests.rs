use super::*;

const HEAD: &str = "apiVersion: test.nri-enforcer.io/v1\nkind: PolicyTest\npolicies: [p.yaml]\n";

fn read(rest: &str) -> ParsedTests {
    parse_tests("t.yaml", &format!("{HEAD}{rest}"), false)
}

/// The places, messages and helps of the errors.
fn wrong(rest: &str) -> Vec<(usize, usize, String, String)> {
    let parsed = read(rest);
    assert!(parsed.tests.is_empty(), "a test with a mistake is not run: {rest}");
    let told = |error: PolicyError| (error.line, error.column, error.message, error.help.unwrap_or_default());
    parsed.errors.into_iter().map(told).collect()
}

#[test]
fn everything_that_a_test_says_is_read() {
    let parsed = read(
        "metadata: {name: web}\nroot: image\nsubject: {namespace: shop, labels: {app: web}, container: main, image: r/x:1}\n\
         postures: {file: Block, capabilities: allow}\nseccomp: {base: runtime-default, capabilities: [net_raw]}\ncases:\n\
         - {name: a, access: 'process:exec:/bin/sh', parent: /bin/bash, args: [-c, 1], tty: true, uid: 7, owner: 8,\n\
         \x20  expect: audit, policy: p, rule: 'spec.process.matchPaths[0]'}\n- {access: 'syscall:socket:16,3', expect: Allow}\n",
    );
    assert_eq!(parsed.errors, []);
    let test = &parsed.tests[0];
    assert_eq!((test.name.as_str(), test.image.as_str()), ("web", "r/x:1"));
    assert_eq!(test.root.as_ref().map(|root| root.path.clone()), Some("image".into()));
    assert_eq!(
        (test.postures.file, test.postures.capabilities),
        (PostureAction::Block, PostureAction::Allow)
    );
    assert!(matches!(&test.base, TestBase::RuntimeDefault(given) if given.len() == 1));
    assert_eq!((test.subject.namespace.as_str(), test.subject.container.as_str()), ("shop", "main"));
    let [exec, socket] = test.cases.as_slice() else { panic!("{test:?}") };
    assert_eq!((exec.name.as_str(), exec.line, exec.uid, exec.owner, exec.terminal), ("a", 10, 7, 8, true));
    assert_eq!(exec.args, ["-c", "1"]);
    assert_eq!(exec.source.as_ref().map(AbsPath::as_bytes), Some(&b"/bin/bash"[..]));
    assert_eq!((exec.expect, exec.policy.as_deref()), (Verdict::Audit, Some("p")));
    assert_eq!((socket.name.as_str(), socket.expect), ("syscall:socket:16,3", Verdict::Allow));
}

#[test]
fn a_mistake_is_told_with_its_place_and_the_nearest_name() {
    let subject = "subject: {namespace: default}\n";
    for (rest, line, column, message, help) in [
        (
            "cases:\n- {acess: 'file:read:/x', expect: Block}\n",
            6,
            4,
            "unknown field `acess`",
            "did you mean `access`?",
        ),
        ("cases:\n- {access: 'fil:read:/x', expect: Block}\n", 6, 12, "`fil` is no class of access", ""),
        ("cases:\n- {access: 'file:red:/x', expect: Block}\n", 6, 12, "`red` is no file operation", ""),
        ("cases:\n- {access: 'syscall:unlnk', expect: Block}\n", 6, 12, "did you mean `unlink`?", ""),
        (
            "cases:\n- {access: 'file:read:/x', expect: Blok}\n",
            6,
            36,
            "`Blok` is no verdict",
            "did you mean `Block`?",
        ),
        (
            "cases:\n- {access: 'file:read:/x', expect: Block, uid: -1}\n",
            6,
            48,
            "`-1` is no user id",
            "there are 0",
        ),
        (
            "cases:\n- {access: 'file:read:/x', expect: Block, args: [a]}\n",
            6,
            49,
            "only `process:exec",
            "leave",
        ),
        (
            "cases:\n- {access: 'file:read:/x', expect: Block, source: bin}\n",
            6,
            51,
            "the path does not start",
            "",
        ),
        ("cases: []\n", 5, 8, "the list is empty", "at least one"),
        (
            "postures: {fil: block}\ncases: [{access: 'file:read:/x', expect: Block}]\n",
            5,
            12,
            "`fil`",
            "`file`",
        ),
        (
            "postures: {file: deny}\ncases: [{access: 'file:read:/x', expect: Block}]\n",
            5,
            18,
            "`deny`",
            "`block`",
        ),
    ] {
        let found = wrong(&format!("{subject}{rest}"));
        let hit = found
            .iter()
            .any(|one| (one.0, one.1) == (line, column) && one.2.contains(message) && one.3.contains(help));
        assert!(hit, "{rest}: {found:?}");
    }
    let missing = wrong("cases: [{access: 'file:read:/x', expect: Block}]\n");
    assert!(missing[0].2.contains("`subject` is missing"), "{missing:?}");
}

#[test]
fn a_deciding_policy_that_is_not_there_is_an_error() {
    let parsed = read(
        "subject: {namespace: a}\ncases:\n- {access: 'file:read:/x', expect: Block, policy: blok-x}\n\
         - {access: 'file:read:/x', expect: Audit, policy: DefaultPosture}\n",
    );
    let id = PolicyId { kind: Kind::KubeArmorPolicy, namespace: "a".into(), name: "block-x".into() };
    let errors = parsed.tests[0].unknown_policies([&id].into_iter());
    let [error] = errors.as_slice() else { panic!("{errors:?}") };
    assert_eq!((error.line, error.column), (6, 51));
    assert_eq!(error.help.as_deref(), Some("did you mean `block-x`?"));
}

#[test]
fn only_known_documents_are_passed_over_and_only_where_they_may_stand() {
    let policy = "kind: KubeArmorPolicy\n---\n";
    assert_eq!(parse_tests("t", policy, true).passed_over, 1);
    assert_eq!(parse_tests("t", policy, false).errors.len(), 2, "version and kind");
    let misspelt = parse_tests("t", "apiVersion: test.nri-enforcer.io/v1\nkind: PolicyTests\n", true);
    assert_eq!((misspelt.passed_over, misspelt.errors.len()), (0, 1), "no test is lost to a slip of the pen");
}
