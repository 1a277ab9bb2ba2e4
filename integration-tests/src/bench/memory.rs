//! What the kernel says that BPF takes.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result};
use libbpf_rs::MapHandle;
use libbpf_rs::query::MapInfoIter;

/// Bytes of all maps, inner ones too. Elements that belong to tasks are not in it.
pub(super) fn of_maps() -> Result<i64> {
    let mut sum = 0;
    for info in MapInfoIter::default() {
        let Ok(map) = MapHandle::from_map_id(info.id) else { continue }; // gone meanwhile
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_fd().as_raw_fd()))?;
        let line = text.lines().find_map(|l| l.strip_prefix("memlock:")).context("a map without memlock")?;
        sum += line.trim().parse::<i64>()?;
    }
    Ok(sum)
}

/// Bytes that the kernel has taken for itself and cannot give back at will.
pub(super) fn of_kernel() -> Result<i64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let names = ["SUnreclaim:", "Percpu:", "VmallocUsed:"];
    let mut sum = 0;
    for line in text.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        if let [name, number, ..] = words.as_slice()
            && names.contains(name)
        {
            sum += number.parse::<i64>()? * 1024;
        }
    }
    Ok(sum)
}
