use super::*;
use crate::compile::selinux::Label;

const STAMP: &str = "audit(1795852703.744:2): ";
/// By Debian's 6.12, in a container.
const OPEN: &str = "apparmor=\"DENIED\" operation=\"open\" class=\"file\" profile=\"nri-enforcer.default.web\" \
    name=\"/etc/passwd\" pid=1234 comm=\"first\" requested_mask=\"r\" denied_mask=\"r\" fsuid=0 ouid=7";
/// By Debian's 6.12.
const AVC: &str = "avc:  denied  { read } for  pid=311 comm=\"head\" name=\"secret\" dev=\"vda\" ino=1234 \
    scontext=system_u:system_r:host_t:s0 tcontext=nri_enforcer_rw_u:object_r:base_t:s0 tclass=file permissive=0";

fn parsed(record: &str) -> Option<Result<Denial, BadRecord>> {
    Denial::parse(&format!("{STAMP}{record}"))
}

fn read(record: &str) -> Denial {
    parsed(record).unwrap().unwrap()
}

#[test]
fn a_record_of_apparmor_is_read() {
    let denial = read(OPEN);
    assert_eq!(denial.time, SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_852_703_744));
    assert_eq!((denial.serial, denial.verdict, denial.pid), (2, Verdict::Block, 1234));
    assert_eq!((denial.operation.as_str(), denial.permissions.as_str()), ("open", "r"));
    assert_eq!((denial.uid, denial.owner), (Some(0), Some(7)));
    assert_eq!(denial.object, Object::Path(b"/etc/passwd".to_vec()));
    let By::AppArmor(by) = denial.by else { panic!("{:?}", denial.by) };
    assert_eq!((by.profile.as_str(), by.child), ("nri-enforcer.default.web", None));
    // without a class, as before 6.3
    assert_eq!(read(&OPEN.replace(" class=\"file\"", "")).object, Object::Path(b"/etc/passwd".to_vec()));
    let audited = OPEN.replace("DENIED", "AUDIT").replace(" denied_mask=\"r\"", "");
    let audited = read(&audited);
    assert_eq!((audited.verdict, audited.permissions.as_str()), (Verdict::Audit, "r"));
}

/// The kernel writes them signed.
#[test]
fn user_ids_above_the_half_are_read() {
    let denial = read(&OPEN.replace("fsuid=0 ouid=7", "fsuid=-1294967296 ouid=-1"));
    assert_eq!((denial.uid, denial.owner), (Some(3_000_000_000), None));
    let denial = read(&OPEN.replace("fsuid=0 ouid=7", "fsuid=3000000000 ouid=-2"));
    assert_eq!((denial.uid, denial.owner), (Some(3_000_000_000), Some(4_294_967_294)));
}

#[test]
fn children_stacks_and_strangers_are_told_apart() {
    let of = |label: &str| {
        let denial = parsed(&OPEN.replace("profile=\"nri-enforcer.default.web\"", label))?.unwrap();
        match denial.by {
            By::AppArmor(by) => Some((by.profile.to_string(), by.child)),
            By::Selinux(_) => None,
        }
    };
    let web = |child: Option<&str>| Some(("nri-enforcer.default.web".to_owned(), child.map(str::to_owned)));
    assert_eq!(of("profile=\"nri-enforcer.default.web//other\""), web(Some("other")));
    assert_eq!(
        of("label=\"cri-containerd.apparmor.d//&nri-enforcer.default.web//other\""),
        web(Some("other"))
    );
    assert_eq!(of("profile=\"cri-containerd.apparmor.d\""), None);
    // whoever may make a policy namespace may give its profiles any name
    assert_eq!(of("namespace=\"root//lxd\" profile=\"nri-enforcer.default.web\""), None);
    assert_eq!(of("label=\":lxd:nri-enforcer.default.web\""), None);
    assert_eq!(
        parsed("apparmor=\"STATUS\" operation=\"profile_load\" name=\"nri-enforcer.default.web\""),
        None
    );
}

#[test]
fn what_is_no_file_is_read() {
    let head = "apparmor=\"DENIED\" operation=\"X\" profile=\"nri-enforcer.default.web\" pid=1 comm=\"a\" ";
    let object = |operation: &str, rest: &str| read(&(head.replace('X', operation) + rest)).object;
    assert_eq!(
        object("capable", "capability=13  capname=\"net_raw\""),
        Object::Capability("net_raw".to_owned())
    );
    let socket = Object::Socket { family: "inet".to_owned(), kind: "raw".to_owned(), protocol: 1 };
    let rest =
        "family=\"inet\" sock_type=\"raw\" protocol=1 requested_mask=\"create\" denied_mask=\"create\"";
    assert_eq!(object("create", rest), socket);
    assert_eq!(
        object("ptrace", "requested_mask=\"trace\" denied_mask=\"trace\" peer=\"unconfined\""),
        Object::Other("peer=unconfined".to_owned())
    );
    assert_eq!(object("mount", "name=\"/mnt/\" fstype=\"tmpfs\""), Object::Other("/mnt/".to_owned()));
}

