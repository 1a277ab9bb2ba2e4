//! `feeder.LogService`.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio_stream::{Stream, StreamExt};
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::messages::{Alert, Log, Message, NonceMessage, ReplyMessage, RequestMessage};
use super::peers::Peer;
use super::{Feed, Refused};

/// The longest question, in bytes.
pub(super) const QUESTION: usize = 1024;

/// The service, over a feed.
#[derive(Debug, Clone)]
pub(super) struct LogService(pub(super) Arc<Feed>);

impl NamedService for LogService {
    const NAME: &'static str = "feeder.LogService";
}

type Answer = http::Response<Body>;
/// What a stream of the service gives.
type Stream_<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service<http::Request<Body>> for LogService {
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let feed = Arc::clone(&self.0);
        let Some(&peer) = request.extensions().get::<Peer>() else {
            let status = Status::internal("nobody knows who asks");
            return Box::pin(async { Ok(status.into_http()) });
        };
        match request.uri().path() {
            "/feeder.LogService/HealthCheck" => Box::pin(async {
                let answer = service_fn(async |question: Request<NonceMessage>| {
                    Ok::<_, Status>(Response::new(ReplyMessage { retval: question.into_inner().nonce }))
                });
                Ok(grpc().unary(answer, request).await)
            }),
            "/feeder.LogService/WatchAlerts" => Box::pin(stream(request, move |filter| {
                let wanted = matches!(filter, "policy" | "all");
                of(wanted, || feed.subscribe("alerts", peer, |alert| Some(Alert::from(alert))))
            })),
            "/feeder.LogService/WatchLogs" => Box::pin(stream(request, move |filter| {
                let wanted = matches!(filter, "system" | "all");
                of(wanted, || feed.subscribe("logs", peer, |log| Some(Log::from(log))))
            })),
            "/feeder.LogService/WatchMessages" => {
                Box::pin(stream(request, move |_| of(true, || feed.subscribe("messages", peer, Message::of))))
            }
            path => {
                let status = Status::unimplemented(format!("there is no method `{path}`"));
                Box::pin(async { Ok(status.into_http()) })
            }
        }
    }
}

/// Questions that are read, and answered with `T`s.
fn grpc<T: prost::Message + Default + 'static, Q: prost::Message + Default + 'static>()
-> Grpc<ProstCodec<T, Q>> {
    Grpc::new(ProstCodec::default()).max_decoding_message_size(QUESTION)
}

/// Answers with what `watch` makes of the filter.
async fn stream<T: prost::Message + Default + 'static>(
    request: http::Request<Body>,
    watch: impl FnOnce(&str) -> Result<Stream_<T>, Status> + Send + Clone,
) -> Result<Answer, Infallible> {
    let answer = service_fn(move |question: Request<RequestMessage>| {
        let streaming = watch.clone()(&question.into_inner().filter);
        async { streaming.map(Response::new) }
    });
    Ok(grpc().server_streaming(answer, request).await)
}

/// The stream of a subscription; one that ends at once where it is not `wanted`.
fn of<T: Send + 'static, S: Stream<Item = T> + Send + 'static>(
    wanted: bool,
    subscribe: impl FnOnce() -> Result<S, Refused>,
) -> Result<Stream_<T>, Status> {
    if !wanted {
        return Ok(Box::pin(tokio_stream::empty()));
    }
    match subscribe() {
        Ok(subscription) => Ok(Box::pin(subscription.map(Ok))),
        Err(refused) => Err(Status::resource_exhausted(refused.to_string())),
    }
}
