//! One connection after another.

use std::future::Future;
use std::sync::Arc;

use crate::handle::Shared;
use crate::plugin::Plugin;
use crate::stub::{Error, StubBuilder};

pub(crate) async fn serve(
    _options: StubBuilder,
    _shared: Arc<Shared>,
    _plugin: Arc<dyn Plugin>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), Error> {
    shutdown.await;
    Ok(())
}
