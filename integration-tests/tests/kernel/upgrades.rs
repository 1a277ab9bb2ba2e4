//! A daemon that goes and comes back: what is armed stays armed, without a gap, and is known again.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use enforcer_core::enforce::{Enforcer, Stage};
use libbpf_rs::query::ProgInfoIter;

use crate::container::Container;
use crate::{block, options, sh};

/// Makes the attacker try all the time, not only now and then: it takes a processor.
const NOW: &str = "/tmp/now";

/// The next daemon, which is attacked with all might from when the last of its `programs` is loaded: from then on it
/// exchanges links.
fn next(programs: usize) -> Enforcer {
    let ids = || ProgInfoIter::default().map(|program| program.id);
    let newest = ids().max().unwrap(); // those of before go one after another
    let loaded = || ids().filter(|id| *id > newest).count();
    let ready = AtomicBool::new(false);
    let (enforcer, in_time) = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            while loaded() < programs && !ready.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(100));
            }
            fs::write(NOW, "").unwrap();
            !ready.load(Ordering::Relaxed)
        });
        let enforcer = Enforcer::open(&options()).unwrap();
        ready.store(true, Ordering::Relaxed);
        (enforcer, watch.join().unwrap())
    });
    assert!(in_time, "it was not attacked while it exchanged its links");
    enforcer
}

pub fn upgrades(enforcer: Enforcer) {
    sh("echo x > /tmp/secret; echo x > /tmp/other; rm -f /tmp/opened /tmp/stop");
    let rules = block("/tmp/secret");
    let mut container = Container::created("kept", true);
    enforcer.arm(&container.target(Stage::Created), &rules).unwrap();
    container.start();
    let attack = format!(
        "while [ ! -e /tmp/stop ]; do true < /tmp/secret && echo x >> /tmp/opened; echo x >> /tmp/tries; \
         [ -e {NOW} ] || usleep 20000; done"
    );
    assert_eq!(container.run(&format!("( {attack} ) </dev/null >/dev/null 2>&1 &")), 0);
    let pinned = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with('v');
    let dir = fs::read_dir(options().bpffs).unwrap().map(Result::unwrap).find(pinned).unwrap().path();
    let links = || {
        fs::read_dir(&dir)
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("link_"))
            .count()
    };
    let before = links();
    let programs = ProgInfoIter::default().count();
    drop(enforcer);
    for round in 0..2 {
        let enforcer = next(programs);
        let armed = enforcer.armed().unwrap();
        assert_eq!(armed.len(), 1, "round {round}");
        assert_eq!((&armed[0].id, armed[0].ruleset), (&container.id, Some(rules.digest())));
        // The same rules again: nothing is loaded twice; others: exchanged by the new daemon.
        enforcer.update(&container.id, &rules).unwrap();
        assert!(!container.reads("/tmp/secret"));
        assert!(container.reads("/tmp/other"));
        // The place of a new link, before it is renamed to the old one's, is none of its own.
        assert_eq!(links(), before, "round {round}");
        fs::remove_file(NOW).unwrap();
        drop(enforcer);
    }
    // A daemon with another layout of maps: both deny until the new one has armed what runs; then the old one goes.
    let older = options().bpffs.join("v0");
    fs::rename(&dir, &older).unwrap();
    let enforcer = next(programs);
    assert!(enforcer.armed().unwrap().is_empty());
    assert!(!container.reads("/tmp/secret"), "the old rules hold");
    enforcer.arm(&container.target(Stage::Running), &rules).unwrap();
    assert_eq!(enforcer.retire_others().unwrap(), 1);
    assert!(!older.exists());
    assert!(!container.reads("/tmp/secret"), "the new rules hold");
    fs::write("/tmp/stop", "").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(!Path::new("/tmp/opened").exists(), "an open got through during an upgrade");
    let tries = fs::read("/tmp/tries").unwrap().len() / 2;
    println!("0 of {tries} opens got through, while {programs} programs were exchanged 3 times");
    assert!(tries > 1000);
    let mut late = Container::created("late", true);
    enforcer.arm(&late.target(Stage::Created), &rules).unwrap();
    late.start();
    assert!(!late.reads("/tmp/secret"));
    enforcer.disarm(&container.id).unwrap();
    assert!(container.reads_soon("/tmp/secret"));
    assert!(!late.reads("/tmp/secret"), "they shared the rules, not the fate");
}
