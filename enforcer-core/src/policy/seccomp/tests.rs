use super::*;
use crate::policy::crd::tests::assert_admitted;
use crate::policy::{ParsedFile, PolicyError, parse};
use crate::ruleset::Effect;
use crate::seccomp::{Action, Base, BaseProfile, Call, Node, compile, decide};

const NODE: Node = Node { arch: Arch::X86_64, libseccomp: (2, 5, 4) };

fn short(name: &str, rest: &str) -> String {
    format!("---\nkind: KubeArmorSeccompPolicy\nname: {name}\nnamespace: shop\napp: web\n{rest}\n")
}

fn good(text: &str) -> Vec<SeccompPolicy> {
    let ParsedFile { seccomp, errors, policies, .. } = parse("s.yaml", text);
    assert_eq!((errors, policies), (Vec::new(), Vec::new()));
    assert_admitted(text);
    seccomp
}

fn error(rest: &str) -> PolicyError {
    let mut parsed = parse("s.yaml", &short("p", rest));
    assert_eq!((parsed.errors.len(), parsed.seccomp.len()), (1, 0), "{:?}", parsed.errors);
    parsed.errors.remove(0)
}

fn answer(policies: &[SeccompPolicy], base: &Base, name: &str, args: [u64; 6]) -> Action {
    let policies: Vec<_> = policies.iter().collect();
    let base = BaseProfile::new(base, &NODE).unwrap();
    let number = SyscallName::by_name(name).unwrap().number(Arch::X86_64).unwrap();
    decide(&policies, &base, Arch::X86_64, &Call { arch: Arch::X86_64, number, args }).action
}

fn plain(policies: &[SeccompPolicy], name: &str) -> Action {
    answer(policies, &Base::Unconfined, name, [0; 6])
}

#[test]
fn two_policies_allow_what_one_does_and_none_denies() {
    let text = short("one", "action: Allow\nsyscalls: [read, write, \"open:EPERM\", close]")
        + &short("two", "syscalls: [{names: [read, open], action: Allow}, {name: write, action: Block}]");
    let both = good(&text);
    for (name, wanted) in [
        ("read", Action::Allow),
        ("close", Action::Allow),
        ("write", Action::Errno(1)),
        ("open", Action::Errno(1)),
        ("stat", Action::Errno(1)),
    ] {
        assert_eq!(plain(&both, name), wanted, "{name}");
        let mut turned = both.clone();
        turned.reverse();
        assert_eq!(plain(&turned, name), wanted, "{name}");
    }
    // without the second, the first is as it was
    let first = &both[..1];
    assert_eq!(plain(first, "write"), Action::Allow);
    assert_eq!(plain(first, "open"), Action::Errno(1));
    let compiled = |policies: &[SeccompPolicy]| {
        compile(&policies.iter().collect::<Vec<_>>(), &Base::Unconfined, &NODE).unwrap()
    };
    let alone =
        compiled(&good(&short("one", "action: Allow\nsyscalls: [read, write, \"open:EPERM\", close]")));
    assert_eq!(compiled(first).to_json(), alone.to_json());
    assert_ne!(compiled(&both).digest(), alone.digest());
}

#[test]
fn both_forms_say_the_same() {
    let full = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorSeccompPolicy\nmetadata: {name: p, namespace: shop}\n\
                spec:\n  selector: {matchLabels: {app: web}}\n  arch: [amd64]\n  severity: 3\n  action: Allow\n  syscalls:\n  - read\n";
    let full = good(full);
    let short = good(&short("p", "arch: [x86_64]\nseverity: 3\naction: Allow\nsyscalls: [read]"));
    assert_eq!((full[0].id(), full[0].selector()), (short[0].id(), short[0].selector()));
    assert_eq!((full[0].arches(), full[0].rules()[0].origin.severity), (short[0].arches(), 3));
    assert_eq!(full[0].rules()[0].origin.rule, "spec.syscalls[0]");
    assert_eq!(full[0].rules()[0].syscalls, short[0].rules()[0].syscalls);
    let subject = Subject {
        namespace: "shop".into(),
        labels: [("app".into(), "web".into())].into(),
        ..Subject::default()
    };
    assert!(short[0].selects(&subject) && !short[0].selects(&Subject::default()));
}

