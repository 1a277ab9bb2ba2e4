//! Whether the programs take what the chart gives them: arguments, configurations, and the paths in both.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use nri_plugin::cli::{Cli, Command as Parsed};
use nri_plugin::config::{Config, DEFAULT_GATE_SOCKET, DEFAULT_OPEN_STARTS, DEFAULT_STATUS_SOCKET};
use serde_json::Value;

use super::helm::{at, config, containers, list, of_kind, pod};
use super::releases::{RELEASES, release};

#[test]
fn the_programs_take_their_arguments_and_configurations() -> Result<()> {
    for (name, values) in RELEASES {
        let objects = release(values).context(name)?;
        let pod = pod(&objects)?;
        let tests = of_kind(&objects, "Pod").filter_map(|test| test.get("spec")).flat_map(containers);
        for container in containers(pod).chain(tests) {
            let words: Vec<_> = list(container, "/args").filter_map(Value::as_str).collect();
            let line = [&["nri-enforcer"], words.as_slice()].concat();
            let cli = Cli::try_parse_from(&line).with_context(|| format!("{name}: {line:?}"))?;
            match cli.command {
                Parsed::Run(mut args) => {
                    let path = args.config.take().context("a configuration")?;
                    ensure!(path == Path::new("/etc/nri-enforcer/config.yaml"), "{name}: {path:?}");
                    let text = config(&objects, "config.yaml")?;
                    let config = daemon_takes(&text).with_context(|| format!("{name}:\n{text}"))?;
                    for socket in [&config.gate_socket, &config.status_socket] {
                        ensure!(
                            mounted(container, &socket.to_string_lossy()),
                            "{name}: {socket:?} is nowhere"
                        );
                    }
                    let kept =
                        [config.open_starts, config.bpffs].map(|path| path.to_string_lossy().into_owned());
                    let [starts, bpffs] = &kept;
                    ensure!(mounted(container, starts), "{name}: {starts} is nowhere");
                    ensure!(config.seccomp_only || mounted(container, bpffs), "{name}: {bpffs} is nowhere");
                    let state = config.state_dir.to_string_lossy().into_owned();
                    ensure!(!config.kube_api || mounted(container, &state), "{name}: {state} is nowhere");
                }
                Parsed::Install(args) if !args.uninstall => {
                    let hook = args.hook_config.context("a configuration")?;
                    ensure!(hook == Path::new("/etc/nri-enforcer/hook.json"), "{name}: {hook:?}");
                    let root = args.root.to_string_lossy().into_owned();
                    for path in [&args.hook_dir, &args.nri_socket] {
                        let path = format!("{root}{}", path.display());
                        ensure!(mounted(container, &path), "{name}: {path} is nowhere");
                    }
                }
                Parsed::Install(_) | Parsed::Unload(_) | Parsed::Alerts(_) | Parsed::Status(_) => {}
                other => anyhow::bail!("{name}: {other:?}"),
            }
        }
        hook_takes(&objects).context(name)?;
    }
    Ok(())
}

/// The daemon's parser takes the file.
fn daemon_takes(text: &str) -> Result<Config> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("config.yaml");
    std::fs::write(&path, text)?;
    let Cli { command: Parsed::Run(args) } =
        Cli::try_parse_from(["nri-enforcer", "run", "--config", &path.to_string_lossy()])?
    else {
        anyhow::bail!("not run")
    };
    let config = Config::new(*args, Some("security".into())).map_err(|error| {
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        anyhow::anyhow!("{error}: {source}")
    })?;
    ensure!(config.gate_socket == Path::new(DEFAULT_GATE_SOCKET), "another gate");
    ensure!(config.status_socket == Path::new(DEFAULT_STATUS_SOCKET), "`status` would have to be told");
    ensure!(
        config.exempt.contains("security") && config.exempt.contains("kube-system"),
        "{:?}",
        config.exempt
    );
    Ok(config)
}

/// The hook's parser takes its file, which says the same as the daemon's.
fn hook_takes(objects: &[Value]) -> Result<()> {
    let hook = nri_enforcer_hook::config::Config::parse(config(objects, "hook.json")?.as_bytes())
        .map_err(anyhow::Error::msg)?;
    ensure!(hook.socket == Path::new(DEFAULT_GATE_SOCKET), "another gate: {hook:?}");
    ensure!(hook.spool == Path::new(DEFAULT_OPEN_STARTS), "another spool: {hook:?}");
    let text = config(objects, "config.yaml")?;
    let daemon: Value = serde_yaml::from_str(&text)?;
    for namespace in list(&daemon, "/exemptNamespaces").filter_map(Value::as_str).chain(["security"]) {
        ensure!(hook.exempt.contains(namespace), "`{namespace}` is exempt for the daemon alone");
    }
    Ok(())
}

/// Whether a path is below something that is mounted into a container.
fn mounted(container: &Value, path: &str) -> bool {
    list(container, "/volumeMounts").any(|mount| Path::new(path).starts_with(at(mount, "/mountPath")))
}

#[test]
fn what_the_configuration_names_is_mounted() -> Result<()> {
    for (name, values) in RELEASES.iter().filter(|(name, _)| !name.starts_with("uninstall")) {
        let objects = release(values)?;
        let pod = pod(&objects)?;
        let daemon = list(pod, "/containers").next().context("the daemon")?;
        let text = config(&objects, "config.yaml")?;
        let file: Value = serde_yaml::from_str(&text)?;
        let one = ["/nriSocket", "/stateDir", "/alerts"].map(|key| at(&file, key));
        let many =
            ["/policyDirs", "/seccompDirs"].iter().flat_map(|key| list(&file, key)).filter_map(Value::as_str);
        for path in one.into_iter().chain(many).filter(|path| !path.is_empty()) {
            ensure!(mounted(daemon, path), "{name}: {path} is nowhere");
        }
        let volumes: Vec<_> = list(pod, "/volumes").map(|volume| at(volume, "/name")).collect();
        for container in containers(pod) {
            for mount in list(container, "/volumeMounts") {
                ensure!(volumes.contains(&at(mount, "/name")), "{name}: no volume for {mount}");
            }
        }
        // a runtime makes no directory to mount upon where it may not write
        for container in containers(pod) {
            for (read_only, path) in list(container, "/volumeMounts")
                .map(|mount| (mount.get("readOnly") == Some(&Value::from(true)), at(mount, "/mountPath")))
            {
                let within = list(container, "/volumeMounts").map(|mount| at(mount, "/mountPath"));
                let within =
                    within.filter(|other| *other != path && Path::new(other).starts_with(path)).count();
                ensure!(!read_only || within == 0, "{name}: something is mounted below the read-only {path}");
            }
        }
        for volume in &volumes {
            let used = containers(pod).flat_map(|container| list(container, "/volumeMounts"));
            ensure!(
                used.filter(|mount| at(mount, "/name") == *volume).count() > 0,
                "{name}: nothing uses {volume}"
            );
        }
        // a hook's path that its own check refuses would be no hook
        let hook = at(&file, "/hook");
        ensure!(
            hook.is_empty() || list(pod, "/initContainers").count() > 0,
            "{name}: who puts {hook} there?"
        );
    }
    Ok(())
}
