use std::os::unix::fs::symlink;
use std::time::Duration;

use super::*;

struct Image(tempfile::TempDir);

impl Image {
    /// A directory with these directories, files (whose names do not end in `/`) and links.
    fn new(entries: &[&str], links: &[(&str, &str)]) -> Self {
        let image = Self(tempfile::tempdir().unwrap());
        for entry in entries {
            let path = image.path(entry);
            let dir = if entry.ends_with('/') { path.as_path() } else { path.parent().unwrap() };
            std::fs::create_dir_all(dir).unwrap();
            if !entry.ends_with('/') {
                std::fs::write(&path, "").unwrap();
            }
        }
        for (link, target) in links {
            std::fs::create_dir_all(image.path(link).parent().unwrap()).unwrap();
            symlink(target, image.path(link)).unwrap();
        }
        image
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.0.path().join(path.trim_start_matches('/'))
    }

    fn root(&self) -> Root {
        Root::at(self.0.path()).unwrap()
    }

    /// `place target [via]`, each where it differs from the one before.
    fn ask(&self, path: &str) -> String {
        let Resolution { names, unknown } = self.root().resolve(&path.parse().unwrap());
        assert_eq!(unknown, None);
        let tell = |name: &OtherName| {
            let via: Vec<String> = name.via.iter().map(ToString::to_string).collect();
            format!("{} {} [{}]", name.place, name.target, via.join(" "))
        };
        names.iter().map(tell).collect::<Vec<_>>().join(", ")
    }
}

#[test]
fn links_are_followed_inside_the_root() {
    let image = Image::new(
        &["usr/bin/ls", "usr/bin/dash", "run/lock/", "deep/a/b/c/file"],
        &[
            ("bin", "usr/bin"),
            ("usr/bin/sh", "dash"),
            ("var/run", "/run"),
            ("up", "deep/a/b/../../../../../../usr"), // more `..` than there are directories
            ("chain", "./bin//sh"),
            ("abs", "/deep/./a"),
        ],
    );
    for (path, wanted) in [
        ("/usr/bin/ls", ""),
        ("/", ""),
        ("/nothing/here", ""),
        ("/usr/bin/ls/below", ""),
        ("/bin", "/bin /usr/bin [/bin]"),
        ("/bin/ls", "/usr/bin/ls /usr/bin/ls [/bin]"),
        ("/bin/sh", "/usr/bin/sh /usr/bin/dash [/bin /usr/bin/sh]"),
        ("/usr/bin/sh", "/usr/bin/sh /usr/bin/dash [/usr/bin/sh]"),
        ("/bin/none/at/all", "/usr/bin/none/at/all /usr/bin/none/at/all [/bin]"),
        ("/var/run/lock/x", "/run/lock/x /run/lock/x [/var/run]"),
        ("/up/bin/ls", "/usr/bin/ls /usr/bin/ls [/up]"),
        ("/chain", "/chain /usr/bin/dash [/chain /bin /usr/bin/sh]"),
        ("/abs/b/c/file", "/deep/a/b/c/file /deep/a/b/c/file [/abs]"),
    ] {
        assert_eq!(image.ask(path), wanted, "{path}");
    }
}

#[test]
fn what_nobody_can_open_has_no_other_name() {
    let image = Image::new(&["etc/"], &[("a", "b"), ("b", "a"), ("dangling", "/none/x")]);
    assert_eq!(image.ask("/a"), "");
    assert_eq!(image.ask("/a/x"), "");
    assert_eq!(image.ask("/dangling/y"), "/none/x/y /none/x/y [/dangling]");
}

