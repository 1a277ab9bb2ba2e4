//! What AppArmor and SELinux deny, made alerts of: one thread listens to the kernel's audit records, and the thread that
//! makes alerts asks the rules in force about each.
//!
//! Nothing that is enforced waits for this. What comes faster than it is read is lost and counted; what the kernel itself
//! drops before any listener could have it (`audit_lost` in its log) is not.

mod attribution;
pub mod socket;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use enforcer_core::audit::{self, By, Denial};
use enforcer_core::enforce::ContainerId;

pub use self::attribution::{Attribution, Found, Judged, NotedFiles};
use self::socket::{Message, Socket};
use crate::alert::living::{Acting, Living};
use crate::exit::chain;
use crate::procs::Procs;

/// How many denials wait for the thread that makes alerts, each at most some 12 KB.
const QUEUE: usize = 512;
/// How long one wait for a record lasts, and so how late the end of the daemon is noticed.
const POLL: Duration = Duration::from_millis(200);
/// How long denials are judged before the thread that makes alerts does something else.
const AT_ONCE: Duration = Duration::from_millis(100);
/// Bytes for records that were not read yet, where the kernel gives so many.
const BUFFER: usize = 4 << 20;

/// Says which container a process is of, if it is there still and of one.
pub type ContainerOf = Box<dyn Fn(u32) -> Option<ContainerId> + Send>;

/// A denial, and the container that the process seemed to be of when it was heard.
#[derive(Debug, Clone)]
pub struct Heard {
    /// What the kernel says.
    pub denial: Denial,
    /// `None`: the process was over, or is of none.
    pub acting: Option<ContainerId>,
    /// What else there was to know of the process; `None`: it was over.
    pub process: Option<Acting>,
}

/// Denials, as the kernel tells them.
#[derive(Debug)]
pub struct Audit {
    queue: Receiver<Heard>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    lost: AtomicU64,
    unread: AtomicU64,
    ended: Mutex<Option<String>>,
}

impl Audit {
    /// Begins to listen, on a thread that ends a moment after `stop` is set.
    ///
    /// # Errors
    /// Why nothing can be heard here; for people.
    pub fn listen(stop: Arc<AtomicBool>, container_of: ContainerOf) -> Result<Self, String> {
        let what = "the kernel's audit records cannot be listened to";
        if !in_first_network_namespace() {
            return Err(format!("{what} outside the host's network namespace"));
        }
        let socket = Socket::open(BUFFER, POLL).map_err(|error| {
            let advice = match error.raw_os_error() {
                Some(libc::EPERM) => "; it takes the capability CAP_AUDIT_READ",
                Some(libc::EPROTONOSUPPORT) => {
                    "; the kernel is built without CONFIG_AUDIT, or was booted with audit=0"
                }
                _ => "",
            };
            format!("{what}: {}{advice}", chain(&error))
        })?;
        let (sender, queue) = sync_channel(QUEUE);
        let shared = Arc::new(Shared::default());
        let reader = Reader {
            socket,
            sender,
            shared: Arc::clone(&shared),
            container_of,
            stop,
            numbers: Numbers::default(),
            living: Living::new(Procs::default()),
        };
        std::thread::Builder::new()
            .name("audit".into())
            .spawn(move || reader.run())
            .map_err(|error| format!("{what}: {}", chain(&error)))?;
        Ok(Self { queue, shared })
    }

    /// One that has lost so many records, could not read so many, and hears no more.
    #[cfg(test)]
    pub(crate) fn ended_for(lost: u64, unread: u64, why: &str) -> Self {
        let (_ended, queue) = sync_channel(1);
        let ended = Mutex::new(Some(why.to_owned()));
        let shared = Shared { lost: lost.into(), unread: unread.into(), ended };
        Self { queue, shared: Arc::new(shared) }
    }

    /// Hands over what has come, up to a bound of number and of time: whoever asks has other things to do, too. What is left
    /// waits, and past the queue's end is lost and counted.
    pub fn take(&self, mut each: impl FnMut(Heard)) {
        let begin = Instant::now();
        for heard in self.queue.try_iter().take(QUEUE) {
            each(heard);
            if begin.elapsed() > AT_ONCE {
                return;
            }
        }
    }