#[test]
fn lists_are_as_in_systemd() {
    let policies = good(&short(
        "p",
        "action: Allow\nsyscalls: [\"@system-service\", \"~@mount\", \"ptrace:EACCES\", \"reboot:kill\"]",
    ));
    assert_eq!(plain(&policies, "read"), Action::Allow);
    assert_eq!(plain(&policies, "mount"), Action::Errno(1));
    assert_eq!(plain(&policies, "ptrace"), Action::Errno(13));
    assert_eq!(plain(&policies, "reboot"), Action::KillProcess);
    assert_eq!(plain(&policies, "init_module"), Action::Errno(1));
    // nothing but what is denied: the rest stays as it is
    let denied = good(&short("p", "action: Allow\nsyscalls: [\"~@mount\"]"));
    assert_eq!((plain(&denied, "mount"), plain(&denied, "init_module")), (Action::Errno(1), Action::Allow));
    assert_eq!(denied[0].rules()[0].origin.action, Effect::Block);
    // all but these are denied
    let kept = good(&short("p", "action: Block\nsyscalls: [\"~read\"]"));
    assert_eq!((plain(&kept, "read"), plain(&kept, "write")), (Action::Allow, Action::Errno(1)));
}

#[test]
fn errnos_survive() {
    let whitelist = good(&short("p", "action: Allow\nsyscalls: [read, clone]"));
    let runtime = Base::RuntimeDefault(BTreeSet::new());
    assert_eq!(answer(&whitelist, &runtime, "clone3", [0; 6]), Action::Errno(38));
    assert_eq!(plain(&whitelist, "clone3"), Action::Errno(38), "the C library falls back to clone");
    assert_eq!(answer(&whitelist, &runtime, "clone", [0x1000_0000, 0, 0, 0, 0, 0]), Action::Errno(1));
    assert_eq!(answer(&whitelist, &runtime, "clone", [0; 6]), Action::Allow);
    let chosen = good(&short("p", "action: Allow\nsyscalls: [read]\ndefaultErrno: EACCES"));
    assert_eq!((plain(&chosen, "write"), plain(&chosen, "clone3")), (Action::Errno(13), Action::Errno(13)));
    assert_eq!(
        answer(&chosen, &runtime, "clone3", [0; 6]),
        Action::Errno(38),
        "an entry of the base says so"
    );
}

#[test]
fn upper_bits_are_no_way_round() {
    let policies = good(&short("p", "syscalls: [{name: socket, args: [{index: 0, value: 38}]}]"));
    for (domain, wanted) in [(38, Action::Errno(1)), (2, Action::Allow), (0x1_0000_0026, Action::Errno(1))] {
        assert_eq!(
            answer(&policies, &Base::Unconfined, "socket", [domain, 0, 0, 0, 0, 0]),
            wanted,
            "{domain:#x}"
        );
    }
    let allowed =
        good(&short("p", "action: Allow\nsyscalls: [{name: socket, args: [{index: 0, value: 2}]}]"));
    let wide = [0x1_0000_0002, 0, 0, 0, 0, 0];
    assert_eq!(answer(&allowed, &Base::Unconfined, "socket", wide), Action::Errno(1));
}

