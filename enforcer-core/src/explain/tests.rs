use super::*;
use crate::policy::{parse, parse_for};
use crate::posture::Class;
use crate::ruleset::Postures;
use crate::subject::Subject;
use crate::support::Support;

const EVERY_CLASS: &str = "
apiVersion: security.kubearmor.com/v1
kind: KubeArmorPolicy
metadata: {name: p}
spec:
  selector: {}
  process:
    matchPaths:
    - {path: /bin/py, allowedArgs: [-m, x]}
    - {path: /bin/sh, pts: false, fromSource: [{path: /bin/login}]}
    matchPatterns: [{pattern: '/tmp/**'}]
  network:
    matchProtocols: [{protocol: 'raw,packet'}]
    matchDestinations:
    - {cidr: 10.0.0.0/8, ports: ['80', '443-444'], protocol: tcp, action: Allow}
    - {cidr: 169.254.169.254}
    matchListeners: [{ports: 22, action: Audit}]
  capabilities: {matchCapabilities: [{capability: net_raw}]}
  syscalls: {matchSyscalls: [{syscall: [unlink]}]}
  presets: [{name: filelessExec}]
";

#[test]
fn every_class_is_explained() {
    let parsed = parse_for(Support { everything: true }, "f", EVERY_CLASS);
    assert_eq!(parsed.errors, []);
    let subject = Subject { namespace: "default".into(), ..Subject::default() };
    let postures = Postures::default().with(Class::Network, PostureAction::Block);
    let ruleset = Ruleset::resolve(&parsed.policies, &postures, &subject).ruleset;
    let explain = |question: &str, source: Option<&[u8]>, args: &[&[u8]], terminal| {
        let question: Question = question.parse().unwrap();
        let access = Access { terminal, ..question.access(source, 0, 0) }.with_args(args);
        ruleset.explain(&question, &access).reason
    };
    let plain = |question: &str| explain(question, None, &[], false);
    for (question, reason) in [
        (
            "process:exec:/bin/py",
            "`default/p` does not block executing /bin/py: spec.process.matchPaths[0] names the path `/bin/py` and exempts these arguments (`allowedArgs`)",
        ),
        (
            "process:exec:/tmp/a/b",
            "`default/p` blocks executing /tmp/a/b: spec.process.matchPatterns[0] names what matches `/tmp/**`",
        ),
        (
            "network:create:netlink:raw",
            "`default/p` blocks making a netlink raw socket (protocol 0): spec.network.matchProtocols[0] names `raw` sockets",
        ),
        (
            "network:create:packet:dgram",
            "`default/p` blocks making a packet dgram socket (protocol 0): spec.network.matchProtocols[0] names `packet` sockets",
        ),
        (
            "network:connect:tcp:10.0.0.1:444",
            "`default/p` allows connecting a tcp socket to 10.0.0.1:444: spec.network.matchDestinations[0] names what goes to `10.0.0.0/8`, port 443-444 by `tcp`",
        ),
        (
            "network:create:inet:stream:tcp",
            "`default/p` allows making a tcp socket: spec.network.matchDestinations[0] names what goes to `10.0.0.0/8`, port 80 by `tcp`",
        ),
        (
            "network:connect:udp:10.0.0.1:80",
            "no rule matches connecting a udp socket to 10.0.0.1:80, and since `default/p` spec.network.matchDestinations[0] makes network accesses a whitelist, the default posture decides: block, so it is denied",
        ),
        (
            "network:send:udp:169.254.169.254:80",
            "`default/p` blocks sending from a udp socket to 169.254.169.254:80: spec.network.matchDestinations[1] names what goes to `169.254.169.254/32`",
        ),
        (
            "network:bind:tcp:0.0.0.0:22",
            "`default/p` allows and reports binding a tcp socket to 0.0.0.0:22: spec.network.matchListeners[0] names what listens on any address, port 22",
        ),
        (
            "capability:use:net_raw",
            "`default/p` blocks using the capability net_raw: spec.capabilities.matchCapabilities[0] names the capability `net_raw`",
        ),
        (
            "capability:use:kill",
            "no rule matches using the capability kill, and no Allow rule makes capability accesses a whitelist, so it passes",
        ),
        (
            "syscall:unlink",
            "`default/p` allows and reports the system call unlink: spec.syscalls.matchSyscalls[0] names the system call `unlink`",
        ),
        (
            "preset:filelessExec",
            "`default/p` blocks what the preset filelessExec is about: spec.presets[0] is the preset `filelessExec`",
        ),
        (
            "preset:exec",
            "no rule matches what the preset exec is about, and no Allow rule makes preset accesses a whitelist, so it passes",
        ),
        ("file:read:/x", "no policy has a file rule for this container, so reading /x passes"),
    ] {
        assert_eq!(plain(question), reason, "{question}");
    }
    let login = Some(&b"/bin/login"[..]);
    assert_eq!(
        explain("process:exec:/bin/sh", login, &[], false),
        "`default/p` does not block executing /bin/sh: spec.process.matchPaths[1] names the path `/bin/sh` for `/bin/login` and exempts who has no terminal (`pts: false`)"
    );
    assert!(explain("process:exec:/bin/sh", login, &[], true).contains("blocks executing /bin/sh"));
    assert!(explain("process:exec:/bin/py", None, &[b"-m", b"x"], false).contains("does not block"));
    assert!(explain("process:exec:/bin/py", None, &[b"-c", b"x"], false).contains("`default/p` blocks"));
}

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
        ("network:connect", "`network:connect` is not `CLASS:OP:OBJECT`"),
        ("network:open:tcp", "`open` is no network operation; there are `create`, `connect`"),
        ("network:connect:tcp", "`tcp` names no socket: an address is missing"),
        ("network:connect:tcp:10.0.0.1", "`tcp:10.0.0.1` names no socket: a port is missing"),
        ("network:connect:tcp:::1:443", "`tcp:::1:443` names no socket: the address is none"),
        ("network:connect:tcp:10.0.0.1:65536", "`tcp:10.0.0.1:65536` names no socket: the address is none"),
        ("network:connect:inet:stream", "`inet:stream` names no socket: name the protocol and the address"),
        ("network:connect:tpc:10.0.0.1:1", "`tpc` is no family or protocol; did you mean `tcp`?"),
        ("network:create:inet", "`inet` names no socket: a type is missing"),
        ("network:create:inet:strem", "`strem` is no type of socket; did you mean `stream`?"),
        ("network:create:inet:stream:tpc", "`tpc` is no protocol; did you mean `tcp`?"),
        ("network:create:inet:stream:tcp:0", "`inet:stream:tcp:0` names no socket: there are at most three"),
        ("network:accept:tcp:1.2.3.4:5", "`tcp:1.2.3.4:5` names no socket: there is no address"),
        ("capability:have:net_raw", "`have` is no capability operation; there are `use`"),
        ("capabilities:use:net_ray", "`net_ray` is no capability; did you mean `net_raw`?"),
        ("syscall:unlnik", "`unlnik` is no system call; did you mean `unlink`?"),
        ("preset:Exec", "`Exec` is no preset; did you mean `exec`?"),
    ] {
        let error = text.parse::<Question>().unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    for (text, doing) in [
        ("network:create:inet:stream:tcp", "making a tcp socket"),
        ("network:create:inet:stream", "making an inet stream socket (protocol 0)"),
        ("network:create:packet:raw:0", "making a packet raw socket (protocol 0)"),
        ("network:create:30:rdm", "making a 30 rdm socket (protocol 0)"),
        ("network:connect:unix:stream", "connecting a unix stream socket (protocol 0)"),
        ("network:connect:tcp:10.0.0.1:443", "connecting a tcp socket to 10.0.0.1:443"),
        ("network:send:udp:[::1]:53", "sending from a udp socket to [::1]:53"),
        ("network:bind:tcp:0.0.0.0:80", "binding a tcp socket to 0.0.0.0:80"),
        ("network:listen:tcp:[::]:80", "listening with a tcp socket on [::]:80"),
        ("network:connect:icmp:10.0.0.1", "connecting an icmp socket to 10.0.0.1"),
        ("network:accept:mptcp", "accepting on a mptcp socket"),
        ("capabilities:use:CAP_NET_RAW", "using the capability net_raw"),
        ("syscalls:call:unlink", "the system call unlink"),
        ("preset:filelessExec", "what the preset filelessExec is about"),
    ] {
        assert_eq!(
            text.parse::<Question>().map(|question| question.to_string()).as_deref(),
            Ok(doing),
            "{text}"
        );
    }
    let colons: Question = "file:read:/a:b:c".parse().unwrap();
    assert_eq!(colons.to_string(), "reading /a:b:c");
}
