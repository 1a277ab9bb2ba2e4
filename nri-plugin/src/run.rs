//! `run`: the daemon, put together.
//!
//! ```text
//! API server ------+
//! directories -> watch -> PolicySet -> plugin  (is it selected? may it be created?)
//!                             |          | orders
//!                             +----> reconciler (one thread) -> kernel
//!                                        ^ orders
//!                    OCI hook <-> gate --+        `status` <- window <- registry
//! kernel -> events (one thread) -> alerts (one thread) -> stdout or file
//! ```

mod begin;
mod denials;
mod events;
mod look;
mod news;
mod open_starts;
mod pages;
mod ready;
mod sweep;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use enforcer_core::coverage::GapReason;
use enforcer_core::enforce::ContainerId;
use nri_enforcer_hook::spool::OpenStart;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, oneshot, watch};

use self::begin::{seccomp, stub};
use self::denials::Denials;
pub(crate) use self::denials::Unheard;
use self::events::{Events, Thread};
use self::look::Look;
use self::news::News;
use self::pages::{Pulses, pages};
use self::ready::{Waiting, observe, remove_ready};
use self::sweep::{ring_dropped, sweep};
use crate::alert::Alerts;
use crate::api::Api;
use crate::api::reports::Reports;
use crate::apparmor;
use crate::apply::changes::{Changes, Found, News as OfChange, revert_left};
use crate::apply::serve::{Clerks, Desk};
use crate::audit::NotedFiles;
use crate::config::Config;
use crate::connection::Connection;
use crate::container::Selection;
use crate::exit::chain;
use crate::explain::inquiry::Inquiry;
use crate::feed::{self, Feed};
use crate::gate::Gate;
use crate::gate::podman::PodmanGate;
use crate::gate::strangers::Strangers;
use crate::host;
use crate::inject::{self, Injection};
use crate::kernel::{Kernel, Unopened, open_selinux};
use crate::learn::serve::Observatory;
use crate::lock::{self, Chosen, Lock};
use crate::memory;
use crate::metrics::health;
use crate::metrics::timed::Timed;
use crate::metrics::{self, Metrics};
use crate::observe::logs::Logs;
use crate::observe::watches::Watches;
use crate::order::{Notice, Order};
use crate::parts::Parts;
use crate::plugin::Plugin;
use crate::podman::Podman;
use crate::procs::Procs;
use crate::reconciler::Reconciler;
use crate::registry::Registry;
use crate::report::Reporter;
use crate::set::PolicySet;
use crate::status::serve::{Status, Window};
use crate::store::{Problem, Reload, Store};
use crate::top::source::Source;

/// How often policies are read again, failures tried again, and the end of containers looked for.
const RESCAN: Duration = Duration::from_secs(30);
/// Threads for the connection and the watch. There is little for them to do, and each holds memory of its own.
const WORKERS: usize = 2;
/// How long alerts may take to be written out at the end.
const DRAIN: Duration = Duration::from_secs(2);

/// Runs the daemon until a signal. `open` loads and attaches the BPF programs, `apparmor` finds out whether profiles can be
/// loaded; see [`lock::choose`]. Neither is called where only seccomp policies are to be enforced, and they may fail where
/// there is no other policy.
///
/// # Errors
/// When it cannot start, or a part of it fails that it cannot do without.
pub fn run<K: Kernel>(
    config: Config,
    open: impl FnOnce(&Config) -> Result<K, Unopened>,
    apparmor: impl FnOnce() -> Result<apparmor::Profiles, Unopened>,
) -> anyhow::Result<()> {
    run_with(config, open, apparmor, <[Parts; 2]>::default())
}

