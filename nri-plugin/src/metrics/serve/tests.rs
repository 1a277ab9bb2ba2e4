use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// Pages with this registry, served, and their address.
async fn served(registry: Registry) -> SocketAddr {
    let listener = open("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let pages = Pages { registry, health: Health::default(), making: Arc::default() };
    tokio::spawn(serve(listener, Arc::new(pages)));
    address
}

/// Asks as those do who mean to ask again.
async fn ask(address: SocketAddr, page: &str) -> TcpStream {
    let mut caller = TcpStream::connect(address).await.unwrap();
    caller.write_all(format!("GET {page} HTTP/1.1\r\nHost: node\r\n\r\n").as_bytes()).await.unwrap();
    caller
}

async fn code(caller: &mut TcpStream) -> String {
    let mut code = [0; 12];
    caller.read_exact(&mut code).await.unwrap();
    String::from_utf8(code.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_for_health_waits_for_no_other_caller() {
    let address = served(Registry::default()).await;
    let mut held = Vec::new();
    for _ in 0..CALLERS {
        let mut caller = ask(address, "/healthz").await;
        assert_eq!(code(&mut caller).await, "HTTP/1.1 200");
        held.push(caller);
    }
    for _ in 0..CALLERS {
        held.push(TcpStream::connect(address).await.unwrap());
    }
    let mut caller = ask(address, "/healthz").await;
    let told = timeout(Duration::from_secs(1), code(&mut caller)).await;
    assert_eq!(told.expect("an answer within a second"), "HTTP/1.1 200");
}

/// A page that takes its time.
#[derive(Debug, Clone, Default)]
struct Slow(Arc<[AtomicUsize; 3]>); // in the making, the most at once, all

impl Collector for Slow {
    fn encode(&self, _: DescriptorEncoder<'_>) -> std::fmt::Result {
        let [making, most, all] = self.0.as_ref();
        most.fetch_max(making.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(300));
        making.fetch_sub(1, Ordering::SeqCst);
        all.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_made_one_by_one_also_for_those_who_hang_up() {
    let (slow, mut registry) = (Slow::default(), Registry::default());
    registry.register_collector(Box::new(slow.clone()));
    let address = served(registry).await;
    for _ in 0..5 {
        let caller = ask(address, "/metrics").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(caller);
    }
    let begin = Instant::now();
    let mut last = ask(address, "/metrics").await;
    assert_eq!(code(&mut last).await, "HTTP/1.1 200");
    assert!(begin.elapsed() < Duration::from_secs(5));
    let [making, most, all] = slow.0.as_ref();
    assert_eq!((making.load(Ordering::SeqCst), most.load(Ordering::SeqCst)), (0, 1));
    assert!(all.load(Ordering::SeqCst) >= 2, "the first and the last");
}
