//! The HTTP side: `/metrics`, `/healthz`, `/readyz`. Plain text, for whoever can reach the address: what it tells are
//! names of policies, rules and namespaces, and numbers.

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
use tokio::sync::{Mutex, Semaphore};
use tokio::time::timeout;

use super::health::Health;

/// Callers at a time; more wait for their turn.
const CALLERS: usize = 16;
/// How long a caller may take to ask.
const ASKING: Duration = Duration::from_secs(5);
/// How long a connection may last: those who ask every few seconds connect anew now and then.
const LONGEST: Duration = Duration::from_secs(120);
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
    /// Held while a page is made: those who ask at once wait for each other, not for all CPUs.
    pub making: Mutex<()>,
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

/// Serves callers. Nobody else waits for them.
pub async fn serve(listener: TcpListener, pages: Arc<Pages>) {
    let places = Arc::new(Semaphore::new(CALLERS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let caller = match listener.accept().await {
            Ok((caller, _)) => caller,
            Err(error) => {
                tracing::warn!(%error, "cannot take a caller of --metrics");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        let pages = Arc::clone(&pages);
        tokio::spawn(async move {
            if let Ok(Err(error)) = timeout(LONGEST, attend(caller, pages)).await {
                tracing::debug!(%error, "a caller of --metrics");
            }
            drop(place);
        });
    }
}

async fn attend(caller: TcpStream, pages: Arc<Pages>) -> hyper::Result<()> {
    let answer = service_fn(move |request| {
        let pages = Arc::clone(&pages);
        async move { Ok::<_, Infallible>(answer(&request, pages).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
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
            let _turn = pages.making.lock().await;
            let pages = Arc::clone(&pages);
            // looks at every container and reads maps of the kernel
            let page = tokio::task::spawn_blocking(move || {
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