/// The same, with what its parts are started in: those that end with the daemon at once, and those that are given time.
fn run_with<K: Kernel>(
    mut config: Config,
    open: impl FnOnce(&Config) -> Result<K, Unopened>,
    apparmor: impl FnOnce() -> Result<apparmor::Profiles, Unopened>,
    parts: [Parts; 2],
) -> anyhow::Result<()> {
    if let Err(error) = memory::take_small_pages() {
        tracing::warn!(%error, "cannot turn huge pages off; the daemon takes more memory than it needs");
    }
    if let Some(path) = &config.ready_file {
        remove_ready(path)?;
    }
    for dir in &config.policy_dirs {
        std::fs::read_dir(dir)
            .with_context(|| format!("cannot list the policy directory `{}`", dir.display()))?;
    }
    let left = revert_left(&config.policy_dirs);
    let mut store = Store::new(config.policy_dirs.clone()).judging(config.file.clone(), config.strict);
    let mut api = None;
    if config.kube_api {
        let loaded = Api::load(config.kubeconfig.clone(), &config.state_dir)
            .context("the last known policies of the API server have no place")?;
        let loaded = match config.host.enforce {
            true => loaded.with_labels_of(&config.node_name),
            false => loaded,
        };
        store = store.with_api(loaded.snapshots());
        api = Some(loaded);
    }
    let mut news = News::default();
    let reload = store.reload();
    news.tell(&reload);
    if config.strict
        && let Some(problem) = reload.problems.iter().find(|one| matches!(one, Problem::Untrusted { .. }))
    {
        // without what it is to read the daemon would enforce less than it is told to
        anyhow::bail!("{problem} (--strict); {}", problem.help().unwrap_or_default());
    }
    if reload.set.is_empty() {
        tracing::warn!("there is no policy yet; nothing is enforced until one comes");
    }
    let set = reload.set;
    // of the API server anything may come
    let only_seccomp = !config.kube_api && set.policies().is_empty() && !set.seccomp().is_empty();
    let chosen = match config.seccomp_only {
        true => Ok(Chosen::nothing()),
        false => lock::choose(&config, open, apparmor, || open_selinux(&config)),
    };
    let chosen = match chosen {
        Err(error) if only_seccomp => {
            tracing::warn!("{error:#}");
            Chosen::nothing()
        }
        chosen => chosen?,
    };
    memory::give_back(); // loading programs takes many times what is kept of it
    config.seccomp_only |= only_seccomp && chosen.lock == Lock::Nothing;
    chosen.tell(&config);
    if chosen.lock == Lock::Nothing {
        let why = if config.seccomp_only { GapReason::OtherThanSeccomp } else { GapReason::NoLock };
        news.unenforced(why, &set);
    }
    serve(&config, store, api, (news, left), set, chosen, parts)
}

fn serve(
    config: &Config,
    store: Store,
    api: Option<Api>,
    news: (News, Found),
    set: Arc<PolicySet>,
    chosen: Chosen,
    parts: [Parts; 2],
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("cannot start tokio")?;
    let result = runtime.block_on(daemon(config, store, api, news, set, chosen, parts));
    // a reading of a hanging file system must not keep the process
    runtime.shutdown_timeout(DRAIN);
    if let Some(path) = &config.ready_file {
        let _unimportant = remove_ready(path);
    }
    result
}

