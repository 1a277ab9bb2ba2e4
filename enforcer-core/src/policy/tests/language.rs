//! Every field of a policy, and the rules that it becomes.

use super::*;

/// The rules of a section, each as it prints, with the sources that it has.
fn rules_of(section: &str) -> Vec<String> {
    written(&everything(&format!("  selector: {{}}\n  {section}\n")))
}

#[test]
fn files_and_processes() {
    for (section, rules) in [
        (
            "process: {matchPaths: [{path: /bin/x, ownerOnly: true, pts: false}]}",
            vec!["block process /bin/x ownerOnly pts=false"],
        ),
        (
            "process: {matchPaths: [{execname: x, fromSource: [{path: /bin/a}, {path: /bin/b}]}]}",
            vec!["block process name=x from /bin/a", "block process name=x from /bin/b"],
        ),
        (
            "process: {matchPaths: [{path: /bin/x, allowedArgs: [-z, -a, -z]}]}",
            vec!["block process /bin/x args=[-a,-z]"],
        ),
        (
            "process: {matchDirectories: [{dir: /x/, recursive: true, allowedArgs: [a]}, {dir: /y/}]}",
            vec!["block process /x/** args=[a]", "block process /y/*"],
        ),
        (
            "process: {matchPatterns: [{pattern: '/x/*', fromSource: [{path: /bin/a}]}]}",
            vec!["block process pattern=/x/* from /bin/a"],
        ),
        (
            "file: {matchPatterns: [{pattern: '/x/{a,b}/**', readOnly: true, action: Allow, pts: false}]}",
            vec!["allow file pattern=/x/{a,b}/** readOnly pts=false"],
        ),
    ] {
        assert_eq!(rules_of(section), rules, "{section}");
    }
}

#[test]
fn networks() {
    for (section, rules) in [
        ("matchProtocols: [{protocol: tcp}]", vec!["tcp"]),
        ("matchProtocols: [{protocol: 'TCP, udp,Raw'}]", vec!["tcp", "udp", "raw"]),
        (
            "matchProtocols: [{protocol: ALL, pts: false, fromSource: [{path: /bin/a}]}]",
            vec!["all pts=false from /bin/a"],
        ),
        ("matchDestinations: [{cidr: 10.0.0.0/8}]", vec!["to=*:10.0.0.0/8:*"]),
        ("matchDestinations: [{cidr: 10.0.0.1, ports: 443, protocol: TCP}]", vec!["to=tcp:10.0.0.1/32:443"]),
        (
            "matchDestinations: [{ports: [53, '8000-8999'], protocol: 'tcp,udp'}]",
            vec!["to=tcp:*:53", "to=udp:*:53", "to=tcp:*:8000-8999", "to=udp:*:8000-8999"],
        ),
        (
            "matchDestinations: [{cidr: 'fd00::/8', ports: '1-2', pts: false}]",
            vec!["to=*:[fd00::]/8:1-2 pts=false"],
        ),
        ("matchListeners: [{ports: 80, fromSource: [{path: /bin/a}]}]", vec!["at=*:*:80 from /bin/a"]),
    ] {
        let rules: Vec<_> = rules.iter().map(|rule| format!("block network {rule}")).collect();
        assert_eq!(rules_of(&format!("network: {{{section}}}")), rules, "{section}");
    }
}

#[test]
fn names() {
    assert_eq!(
        rules_of(
            "capabilities: {matchCapabilities: [{capability: CAP_BPF}, {capability: Syslog, fromSource: [{path: /a}]}]}"
        ),
        ["block capability bpf", "block capability syslog from /a"]
    );
    for capability in crate::capability::Capability::all() {
        let section = format!("capabilities: {{matchCapabilities: [{{capability: {capability}}}]}}");
        assert_eq!(rules_of(&section), [format!("block capability {capability}")]);
    }
    assert_eq!(
        rules_of("presets: [{name: filelessExec}, {name: exec, action: Audit}]"),
        ["block preset filelessExec", "audit preset exec"]
    );
}

