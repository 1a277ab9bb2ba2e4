//! The HTTP side: `/metrics`, `/healthz`, `/readyz`. Plain text, for whoever can reach the address: what it tells are
//! names of policies, rules and namespaces, and numbers.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::health::Health;

/// Callers at a time. One more is served, and the one that has been there longest is hung up on: whoever looks after the
/// daemon's health is never kept waiting by others, who would make it restart a healthy daemon.
pub const CALLERS: usize = 16;
/// How long a caller may take to ask.
const ASKING: Duration = Duration::from_secs(5);
/// How long a connection may last. It is for one question.
const LONGEST: Duration = Duration::from_secs(10);
/// The largest head of a request, in bytes.
const HEAD: usize = 16 << 10;
/// How long to wait before accepting again after that has failed (no descriptors left).
const AGAIN: Duration = Duration::from_millis(200);
/// OpenMetrics, as Prometheus 2.5 and later ask for.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// What is served.
#[derive(Debug)]
pub struct Pages {
    /// The metrics.
    pub registry: Registry,
    /// The checks.
    pub health: Health,
    /// Held while a page is made, also when whoever asked has hung up: those who ask at once wait for each other, not for
    /// all CPUs.
    pub making: Arc<Mutex<()>>,
}

/// Listens at `address`.
///
/// # Errors
/// When that is not possible; the text names the flag.
pub async fn open(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("cannot listen at `{address}` (--metrics)"))?;
    let address = listener.local_addr().context("the address of --metrics")?;
    tracing::info!(%address, "serving /metrics, /healthz and /readyz");
    Ok(listener)
}

/// Serves callers until it is dropped, which ends them all. Nobody else waits for them.
pub async fn serve(listener: TcpListener, pages: Arc<Pages>) {
    let mut callers = JoinSet::new();
    let mut by_age: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let accepted = listener.accept().await;
        while callers.try_join_next().is_some() {}
        let caller = match accepted {
            Ok((caller, _)) => caller,
            Err(error) => {
                tracing::warn!(%error, "cannot take a caller of --metrics");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        by_age.retain(|caller| !caller.is_finished());
        if by_age.len() >= CALLERS
            && let Some(oldest) = by_age.pop_front()
        {
            oldest.abort();
        }
        let pages = Arc::clone(&pages);
        by_age.push_back(callers.spawn(async move {
            if let Ok(Err(error)) = timeout(LONGEST, attend(caller, pages)).await {
                tracing::debug!(%error, "a caller of --metrics");
            }
        }));
    }
}

async fn attend(caller: TcpStream, pages: Arc<Pages>) -> hyper::Result<()> {
    let answer = service_fn(move |request| {
        let pages = Arc::clone(&pages);
        async move { Ok::<_, Infallible>(answer(&request, pages).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .header_read_timeout(ASKING)
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(caller), answer)
        .await
}

async fn answer(request: &Request<Incoming>, pages: Arc<Pages>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = say(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET\n".into());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let checked = |(good, text): (bool, String)| {
        let code = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        say(code, PLAIN, text)
    };
    match request.uri().path() {
        "/healthz" => checked(pages.health.healthz()),
        "/readyz" => checked(pages.health.readyz()),
        "/metrics" => {
            let turn = Arc::clone(&pages.making).lock_owned().await;
            // looks at every container and reads maps of the kernel, to the end, whether or not somebody still listens
            let page = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                let mut text = String::new();
                encode(&mut text, &pages.registry).map(|()| text)
            });
            match page.await {
                Ok(Ok(text)) => say(StatusCode::OK, OPENMETRICS, text),
                _ => say(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, "the page could not be made\n".into()),
            }
        }
        _ => say(StatusCode::NOT_FOUND, PLAIN, "there are /metrics, /healthz and /readyz\n".into()),
    }
}

fn say(code: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests;