/// The same whether paths are asked about one by one or together, in whatever order.
#[test]
fn paths_together_are_answered_as_paths_alone() {
    let image = Image::new(
        &["usr/bin/ls", "usr/bin/dash", "deep/a/b/file", "run/sa/..2026_11_22/token", "etc/passwd"],
        &[
            ("bin", "usr/bin"),
            ("usr/bin/sh", "dash"),
            ("a", "b"),
            ("b", "a"),
            ("abs", "/deep/./a"),
            ("run/sa/..data", "..2026_11_22"),
            ("run/sa/token", "..data/token"),
            ("volume", "run/sa"),
            ("dangling", "/none/x"),
            ("self", "/bin"),
        ],
    );
    let dirs = [
        "",
        "/bin",
        "/usr/bin",
        "/a",
        "/abs/b",
        "/run/sa",
        "/volume",
        "/dangling",
        "/none",
        "/etc/passwd",
        "/self",
    ];
    let names = ["ls", "sh", "none", "file", "token", "..data", "passwd", "b", &"n".repeat(300)];
    let mut paths: Vec<AbsPath> = dirs
        .iter()
        .flat_map(|dir| names.iter().map(move |name| format!("{dir}/{name}").parse().unwrap()))
        .collect();
    paths.push("/".parse().unwrap());
    let root = image.root();
    for _ in 0..2 {
        let alone: Vec<Resolution> = paths.iter().map(|path| root.resolve(path)).collect();
        let together: Vec<Resolution> = root.resolve_all(&paths).collect();
        for ((path, alone), together) in paths.iter().zip(&alone).zip(&together) {
            assert_eq!(together, alone, "{path}");
        }
        assert!(alone.iter().filter(|answer| !answer.names.is_empty()).count() > 30);
        paths.reverse();
    }
    let late = image.root().until(Instant::now() - Duration::from_secs(1));
    assert!(late.resolve_all(&paths[1..]).all(|answer| answer.unknown == Some(Unknown::Late)));
}

#[test]
fn nothing_leads_out_of_the_root() {
    let image =
        Image::new(&["etc/"], &[("out", "../../../../../../../../../etc"), ("abs", "/proc/self/root/etc")]);
    assert_eq!(image.ask("/out/passwd"), "/etc/passwd /etc/passwd [/out]");
    assert_eq!(image.ask("/abs/passwd"), "/proc/self/root/etc/passwd /proc/self/root/etc/passwd [/abs]");
}

#[test]
fn the_links_of_proc_are_left_alone() {
    let root = Root::at("/").unwrap();
    for path in ["/proc/self/root/bin/sh", "/proc/self/exe", "/proc/self/cwd"] {
        let Resolution { names, unknown } = root.resolve(&path.parse().unwrap());
        assert_eq!((names, unknown), (vec![], None), "{path}");
    }
}

#[test]
fn a_volume_of_kubernetes_stands_for_all_of_its_days() {
    let image = Image::new(
        &["run/sa/..2026_11_22/token", "run/sa/..2026_11_22/deep/key"],
        &[
            ("run/sa/..data", "..2026_11_22"),
            ("run/sa/token", "..data/token"),
            ("run/sa/deep", "..data/deep"),
            ("var/run", "/run"),
        ],
    );
    let link = "/run/sa/..data";
    for (path, wanted) in [
        ("/run/sa/token", format!("/run/sa/token /run/sa/..*/token [/run/sa/token {link}]")),
        ("/var/run/sa/token", format!("/run/sa/token /run/sa/..*/token [/var/run /run/sa/token {link}]")),
        ("/run/sa/deep/key", format!("/run/sa/..*/deep/key /run/sa/..*/deep/key [/run/sa/deep {link}]")),
        ("/run/sa/..data", format!("/run/sa/..data /run/sa/..* [{link}]")),
        ("/run/sa/..data/token", format!("/run/sa/..*/token /run/sa/..*/token [{link}]")),
        ("/run/sa", String::new()),
    ] {
        assert_eq!(image.ask(path), wanted, "{path}");
    }
    // a link of that name that is no volume's is a link as any other
    let other = Image::new(&["opt/v1/x"], &[("opt/..data", "v1"), ("opt/x", "..data/x")]);
    assert_eq!(other.ask("/opt/x"), "/opt/x /opt/v1/x [/opt/x /opt/..data]");
}

