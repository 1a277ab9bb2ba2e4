use super::*;

fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match text.strip_prefix("-> ") {
            Some(target) => std::os::unix::fs::symlink(target, path).unwrap(),
            None => fs::write(path, text).unwrap(),
        }
    }
    dir
}

fn read(files: &[(&str, &str)], unit: &str) -> Unit {
    let dir = root(files);
    let units = Units::new(dir.path()).unwrap();
    let mut unit = units.read(&units.real_name(unit)).unwrap();
    let inside = |(path, what): (PathBuf, String)| (path.strip_prefix(dir.path()).unwrap().to_owned(), what);
    unit.after = std::mem::take(&mut unit.after).into_iter().map(inside).collect();
    unit
}

const ALLOW: &str = "[Service]\nExecStart=/bin/x\nSystemCallFilter=@system-service\n";
const DENY: &str = "[Service]\nSystemCallFilter=~@mount\n";
const NONE: &str = "[Service]\nExecStart=/bin/x\nSystemCallFilter=\n# SystemCallFilter=read\n";
const FILE: &str = "usr/lib/systemd/system/web.service";

#[test]
fn the_first_list_says_what_it_is_and_an_empty_one_begins_anew() {
    let list = |files: &[(&str, &str)]| read(files, "web.service").list;
    assert_eq!(list(&[]), None);
    assert_eq!(list(&[(FILE, ALLOW)]), Some(List::Allowed));
    assert_eq!(list(&[(FILE, NONE)]), None);
    // the administrator's file is the unit, and a mask is an empty one
    assert_eq!(list(&[(FILE, ALLOW), ("etc/systemd/system/web.service", NONE)]), None);
    assert_eq!(list(&[(FILE, ALLOW), ("etc/systemd/system/web.service", "-> /dev/null")]), None);
    let drop_in = |name: &str| format!("etc/systemd/system/web.service.d/{name}.conf");
    assert_eq!(list(&[(FILE, DENY), (&drop_in("a"), ALLOW)]), Some(List::Denied));
    assert_eq!(list(&[(FILE, DENY), (&drop_in("a"), NONE), (&drop_in("b"), ALLOW)]), Some(List::Allowed));
    // by name, wherever they are; and of one name the earlier directory's
    let late = ("run/systemd/generator.late/web.service.d/a.conf", DENY);
    assert_eq!(list(&[late, (&drop_in("b"), ALLOW)]), Some(List::Denied));
    assert_eq!(list(&[late, (&drop_in("a"), ALLOW)]), Some(List::Allowed));
    assert_eq!(
        list(&[(FILE, ALLOW), (&drop_in("a"), "[Install]\nSystemCallFilter=\n")]),
        Some(List::Allowed)
    );
}

#[test]
fn lines_go_on_and_comments_do_not_end_them() {
    let text = "[Service]\nSystemCallFilter = \\\n# a comment\n  ~read \\\n write\nSystemCallErrorNumber=EACCES\n\
        SystemCallArchitectures=native \"x86\"\nSystemCallArchitectures=x32";
    let unit = read(&[(FILE, text)], "web.service");
    assert_eq!((unit.list, unit.answer), (Some(List::Denied), Action::Errno(13)));
    let architectures = unit.architectures.unwrap().into_iter().collect::<Vec<_>>();
    assert_eq!(architectures, ["native", "x32", "x86"]);
    let more = "[Service]\nSystemCallErrorNumber=38\nSystemCallErrorNumber=E\nSystemCallArchitectures=";
    let unit = read(&[(FILE, text), ("run/systemd/system/web.service.d/a.conf", more)], "web.service");
    assert_eq!((unit.answer, unit.architectures), (Action::Errno(38), None));
    assert_eq!(read(&[], "web.service").answer, Action::KillProcess);
}

