//! Paths that are links: in images, and in the volumes of secrets and tokens.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::image;
use lab::node::Container;
use lab::testing::Node;

use crate::{DENIED, LABEL, OPENED, text};

/// An image as distributions make them today: `/bin` is a link to `usr/bin`. A policy that says `/bin/ls` means the
/// program, by whatever name; so does a source. One of a busybox system does not mean every program.
pub async fn links(node: &mut Node) -> Result<()> {
    let root = std::path::Path::new("/run/merged");
    std::fs::create_dir_all(root.join("usr/bin"))?;
    std::fs::create_dir_all(root.join("etc"))?;
    for name in ["usr/bin/ls", "usr/bin/cat", "usr/bin/busybox", "usr/bin/toybox"] {
        std::fs::write(root.join(name), image::FIRST)?;
        std::fs::set_permissions(root.join(name), std::fs::Permissions::from_mode(0o755))?;
    }
    for file in ["etc/passwd", "etc/group"] {
        std::fs::write(root.join(file), "root:x:0:0:root:/:/bin/sh\n")?;
    }
    let links = [
        ("bin", "usr/bin"),
        ("usr/bin/vi", "busybox"),
        ("usr/bin/more", "busybox"),
        ("usr/bin/ed", "toybox"),
    ];
    for (link, target) in links {
        std::os::unix::fs::symlink(target, root.join(link))?;
    }
    std::fs::write("/run/merged.tar", image::user_root(root)?)?;
    node.runtime.import("/run/merged.tar")?;

    let policy = |body: &str| {
        format!(
            "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {{name: links, namespace: default}}\n\
             spec:\n  selector: {{matchLabels: {{app: my-web-app}}}}\n{body}"
        )
    };
    let programs = "  process: {matchPaths: [{path: /bin/ls}, {path: /bin/vi}, {path: /bin/ed}]}\n  \
                    file: {matchPaths: [{path: /etc/passwd, fromSource: [{path: /bin/cat}]}]}\n";
    node.daemon.apply("policy.yaml", &policy(programs)).await?;
    let web = node.pod("default", "web", &[LABEL]).await?;
    let merged = Container { image: image::USER_IMAGE.into(), privileged: true, ..Container::idle("merged") };
    let running = node.cri.create(&web, &merged, 0).await?;
    node.cri.start(&running).await?;
    // runtimes report a program that may not be executed in their own ways
    const NOT_EXECUTED: i32 = 126;
    let outcome = |exit| if [OPENED, DENIED].contains(&exit) { exit } else { NOT_EXECUTED };
    for (program, wanted, what) in [
        ("/bin/ls", NOT_EXECUTED, "the program by the policy's name"),
        ("/usr/bin/ls", NOT_EXECUTED, "the program by the kernel's name"),
        ("/proc/self/root/bin/ls", NOT_EXECUTED, "the program by another way"),
        ("/usr/bin/cat", DENIED, "what the source may not open"),
        ("/bin/cat", DENIED, "the same by the policy's name"),
        ("/bin/vi", NOT_EXECUTED, "one name of a program of many, by the policy's name"),
        ("/usr/bin/vi", NOT_EXECUTED, "the same by the kernel's name"),
        ("/bin/busybox", OPENED, "a program of many names"),
        ("/bin/more", OPENED, "another of its names"),
    ] {
        let exit = node.exec(&running, program).await?.exit;
        node.check(what, outcome(exit), wanted);
    }
    let alerts =
        node.daemon.wait_for_alert(Duration::from_secs(10), |a| a["Resource"] == "/usr/bin/ls").await?;
    let alert = alerts.iter().find(|a| a["Resource"] == "/usr/bin/ls").context("no alert")?;
    node.check("the alert's rule", text(&alert["Rule"]), "spec.process.matchPaths[0]".to_owned());
    node.check("the alert has both names", text(&alert["Data"]).contains("written=\"/bin/ls\""), true);
    let log = node.daemon.whole_log();
    node.check("the log tells the link", log.contains("/bin/ls (resolves to /usr/bin/ls)"), true);
    node.check("the log tells what is not followed", log.contains("program of many names"), true);

    // again when the policies change
    node.daemon
        .apply("policy.yaml", &policy("  process: {matchPaths: [{path: /bin/more}, {path: /bin/cat}]}\n"))
        .await?;
    for (program, wanted) in [("/usr/bin/ls", OPENED), ("/usr/bin/cat", NOT_EXECUTED)] {
        let exit = node.exec(&running, program).await?.exit;
        node.check(&format!("{program} under other policies"), outcome(exit), wanted);
    }
    Ok(())
}