#[test]
fn system_calls_are_reported_and_presets_allow_nothing_whatever_they_inherit() {
    let syscalls = "syscalls: {matchSyscalls: [{syscall: [unlink, rmdir]}]}";
    let expected = ["audit syscall unlink", "audit syscall rmdir"];
    for action in ["", "  action: Block", "  action: Allow", "  action: audit"] {
        let spec =
            |section: &str| written(&everything(&format!("  selector: {{}}\n{action}\n  {section}\n")));
        assert_eq!(spec(syscalls), expected, "{action}");
        let preset = if action.ends_with("audit") { "audit" } else { "block" };
        assert_eq!(spec("presets: [{name: exec}]"), [format!("{preset} preset exec")]);
    }
    assert!(everything("  selector: {}\n  action: Allow\n  presets: [{name: exec}]").whitelists().is_empty());
    for (section, expected) in [
        (
            "syscalls: {action: Block, matchSyscalls: [{syscall: [kill]}]}",
            "f:6:22: spec.syscalls.action: system calls are only reported\n  help: write `Audit`",
        ),
        (
            "syscalls: {matchSyscalls: [{syscall: [kill], action: Allow}]}",
            "spec.syscalls.matchSyscalls[0].action: system calls are only reported",
        ),
        (
            "presets: [{name: exec, action: Allow}]",
            "spec.presets[0].action: a preset allows nothing\n  help: write `Audit` or `Block`",
        ),
    ] {
        let error = bad(&format!("  selector: {{}}\n  {section}\n"));
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn each_section_has_its_actions_and_gives_on_what_it_says() {
    let policy = everything(
        "  selector: {}\n  severity: 2\n  network: {action: Allow, severity: 3, tags: [n], message: m, matchProtocols: [{protocol: udp}, {protocol: tcp, action: Audit, severity: 4}]}\n  \
         capabilities: {matchCapabilities: [{capability: kill}]}\n  presets: [{name: exec, severity: 9, message: p}]",
    );
    let said: Vec<_> = policy
        .rules()
        .iter()
        .map(|rule| (rule.origin.action, rule.origin.severity, &*rule.origin.message))
        .collect();
    assert_eq!(
        said,
        [(Effect::Allow, 3, "m"), (Effect::Audit, 4, "m"), (Effect::Block, 2, ""), (Effect::Block, 9, "p"),]
    );
    assert_eq!(policy.whitelists(), [Class::Network]);
}

#[test]
fn mistakes_say_where_and_what_is_meant() {
    for (section, expected) in [
        (
            "network: {matchProtocols: [{protocol: 'tcp,upd'}]}",
            "f:6:41: spec.network.matchProtocols[0].protocol: `upd` is no protocol\n  help: did you mean `udp`?",
        ),
        ("network: {matchProtocols: [{protocol: xtcp}]}", "did you mean `tcp`?"),
        ("network: {matchProtocols: [{protocol: ''}]}", "`` is no protocol"),
        ("network: {matchDestination: [{cidr: ::/0}]}", "did you mean `matchDestinations`?"),
        (
            "network: {matchDestinations: [{pts: false}]}",
            "f:6:33: spec.network.matchDestinations[0]: the rule names no address\n  help: give it a `cidr`",
        ),
        (
            "network: {matchDestinations: [{cidr: 10.1.2.3/8}]}",
            "f:6:40: spec.network.matchDestinations[0].cidr: `10.1.2.3/8`: bits are set beyond the prefix; the network is `10.0.0.0/8`\n  help: write `10.0.0.0/8`, or `10.1.2.3` for the address alone",
        ),
        ("network: {matchDestinations: [{cidr: example.com}]}", "not an address with a prefix"),
        ("network: {matchDestinations: [{cidr: 10.0.0.0/40}]}", "longer than the 32 bits"),
        ("network: {matchDestinations: [{cidr: 10}]}", "expected a string, found a number"),
        ("network: {matchDestinations: [{ports: http}]}", "`http`: not a port from 0 to 65535"),
        (
            "network: {matchDestinations: [{ports: [80, 70000]}]}",
            "f:6:46: spec.network.matchDestinations[0].ports[1]: `70000`: not a port",
        ),
        ("network: {matchDestinations: [{ports: [9-8]}]}", "write `8-9`"),
        ("network: {matchListeners: [{ports: []}]}", "no port\n  help: list at least one"),
        ("network: {matchListeners: [{ports: 1.5}]}", "expected a string, found a number"),
        ("network: {matchListeners: [{protocol: [tcp]}]}", "expected a string, found a list"),
        (
            "capabilities: {matchCapabilities: [{capability: net_ray}]}",
            "f:6:51: spec.capabilities.matchCapabilities[0].capability: `net_ray` is no capability\n  help: did you mean `net_raw`?",
        ),
        ("capabilities: {matchCapabilities: [{capability: foonet_raw}]}", "`foonet_raw` is no capability"),
        (
            "capabilities: {matchCapabilities: [{capability: CAP_CAP_CHOWN}]}",
            "`CAP_CAP_CHOWN` is no capability",
        ),
        (
            "syscalls: {matchSyscalls: [{syscall: [unlnik]}]}",
            "f:6:41: spec.syscalls.matchSyscalls[0].syscall[0]: `unlnik` is no system call\n  help: did you mean `unlink`?",
        ),
        ("syscalls: {matchSyscalls: [{syscall: []}]}", "no system call\n  help: list at least one"),
        (
            "syscalls: {matchSyscalls: [{syscall: [kill], fromSource: [{path: /a, dir: /b/}]}]}",
            "`path` and `dir` exclude each other",
        ),
        (
            "syscalls: {matchSyscalls: [{syscall: [kill], fromSource: [{recursive: true}]}]}",
            "the source names no path",
        ),
        ("syscalls: {matchPaths: [{path: /a, syscall: [Kill]}]}", "`Kill` is no system call"),
        (
            "presets: [{name: filelesExec}]",
            "f:6:20: spec.presets[0].name: `filelesExec` is no preset\n  help: did you mean `filelessExec`?",
        ),
        ("presets: {name: exec}", "expected a list"),
        (
            "process: {matchPaths: [{path: /x, allowedArgs: []}]}",
            "no argument\n  help: list at least one, or leave `allowedArgs` out",
        ),
        ("process: {matchPaths: [{path: /x, allowedArgs: [1]}]}", "put it in quotes: `\"1\"`"),
        ("file: {matchPaths: [{path: /x, allowedArgs: [a]}]}", "unknown field `allowedArgs`"),
        (
            "file: {matchPatterns: [{pattern: '*.key'}]}",
            "f:6:36: spec.file.matchPatterns[0].pattern: at character 1 of the pattern: it starts neither with `/` nor with `**`\n  help: for the name in any directory write `/**/*.key`",
        ),
        ("file: {matchPatterns: [{pattern: '/a/[x'}]}", "at character 4 of the pattern: the `[` has no `]`"),
        ("process: {matchPatterns: [{pattern: ''}]}", "at character 1 of the pattern: it is empty"),
        ("device: {matchDevice: [{class: x}]}", "unknown field `device`"),
    ] {
        let error = bad(&format!("  selector: {{}}\n  {section}\n"));
        assert!(error.contains(expected), "{section}\n{error}\n{expected}");
    }
    assert_eq!(
        rules_of("file: {matchPatterns: [{pattern: '/srv/*/up/'}]}"),
        ["block file pattern=/srv/*/up"],
        "a directory itself"
    );
    let error = bad("  selector: {}\n  file: {action: Allow, matchPatterns: [{pattern: '/srv/*/'}]}\n");
    assert!(error.contains("is no pattern to allow\n  help: leave the last `/` out"), "{error}");
    let args = vec!["a"; 21].join(",");
    let error =
        bad(&format!("  selector: {{}}\n  process: {{matchPaths: [{{path: /x, allowedArgs: [{args}]}}]}}"));
    assert!(error.contains("21 entries, more than 20"), "{error}");
    let error = bad(&format!(
        "  selector: {{}}\n  process: {{matchPaths: [{{path: /x, allowedArgs: [{}]}}]}}",
        "a".repeat(1025)
    ));
    assert!(error.contains("1025 bytes, more than 1024"), "{error}");
}

#[test]
fn a_source_that_is_wrong_never_leaves_a_rule_for_every_source() {
    let parsed = with_spec(
        "  selector: {}\n  network: {action: Allow, matchProtocols: [{protocol: tcp, fromSource: [{path: x}]}]}\n",
    );
    assert!(parsed.policies.is_empty());
    let policy = everything(
        "  selector: {}\n  syscalls: {matchSyscalls: [{syscall: [kill], fromSource: [{dir: /a/}]}]}",
    );
    assert!(policy.rules().is_empty());
}
