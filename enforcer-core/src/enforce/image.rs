//! An image into the kernel: an array map, filled, read back, sealed, and only then published under a ruleset id.

use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType, libbpf_sys};
use std::os::fd::{AsFd, AsRawFd};

use super::error::{During, EnforceError};
use crate::compile::bpf::{BpfImage, CELL_BYTES};

/// Cells per system call.
const BATCH: usize = 4096;
/// `BPF_F_INNER_MAP` (include/uapi/linux/bpf.h): arrays of different sizes may stand in one map of maps.
const INNER_MAP: u32 = 1 << 12;

fn number(n: usize) -> Result<u32, EnforceError> {
    u32::try_from(n).map_err(|_| EnforceError::Full("an image has too many cells"))
}

/// Puts `image` into `rulesets` under `id`, complete and sealed before anything can find it.
pub(super) fn publish(rulesets: &MapHandle, id: u32, image: &BpfImage) -> Result<(), EnforceError> {
    let array = create(image)?;
    fill(&array, image)?;
    read_back(&array, image)?;
    array.freeze().during("seal an image")?;
    let fd = array.as_fd().as_raw_fd().to_ne_bytes();
    rulesets.update(&id.to_ne_bytes(), &fd, MapFlags::NO_EXIST).during("publish a ruleset")
}

fn create(image: &BpfImage) -> Result<MapHandle, EnforceError> {
    let options = libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
        map_flags: INNER_MAP,
        ..Default::default()
    };
    let (cell, cells) = (number(CELL_BYTES)?, number(image.cells().len())?);
    MapHandle::create(MapType::Array, Some("image"), 4, cell, cells, &options).during("create an image")
}

fn fill(array: &MapHandle, image: &BpfImage) -> Result<(), EnforceError> {
    let mut first = 0;
    for chunk in image.cells().chunks(BATCH) {
        let count = number(chunk.len())?;
        let keys: Vec<u8> = (first..first + count).flat_map(u32::to_ne_bytes).collect();
        array
            .update_batch(&keys, chunk.as_flattened(), count, MapFlags::ANY, MapFlags::ANY)
            .during("fill an image")?;
        first += count;
    }
    Ok(())
}

fn read_back(array: &MapHandle, image: &BpfImage) -> Result<(), EnforceError> {
    for (index, cell) in image.cells().iter().enumerate() {
        let key = number(index)?.to_ne_bytes();
        let held = array.lookup(&key, MapFlags::ANY).during("read an image back")?;
        if held.as_deref() != Some(cell.as_slice()) {
            return Err(EnforceError::ReadBack(format!("cell {index} of an image")));
        }
    }
    Ok(())
}
