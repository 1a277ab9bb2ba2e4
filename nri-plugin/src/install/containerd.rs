//! containerd: its NRI section, and on request a base specification with the hook for each runtime.
//!
//! containerd merges the files that its configuration imports. 1.7 takes a plugin's section whole from the last file that
//! has one; 2.x merges the keys, and the last file wins. An edit of the last file that has the section is right for both.

mod required;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::edit::{Before, Edit, EditError, Toml};
use super::plan::Plan;
use super::program::{entry, found, runs};
use super::record::{Put, Record};
use super::root::Content;
use super::{Failure, Told, tool};
use crate::cli::InstallArgs;

/// The plugin of NRI, and what it is called in a configuration of version 1.
const NRI: [&str; 2] = ["io.containerd.nri.v1.nri", "nri"];
/// The plugin of CRI that has the runtimes, by the version of the configuration from 1 on.
const CRI: [&str; 3] = ["cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"];
/// Where base specifications are put.
const SPECS: &str = "/etc/containerd/nri-enforcer";
/// The type of the runtime `runc`, which the configuration need not name.
const RUNC: (&str, &str) = ("runc", "io.containerd.runc.v2");
/// Files that are imported at most.
const IMPORTS: usize = 64;
/// What a template of k3s begins with.
const TEMPLATE: &str = "{{ template \"base\" . }}\n";

/// One file of the configuration.
struct File {
    path: PathBuf,
    toml: Toml,
    edits: Vec<Edit>,
}

impl File {
    fn read(plan: &Plan, path: &Path) -> Result<Option<Self>, Failure> {
        let Some(content) = plan.read(path)? else { return Ok(None) };
        let told = |why: String| Failure::bad(format!("`{}`{why}; it is left as it is", path.display()));
        let text = String::from_utf8(content.bytes).map_err(|_| told(" is not UTF-8".into()))?;
        let toml = Toml::new(text, is_template(path)).map_err(|error| told(format!(", {error}")))?;
        Ok(Some(Self { path: path.to_owned(), toml, edits: Vec::new() }))
    }

    fn version(&self) -> Option<u64> {
        self.toml.data().get("version").and_then(Value::as_u64)
    }

    fn set(&mut self, key: &[&str], value: &str) -> Result<(), Failure> {
        let edit = self.toml.set(key, value).map_err(|error| self.fail(&error))?;
        self.edits.extend(edit);
        Ok(())
    }

    fn fail(&self, error: &EditError) -> Failure {
        Failure::no(format!("`{}`: {error}", self.path.display()))
    }
}

/// A configuration with what it imports, and what is known about the whole.
struct Configuration {
    /// The first one is the main file; later ones win.
    files: Vec<File>,
    version: u64,
    /// What containerd makes of it; `None`: not known.
    effective: Option<Value>,
}

/// What has to hold afterwards.
#[derive(Debug, Default)]
pub struct Wanted {
    nri: bool,
    /// The base specifications of runtimes.
    specs: BTreeMap<String, String>,
    /// The daemon is required.
    required: Option<required::Required>,
}

fn is_template(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "tmpl")
}

impl Configuration {
    fn read(args: &InstallArgs, plan: &Plan) -> Result<(Self, Option<String>), Failure> {
        let path = plan.resolve(&args.config)?;
        let main = File::read(plan, &path)?;
        let begin = if is_template(&path) { TEMPLATE } else { "" };
        let created = main.is_none().then(|| begin.to_owned());
        let main = match main {
            Some(main) => main,
            None => {
                let toml = Toml::new(begin.into(), is_template(&path))
                    .map_err(|error| Failure::bad(error.to_string()))?;
                File { path, toml, edits: Vec::new() }
            }
        };
        let effective = dump(args, plan, created.is_none()).map_err(|problem| {
            Failure::no(format!("containerd does not take its configuration as it is: {problem}"))
        })?;
        let data = main.toml.data();
        // A file that says nothing gets a version; one without a version is of version 1. A template is what k3s adds to its
        // own, of version 3 where its name tells.
        let version = match main.version() {
            Some(version) => version,
            None if is_template(&main.path) => {
                if main.path.to_string_lossy().contains("v3") {
                    3
                } else {
                    2
                }
            }
            None if data.as_object().is_none_or(serde_json::Map::is_empty) => 2,
            None => 1,
        };
        let mut configuration = Self { files: vec![main], version, effective };
        configuration.import(plan)?;
        Ok((configuration, created))
    }

