//! An image into the kernel: array maps, filled, read back, sealed, and only then published in a place.

use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType, libbpf_sys};
use std::os::fd::{AsFd, AsRawFd};

use super::error::{During, EnforceError};
use crate::compile::bpf::BpfImage;

/// Bytes per system call.
const BATCH: usize = 256 << 10;
/// `BPF_F_INNER_MAP` (include/uapi/linux/bpf.h): arrays of different sizes may stand in one map of maps.
const INNER_MAP: u32 = 1 << 12;

/// The maps of maps that hold rulesets, by place.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) rulesets: MapHandle,
    pub(super) automata: MapHandle,
}

impl Places {
    /// Puts `image` into `place` as ruleset `id`, complete and sealed before anything can find it. What was there is
    /// replaced: no container may be at that place any more.
    pub(super) fn publish(&self, place: u32, id: u32, image: &BpfImage) -> Result<(), EnforceError> {
        let blocks = image.blocks(id);
        if !blocks.is_empty() {
            put(&self.automata, place, &sealed("automata", &blocks)?)?;
        }
        put(&self.rulesets, place, &sealed("image", &image.cell_blocks(id))?)
    }

    /// Empties a place. An empty one is no error.
    pub(super) fn withdraw(&self, place: u32) -> Result<(), EnforceError> {
        for map in [&self.rulesets, &self.automata] {
            match map.delete(&place.to_ne_bytes()) {
                Err(error) if error.kind() != libbpf_rs::ErrorKind::NotFound => {
                    return Err(error).during("withdraw a ruleset");
                }
                _ => {}
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

fn put(map: &MapHandle, place: u32, array: &MapHandle) -> Result<(), EnforceError> {
    let fd = array.as_fd().as_raw_fd().to_ne_bytes();
    map.update(&place.to_ne_bytes(), &fd, MapFlags::ANY).during("publish a ruleset")
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

fn read_back<const N: usize>(array: &MapHandle, values: &[[u8; N]]) -> Result<(), EnforceError> {
    for (index, value) in values.iter().enumerate() {
        let key = number(index)?.to_ne_bytes();
        let held = array.lookup(&key, MapFlags::ANY).during("read an image back")?;
        if held.as_deref() != Some(value.as_slice()) {
            return Err(EnforceError::ReadBack(format!("cell {index} of an image")));
        }
    }
    Ok(())
}