#[test]
fn no_service_at_all_is_not_every_pod() {
    let text = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorSeccompPolicy\nmetadata: {name: p}\n\
                spec:\n  services: []\n  syscalls: [\"@mount\"]\n";
    let parsed = parse("s.yaml", text);
    assert_eq!((parsed.seccomp.len(), parsed.errors.len()), (0, 1), "{:?}", parsed.errors);
    let error = &parsed.errors[0];
    assert_eq!((error.line, error.column, error.field.as_str()), (5, 13, "spec.services"));
    assert!(error.message.contains("names no service"), "{error}");
}

#[test]
fn services_stand_in_the_place_of_a_selector() {
    let text = "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorSeccompPolicy\nmetadata: {name: p}\n\
                spec: {services: [nginx, ssh.service], syscalls: [\"@mount\"]}\n";
    let policies = good(text);
    assert_eq!(policies[0].services().iter().collect::<Vec<_>>(), ["nginx.service", "ssh.service"]);
    assert!(!policies[0].selects(&Subject { namespace: "default".into(), ..Subject::default() }));
}

#[test]
fn mistakes_are_told_with_help() {
    for (rest, line, message, help) in [
        ("syscalls: [raed]", 6, "`raed` is no system call", "did you mean `read`?"),
        ("syscalls: [\"@moun\"]", 6, "`@moun` is no group of system calls", "did you mean `@mount`?"),
        ("syscalls: [read]\narch: [x86_65]", 7, "`x86_65` is no architecture", "did you mean `x86_64`?"),
        ("syscalls: [\"read:EPREM\"]", 6, "`EPREM` is no errno", "did you mean `EPERM`?"),
        ("syscalls: [read]\nerrno: 5000", 7, "`5000` is no errno", "from 1 to 4095"),
        ("syscalls: [read]\nacton: Allow", 7, "unknown field `acton`", "did you mean `action`?"),
        ("syscalls: []", 2, "the policy has no rules", "list system calls"),
        ("syscalls: [read, read]", 6, "`read` is already blocked on line 6", "leave one of the two out"),
        (
            "syscalls:\n- read\n- {name: read, action: Allow}",
            8,
            "`read` is blocked on line 7 and allowed here",
            "leave one",
        ),
        ("syscalls: [{name: socket, args: [{index: 6, value: 1}]}]", 6, "there are the arguments 0 to 5", ""),
        (
            "syscalls: [{name: socket, args: [{index: 0, op: \"=>\", value: 1}]}]",
            6,
            "`=>` is no comparison",
            "",
        ),
        (
            "syscalls: [{name: socket, args: [{index: 0, value: 1}, {index: 0, value: 2}]}]",
            6,
            "never hold",
            "an entry for each",
        ),
        (
            "syscalls: [{name: socket, args: [{index: 0, value: 0x100000001}]}]",
            6,
            "looks at 32 bits",
            "0xffffffff",
        ),
        ("syscalls: [{name: mmap, args: [{index: 2, mask: 1, value: 2}]}]", 6, "bits that the mask", ""),
        ("syscalls: [{name: mmap, args: [{index: 2, op: maskedEq, value: 2}]}]", 6, "has a mask", "valueTwo"),
        ("syscalls: [{name: mmap, args: [{index: 2, value: 99999999999999999999}]}]", 6, "64 bits", ""),
        ("action: Audit\nsyscalls: [\"~read\"]", 7, "`~` has no meaning", ""),
        ("action: Block\nsyscalls: [\"~read:EPERM\"]", 7, "what is allowed has no errno", ""),
        (
            "syscalls: [{name: read, action: Allow, errno: EPERM}]",
            6,
            "what is allowed has no errno",
            "name:errno",
        ),
        ("syscalls: [{args: []}]", 6, "`name` is missing", ""),
    ] {
        let error = error(rest);
        assert!(error.message.contains(message), "{rest}: {error}");
        assert!(error.help.clone().unwrap_or_default().contains(help), "{rest}: {error}");
        assert_eq!(error.line, line, "{rest}: {error}");
        assert!(error.column > 0);
    }
    let text = "kind: KubeArmorSeccompPolicy\nname: p\nsyscalls: [read]\n";
    assert_eq!(parse("s.yaml", text).errors[0].message, "`app` is missing");
    let twice = short("p", "syscalls: [read]") + &short("p", "syscalls: [write]");
    assert_eq!(parse("s.yaml", &twice).errors.len(), 1);
}

#[test]
fn what_a_profile_cannot_say_is_told() {
    let gaps = |rest: &str| {
        let policies = good(&short("p", rest));
        compile(&[&policies[0]], &Base::Unconfined, &NODE).unwrap().gaps
    };
    let [gap] = &*gaps("syscalls: [mseal]") else { panic!("one gap") };
    assert!(gap.advice.contains("libseccomp 2.5.4") && gap.advice.contains("`mseal`"), "{gap}");
    assert_eq!(gap.field, "syscalls[0]");
    assert_eq!(
        gaps("action: Allow\nsyscalls: [\"@known\"]"),
        [],
        "what a group has beyond is denied as on an older kernel"
    );
    assert_eq!(gaps("action: Allow\nsyscalls: [mseal, read]").len(), 1);
    assert_eq!(gaps("syscalls: [\"@known\"]").len(), 1, "what should be denied and is not");
    assert_eq!(gaps("syscalls: [{name: socket, args: [{index: 0, value: 38}]}]"), []);
}
