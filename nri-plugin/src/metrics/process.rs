//! The process, by the names that Prometheus' own libraries give.

use std::fmt;

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Tells what `/proc/self` says. What it does not say is left out.
#[derive(Debug)]
pub(super) struct Process;

/// A position among the fields of `/proc/PID/stat` after the name, from 0: see proc(5).
const UTIME: usize = 11;
const STIME: usize = 12;
const START: usize = 19;
const RESIDENT: usize = 21;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut gauge = |name, help, value: f64| {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)
        };
        if let Ok(dir) = std::fs::read_dir("/proc/self/fd") {
            gauge("process_open_fds", "Open file descriptors", float(dir.count() as u64))?;
        }
        let Some(stat) = std::fs::read_to_string("/proc/self/stat").ok() else { return Ok(()) };
        let Some((_, fields)) = stat.rsplit_once(") ") else { return Ok(()) };
        let field = |at| fields.split(' ').nth(at)?.parse::<u64>().ok().map(float);
        let of_system =
            |name| sysconf(name).ok().flatten().and_then(|value| u64::try_from(value).ok()).map(float);
        if let (Some(pages), Some(page)) = (field(RESIDENT), of_system(SysconfVar::PAGE_SIZE)) {
            gauge("process_resident_memory_bytes", "Resident memory", pages * page)?;
        }
        let Some(ticks) = of_system(SysconfVar::CLK_TCK) else { return Ok(()) };
        if let (Some(start), Some(boot)) = (field(START), boot()) {
            gauge("process_start_time_seconds", "When it was started", boot + start / ticks)?;
        }
        if let (Some(user), Some(system)) = (field(UTIME), field(STIME)) {
            let help = "Time of CPUs that it used";
            let metric = encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
            ConstCounter::new((user + system) / ticks).encode(metric)?;
        }
        Ok(())
    }
}

/// When the machine was booted, in seconds since 1970.
fn boot() -> Option<f64> {
    let now = clock_gettime(ClockId::CLOCK_REALTIME).ok()?;
    let since = clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?;
    Some(std::time::Duration::from(now).as_secs_f64() - std::time::Duration::from(since).as_secs_f64())
}

/// Numbers up to 2^53 as they are.
#[expect(clippy::cast_precision_loss, reason = "sizes and times are far smaller")]
const fn float(number: u64) -> f64 {
    number as f64
}
