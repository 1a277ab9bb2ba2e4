//! Doors onto the kernel's walker and matcher, for tests and benchmarks: the same code that the hooks run, called as
//! `SEC("syscall")` programs. Nothing is attached, so this works on kernels that refuse BPF-LSM programs.

use std::net::IpAddr;

use enforcer_bpf::{Shared, types};
use libbpf_rs::btf::Btf;
use libbpf_rs::{MapCore, MapFlags, MapHandle, Object, ObjectBuilder, ProgramInput};

use super::error::{During, EnforceError};
use super::image::{Places, Publication};
use super::load::{has_direct_loads, settle};
use super::maps::{Table, handle};
use crate::compile::bpf::image::{DECISION_EXEMPT, RULE_NONE, RULE_OBSERVED, RULE_POSTURE, effect_of};
use crate::compile::bpf::{BpfImage, compile};
use crate::decide::{Access, DecidedBy, Decision, Target};
use crate::ruleset::{OriginId, Ruleset};

/// `DOOR_CONTAINER`.
const CONTAINER: u64 = 1;
/// `DOOR_MOUNT_NAMESPACE`.
const MOUNT_NAMESPACE: u32 = 1;

/// The matcher, loaded.
#[derive(Debug)]
pub struct Doors {
    object: Object,
    places: Places,
    armed: Table<u32, types::armed>,
    input: MapHandle,
    next: u32,
}

/// How the matcher reads kernel memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// By plain loads where this kernel allows them, as the hooks do.
    AsHooks,
    /// By calls that copy, as on kernels before 6.2.
    Copying,
}

/// The kernel's answer to one access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// As in an image's decision.
    pub decision: u32,
    /// `enum enforcer_reason`; 0 = resolved.
    pub reason: u32,
    /// Whether rules list arguments and those of the access are longer than what is looked at, so that they count as not
    /// known.
    pub unseen: bool,
    /// Whether the short way, which only knows accesses that pass without an event, says that this is one. `false`
    /// where it leaves the answer to the long one.
    pub passes: bool,
}

impl Answer {
    /// The answer in the words of [`Ruleset::decide`]; `None` when the access was not resolved. What is observed passes by no
    /// rule and is reported, which `decide` does not tell: Audit by [`DecidedBy::NoRule`].
    #[must_use]
    pub fn decision(self) -> Option<Decision> {
        if self.reason != 0 {
            return None;
        }
        let origin = OriginId(self.decision & RULE_POSTURE);
        let by = match self.decision & RULE_POSTURE {
            RULE_POSTURE => DecidedBy::DefaultPosture,
            RULE_NONE | RULE_OBSERVED => DecidedBy::NoRule,
            _ if self.decision & DECISION_EXEMPT != 0 => DecidedBy::Exempt(origin),
            _ => DecidedBy::Rule(origin),
        };
        Some(Decision { verdict: effect_of(self.decision)?.into(), by })
    }
}

impl Doors {
    /// Loads the matcher without any hook.
    ///
    /// # Errors
    /// When the kernel refuses `SEC("syscall")` programs (before 5.14, or without the privilege).
    pub fn open(reading: Reading) -> Result<Self, EnforceError> {
        let mut open = ObjectBuilder::default()
            .debug(std::env::var_os("BPFDEBUG").is_some())
            .open_memory(enforcer_bpf::OBJECT)
            .during("read the BPF object")?;
        for mut program in open.progs_mut() {
            let is_door = program.section() == "syscall";
            program.set_autoload(is_door);
        }
        let kernel = Btf::from_vmlinux().during("read the kernel's type information")?;
        let direct = reading == Reading::AsHooks && has_direct_loads(&kernel);
        for mut map in open.maps_mut().filter(|map| map.name().to_string_lossy().ends_with(".rodata")) {
            let data = map.initial_value_mut().unwrap_or_default();
            settle(data, std::mem::offset_of!(types::rodata, direct_loads), direct);
        }
        let object = open.load().during("load the matcher")?;
        let places =
            Places { rulesets: handle(&object, "rulesets")?, automata: handle(&object, "automata")? };
        let input = handle(&object, "door_input")?;
        let armed = Table::of(&object, "armed")?;
        Ok(Self { object, places, armed, input, next: 1 })
    }

    /// Compiles and publishes a ruleset, which the questions are about from now on.
    ///
    /// # Errors
    /// When it does not compile, or the kernel refuses it.
    pub fn publish(&mut self, ruleset: &Ruleset) -> Result<(), EnforceError> {
        self.publish_image(compile(ruleset)?)
    }