#[test]
fn drop_ins_come_from_every_place_that_systemd_looks_at() {
    for (place, unit) in [
        ("etc/systemd/system.control/web.service.d", "web.service"),
        ("run/systemd/system.control/web.service.d", "web.service"),
        ("run/systemd/transient/web.service.d", "web.service"),
        ("run/systemd/generator.early/web.service.d", "web.service"),
        ("run/systemd/generator/web.service.d", "web.service"),
        ("run/systemd/generator.late/web.service.d", "web.service"),
        ("usr/local/lib/systemd/system/service.d", "web.service"),
        ("etc/systemd/system/a-.service.d", "a-b-c.service"),
        ("etc/systemd/system/a-b-.service.d", "a-b-c.service"),
        ("etc/systemd/system/a-b-.service.d", "a-b-.service"),
        ("etc/systemd/system/a@.service.d", "a@1.service"),
        ("etc/systemd/system/a-@1.service.d", "a-b@1.service"),
        ("etc/systemd/system/a-@.service.d", "a-b@1.service"),
        ("etc/systemd/system/a-@.service.d", "a-b@.service"),
        ("lib/systemd/system/web.service.d", "web.service"),
    ] {
        let found = |name: &str| read(&[(&format!("{place}/{name}"), DENY)], unit).list;
        assert_eq!(found("a.conf"), Some(List::Denied), "{place}");
        assert_eq!((found("a.txt"), found(".a.conf"), found(FILE_NAME)), (None, None, None), "{place}");
    }
    for other in [
        "etc/systemd/system/b-.service.d",
        "etc/systemd/system/-.service.d",
        "etc/systemd/system/a.service.d",
    ] {
        assert_eq!(read(&[(&format!("{other}/a.conf"), DENY)], "a-b-c.service").list, None, "{other}");
    }
}

#[test]
fn other_names_of_a_unit_are_found_both_ways() {
    let real = ("usr/lib/systemd/system/ssh.service", "[Service]\n");
    let alias = ("etc/systemd/system/sshd.service", "-> /usr/lib/systemd/system/ssh.service");
    let of = |name: &str| (format!("etc/systemd/system/{name}.service.d/a.conf"), DENY);
    for name in ["ssh", "sshd"] {
        let (path, text) = of(name);
        let files = [real, alias, (path.as_str(), text)];
        assert_eq!(read(&files, "sshd.service").list, Some(List::Denied), "{name}");
        assert_eq!(read(&files, "ssh.service").list, Some(List::Denied), "{name}");
    }
    let dir = root(&[real, alias]);
    assert_eq!(Units::new(dir.path()).unwrap().real_name("sshd.service"), "ssh.service");
    // of templates, and a file elsewhere, which is no alias
    let files = [
        ("usr/lib/systemd/system/getty@.service", DENY),
        ("usr/lib/systemd/system/autovt@.service", "-> getty@.service"),
        ("etc/systemd/system/web.service", "-> /opt/web/web.service"),
        ("opt/web/web.service", ALLOW),
        ("etc/systemd/system/circle.service", "-> round.service"),
        ("etc/systemd/system/round.service", "-> circle.service"),
    ];
    let dir = root(&files);
    assert_eq!(Units::new(dir.path()).unwrap().real_name("autovt@tty1.service"), "getty@tty1.service");
    assert_eq!(read(&files, "autovt@tty1.service").list, Some(List::Denied));
    assert_eq!(read(&files, "web.service").list, Some(List::Allowed));
    assert_eq!(read(&files, "circle.service"), Unit::default());
}

/// A link that leads out of systemd's directories is a unit by its own name, whatever its target is called.
#[test]
fn a_link_is_an_alias_only_for_what_is_in_a_directory_of_units() {
    let files = [
        ("etc/systemd/system/linked.service", "-> /opt/app/real.service"),
        ("opt/app/real.service", ALLOW),
        ("etc/systemd/system/up.service", "-> ../../../opt/app/real.service"),
        ("etc/systemd/system/one.service", "-> ../../../lib/systemd/system/web.service"),
        ("lib", "-> usr/lib"),
        (FILE, DENY),
        ("etc/systemd/system/in@stance.service", "-> /usr/lib/systemd/system/in@.service"),
        ("usr/lib/systemd/system/in@.service", DENY),
        ("etc/systemd/system/out@stance.service", "-> /usr/lib/systemd/system/in@.service"),
    ];
    let dir = root(&files);
    let units = Units::new(dir.path()).unwrap();
    for (name, real, list) in [
        ("linked", "linked", List::Allowed),
        ("up", "up", List::Allowed),
        ("one", "web", List::Denied),
        ("in@stance", "in@stance", List::Denied),
        ("out@stance", "in@stance", List::Denied),
    ] {
        assert_eq!(units.real_name(&format!("{name}.service")), format!("{real}.service"));
        assert_eq!(read(&files, &format!("{name}.service")).list, Some(list), "{name}");
    }
}