#[test]
fn a_record_of_selinux_is_read() {
    let denial = read(AVC);
    let by = selinux::Labelled {
        label: Label::READ.with(Label::WRITE),
        class: "file".to_owned(),
        source: "system_u:system_r:host_t:s0".to_owned(),
    };
    assert_eq!((denial.by, denial.verdict), (By::Selinux(by), Verdict::Block));
    assert_eq!(denial.object, Object::File { name: b"secret".to_vec(), inode: Some(1234) });
    assert_eq!(read(&AVC.replace("permissive=0", "permissive=1")).verdict, Verdict::Audit);
    let path = AVC.replace("name=\"secret\"", "path=\"/t/secret\"");
    assert_eq!(read(&path).object, Object::Path(b"/t/secret".to_vec()));
    assert_eq!(parsed(&AVC.replace("nri_enforcer_rw_u", "system_u")), None);
    assert_eq!(parsed(&AVC.replace("denied", "granted")), None);
}

#[test]
fn names_are_believed_up_to_their_closing_quote_alone() {
    // a path that would be fields, as the kernel writes it
    let hexadecimal = "/a\" profile=\"x\" ".bytes().map(|byte| format!("{byte:02X}")).collect::<String>();
    let denial = read(&OPEN.replace("\"/etc/passwd\"", &hexadecimal));
    assert_eq!(denial.object, Object::Path(b"/a\" profile=\"x\" ".to_vec()));
    let denial = read(&OPEN.replace("\"first\"", "\"x denied_mask=w pid=9\""));
    assert_eq!((denial.pid, denial.permissions.as_str()), (1234, "r"));
    // a name of our own domain's, in another one's denial
    let target = "tcontext=nri_enforcer_r_u:object_r:base_t:s0";
    let fake = AVC.replace("nri_enforcer_rw_u", "system_u").replace("\"head\"", &format!("\"{target}\""));
    assert_eq!(parsed(&fake), None);
    assert_eq!(read(&OPEN.replace("\"/etc/passwd\"", "\"BEEF\"")).object, Object::Path(b"BEEF".to_vec()));
}

/// Whoever is denied something may not hide it by what it asks for.
#[test]
fn what_makes_no_sense_costs_no_alert() {
    let doubt = |record: &str| {
        let denial = read(record);
        let By::AppArmor(by) = denial.by else { panic!("{:?}", denial.by) };
        assert_eq!((by.profile.as_str(), denial.verdict), ("nri-enforcer.default.web", Verdict::Block));
        denial.doubt.map(|bad| bad.0)
    };
    assert_eq!(doubt(OPEN), None);
    assert_eq!(doubt(&OPEN.replace("pid=1234", "pid=many")), Some("pid"));
    assert_eq!(doubt(&OPEN.replace("operation=\"open\"", "")), Some("operation"));
    assert_eq!(doubt(&OPEN.replace("/etc/passwd", &"x".repeat(9000))), Some("name"));
    assert_eq!(doubt(&OPEN.replace("\"first\"", &format!("\"{}\"", "x".repeat(100)))), Some("comm"));
    assert_eq!(doubt(&OPEN.replace("denied_mask=\"r\"", "denied_mask=\"=\"")), Some("denied_mask"));
    assert_eq!(doubt(&OPEN.replace("ouid=7", "ouid=4294967296")), Some("ouid"));
}

#[test]
fn sockets_of_any_numbers_are_read() {
    let object = |family: &str, kind: &str, protocol: &str| {
        let denial = read(&format!(
            "apparmor=\"DENIED\" operation=\"create\" class=\"net\" profile=\"nri-enforcer.default.web\" pid=1 comm=\"a\" \
             family=\"{family}\" sock_type=\"{kind}\" protocol={protocol} requested_mask=\"create\" denied_mask=\"create\""
        ));
        assert_eq!(denial.doubt, None);
        denial.object
    };
    let socket = |family: &str, kind: &str, protocol| Object::Socket {
        family: family.into(),
        kind: kind.into(),
        protocol,
    };
    assert_eq!(object("packet", "raw", "66304"), socket("packet", "raw", 768));
    assert_eq!(object("packet", "raw", "-64768"), socket("packet", "raw", 768));
    assert_eq!(object("inet", "unknown(7)", "0"), socket("inet", "unknown(7)", 0));
    for protocol in ["65536", "-1"] {
        let words = format!("family=inet sock_type=stream protocol={protocol}");
        assert_eq!(object("inet", "stream", protocol), Object::Other(words));
    }
}

/// A path from the root may be longer than one that a system call takes.
#[test]
fn long_paths_are_read() {
    let long = format!("/{}", "x".repeat(4999));
    assert_eq!(read(&OPEN.replace("/etc/passwd", &long)).object, Object::Path(long.clone().into_bytes()));
    let hexadecimal = long.bytes().map(|byte| format!("{byte:02X}")).collect::<String>();
    let denial = read(&OPEN.replace("\"/etc/passwd\"", &hexadecimal));
    assert_eq!((denial.object, denial.owner), (Object::Path(long.into_bytes()), Some(7)));
}

#[test]
fn what_makes_no_sense_is_an_error_or_nothing() {
    let error = |record: &str| parsed(record).unwrap().unwrap_err();
    assert_eq!(error(&AVC.replace("tclass=file", "")), BadRecord("tclass"));
    assert_eq!(Denial::parse(&format!("audit(1:2): {OPEN}")), Some(Err(BadRecord("audit"))));
    assert_eq!(Denial::parse(OPEN), None);
    for record in [OPEN, AVC] {
        let text = format!("{STAMP}{record}");
        for end in 0..text.len() {
            let _ = text.get(..end).map(Denial::parse);
            let _ = text.get(end..).map(Denial::parse);
        }
    }
}