    /// Publishes an image, which the questions are about from now on.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn publish_image(&mut self, mut image: BpfImage) -> Result<(), EnforceError> {
        let (ruleset, place) = (self.next, 0);
        image.name(ruleset);
        self.places.publish(&[Publication { place, image: &image }])?;
        self.next += 1;
        let armed = types::armed {
            container: CONTAINER,
            ruleset,
            place,
            classes: image.classes(),
            first: image.first(),
            hints: image.hints(),
            held: 0,
            mnt_ns: MOUNT_NAMESPACE,
        };
        self.armed.set(0, &armed, MapFlags::ANY)
    }

    /// Takes the ruleset away, though questions go on being about it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn withdraw(&mut self) -> Result<(), EnforceError> {
        self.places.withdraw(0)
    }

    /// Asks the kernel about one access to a file.
    ///
    /// # Errors
    /// When the program cannot be run, the paths are longer than a page, or no path is accessed.
    pub fn ask(&self, access: &Access<'_>) -> Result<Answer, EnforceError> {
        let Target::Path(about) = access.target else {
            return Err(EnforceError::Full("the door takes paths alone"));
        };
        let source = access.source.unwrap_or_default();
        let mut paths = vec![0; INPUT_BYTES];
        let (object_at, rest) = paths.split_at_mut(PATH_BYTES);
        let (source_at, rest) = rest.split_at_mut(PATH_BYTES);
        let (args_at, about_args) = rest.split_at_mut(ARGS_BUFFER);
        let object_len = place(object_at, about.path)?;
        let source_len = place(source_at, source)?;
        // the hooks know both or none
        let known = about.argv0.zip(about.args);
        let args: Vec<u8> = known.into_iter().flat_map(|(argv0, args)| strings(argv0, args)).collect();
        // as many as fit, as the hooks look at
        args_at.iter_mut().zip(&args).for_each(|(to, from)| *to = *from);
        let args_len = u32::try_from(args.len().min(ARGS_BYTES)).unwrap_or(u32::MAX);
        let count = known.map_or(0, |(_, args)| u32::try_from(args.len() + 1).unwrap_or(u32::MAX));
        let numbers = [count, args_len].into_iter().flat_map(u32::to_ne_bytes);
        about_args.iter_mut().zip(numbers).for_each(|(to, from)| *to = from);
        self.input.update(&0u32.to_ne_bytes(), &paths, MapFlags::ANY).during("hand over the paths")?;
        let owner = about.owner.is_none_or(|owner| owner == access.uid);
        let context = types::door_match {
            class_: access.class() as u32,
            condition: u32::from(about.write)
                | u32::from(owner) << 1
                | u32::from(about.tree) << 2
                | u32::from(access.terminal) << 3,
            path_len: object_len,
            source_len,
            ..Default::default()
        };
        let context = self.call("door_match", context)?;
        let unseen = context.unseen != 0;
        Ok(Answer { decision: context.decision, reason: context.reason, unseen, passes: context.passes == 1 })
    }

    /// Asks the kernel about one access to something that has no path.
    ///
    /// # Errors
    /// When the program cannot be run, the source is longer than a page, or a path is accessed.
    pub fn ask_plain(&self, access: &Access<'_>) -> Result<Answer, EnforceError> {
        let mut paths = vec![0; INPUT_BYTES];
        let source_len = place(
            paths.split_at_mut(PATH_BYTES).1.split_at_mut(PATH_BYTES).0,
            access.source.unwrap_or_default(),
        )?;
        if source_len != 0 {
            self.input.update(&0u32.to_ne_bytes(), &paths, MapFlags::ANY).during("hand over the source")?;
        }
        let mut context = types::door_plain {
            class_: access.class() as u32,
            condition: u32::from(access.terminal) << 3,
            source_len,
            ..Default::default()
        };
        match access.target {
            Target::Path(_) => return Err(EnforceError::Full("this door takes no paths")),
            Target::Capability(capability) => context.number = u32::from(capability.number()),
            Target::Syscall(syscall) => context.number = syscall.number().unwrap_or(u32::MAX),
            Target::Preset(preset) => context.number = preset as u32,
            Target::Socket(socket) => {
                let bits = match socket.judged_address() {
                    None => None,
                    Some(IpAddr::V4(v4)) => Some((4, u128::from(v4.to_bits()) << 96)),
                    Some(IpAddr::V6(v6)) => Some((6, v6.to_bits())),
                };
                let (version, bits) = bits.unwrap_or((0, 0));
                let half = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).unwrap_or(0);
                context.op = types::enforcer_op::OP_SOCKET_CREATE.0 + socket.op as u32;
                context.family = socket.family.into();
                context.kind = socket.kind.into();
                context.protocol = socket.protocol.into();
                context.version = version;
                context.port = socket.port.into();
                (context.high, context.low) = (half(bits >> 64), half(bits));
            }
        }
        let context = self.call("door_ask_plain", context)?;
        Ok(Answer { decision: context.decision, reason: context.reason, unseen: false, passes: false })
    }

    fn call<T: Shared>(&self, door: &str, context: T) -> Result<T, EnforceError> {
        let mut bytes = context.bytes().to_vec();
        let program = self.object.progs_mut().find(|program| program.name() == door);
        let program = program.ok_or(EnforceError::Full("the object has no such door"))?;
        let input = ProgramInput { context_in: Some(&mut bytes), ..Default::default() };
        let output = program.test_run(input).during("ask the matcher")?;
        if output.return_value != 0 {
            return Err(EnforceError::Full("work areas"));
        }
        T::of(&bytes).ok_or(EnforceError::Full("bytes of a door's context"))
    }
}

const PATH_BYTES: usize = 4096;
/// `ARGS_BYTES`
const ARGS_BYTES: usize = 12_288;
/// `ARGS_BUFFER`
const ARGS_BUFFER: usize = 16_384;
/// `struct door_paths`
const INPUT_BYTES: usize = size_of::<types::door_paths>();

/// What a program is started with, as it stands in its memory.
fn strings<'a>(argv0: &'a [u8], args: &'a [&'a [u8]]) -> impl Iterator<Item = u8> + 'a {
    let all = std::iter::once(argv0).chain(args.iter().copied());
    all.flat_map(|arg| arg.iter().copied().chain([0]))
}

fn place(to: &mut [u8], path: &[u8]) -> Result<u32, EnforceError> {
    if path.len() > to.len() {
        return Err(EnforceError::Full("a path is longer than 4096 bytes"));
    }
    to.iter_mut().zip(path).for_each(|(to, from)| *to = *from);
    u32::try_from(path.len()).map_err(|_| EnforceError::Full("a path is longer than 4096 bytes"))
}
