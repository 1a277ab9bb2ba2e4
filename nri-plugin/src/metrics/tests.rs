use prometheus_client::encoding::text::encode;

use super::verdicts::{OTHER, SERIES};
use super::*;
use crate::alert::Alert;

fn page(metrics: &Metrics) -> String {
    let mut text = String::new();
    encode(&mut text, &metrics.registry()).unwrap();
    text
}

#[test]
fn verdicts_beyond_the_bound_are_folded_and_counted() {
    let metrics = Metrics::default();
    let alert = |number: usize, action| Alert {
        policy_name: format!("p{number}"),
        rule: "spec.\"quoted\"\n".into(),
        operation: "File",
        action,
        ..Alert::default()
    };
    for number in 0..SERIES + 7 {
        metrics.verdicts.count(&alert(number, "Block"));
    }
    metrics.verdicts.count(&alert(0, "Block"));
    metrics.verdicts.count(&alert(SERIES + 1, "Audit"));
    let text = page(&metrics);
    let series = |line: &&str| line.starts_with("nri_enforcer_verdicts_total{");
    assert_eq!(text.lines().filter(series).count(), SERIES + 2, "one more for each kind of verdict");
    assert!(text.contains("nri_enforcer_verdicts_folded_total 8\n"), "{text}");
    let line = |part: &str| text.lines().filter(series).find(|line| line.contains(part)).unwrap().to_owned();
    assert!(line("policy=\"p0\"").ends_with("action=\"Block\"} 2"));
    assert!(line("policy=\"p0\"").contains("rule=\"spec.\\\"quoted\\\"\\n\""), "{}", line("policy=\"p0\""));
    let folded = format!("policy=\"{OTHER}\"");
    let folded: Vec<_> = text.lines().filter(series).filter(|line| line.contains(&folded)).collect();
    assert!(folded.iter().any(|line| line.ends_with("action=\"Block\"} 7")), "{folded:?}");
    assert!(folded.iter().any(|line| line.ends_with("action=\"Audit\"} 1")), "{folded:?}");
}

#[test]
fn the_process_is_told_by_the_usual_names() {
    let text = page(&Metrics::default());
    let value = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!(value("process_resident_memory_bytes") > 1e6);
    assert!(value("process_open_fds") >= 3.0);
    assert!(value("process_cpu_seconds_total") >= 0.0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let since = now - value("process_start_time_seconds");
    assert!((0.0..86_400.0).contains(&since), "started {since} s ago");
    assert!(text.contains("nri_enforcer_build_info{version=\""), "{text}");
    assert!(text.ends_with("# EOF\n"));
}
