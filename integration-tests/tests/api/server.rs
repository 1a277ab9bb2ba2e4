//! A real API server for custom resources on real etcd, on this machine.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http::Request;
use http_body_util::BodyExt;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use lab::cache::artefact;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// How long anything may take that takes a moment. This machine may have more to do.
pub const LONGEST: Duration = Duration::from_secs(30);

/// Waits until something holds, and fails with what `why` tells.
pub async fn wait<T>(what: &str, look: impl AsyncFnMut() -> Option<T>, why: impl Fn() -> String) -> T {
    wait_for(LONGEST, what, look, why).await
}

/// The same for so long.
pub async fn wait_for<T>(
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Option<T>,
    why: impl Fn() -> String,
) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begin.elapsed() < limit, "waited in vain: {what}\n{}", why());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A process that ends with us.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let log = File::options().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// Ends it as a crash does.
    pub fn kill(mut self) {
        self.0.kill().unwrap();
    }

    /// Ends it by a signal that it may heed; its exit code.
    pub fn terminate(mut self) -> Option<i32> {
        let pid = nix::unistd::Pid::from_raw(self.0.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// A port that nobody listens at now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// etcd, an API server before it, and the link by which the daemon reaches that.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    etcd_port: u16,
    port: u16,
    link_port: u16,
    _etcd: Process,
    server: Option<Process>,
    link: Option<JoinHandle<()>>,
    client: Client,
}

#[derive(Clone)]
pub struct Client(kube::Client);

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl Cluster {
    pub async fn start(dir: &Path) -> Self {
        let dir = dir.join("cluster");
        fs::create_dir(&dir).unwrap();
        certificates(&dir);
        let [etcd_port, peers, port, link_port] = [free_port(), free_port(), free_port(), free_port()];
        let (client, peer) = (format!("http://127.0.0.1:{etcd_port}"), format!("http://127.0.0.1:{peers}"));
        let mut etcd = Command::new(artefact("etcd").unwrap());
        etcd.args(["--name", "only", "--unsafe-no-fsync", "--log-level", "warn"])
            .args(["--initial-cluster", &format!("only={peer}"), "--initial-advertise-peer-urls", &peer])
            .args(["--listen-peer-urls", &peer, "--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client, "--data-dir"])
            .arg(dir.join("etcd"));
        let etcd = Process::start(&mut etcd, &dir.join("etcd.log"));
        let config = |port: u16| {
            json!({
                "apiVersion": "v1", "kind": "Config", "current-context": "c",
                "clusters": [{"name": "c", "cluster": {
                    "server": format!("https://127.0.0.1:{port}"), "certificate-authority": dir.join("ca.pem"),
                }}],
                "users": [{"name": "c", "user": {}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
            })
        };
        fs::write(dir.join("kubeconfig"), config(link_port).to_string()).unwrap();
        let config = serde_json::from_value::<Kubeconfig>(config(port)).unwrap();
        let config =
            kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
        let client = Client(kube::Client::try_from(config).unwrap());
        let mut cluster =
            Self { dir, etcd_port, port, link_port, _etcd: etcd, server: None, link: None, client };
        cluster.start_server().await;
        cluster.mend().await;
        cluster
    }

    /// Where the daemon finds its way.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// What the server is to answer 403 for.
    pub fn forbid(&self, resources: &str) {
        fs::write(self.dir.join("forbid"), resources).unwrap();
    }

    /// A way to the server beside the link.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Starts the server.
    pub async fn start_server(&mut self) {
        let mut server = Command::new(artefact("crdserver").unwrap());
        server.arg(format!("http://127.0.0.1:{}", self.etcd_port)).arg(self.port.to_string());
        server.args(["cert.pem", "key.pem", "forbid"].map(|name| self.dir.join(name)));
        let log = self.dir.join("server.log");
        self.server = Some(Process::start(&mut server, &log));
        let log = || fs::read_to_string(&log).unwrap();
        let ready = async || (self.client.get("/readyz").await.0 == 200).then_some(());
        wait("the API server is ready", ready, log).await;
    }

    /// Ends the server as a crash does.
    pub fn kill_server(&mut self) {
        self.server.take().unwrap().kill();
    }

    /// Cuts the link: every connection ends, and none can be made.
    pub async fn cut(&mut self) {
        let link = self.link.take().unwrap();
        link.abort();
        let _aborted = link.await;
    }

    /// Makes the link, again.
    pub async fn mend(&mut self) {
        let (listener, port) = (TcpListener::bind(("127.0.0.1", self.link_port)).await.unwrap(), self.port);
        self.link = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                connections.spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await {
                        let _ended = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        }));
    }

    /// Drops the history from etcd, as API servers do every few minutes.
    pub async fn compact(&self) {
        let newest = self.etcd("range", json!({"key": "AA=="})).await;
        let revision = newest["header"]["revision"].clone();
        let done = self.etcd("compaction", json!({"revision": revision, "physical": true})).await;
        assert!(done["header"].is_object(), "{done}");
    }

    /// etcd's gateway, by the least HTTP there is.
    async fn etcd(&self, call: &str, body: Value) -> Value {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let body = body.to_string();
        let mut etcd = TcpStream::connect(("127.0.0.1", self.etcd_port)).await.unwrap();
        let head = format!("POST /v3/kv/{call} HTTP/1.0\r\nContent-Length: {}\r\n\r\n", body.len());
        etcd.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        let mut answer = String::new();
        etcd.read_to_string(&mut answer).await.unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap_or_else(|_| panic!("{answer}"))
    }
}

impl Client {
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        kinds: [&str; 2],
        body: Option<&Value>,
    ) -> (u16, Value) {
        let body = body.map(Value::to_string).unwrap_or_default().into_bytes();
        let request = Request::builder().method(method).uri(path);
        let request =
            request.header("Content-Type", kinds[0]).header("Accept", kinds[1]).body(Body::from(body));
        match self.0.send(request.unwrap()).await {
            Ok(answer) => {
                let code = answer.status().as_u16();
                let body = answer.into_body().collect().await.unwrap().to_bytes();
                let text = String::from_utf8_lossy(&body).into_owned();
                (code, serde_json::from_slice(&body).unwrap_or(Value::String(text)))
            }
            Err(error) => (0, Value::String(error.to_string())),
        }
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.send("GET", path, ["application/json"; 2], None).await
    }

    /// Server-side apply; the server's answer.
    pub async fn try_apply(&self, object: &Value) -> (u16, Value) {
        let path = format!("{}?fieldManager=test&force=true&fieldValidation=Strict", path(object));
        self.send("PATCH", &path, ["application/apply-patch+yaml", "application/json"], Some(object)).await
    }

    /// The same where it must be taken.
    pub async fn apply(&self, object: &Value) -> Value {
        let (code, answer) = self.try_apply(object).await;
        assert!(code == 200 || code == 201, "{code}: {answer}\n{object}");
        answer
    }

    pub async fn delete(&self, object: &Value) {
        let (code, answer) = self.send("DELETE", &path(object), ["application/json"; 2], None).await;
        assert_eq!(code, 200, "{answer}");
    }

    /// Deletes all objects of a list, one after the other as the server does.
    pub async fn delete_all(&self, path: &str) {
        let (code, answer) = self.send("DELETE", path, ["application/json"; 2], None).await;
        assert_eq!(code, 200, "{answer}");
    }

    /// Applies the definitions, and waits until their objects are served.
    pub async fn define(&self, definitions: &[Value]) {
        for definition in definitions {
            self.apply(definition).await;
        }
        self.served(definitions).await;
    }

    /// Waits until the objects of the definitions are served.
    pub async fn served(&self, definitions: &[Value]) {
        for definition in definitions {
            let text = |pointer: &str| definition.pointer(pointer).unwrap().as_str().unwrap();
            let (group, version) = (text("/spec/group"), text("/spec/versions/0/name"));
            let plural = text("/spec/names/plural");
            let path = format!("/apis/{group}/{version}/{plural}");
            let served = async || (self.get(&path).await.0 == 200).then_some(());
            wait("the kind is served", served, || plural.to_owned()).await;
        }
    }
}

/// Where an object is.
pub fn path(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let (kind, name) = (text("/kind").unwrap(), text("/metadata/name").unwrap_or_else(|| panic!("{object}")));
    if kind == "CustomResourceDefinition" {
        return format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
    }
    let plural = kind.to_lowercase().replace("policy", "policies");
    let namespace = match kind {
        "KubeArmorPolicy" | "KubeArmorSeccompPolicy" => {
            format!("namespaces/{}/", text("/metadata/namespace").unwrap_or("default"))
        }
        _ => String::new(),
    };
    format!("/apis/security.kubearmor.com/v1/{namespace}{plural}/{name}")
}

/// An authority, and a certificate of the server by it: rustls takes no certificate that is both.
fn certificates(dir: &Path) {
    let openssl = |arguments: &[&str]| {
        let done = Command::new("openssl").current_dir(dir).args(arguments).output().expect("run openssl");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout"];
    let authority = ["-out", "ca.pem", "-x509", "-days", "2", "-subj", "/CN=authority"];
    openssl(&[&["req"], &key[..], &["ca.key"], &authority].concat());
    openssl(&[&["req"], &key[..], &["key.pem", "-out", "request.pem", "-subj", "/CN=server"]].concat());
    fs::write(dir.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(&[
        "x509",
        "-req",
        "-in",
        "request.pem",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "names",
        "-out",
        "cert.pem",
    ]);
}