#[test]
fn what_takes_too_long_is_said_to_be_unknown() {
    let image = Image::new(&["usr/bin/"], &[("bin", "usr/bin")]);
    let late = image.root().until(Instant::now() - Duration::from_secs(1));
    let answer = late.resolve(&"/bin/ls".parse().unwrap());
    assert_eq!(answer, Resolution { names: vec![], unknown: Some(Unknown::Late) });

    let long = "/a".repeat(MAX_LOOK_UPS + 1);
    let image = Image::new(&[], &[("long", "bin")]);
    let path: AbsPath = format!("/long{long}").parse().unwrap();
    let answer = image.root().resolve(&path);
    assert_eq!(answer, Resolution { names: vec![], unknown: Some(Unknown::TooMany) });
}

/// What is said of files that Block rules name: `path: names unknown`.
fn twins(image: &Image, paths: &[&str]) -> Vec<String> {
    let paths: Vec<AbsPath> = paths.iter().map(|path| path.parse().unwrap()).collect();
    let found = image.root().look_up(&LookUps { paths: paths.clone(), twins: paths.into_iter().collect() });
    let tell = |(path, answer): (AbsPath, Resolution)| {
        let mut names: Vec<String> = answer.names.iter().map(|name| name.target.to_string()).collect();
        names.sort_unstable();
        format!("{path}: {} {:?}", names.join(" "), answer.unknown)
    };
    found.into_iter().map(tell).collect()
}

#[test]
fn hard_links_are_found_in_the_whole_root() {
    let image = Image::new(&["etc/secret", "etc/alone", "srv/a/b/c/", "var/"], &[("lib", "etc")]);
    for other in ["srv/a/b/c/other", "var/copy"] {
        std::fs::hard_link(image.path("etc/secret"), image.path(other)).unwrap();
    }
    assert_eq!(
        twins(&image, &["/etc/alone", "/etc/none", "/etc/secret", "/lib/secret", "/srv"]),
        [
            "/etc/secret: /srv/a/b/c/other /var/copy None",
            "/lib/secret: /etc/secret /srv/a/b/c/other /var/copy None",
        ]
    );
    // the path of a file in a volume that is replaced is not opened as it stands: that would be a file beside the volume
    let volume = Image::new(
        &["run/sa/..2026_1/token", "run/token"],
        &[("run/sa/..data", "..2026_1"), ("run/sa/token", "..data/token")],
    );
    std::fs::hard_link(volume.path("run/token"), volume.path("run/other")).unwrap();
    let told = twins(&volume, &["/run/sa/token"]).concat();
    assert!(told.contains("token") && !told.contains("other"), "{told}");
    // not asked about, not looked for
    let only_links = LookUps { paths: vec!["/etc/secret".parse().unwrap()], ..LookUps::default() };
    assert_eq!(image.root().look_up(&only_links), []);
}

#[test]
fn hard_links_that_are_not_found_are_said_to_be_unknown() {
    let image = Image::new(&["etc/secret", "bin/busybox"], &[]);
    let outside = Image::new(&[], &[]);
    std::fs::hard_link(image.path("etc/secret"), outside.path("kept")).unwrap();
    std::fs::hard_link(image.path("etc/secret"), image.path("etc/other")).unwrap();
    assert_eq!(twins(&image, &["/etc/secret"]), ["/etc/secret: /etc/other Some(HardLinks)"]);
    // what has many names is not one of them
    for n in 0..20 {
        std::fs::hard_link(image.path("bin/busybox"), image.path(&format!("bin/applet{n}"))).unwrap();
    }
    assert_eq!(twins(&image, &["/bin/applet7"]), ["/bin/applet7:  Some(HardLinks)"]);
    // a search that ends early
    let late = image.root().until(Instant::now() - Duration::from_secs(1));
    let mut answers = [("/etc/secret".parse().unwrap(), Resolution::default())];
    let mut files = twins::Files::default();
    let (path, answer) = &answers[0];
    assert!(files.add(&late, (0, path), answer, beside::End::Unknown));
    files.search(&late, &mut answers);
    assert_eq!(answers[0].1, Resolution { names: vec![], unknown: Some(Unknown::HardLinks) });
}

#[test]
fn the_root_of_a_process() {
    let own = i32::try_from(std::process::id()).unwrap();
    let root = Root::of_process(own).unwrap();
    assert_eq!(root.resolve(&"/etc".parse().unwrap()), Resolution::default());
    assert!(Root::of_process(0).is_err());
}
