//! Images into the kernel: array maps, filled, read back, sealed, and only then published in places.

use std::os::fd::{AsFd, AsRawFd};

use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType, libbpf_sys};

use super::error::{During, EnforceError};
use super::spread::spread;
use crate::compile::bpf::BpfImage;

/// Bytes per system call.
const BATCH: usize = 256 << 10;
/// `BPF_F_INNER_MAP` (include/uapi/linux/bpf.h): arrays of different sizes may stand in one map of maps.
const INNER_MAP: u32 = 1 << 12;
/// Threads that publish a batch.
const THREADS: usize = 64;

/// The maps of maps that hold rulesets, by place.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) rulesets: MapHandle,
    pub(super) automata: MapHandle,
}

/// A ruleset on its way into the kernel.
#[derive(Debug)]
pub(super) struct Publication<'i> {
    pub(super) place: u32,
    pub(super) image: &'i BpfImage, // with its id
}

impl Places {
    /// Puts images into their places, each complete and sealed before anything can find it. What was there is
    /// replaced: no container may be at these places any more. Each image holds up to two file descriptors until all
    /// are published. After an error some may be.
    pub(super) fn publish(&self, images: &[Publication<'_>]) -> Result<(), EnforceError> {
        spread(images, THREADS, |part| {
            let (mut automata, mut rulesets) = (Vec::new(), Vec::with_capacity(part.len()));
            for Publication { place, image } in part {
                if !image.blocks().is_empty() {
                    automata.push((*place, sealed("automata", image.blocks())?));
                }
                rulesets.push((*place, sealed("image", image.cell_blocks())?));
            }
            put(&self.automata, &automata)?;
            put(&self.rulesets, &rulesets)
        })
    }

    /// Empties a place. An empty one is no error.
    pub(super) fn withdraw(&self, place: u32) -> Result<(), EnforceError> {
        let place = place.to_ne_bytes();
        for map in [&self.rulesets, &self.automata] {
            // looked at first: below 6.8 the kernel waits even where there is nothing to delete
            if map.lookup(&place, MapFlags::ANY).during("read the rulesets")?.is_some() {
                map.delete(&place).during("withdraw a ruleset")?;
            }
        }
        Ok(())
    }

    /// Whether something is there.
    pub(super) fn holds(&self, place: u32) -> Result<bool, EnforceError> {
        let held = self.rulesets.lookup(&place.to_ne_bytes(), MapFlags::ANY).during("read the rulesets")?;
        Ok(held.is_some())
    }

    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        self.rulesets.max_entries()
    }
}

fn put(map: &MapHandle, arrays: &[(u32, MapHandle)]) -> Result<(), EnforceError> {
    if arrays.is_empty() {
        return Ok(());
    }
    let keys: Vec<u8> = arrays.iter().flat_map(|(place, _)| place.to_ne_bytes()).collect();
    let fds = arrays.iter().flat_map(|(_, array)| array.as_fd().as_raw_fd().to_ne_bytes());
    let fds: Vec<u8> = fds.collect();
    map.update_batch(&keys, &fds, number(arrays.len())?, MapFlags::ANY, MapFlags::ANY)
        .during("publish rulesets")
}

/// An array map of these values, which nothing can change any more.
fn sealed<const N: usize>(name: &str, values: &[[u8; N]]) -> Result<MapHandle, EnforceError> {
    let options = libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
        map_flags: INNER_MAP,
        ..Default::default()
    };
    let (size, count) = (number(N)?, number(values.len())?);
    let array =
        MapHandle::create(MapType::Array, Some(name), 4, size, count, &options).during("create an image")?;
    fill(&array, values)?;
    read_back(&array, values)?;
    array.freeze().during("seal an image")?;
    Ok(array)
}

fn number(n: usize) -> Result<u32, EnforceError> {
    u32::try_from(n).map_err(|_| EnforceError::Full("an image has too many cells"))
}

fn fill<const N: usize>(array: &MapHandle, values: &[[u8; N]]) -> Result<(), EnforceError> {
    let mut first = 0;
    for chunk in values.chunks((BATCH / N).max(1)) {
        let count = number(chunk.len())?;
        let keys: Vec<u8> = (first..first + count).flat_map(u32::to_ne_bytes).collect();
        array
            .update_batch(&keys, chunk.as_flattened(), count, MapFlags::ANY, MapFlags::ANY)
            .during("fill an image")?;
        first += count;
    }
    Ok(())
}

/// One by one: libbpf's iterator over batches copies each value once more.
fn read_back<const N: usize>(array: &MapHandle, values: &[[u8; N]]) -> Result<(), EnforceError> {
    for (index, value) in (0u32..).zip(values) {
        let held = array.lookup(&index.to_ne_bytes(), MapFlags::ANY).during("read an image back")?;
        if held.is_none_or(|held| held.as_slice() != value) {
            return Err(EnforceError::ReadBack(format!("block {index} of an image")));
        }
    }
    Ok(())
}