    /// How many records were lost since this was asked last; those of others than ours count, too, since nobody has read
    /// them.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.lost.swap(0, Ordering::Relaxed)
    }

    /// How many records about profiles or labels of ours could not be understood since this was asked last.
    #[must_use]
    pub fn unread(&self) -> u64 {
        self.shared.unread.swap(0, Ordering::Relaxed)
    }

    /// Why nothing is heard any more, once.
    #[must_use]
    pub fn ended(&self) -> Option<String> {
        self.shared.ended.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The kernel tells its records there alone. What cannot be told is taken for it.
fn in_first_network_namespace() -> bool {
    let of = |process: &str| fs::metadata(Path::new("/proc").join(process).join("ns/net")).map(|ns| ns.ino());
    match (of("self"), of("1")) {
        (Ok(own), Ok(first)) => own == first,
        _ => true,
    }
}

struct Reader {
    socket: Socket,
    sender: SyncSender<Heard>,
    container_of: ContainerOf,
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
    numbers: Numbers,
    living: Living,
}

/// Counts what is lost by the numbers of records.
#[derive(Debug, Default)]
struct Numbers {
    last: Option<u64>, // that of the last record
    gap: bool,         // records were lost, and the gap in the numbers is still to come
}

impl Numbers {
    /// The kernel says that there was no room for some, before what it keeps for us still is read: the gap comes later.
    /// Returns how many more are lost for certain.
    fn lost(&mut self) -> u64 {
        u64::from(!std::mem::replace(&mut self.gap, true))
    }

    /// A record has come. Returns how many more are lost. Where nothing was, numbers may be left out, too.
    fn has(&mut self, serial: u64) -> u64 {
        let last = self.last.replace(serial);
        let missing = last.and_then(|last| serial.checked_sub(last)?.checked_sub(1)).unwrap_or(0);
        if !self.gap || missing == 0 {
            return 0;
        }
        self.gap = false;
        missing.saturating_sub(1) // one was counted at once
    }
}

impl Reader {
    fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            match self.socket.heard() {
                Ok(Message::Nothing) => {}
                Ok(Message::Lost) => {
                    let lost = self.numbers.lost();
                    self.shared.lost.fetch_add(lost, Ordering::Relaxed);
                }
                Ok(Message::Record { kind, text, cut }) => {
                    if !self.record(kind, &text, cut) {
                        return; // nobody takes them any more
                    }
                }
                Err(error) => {
                    let mut ended = self.shared.ended.lock().unwrap_or_else(PoisonError::into_inner);
                    *ended = Some(chain(&error));
                    return;
                }
            }
        }
    }

    /// A process that is denied something is often over a moment later: its container is looked up at once.
    fn heard(&mut self, denial: Denial) -> Heard {
        let process = self.living.acting(denial.pid, denial.time, Instant::now());
        let acting = match denial.by {
            By::AppArmor(_) => (self.container_of)(denial.pid),
            By::Selinux(_) => None,
        };
        Heard { denial, acting, process }
    }

    fn record(&mut self, kind: u16, text: &str, cut: bool) -> bool {
        if let Some(serial) = audit::serial(text) {
            let lost = self.numbers.has(serial);
            self.shared.lost.fetch_add(lost, Ordering::Relaxed);
        }
        if kind != audit::AVC {
            return true;
        }
        match Denial::parse(text) {
            None => true,
            // what is missing would be taken for what the kernel does not tell
            Some(Ok(_)) if cut => {
                self.shared.unread.fetch_add(1, Ordering::Relaxed);
                tracing::debug!("an audit record that is too long");
                true
            }
            Some(Err(bad)) => {
                self.shared.unread.fetch_add(1, Ordering::Relaxed);
                tracing::debug!("{bad}: {}", text.escape_debug());
                true
            }
            Some(Ok(denial)) => {
                let heard = self.heard(denial);
                match self.sender.try_send(heard) {
                    Ok(()) => true,
                    Err(TrySendError::Full(_)) => {
                        self.shared.lost.fetch_add(1, Ordering::Relaxed);
                        true
                    }
                    Err(TrySendError::Disconnected(_)) => false,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
