//! Reads podman's state as it was kept up to 4.7, and is where it was made then: a file of bbolt, a B+ tree of pages that are copied before they are changed.
//!
//! podman locks the file while it has it open, so no lock is taken: a read must not hold podman up. It is good all the
//! same where no transaction ended meanwhile, since a writer never touches what the last finished one can reach.
//!
//! Format: <https://github.com/etcd-io/bbolt>, `page.go`, `bucket.go` and `db.go`; numbers are the machine's.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::StateError;

/// Bytes of the file at most; some 20 KiB a container.
const MAX_BYTES: u64 = 256 << 20;
/// How often a file that changes meanwhile is read again.
const TRIES: usize = 8;
/// The deepest tree, and the deepest bucket in bucket; a page has many keys.
const DEPTH: usize = 32;
const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const HEADER: usize = 16;
const ELEMENT: usize = 16;
const BRANCH: u16 = 1;
const LEAF: u16 = 2;
const IS_BUCKET: u32 = 1;
/// Where page sizes may be found when the first copy of the root is damaged.
const PAGE_SIZES: [usize; 3] = [4 << 10, 16 << 10, 64 << 10];

/// The file as it was at one moment.
#[derive(Debug)]
pub struct Bolt {
    path: PathBuf,
    bytes: Vec<u8>,
    meta: Meta,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Meta {
    page_size: usize,
    root: u64,
    transaction: u64,
}

/// A page, also one that is inside a value.
#[derive(Debug, Clone, Copy)]
struct Page<'a>(&'a [u8]);

impl Bolt {
    /// Reads it whole.
    ///
    /// # Errors
    /// When it cannot be read, is none, or changes all the time.
    pub fn read(path: &Path) -> Result<Self, StateError> {
        let fail = |why: String| StateError { path: path.to_owned(), why };
        for _ in 0..TRIES {
            let before = bytes(path, HEADER_PAGES).map_err(|error| fail(error.to_string()))?;
            let before = meta(&before).ok_or_else(|| fail("it is no file of bbolt".into()))?;
            let all = bytes(path, MAX_BYTES + 1).map_err(|error| fail(error.to_string()))?;
            if u64::try_from(all.len()).is_ok_and(|len| len > MAX_BYTES) {
                return Err(fail(format!("it has more than {MAX_BYTES} bytes")));
            }
            let after = bytes(path, HEADER_PAGES).map_err(|error| fail(error.to_string()))?;
            if meta(&all) == Some(before) && meta(&after) == Some(before) {
                return Ok(Self { path: path.to_owned(), bytes: all, meta: before });
            }
        }
        Err(fail("it changes all the time".into()))
    }

    /// The value of a key in a bucket within buckets; `None`: there is none.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn get(&self, buckets: &[&str], key: &str) -> Result<Option<Vec<u8>>, StateError> {
        self.look(buckets, key).map_err(|why| StateError { path: self.path.clone(), why: why.to_owned() })
    }

    fn look(&self, buckets: &[&str], key: &str) -> Result<Option<Vec<u8>>, &'static str> {
        let mut page = self.page(self.meta.root)?;
        for bucket in buckets {
            let Some((true, value)) = self.find(page, bucket.as_bytes())? else { return Ok(None) };
            page = match number(value, 0)? {
                0 => Page(value.get(HEADER..).ok_or(CUT)?), // a small bucket is inside its own value
                root => self.page(root)?,
            };
        }
        let found = self.find(page, key.as_bytes())?;
        Ok(found.filter(|(bucket, _)| !bucket).map(|(_, value)| value.to_vec()))
    }

    /// A page with those behind it that belong to it.
    fn page(&self, number: u64) -> Result<Page<'_>, &'static str> {
        let start = usize::try_from(number).ok().and_then(|number| number.checked_mul(self.meta.page_size));
        let rest = start.and_then(|start| self.bytes.get(start..)).ok_or(CUT)?;
        let more = usize::try_from(short(rest, 12)?).map_err(|_| CUT)?;
        let len = more.checked_add(1).and_then(|pages| pages.checked_mul(self.meta.page_size)).ok_or(CUT)?;
        Ok(Page(rest.get(..len).ok_or(CUT)?))
    }

    /// What a key has below a page, and whether that is a bucket.
    fn find<'a>(&'a self, mut page: Page<'a>, key: &[u8]) -> Result<Option<(bool, &'a [u8])>, &'static str> {
        for _ in 0..DEPTH {
            match page.flags()? {
                LEAF => return page.leaf(key),
                BRANCH => match page.child(key)? {
                    Some(child) => page = self.page(child)?,
                    None => return Ok(None),
                },
                _ => return Err("a page is of no kind that belongs there"),
            }
        }
        Err("its tree has no end")
    }
}

