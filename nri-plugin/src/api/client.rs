//! The way to the API server.

use std::path::PathBuf;
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig, NamedCluster};
use serde_json::Value;
use tokio::time::timeout;
use tower::ServiceBuilder;

use super::trouble::Trouble;
use crate::exit::chain;

/// How long the server may take to answer with the head of a response, connection and handshake included, and how long
/// it may be silent in the middle of a list.
pub(super) const ANSWER: Duration = Duration::from_secs(30);
/// A connection on which nothing comes is asked after this time whether it still is one, and again after each
/// [`PROBE`]; after [`PROBES`] questions without an answer it is not. A watch is silent for long in quiet times, and the
/// end of a node's network is not told to anybody.
const SILENCE: Duration = Duration::from_secs(30);
const PROBE: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;
/// The most bytes of one page of a list. Objects have at most some 1.5 MB each; of those fewer are asked for at once.
pub(super) const MAX_PAGE: usize = 32 << 20;

const JSON: &str = "application/json";

/// A way to a server.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) client: kube::Client,
    /// The server's address.
    pub(super) server: String,
}

/// Where the API server is found.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    /// A kubeconfig file; `None`: what the cluster puts into each pod.
    pub(super) kubeconfig: Option<PathBuf>,
}

impl Connector {
    /// A client. Nothing is connected yet. Proxies of the environment do not count, as the API server is in the cluster;
    /// one of the kubeconfig would have to, and is refused.
    pub(super) async fn way(&self) -> Result<Way, Trouble> {
        let config = match &self.kubeconfig {
            None => kube::Config::incluster().map_err(|error| unusable(&error))?,
            Some(path) => {
                let text = Kubeconfig::read_from(path).map_err(|error| unusable(&error))?;
                let named = |cluster: &NamedCluster| {
                    cluster.cluster.as_ref().is_some_and(|one| one.proxy_url.is_some())
                };
                if text.clusters.iter().any(named) {
                    return Err(Trouble::Configuration(format!("`{}` names a proxy", path.display())));
                }
                let made = kube::Config::from_custom_kubeconfig(text, &KubeConfigOptions::default()).await;
                made.map_err(|error| unusable(&error))?
            }
        };
        // made by hand: kube's own client has no keepalive, and logs each attempt that fails
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(ANSWER));
        tcp.set_keepalive(Some(SILENCE));
        tcp.set_keepalive_interval(Some(PROBE));
        tcp.set_keepalive_retries(Some(PROBES));
        let tls = config.rustls_https_connector_with_connector(tcp).map_err(|error| unusable(&error))?;
        let connection = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(tls);
        let service = ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(config.auth_layer().map_err(|error| unusable(&error))?)
            .layer(config.extra_headers_layer().map_err(|error| unusable(&error))?)
            .map_err(tower::BoxError::from)
            .service(connection);
        let server = config.cluster_url.to_string();
        Ok(Way { client: kube::Client::new(service, config.default_namespace), server })
    }
}

fn unusable(error: &dyn std::error::Error) -> Trouble {
    Trouble::Configuration(chain(error))
}

fn unreachable(error: &kube::Error) -> Trouble {
    Trouble::Unreachable(match error {
        kube::Error::Service(why) => chain(why.as_ref()),
        other => chain(other),
    })
}

/// Asks for `path`; the answer is a good one, and its body has not been read.
pub(super) async fn get(client: &kube::Client, path: &str) -> Result<Response<Body>, Trouble> {
    let request = Request::get(path).header(ACCEPT, JSON).body(Body::empty());
    ask(client, request.map_err(|error| unusable(&error))?).await
}

/// How the server is to take a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Write {
    /// As a new object.
    Create,
    /// In the place of the object, which must still have the version that the body tells.
    Replace,
    /// By server-side apply.
    Apply,
    /// As a merge patch.
    Merge,
    /// Not at all: the object goes.
    Delete,
}

/// Changes what is at `path`; the object as it is then.
pub(super) async fn write(
    client: &kube::Client,
    how: Write,
    path: &str,
    body: &Value,
) -> Result<Value, Trouble> {
    let (method, sort) = match how {
        Write::Create => (Method::POST, JSON),
        Write::Replace => (Method::PUT, JSON),
        // JSON is YAML
        Write::Apply => (Method::PATCH, "application/apply-patch+yaml"),
        Write::Merge => (Method::PATCH, "application/merge-patch+json"),
        Write::Delete => (Method::DELETE, JSON),
    };
    let body = if how == Write::Delete { Vec::new() } else { body.to_string().into_bytes() };
    let request = Request::builder().method(method).uri(path).header(ACCEPT, JSON).header(CONTENT_TYPE, sort);
    let request = request.body(Body::from(body)).map_err(|error| unusable(&error))?;
    let answer = whole(ask(client, request).await?.into_body()).await?;
    serde_json::from_slice(&answer).map_err(|error| Trouble::Nonsense(error.to_string()))
}

/// The object at `path`.
pub(super) async fn read(client: &kube::Client, path: &str) -> Result<Value, Trouble> {
    let answer = whole(get(client, path).await?.into_body()).await?;
    serde_json::from_slice(&answer).map_err(|error| Trouble::Nonsense(error.to_string()))
}

/// The answer is a good one, and its body has not been read.
async fn ask(client: &kube::Client, request: Request<Body>) -> Result<Response<Body>, Trouble> {
    let late = |_| Trouble::Unreachable(format!("no answer within {} seconds", ANSWER.as_secs()));
    let answer = timeout(ANSWER, client.send(request)).await.map_err(late)?;
    let answer = answer.map_err(|error| match &error {
        kube::Error::Auth(_) => Trouble::Unauthorized(chain(&error)),
        _ => unreachable(&error),
    })?;
    if answer.status().is_success() {
        return Ok(answer);
    }
    let code = answer.status().as_u16();
    let body = whole(answer.into_body()).await.unwrap_or_default();
    Err(Trouble::of_status(code, &body))
}

/// The whole body.
pub(super) async fn whole(mut body: Body) -> Result<Vec<u8>, Trouble> {
    let mut bytes = Vec::new();
    while let Some(part) = next(&mut body, ANSWER).await? {
        bytes.extend_from_slice(&part);
        if bytes.len() > MAX_PAGE {
            return Err(Trouble::TooLong(MAX_PAGE));
        }
    }
    Ok(bytes)
}

/// Nothing came for so long.
pub(super) fn silent(longest: Duration) -> Trouble {
    Trouble::Unreachable(format!("silent for {} seconds", longest.as_secs()))
}

/// The next part of a body; `None` at its end.
pub(super) async fn next(body: &mut Body, longest: Duration) -> Result<Option<Vec<u8>>, Trouble> {
    loop {
        match timeout(longest, body.frame()).await.map_err(|_| silent(longest))? {
            None => return Ok(None),
            Some(Err(error)) => return Err(unreachable(&error)),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data.to_vec()));
                }
            }
        }
    }
}
