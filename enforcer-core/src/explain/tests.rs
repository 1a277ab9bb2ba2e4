use super::*;
use crate::policy::parse;
use crate::ruleset::Postures;
use crate::subject::Subject;

const POLICY: &str = "
apiVersion: security.kubearmor.com/v1
kind: KubeArmorPolicy
metadata: {name: p}
spec:
  selector: {}
  file:
    matchPaths:
    - {path: /etc/passwd, message: not yours}
    - {path: /etc/hosts, readOnly: true}
    - {path: /etc/group, action: Audit}
    matchDirectories:
    - {dir: /srv/, recursive: true, ownerOnly: true}
    - {dir: /data/, action: Allow, fromSource: [{path: /bin/a}, {path: /bin/b}]}
  process:
    matchPaths:
    - execname: sh
";

fn explain(question: &str, source: Option<&[u8]>, owner: u32) -> Explanation {
    let parsed = parse("f", POLICY);
    assert_eq!(parsed.errors, []);
    let subject = Subject { namespace: "default".into(), ..Subject::default() };
    let ruleset = Ruleset::resolve(&parsed.policies, &Postures::default(), &subject).ruleset;
    let question: Question = question.parse().unwrap();
    ruleset.explain(&question, &question.access(source, 0, owner))
}

#[test]
fn answers() {
    for (question, source, owner, verdict, policy, rule, reason) in [
        (
            "file:read:/etc/passwd",
            None,
            0,
            Verdict::Block,
            Some("p"),
            Some("spec.file.matchPaths[0]"),
            "`default/p` blocks reading /etc/passwd: spec.file.matchPaths[0] names the path `/etc/passwd` (not yours)",
        ),
        (
            "file:read:/etc/hosts",
            None,
            0,
            Verdict::Allow,
            Some("p"),
            Some("spec.file.matchPaths[1]"),
            "`default/p` does not block reading /etc/hosts: spec.file.matchPaths[1] names the path `/etc/hosts` and exempts reading (`readOnly`)",
        ),
        (
            "file:chmod:/etc/group",
            None,
            0,
            Verdict::Audit,
            Some("p"),
            Some("spec.file.matchPaths[2]"),
            "`default/p` allows and reports changing the mode of /etc/group: spec.file.matchPaths[2] names the path `/etc/group`",
        ),
        (
            "file:delete:/srv/a/b",
            None,
            0,
            Verdict::Allow,
            Some("p"),
            Some("spec.file.matchDirectories[0]"),
            "`default/p` does not block deleting /srv/a/b: spec.file.matchDirectories[0] names everything under `/srv` and exempts the owner (`ownerOnly`)",
        ),
        (
            "file:write:/data/x",
            Some(&b"/bin/b"[..]),
            5,
            Verdict::Allow,
            Some("p"),
            Some("spec.file.matchDirectories[1]"),
            "`default/p` allows writing /data/x: spec.file.matchDirectories[1] names what is directly in `/data` for `/bin/b`",
        ),
        (
            "file:mkdir:/data/x",
            Some(b"/bin/c"),
            0,
            Verdict::Audit,
            Some(DEFAULT_POSTURE),
            None,
            "no rule matches making the directory /data/x, and since `default/p` spec.file.matchDirectories[1] makes file accesses a whitelist, the default posture decides: audit, so it passes and is reported",
        ),
        (
            "process:exec:/bin/sh",
            None,
            0,
            Verdict::Block,
            Some("p"),
            Some("spec.process.matchPaths[0]"),
            "`default/p` blocks executing /bin/sh: spec.process.matchPaths[0] names every `sh`",
        ),
        (
            "process:exec:/bin/ls",
            None,
            0,
            Verdict::Allow,
            None,
            None,
            "no rule matches executing /bin/ls, and no Allow rule makes process accesses a whitelist, so it passes",
        ),
    ] {
        let expected = Explanation {
            verdict,
            policy: policy.map(str::to_owned),
            rule: rule.map(str::to_owned),
            reason: reason.to_owned(),
        };
        assert_eq!(explain(question, source, owner), expected, "{question}");
    }
    assert_eq!(explain("file:read:/srv/x", None, 1).verdict, Verdict::Block);
    assert_eq!(explain("file:create:/srv/x", None, 1).verdict, Verdict::Allow, "the creator is the owner");
}

#[test]
fn json() {
    let json = serde_json::to_value(explain("process:exec:/bin/ls", None, 0)).unwrap();
    assert_eq!(json["verdict"], "allow");
    assert!(json["policy"].is_null() && json["rule"].is_null());
    let json = serde_json::to_value(explain("file:read:/etc/passwd", None, 0)).unwrap();
    assert_eq!((json["verdict"].as_str(), json["policy"].as_str()), (Some("block"), Some("p")));
}

#[test]
fn questions_that_make_no_sense() {
    for (text, expected) in [
        ("file:read", "`file:read` is not `CLASS:OP:OBJECT`"),
        ("", "`` is not `CLASS:OP:OBJECT`"),
        ("files:read:/x", "`files` is no class of access"),
        ("file:exec:/x", "`exec` is no file operation; there are `read`"),
        ("process:read:/x", "`read` is no process operation; there are `exec`"),
        ("file:read:x", "`x` is no object of an access: the path does not start with `/`"),
        ("file:read:/a/../b", "`/a/../b` is no object of an access: the path holds a `..` component"),
        ("network:connect:tcp", "network accesses are not enforced yet"),
        ("capabilities:use:net_raw", "capability accesses are not enforced yet"),
        ("syscall:call:unlink", "syscall accesses are not enforced yet"),
    ] {
        let error = text.parse::<Question>().unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    let colons: Question = "file:read:/a:b:c".parse().unwrap();
    assert_eq!(colons.to_string(), "reading /a:b:c");
}