impl<'a> Page<'a> {
    fn flags(self) -> Result<u16, &'static str> {
        let bytes = self.0.get(8..10).and_then(|bytes| bytes.try_into().ok()).ok_or(CUT)?;
        Ok(u16::from_ne_bytes(bytes))
    }

    fn count(self) -> Result<usize, &'static str> {
        let bytes = self.0.get(10..12).and_then(|bytes| bytes.try_into().ok()).ok_or(CUT)?;
        Ok(usize::from(u16::from_ne_bytes(bytes)))
    }

    /// An element, from its own beginning to the end of the page: positions count from there.
    fn element(self, index: usize) -> Result<&'a [u8], &'static str> {
        self.0.get(HEADER + index * ELEMENT..).ok_or(CUT)
    }

    fn leaf(self, key: &[u8]) -> Result<Option<(bool, &'a [u8])>, &'static str> {
        for index in 0..self.count()? {
            let element = self.element(index)?;
            let (at, key_len) = (size(element, 4)?, size(element, 8)?);
            if part(element, at, key_len)? == key {
                let value = part(element, at.checked_add(key_len).ok_or(CUT)?, size(element, 12)?)?;
                return Ok(Some((short(element, 0)? & IS_BUCKET != 0, value)));
            }
        }
        Ok(None)
    }

    /// The page below which the key would be: that of the last element whose key is not greater.
    fn child(self, key: &[u8]) -> Result<Option<u64>, &'static str> {
        let mut child = None;
        for index in 0..self.count()? {
            let element = self.element(index)?;
            if index > 0 && part(element, size(element, 0)?, size(element, 4)?)? > key {
                break;
            }
            child = Some(number(element, 8)?);
        }
        Ok(child)
    }
}

const CUT: &str = "it is cut off, or damaged";
/// Both copies of the root are within these bytes, whatever the size of a page.
const HEADER_PAGES: u64 = 128 << 10;

fn bytes(path: &Path, most: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The newer of the two copies of the root that are whole.
fn meta(bytes: &[u8]) -> Option<Meta> {
    let first = meta_at(bytes, 0);
    let sizes = first.map_or(PAGE_SIZES.to_vec(), |meta| vec![meta.page_size]);
    let second = sizes.into_iter().find_map(|size| meta_at(bytes, size));
    first.into_iter().chain(second).max_by_key(|meta| meta.transaction)
}

fn meta_at(bytes: &[u8], page: usize) -> Option<Meta> {
    let meta = bytes.get(page.checked_add(HEADER)?..)?;
    // FNV-1a of 64 bits
    let sum = meta
        .get(..56)?
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let good =
        short(meta, 0).ok()? == MAGIC && short(meta, 4).ok()? == VERSION && number(meta, 56).ok()? == sum;
    let page_size = size(meta, 8).ok()?;
    (good && page_size > HEADER).then_some(Meta {
        page_size,
        root: number(meta, 16).ok()?,
        transaction: number(meta, 48).ok()?,
    })
}

fn part(bytes: &[u8], at: usize, len: usize) -> Result<&[u8], &'static str> {
    bytes.get(at..).and_then(|rest| rest.get(..len)).ok_or(CUT)
}

fn short(bytes: &[u8], at: usize) -> Result<u32, &'static str> {
    part(bytes, at, 4)?.try_into().map(u32::from_ne_bytes).map_err(|_| CUT)
}

fn size(bytes: &[u8], at: usize) -> Result<usize, &'static str> {
    usize::try_from(short(bytes, at)?).map_err(|_| CUT)
}

fn number(bytes: &[u8], at: usize) -> Result<u64, &'static str> {
    part(bytes, at, 8)?.try_into().map(u64::from_ne_bytes).map_err(|_| CUT)
}