    /// Reads what the files import.
    fn import(&mut self, plan: &Plan) -> Result<(), Failure> {
        let mut next = VecDeque::from([0]);
        while let Some(index) = next.pop_front() {
            let Some(file) = self.files.get(index) else { break };
            let data = file.toml.data();
            let dir = file.path.parent().unwrap_or(Path::new("/")).to_owned();
            let patterns = data.get("imports").and_then(Value::as_array).into_iter().flatten();
            for pattern in patterns.filter_map(Value::as_str) {
                let pattern = dir.join(pattern).to_string_lossy().into_owned();
                for path in found(plan.root(), &pattern) {
                    let path = Path::new("/").join(path.strip_prefix(plan.root().dir()).unwrap_or(&path));
                    let path = plan.resolve(&path)?;
                    if self.files.iter().any(|file| file.path == path) {
                        continue;
                    }
                    if self.files.len() > IMPORTS {
                        return Err(Failure::bad(format!("more than {IMPORTS} files are imported")));
                    }
                    if let Some(file) = File::read(plan, &path)? {
                        next.push_back(self.files.len());
                        self.files.push(file);
                    }
                }
            }
        }
        Ok(())
    }

    /// What a plugin is called in a file.
    fn name(&self, file: &File, names: [&'static str; 3]) -> &'static str {
        let [first, second, third] = names;
        match file.version().unwrap_or(self.version) {
            0 | 1 => first,
            2 => second,
            _ => third,
        }
    }

    /// The index of the last file with this section of a plugin; that of the main file where none has it.
    fn last_with(&self, names: [&'static str; 3], rest: &[&str]) -> (usize, Option<Value>) {
        let mut last = (0, None);
        for (index, file) in self.files.iter().enumerate() {
            let data = file.toml.data();
            let plugin = data.get("plugins").and_then(|plugins| plugins.get(self.name(file, names)));
            let section = plugin.and_then(|plugin| rest.iter().try_fold(plugin, |at, key| at.get(key)));
            if let Some(section) = section {
                last = (index, Some(section.clone()));
            }
        }
        last
    }

    fn nri_is_on(&self) -> bool {
        if let Some(effective) = &self.effective {
            return nri_is_on(effective);
        }
        let datas: Vec<Value> = self.files.iter().map(|file| file.toml.data()).collect();
        let section = self.last_with(NRI_NAMES, &[]).1;
        let disable = section.and_then(|section| section.get("disable").and_then(Value::as_bool));
        !datas.iter().any(nri_is_left_out) && !disable.unwrap_or(self.version < 3)
    }

    fn switch_nri_on(&mut self) -> Result<(), Failure> {
        let [uri, short] = NRI;
        for file in &mut self.files {
            for name in [uri, short] {
                let edit =
                    file.toml.without(&["disabled_plugins"], name).map_err(|error| file.fail(&error))?;
                file.edits.extend(edit);
            }
        }
        let (index, _) = self.last_with(NRI_NAMES, &[]);
        self.version_first(index)?;
        let name = self.files.get(index).map_or(uri, |file| self.name(file, NRI_NAMES));
        match self.files.get_mut(index) {
            Some(file) => file.set(&["plugins", name, "disable"], "false"),
            None => Ok(()),
        }
    }

    /// A file that says nothing has to say its version before anything else.
    fn version_first(&mut self, index: usize) -> Result<(), Failure> {
        let version = self.version;
        let Some(file) = self.files.get_mut(index) else { return Ok(()) };
        let empty = file.toml.data().as_object().is_none_or(serde_json::Map::is_empty);
        if empty && !is_template(&file.path) {
            file.set(&["version"], &version.to_string())?;
        }
        Ok(())
    }

    /// The runtimes that containers may have, with their types as far as they are known.
    fn runtimes(&self) -> BTreeMap<String, Option<String>> {
        let of = |runtimes: &Value| -> BTreeMap<String, Option<String>> {
            let typed =
                |runtime: &Value| runtime.get("runtime_type").and_then(Value::as_str).map(str::to_owned);
            let runtimes = runtimes.as_object().into_iter().flatten();
            runtimes.map(|(name, runtime)| (name.clone(), typed(runtime))).collect()
        };
        if let Some(effective) = &self.effective {
            return runtimes_of(effective).map(of).unwrap_or_default();
        }
        let mut all = BTreeMap::new();
        for file in &self.files {
            let data = file.toml.data();
            let cri = data.get("plugins").and_then(|plugins| plugins.get(self.name(file, CRI)));
            all.extend(cri.and_then(|cri| cri.pointer("/containerd/runtimes")).map(of).unwrap_or_default());
        }
        if all.is_empty() {
            all.insert(RUNC.0.into(), Some(RUNC.1.into()));
        }
        all
    }

    /// The base specification that a runtime has now.
    fn spec_of(&self, runtime: &str) -> Option<String> {
        let section = match &self.effective {
            Some(effective) => runtimes_of(effective).and_then(|runtimes| runtimes.get(runtime)).cloned(),
            None => self.last_with(CRI, &["containerd", "runtimes", runtime]).1,
        };
        let spec = section.as_ref()?.get("base_runtime_spec")?.as_str()?;
        (!spec.is_empty()).then(|| spec.to_owned())
    }

    fn set_spec(&mut self, runtime: &str, kind: Option<&str>, spec: &str) -> Result<(), Failure> {
        let (mut index, section) = self.last_with(CRI, &["containerd", "runtimes", runtime]);
        if section.is_none() {
            index = self.last_with(CRI, &[]).0;
        }
        self.version_first(index)?;
        let cri = self.files.get(index).map_or(RUNC.0, |file| self.name(file, CRI));
        let Some(file) = self.files.get_mut(index) else { return Ok(()) };
        let key = |name| ["plugins", cri, "containerd", "runtimes", runtime, name];
        // A table that was not there takes the place of the default one, which had a type.
        if let (None, Some(kind)) = (&section, kind) {
            file.set(&key("runtime_type"), &Value::from(kind).to_string())?;
        }
        file.set(&key("base_runtime_spec"), &Value::from(spec).to_string())
    }
}

const NRI_NAMES: [&str; 3] = [NRI[1], NRI[0], NRI[0]];

/// Puts it into the plan.
///
/// # Errors
/// When the configuration is none, or cannot be edited.
pub fn put(
    args: &InstallArgs,
    plan: &mut Plan,
    record: &mut Record,
    told: &mut Told,
) -> Result<Wanted, Failure> {
    let (mut configuration, created) = Configuration::read(args, plan)?;
    let mut wanted = Wanted { nri: true, ..Wanted::default() };
    if !configuration.nri_is_on() {
        configuration.switch_nri_on()?;
    }
    if args.base_runtime_spec {
        wanted.specs = specs(args, plan, record, told, &mut configuration)?;
    }
    if args.required_plugin {
        required::put(args, record, &mut configuration, &mut wanted, told)?;
    }
    let main = configuration.files.first().map(|file| file.path.clone());
    for File { path, toml, edits } in configuration.files.into_iter().filter(|file| !file.edits.is_empty()) {
        if let (Some(created), true) = (&created, Some(&path) == main.as_ref()) {
            record.created.insert(path.clone(), created.clone());
        }
        plan.edit(&path, toml.text().into())?;
        record.edits.extend(edits.into_iter().map(|edit| (path.clone(), edit)));
    }
    if configuration.effective.is_none() {
        let why = if is_template(&args.config) {
            "it is a template"
        } else {
            "there is no `containerd` that can be run"
        };
        told.note(format!("`containerd config dump` has not checked the configuration: {why}"));
    }
    Ok(wanted)
}

/// Gives every runtime a base specification with the hook.
fn specs(
    args: &InstallArgs,
    plan: &mut Plan,
    record: &mut Record,
    told: &mut Told,
    configuration: &mut Configuration,
) -> Result<BTreeMap<String, String>, Failure> {
    if is_template(&args.config) {
        return Err(Failure::no(format!(
            "`{}` is a template, so it is not known which runtimes there are: leave --base-runtime-spec out, and set \
             base_runtime_spec of each by hand",
            args.config.display()
        )));
    }
    // containerd 2.1 does not see the runtimes of such a configuration
    if configuration.version < 2 {
        return Err(Failure::no(format!(
            "`{}` is of version 1: bring it up to date first (`containerd config migrate`)",
            args.config.display()
        )));
    }
    let mut specs = BTreeMap::new();
    for (runtime, kind) in configuration.runtimes() {
        if runtime.contains(['/', '\0']) {
            return Err(Failure::no(format!("`{runtime}` is no name of a runtime")));
        }
        let path = format!("{SPECS}/base-{runtime}.json");
        let before = configuration.spec_of(&runtime);
        let named = before.as_ref() == Some(&path);
        let is = plan.read(Path::new(&path))?;
        let about = |problem| Failure::no(format!("the base specification of `{runtime}` {problem}"));
        if let (true, Some(is)) = (named, &is) {
            // an earlier run's, perhaps written again by somebody since
            if let Some(repaired) = with_hook(&is.bytes, &record.hook).map_err(|problem| {
                about(format!("(`{path}`) {problem}: remove the file, then install again"))
            })? {
                plan.set(Path::new(&path), Some(Content { bytes: repaired.into(), ..is.clone() }))?;
                told.note(format!("`{path}` had lost the hook, and gets it again; the rest of it stays"));
            }
        } else {
            let base = if named { original(record, &runtime) } else { before };
            let spec = base_spec(args, plan, &runtime, base.as_deref())?;
            let spec = match with_hook(&spec, &record.hook).map_err(about)? {
                Some(spec) => spec.into_bytes(),
                None => spec, // of a base that has it already
            };
            let put = record.put(plan, Path::new(&path), Content::new(spec, 0o644))?;
            if let (Put::Kept, Some(is)) = (put, is) {
                if !matches!(with_hook(&is.bytes, &record.hook), Ok(None)) {
                    return Err(Failure::no(format!(
                        "`{path}` is there, was not put there by this command or was changed by hand, and has no hook: remove \
                         it, then install again"
                    )));
                }
                told.note(format!("`{path}` was changed by hand, and stays as it is"));
            }
            if let Some(base) = base {
                told.note(format!(
                    "`{path}` is `{base}` with the hook: after a change there, uninstall and install"
                ));
            }
        }
        configuration.set_spec(&runtime, kind.as_deref(), &path)?;
        specs.insert(runtime, path);
    }
    match specs.is_empty() {
        true => Err(Failure::no("containerd has no runtimes: is CRI among its `disabled_plugins`?")),
        false => Ok(specs),
    }
}

/// The specification that a runtime had before ours; `None`: none of its own.
fn original(record: &Record, runtime: &str) -> Option<String> {
    let of_runtime = |key: &[String]| key.ends_with(&[runtime.to_owned(), "base_runtime_spec".to_owned()]);
    let edits = record.edits.iter().rev().filter(|(_, edit)| of_runtime(&edit.key));
    let before = edits.filter_map(|(_, edit)| match &edit.before {
        Before::Value(text) => toml_edit::de::from_str::<Value>(&format!("spec = {text}")).ok(),
        Before::Added(_) => None,
    });
    let specs = before.filter_map(|value| value.get("spec").and_then(Value::as_str).map(str::to_owned));
    specs.into_iter().find(|spec| !spec.is_empty() && !Path::new(spec).starts_with(SPECS))
}

/// A base specification, as a runtime has it without ours; without one, what `ctr` prints.
fn base_spec(args: &InstallArgs, plan: &Plan, runtime: &str, base: Option<&str>) -> Result<Vec<u8>, Failure> {
    if let Some(base) = base {
        let content = plan.read(Path::new(base))?.map(|content| content.bytes);
        return content.ok_or_else(|| {
            Failure::no(format!("the base specification `{base}` of `{runtime}` is not there"))
        });
    }
    let printed = tool::output(plan.root(), &args.ctr, &["oci", "spec"]).map_err(Failure::no)?;
    printed.map(String::into_bytes).ok_or_else(|| {
        Failure::no(format!(
            "there is no `{}`, which prints the specification: name it with --ctr",
            args.ctr.display()
        ))
    })
}

/// A specification with the hook behind those that it has; `None`: it has it already.
fn with_hook(spec: &[u8], hook: &Path) -> Result<Option<String>, String> {
    let mut spec: Value = serde_json::from_slice(spec).map_err(|error| format!("is no JSON: {error}"))?;
    let hooks = spec.as_object_mut().ok_or("is no object")?.entry("hooks").or_insert_with(|| json!({}));
    if hooks.is_null() {
        *hooks = json!({});
    }
    let mut changed = false;
    for stage in ["createRuntime", "poststop"] {
        let stages = hooks.as_object_mut().ok_or("has `hooks` that are no object")?;
        let list = stages.entry(stage).or_insert_with(|| json!([]));
        if list.is_null() {
            *list = json!([]);
        }
        let list = list.as_array_mut().ok_or("has hooks that are no list")?;
        let wanted = entry(hook, stage, &[]);
        if !list.iter().any(|one| runs(one, &wanted)) {
            list.push(wanted);
            changed = true;
        }
    }
    Ok(changed.then(|| format!("{spec:#}\n")))
}

/// What containerd makes of its configuration; `None`: not known. Without a file (`there`), what it has by default.
fn dump(args: &InstallArgs, plan: &Plan, there: bool) -> Result<Option<Value>, String> {
    if is_template(&args.config) {
        return Ok(None);
    }
    let path = args.config.to_string_lossy();
    let at = plan.root().dir().join(path.trim_start_matches('/'));
    let path = if plan.root().is_own() { at.to_string_lossy().into_owned() } else { path.into_owned() };
    let arguments: &[&str] =
        if there { &["--config", &path, "config", "dump"] } else { &["config", "default"] };
    let Some(text) = tool::output(plan.root(), &args.containerd, arguments)? else { return Ok(None) };
    let data: Value =
        toml_edit::de::from_str(&text).map_err(|error| format!("it prints no TOML: {error}"))?;
    Ok(Some(data))
}

/// Asks containerd what it makes of the configuration as it is now.
///
/// # Errors
/// When it does not take it, or makes something else of it.
pub fn check(args: &InstallArgs, plan: &Plan, wanted: &Wanted) -> Result<(), Failure> {
    let there = plan.root().at(&args.config).exists();
    let refused = |problem| {
        Failure::no(format!("containerd does not take the configuration, so nothing is changed: {problem}"))
    };
    let Some(effective) = dump(args, plan, there).map_err(refused)? else { return Ok(()) };
    if wanted.nri && !nri_is_on(&effective) {
        return Err(Failure::no(
            "nothing is changed: with the edit NRI would still be off (`containerd config dump`); has this containerd NRI \
             (1.7 and later)?",
        ));
    }
    if wanted.required.as_ref().is_some_and(|required| !required.holds(&effective)) {
        return Err(Failure::no(
            "nothing is changed: with the edit the daemon would not be required (`containerd config dump`); has this containerd \
             NRI's default validator (2.2 and later)?",
        ));
    }
    let runtimes = runtimes_of(&effective);
    for (runtime, spec) in &wanted.specs {
        let runtime_now = runtimes.and_then(|runtimes| runtimes.get(runtime));
        let text = |key| runtime_now.and_then(|now| now.get(key)).and_then(Value::as_str).unwrap_or_default();
        if text("base_runtime_spec") != spec || text("runtime_type").is_empty() {
            return Err(Failure::no(format!(
                "nothing is changed: with the edit the runtime `{runtime}` would not have the base specification `{spec}` \
                 (`containerd config dump`)"
            )));
        }
    }
    Ok(())
}

fn nri_is_left_out(data: &Value) -> bool {
    let out = data.get("disabled_plugins").and_then(Value::as_array).into_iter().flatten();
    out.filter_map(Value::as_str).any(|name| NRI.contains(&name))
}

fn nri_is_on(effective: &Value) -> bool {
    let [uri, _] = NRI;
    let disable =
        effective.get("plugins").and_then(|plugins| plugins.get(uri)).and_then(|nri| nri.get("disable"));
    !nri_is_left_out(effective) && disable == Some(&Value::Bool(false))
}

fn runtimes_of(effective: &Value) -> Option<&Value> {
    let plugins = effective.get("plugins")?;
    CRI.iter().rev().find_map(|cri| plugins.get(*cri)?.pointer("/containerd/runtimes"))
}

/// The files that the record names as edited.
#[must_use]
pub fn edited(record: &Record) -> BTreeSet<PathBuf> {
    record.edits.iter().map(|(path, _)| path.clone()).collect()
}