/// A volume as kubelet makes it: `token -> ..data/token`, `..data ->` the directory of the day. A rule about the token
/// holds before and after it is rotated; so do a rule about the directory, and one that allows.
pub async fn volumes(node: &mut Node) -> Result<()> {
    let volume = std::path::Path::new("/run/volume");
    let rotate = |day: &str| -> Result<()> {
        std::fs::create_dir_all(volume.join(day))?;
        for file in ["token", "ca.crt"] {
            std::fs::write(volume.join(day).join(file), format!("{file} of {day}\n"))?;
        }
        std::os::unix::fs::symlink(day, volume.join("..data_tmp"))?;
        let before = std::fs::read_link(volume.join("..data")).ok();
        std::fs::rename(volume.join("..data_tmp"), volume.join("..data"))?;
        before.map_or(Ok(()), |before| std::fs::remove_dir_all(volume.join(before)))?;
        Ok(())
    };
    rotate("..2026_11_22_10_00_00.1")?;
    for file in ["token", "ca.crt"] {
        std::os::unix::fs::symlink(format!("..data/{file}"), volume.join(file))?;
    }
    let seen = "/var/run/secrets/kubernetes.io/serviceaccount";
    let policy = |rules: &str| {
        format!(
            "apiVersion: security.kubearmor.com/v1\nkind: KubeArmorPolicy\nmetadata: {{name: token, namespace: default}}\n\
             spec:\n  selector: {{matchLabels: {{app: my-web-app}}}}\n  file:\n    {rules}\n"
        )
    };
    node.daemon.apply("policy.yaml", &policy(&format!("matchPaths: [{{path: {seen}/token}}]"))).await?;
    let web = node.pod("default", "web", &[LABEL]).await?;
    let mounts = vec![(volume.to_string_lossy().into_owned(), seen.to_owned())];
    let container = Container { mounts, ..Container::idle("main") };
    let running = node.cri.create(&web, &container, 0).await?;
    node.cri.start(&running).await?;

    let mut day = 22;
    // (rules, what is denied, what is not)
    let by_directory = format!("matchDirectories: [{{dir: {seen}/}}]");
    for (rules, denied, open) in
        [(None, &["token"][..], &["ca.crt"][..]), (Some(by_directory.as_str()), &["token", "ca.crt"], &[])]
    {
        if let Some(rules) = rules {
            node.daemon.apply("policy.yaml", &policy(rules)).await?;
        }
        for when in ["before", "after one", "after two"] {
            for (files, wanted) in [(denied, 1), (open, 0)] {
                for file in files {
                    let exit = node.exec(&running, &format!("cat {seen}/{file}")).await?.exit;
                    node.check(&format!("{file} {when}, {}", rules.unwrap_or("by its path")), exit, wanted);
                }
            }
            day += 1;
            rotate(&format!("..2026_11_{day}_10_00_00.{day}"))?;
        }
    }
    let alerts = node
        .daemon
        .wait_for_alert(Duration::from_secs(10), |a| text(&a["Resource"]).ends_with("/token"))
        .await?;
    let written = format!("written=\"{seen}/token\"");
    node.check(
        "alerts name the path of the policy",
        alerts.iter().any(|a| text(&a["Data"]).contains(&written)),
        true,
    );
    Ok(())
}