async fn daemon(
    config: &Config,
    store: Store,
    api: Option<Api>,
    (mut news, left): (News, Found),
    set: Arc<PolicySet>,
    Chosen { lock, kernel, profiles, uncombined, .. }: Chosen,
    [mut parts, mut ending]: [Parts; 2],
) -> anyhow::Result<()> {
    let kernel = Arc::new(kernel);
    let node = host::Node::new(&config.host, &config.node_name);
    let host_exempt = host::begin(kernel.as_ref(), &config.host);
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;

    let alerts = Alerts { cluster_name: config.cluster_name.clone(), host_name: config.node_name.clone() };
    let counted = Metrics::default();
    let (reporter, writer) =
        Reporter::start(config.alerts.clone(), config.rotation, alerts.clone(), &counted)
            .context("cannot open the alerts file")?;
    let feed = Feed::new(alerts.clone());
    let callers = match &config.feed {
        Some(address) => Some(feed::serve::open(address).await?),
        None => None,
    };
    let reporter = reporter.with_feed(Arc::clone(&feed));
    let (logs, log_reporter, log_writer) = Logs::open(config, alerts.clone(), &counted, Arc::clone(&feed))
        .context("cannot open the logs file")?;
    let reports = api.as_ref().filter(|_| config.kube_status).map(|api| {
        let (node_name, namespace) = (&config.node_name, config.own_namespace.clone());
        api.reports(node_name, namespace, config.kube_status_interval, &counted)
    });
    let refusals = reports.as_ref().map(Reports::refusals);
    let gate = Gate::open(&config.gate_socket)?;
    let window = Window::open(&config.status_socket)?;
    let desk = Desk::open(&config.admin_socket)?;
    let listener = match config.metrics {
        Some(address) => Some(metrics::serve::open(address).await?),
        None => None,
    };
    let registry = Arc::new(Registry::default());
    let gate = gate.telling(refusals.clone().map(|refusals| refusals.at_gate(Arc::clone(&registry))));
    let watches = Arc::new(Watches::default());
    let stop = Arc::new(AtomicBool::new(false));
    let pulses = Pulses::default();
    counted.read_policies(news.problems(), true);
    let noted = {
        let kernel = Arc::clone(&kernel);
        Box::new(move || kernel.noted())
    };
    let whose = (profiles.as_ref(), noted as NotedFiles);
    let (denials, unheard) = Denials::listen(lock, &registry, whose, &stop, (&alerts, &reporter));
    let events = Events {
        denials,
        registry: Arc::clone(&registry),
        alerts: alerts.clone(),
        reporter: reporter.clone(),
        metrics: counted.clone(),
        rate: config.alert_rate,
        logs,
        watches: Arc::clone(&watches),
        pulse: Arc::clone(&pulses.events),
        stop: Arc::clone(&stop),
    };
    let mut events = events.read(&kernel)?;

    let (policies, seen) = watch::channel(set);
    let selection = Selection {
        postures: config.postures,
        visibility: config.visibility,
        watches: Arc::clone(&watches),
        exempt: config.exempt.clone(),
        strict: config.strict,
        lock,
        must_hold: config.hook.as_deref().is_some_and(inject::is_shut),
        honour_pod_annotations: config.honour_pod_annotations,
        seccomp_only: config.seccomp_only,
        host: (config.host.enforce && host_exempt.is_ok()).then_some(config.host.postures),
        ..Selection::default()
    };
    news.host(selection.holds_host(), &seen.borrow());
    let notify = {
        let (alerts, reporter) = (alerts.clone(), reporter.clone());
        move |notice: Notice| reporter.report(alerts.notice(&notice, SystemTime::now()))
    };
    let seccomp = Arc::new(seccomp(config, &selection, &registry, Box::new(notify.clone())));
    seccomp.refresh(&seen.borrow(), true);
    if let Some(profiles) = &profiles {
        profiles.ask(apparmor::about(&selection, &seen, &registry));
        profiles.waits(apparmor::awaits(&selection, &seen, &registry));
        let pulse = Arc::clone(&pulses.reconciler);
        profiles.gives_signs(Box::new(move || pulse.beat()));
    }
    {
        let registry = Arc::clone(&registry);
        kernel.lacking(Box::new(move |id, what| registry.lacks(id, what)));
    }
    let reconciler = Reconciler::new(
        Arc::clone(&kernel),
        selection.clone(),
        seen.clone(),
        Arc::clone(&registry),
        Procs::default(),
        Box::new(notify.clone()),
    );
    let (orders, taken) = channel();
    let mut reconciler = Thread::spawn("reconciler", move || {
        reconciler.run(&taken);
        Ok(())
    })?;

    let mut host = None;
    let mut enter_host = {
        let (node, registry, orders) = (node.clone(), Arc::clone(&registry), orders.clone());
        let holds = selection.holds_host();
        move |set: &PolicySet| {
            let now = holds.then(|| node.subject(set.node()));
            if let Some(now) = now.filter(|now| host.as_ref() != Some(now)) {
                host::enter(&now, &registry, &orders);
                host = Some(now);
            }
        }
    };
    enter_host(&seen.borrow());

    let nudge = Arc::new(Notify::new());
    {
        let (dirs, nudge, orders) = (config.policy_dirs.clone(), Arc::clone(&nudge), orders.clone());
        let (seccomp, counted) = (Arc::clone(&seccomp), counted.clone());
        let each = move |reload: &Reload| {
            news.tell(reload);
            counted.read_policies(reload.problems.len(), reload.changed);
            tokio::task::block_in_place(|| seccomp.refresh(&reload.set, reload.changed));
            if reload.changed {
                enter_host(&reload.set);
                let _ending = orders.send(Order::PoliciesChanged);
            }
        };
        let watching = crate::watch::watch(store, dirs, RESCAN, policies, nudge, each);
        parts.start("the watch of the policies", watching);
    }
    let of_change = {
        let (alerts, reporter) = (alerts.clone(), reporter.clone());
        Box::new(move |news: OfChange<'_>| reporter.report(alerts.change(news, SystemTime::now())))
    };
    let changes = Changes::new(&config.policy_dirs, left, selection.clone(), Arc::clone(&nudge), of_change);
    let observatory = {
        let kernel = Arc::clone(&kernel);
        let dropped = Box::new(move || ring_dropped(kernel.as_ref()));
        Observatory::new(selection.clone(), seen.clone(), Arc::clone(&registry), orders.clone(), dropped)
    };
    let api_health = api.as_ref().map(Api::health);
    let (end_api, api_ends) = oneshot::channel::<()>();
    if let Some(api) = api {
        ending.start_fallible("following the API server", api.run(api_ends));
    }
    let lost = {
        let (alerts, reporter) = (alerts.clone(), reporter.clone());
        move |count| reporter.report(alerts.ring_full(count, SystemTime::now()))
    };
    let open_start = {
        let (alerts, reporter) = (alerts.clone(), reporter.clone());
        move |start: &OpenStart| {
            reporter.hand_on(alerts.notice(&Notice::Open(start.clone()), SystemTime::now()))
        }
    };
    let open_starts = open_starts::watch(config.open_starts.clone(), open_starts::EVERY, open_start);
    parts.start("the watch of the hook's open starts", open_starts);
    parts.start("the sweep", sweep(Arc::clone(&kernel), orders.clone(), RESCAN, lost));
    let pinging = health::watch(orders.clone(), Arc::clone(&pulses.reconciler), health::ASK);
    parts.start("the watch of the reconciler", pinging);

    let (synced, is_synced) = watch::channel(false);
    let injection = Arc::new(Injection::new(config.hook.clone(), Box::new(notify)));
    let strangers = Arc::new(Strangers::new(Procs::default()));
    let podman = Arc::new(PodmanGate::new(
        config.podman_storage.clone().map_or_else(Podman::detect, Podman::new),
        selection.clone(),
        seen.clone(),
        Arc::clone(&registry),
        Arc::clone(&seccomp),
        apparmor::for_podman(profiles.as_ref(), &selection),
        Arc::clone(&strangers),
    ));
    let given = {
        let (seccomp, seen) = (Arc::clone(&seccomp), seen.clone());
        Arc::new(move |id: &ContainerId| seccomp.given(&Arc::clone(&seen.borrow()), id))
    };
    let stub = stub(config)?;
    let connection = Connection::new(stub.as_ref().map(nri::Stub::state), is_synced);
    match &stub {
        Some(_) => {
            tokio::spawn(Arc::clone(&podman).find_armed(Arc::clone(&kernel), orders.clone()));
        }
        None => {
            let look = Look {
                podman: Arc::clone(&podman),
                kernel: Arc::clone(&kernel),
                procs: Procs::default(),
                profiles: profiles.clone(),
                seccomp: Arc::clone(&seccomp),
                policies: seen.clone(),
                orders: orders.clone(),
                synced: synced.clone(),
            };
            parts.start("the look for what runs", look.until_complete(RESCAN));
        }
    }
    let looking = Arc::clone(&podman);
    let looking = looking.look_on(Arc::clone(&kernel), Procs::default(), orders.clone(), RESCAN);
    parts.start("the look for what podman runs", looking);
    parts.start(
        "the gate of the OCI hook",
        gate.serve(
            orders.clone(),
            connection.clone(),
            Arc::clone(&injection),
            given,
            podman,
            counted.clone(),
        ),
    );
    let status = Status {
        selection: selection.clone(),
        policies: seen.clone(),
        registry: Arc::clone(&registry),
        seccomp: Arc::clone(&seccomp),
        connection: connection.clone(),
        strangers,
        injection: Arc::clone(&injection),
        api: api_health.clone(),
        profiles: profiles.clone(),
        node_name: config.node_name.clone(),
        node,
        host_exempt,
        uncombined,
        changes: Arc::clone(&changes),
        unheard,
    };
    let status = Arc::new(status);
    let looking = Box::new(Arc::clone(&kernel));
    let inquiry = Inquiry::new(Arc::clone(&status), looking, orders.clone(), Procs::default());
    let source = Source::new(Arc::clone(&status), Box::new(Arc::clone(&kernel)), counted.tally.clone());
    let (inquiry, source) = (Arc::new(inquiry), Arc::new(source));
    let clerks =
        Clerks { changes, inquiry, source, observatory: Arc::clone(&observatory), feed: Arc::clone(&feed) };
    parts.start("the socket of `apply`", desk.serve(clerks));
    let mut pages = pages(&counted, &status, &kernel, pulses, reporter.writer());
    feed.register(pages.registry.sub_registry_with_prefix(metrics::PREFIX));
    if let Some(callers) = callers {
        parts.start_fallible("the alert feed", feed::serve::serve(callers, feed));
    }
    if let Some(listener) = listener {
        parts.start("the page of metrics", metrics::serve::serve(listener, Arc::new(pages)));
    }
    let (end_reports, reports_end) = oneshot::channel::<()>();
    if let Some(reports) = reports {
        ending.start_fallible("telling the cluster", reports.run(Arc::clone(&status), reports_end));
    }
    parts.start("the socket of `status`", window.serve(status));
    let plugin = Plugin::new(selection, seen, registry, injection, seccomp, orders.clone(), synced);
    let plugin = Timed::new(plugin.with_profiles(profiles), counted, refusals);
    let observing = observe(connection, api_health, Waiting::new(config.ready_file.clone()));
    parts.start("the watch of the connection", observing);
    let (end_stub, stub_ends) = oneshot::channel::<()>();
    let mut serving = pin!(async {
        let end = async { drop(stub_ends.await) };
        match stub {
            Some(stub) => stub.run(plugin, end).await,
            None => {
                end.await;
                Ok(())
            }
        }
    });

    let mut served = false;
    let result = loop {
        tokio::select! {
            biased; // with a thread others may end: the thread is the reason
            _ = terminate.recv() => break Ok("SIGTERM"),
            _ = interrupt.recv() => break Ok("SIGINT"),
            _ = hangup.recv() => {
                tracing::info!("SIGHUP: reading the policies again, opening the alerts file again");
                [Some(&reporter), log_reporter.as_ref()].into_iter().flatten().for_each(Reporter::reopen);
                nudge.notify_one();
            }
            ended = &mut serving => {
                served = true;
                let why = ended.err().map_or_else(|| "by itself".into(), |error| chain(&error));
                break Err(anyhow::anyhow!("the NRI plugin ended: {why}"));
            }
            why = events.ended() => break Err(anyhow::anyhow!("events can no longer be read: {why}")),
            why = reconciler.ended() => break Err(anyhow::anyhow!("the reconciler ended: {why}")),
            why = parts.ended() => break Err(anyhow::Error::msg(why)),
            why = ending.ended() => break Err(anyhow::Error::msg(why)),
        }
    };
    match &result {
        Ok(signal) => tracing::info!(
            signal,
            "ending; what is armed stays in force; until the daemon is back new containers start unprotected, or not at all \
             where they have the OCI hook (`nri-enforcer unload` removes everything)"
        ),
        Err(error) => tracing::error!(%error, "ending; what is armed stays in force"),
    }
    drop((end_stub, parts));
    stop.store(true, Ordering::Relaxed);
    drop((end_api, end_reports));
    for late in ending.finish(DRAIN).await {
        tracing::warn!("{late} did not end in time: what was not written yet may be lost");
    }
    if !served {
        let _late = tokio::time::timeout(DRAIN, serving).await;
    }
    observatory.close();
    drop((orders, reporter, log_reporter));
    let threads = [reconciler.handle, events.handle, writer].into_iter().chain(log_writer);
    let joining = tokio::task::spawn_blocking(move || threads.for_each(|thread| drop(thread.join())));
    if tokio::time::timeout(DRAIN, joining).await.is_err() {
        tracing::warn!("not every alert could be written in time");
    }
    result.map(drop)
}

#[cfg(test)]
mod tests;