#[test]
fn commands_without_a_filter_and_services_that_systemd_waits_for_are_seen() {
    let drop_in = "etc/systemd/system/web.service.d/zzz.conf";
    let unfiltered = |text: &str, more: &str| {
        let (text, more) = (format!("[Service]\n{text}\n"), format!("[Service]\n{more}\n"));
        let unit = read(&[(FILE, &text), (drop_in, &more)], "web.service");
        assert_eq!(unit.after, BTreeSet::new(), "nothing about system calls");
        unit.unfiltered.into_iter().collect::<Vec<_>>().join(" ")
    };
    for value in
        ["+/bin/x", "-+/bin/x", "@:+/bin/x x", "/bin/a ; +/bin/b", "\"+/bin/x\"", "\\x2b/bin/x", "+!/bin/x"]
    {
        assert_eq!(unfiltered(&format!("ExecStart={value}"), ""), "ExecStart", "{value}");
    }
    for value in ["/bin/x", "-/bin/x +1", "!!/bin/x", "@/bin/x +x", "g++ a", "/bin/a ; /bin/b + ;"] {
        assert_eq!(unfiltered(&format!("ExecStart={value}"), ""), "", "{value}");
    }
    assert_eq!(
        unfiltered("ExecStartPre=+/bin/x\nExecStartPre=/bin/y\nExecStop=+/bin/x", ""),
        "ExecStartPre ExecStop"
    );
    assert_eq!(unfiltered("ExecStartPre=+/bin/x\nExecStop=+/bin/x", "ExecStop="), "ExecStartPre");
    assert_eq!(
        unfiltered("ExecStart=/bin/x", "ExecReload=+/bin/x"),
        "ExecReload",
        "drop-ins after ours, too"
    );
    let control = "ExecStart=/bin/x\nExecSearchPath=/bin\nExecStartPre=/bin/x\nPermissionsStartOnly=Yes";
    assert_eq!(unfiltered(control, ""), "ExecStartPre");
    assert_eq!(unfiltered(control, "PermissionsStartOnly=no"), "");
    assert_eq!(unfiltered(control, "PermissionsStartOnly="), "ExecStartPre", "systemd ignores it");

    for (first, last, writes) in
        [("exec", "exec", true), ("exec", "simple", false), ("simple", "exec", true), ("exec", "what", true)]
    {
        let (first, last) = (format!("[Service]\nType={first}\n"), format!("[Service]\nType={last}\n"));
        assert_eq!(read(&[(FILE, &first), (drop_in, &last)], "web.service").writes, writes, "{first}{last}");
    }
}

#[test]
fn what_is_read_after_ours_or_in_its_place_is_seen() {
    let ours = format!("etc/systemd/system/web.service.d/{FILE_NAME}");
    let after = |path: &str, text: &str| {
        let unit = read(&[(FILE, ALLOW), (&ours, DENY), (path, text)], "web.service");
        assert_eq!(unit.list, Some(List::Allowed), "what is after ours does not count");
        let after = unit.after.into_iter().map(|(path, what)| format!("{} {what}", path.display()));
        after.collect::<Vec<_>>()
    };
    assert_eq!(
        after(
            "etc/systemd/system/web.service.d/override.conf",
            NONE.replace("Filter=\n", "Log=@known\n").as_str()
        ),
        [""; 0]
    );
    for place in ["etc/systemd/system/web.service.d", "usr/lib/systemd/system/service.d"] {
        let path = format!("{place}/zzz.conf");
        assert_eq!(after(&path, ALLOW), [format!("{path} SystemCallFilter=")]);
        assert_eq!(after(&path, "[Service]\nUser=web\n"), [""; 0]);
    }
    let hides = format!("run/systemd/system.control/web.service.d/{FILE_NAME}");
    assert_eq!(after(&hides, "[Service]\n"), [format!("{hides} {FILE_NAME}")]);
    assert_eq!(
        after(&format!("usr/lib/systemd/system/web.service.d/{FILE_NAME}"), ALLOW),
        [""; 0],
        "ours hides it"
    );
}
