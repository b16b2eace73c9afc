//! The accept loop: a connection cap that strangers cannot use up, bounds on the time that heads may take, graceful drain.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};

use super::Shared;
use super::caller::Call;
use super::serve::{Outer, Settings};

/// A new connection must have sent its first head by then.
const FIRST_HEAD: Duration = Duration::from_secs(10);
/// Between two requests, and for a later head: phones keep connections open.
const NEXT_HEAD: Duration = Duration::from_secs(75);
/// What a stopping appliance gives requests that are under way.
pub const DRAIN: Duration = Duration::from_secs(10);

/// Connections beyond the cap that may still be closing. Accepting waits for them, or a flood would outrun the closing.
const CLOSING: usize = 32;
/// Connections that may wait to be accepted. The usual 128 overflow when a few hundred devices come back at once, and each
/// that finds no place tries again only after a second.
const BACKLOG: u32 = 4_096;

/// Listens on an address.
pub fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// One open connection.
#[derive(Debug)]
struct Open {
    /// A request on it came from somebody known.
    known: Arc<AtomicBool>,
    /// A request on it is under way.
    busy: Arc<AtomicBool>,
    close: Arc<Notify>,
}

/// All open connections, oldest first.
#[derive(Debug, Default)]
struct Connections(Mutex<BTreeMap<u64, Open>>);

impl Connections {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Open>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for one more: the oldest stranger goes, rather one that asks for nothing: somebody
    /// may be enrolling. `false`: everybody is known, the newcomer has to wait.
    fn make_room(&self, cap: usize) -> bool {
        let mut open = self.lock();
        if open.len() < cap {
            return true;
        }
        let strangers = || open.iter().filter(|(_, one)| !one.known.load(Ordering::Relaxed));
        let stranger = strangers().find(|(_, one)| !one.busy.load(Ordering::Relaxed)).or_else(|| strangers().next()).map(|(no, _)| *no);
        match stranger.and_then(|no| open.remove(&no)) {
            Some(one) => {
                one.close.notify_one();
                true
            }
            None => false,
        }
    }
}

/// Accepts connections until `stop` turns true, then waits for requests under way, at most [`DRAIN`].
pub async fn run(listener: TcpListener, app: Shared, settings: Settings, cap: usize, mut stop: watch::Receiver<bool>) {
    let outer = Outer::new(&app, settings, stop.clone());
    let connections = Arc::new(Connections::default());
    let tasks = Tasks::default();
    let sockets = Arc::new(Semaphore::new(cap + CLOSING));
    let mut no = 0u64;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Usually out of file descriptors: give connections a moment to end.
                tracing::warn!(error = %error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        if !connections.make_room(cap) {
            tracing::warn!(connections = cap, "a connection was refused: all are in use");
            continue;
        }
        let Ok(socket) = sockets.clone().acquire_owned().await else { break };
        no += 1;
        let (known, busy, close) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default(), Arc::new(Notify::new()));
        connections.lock().insert(no, Open { known: known.clone(), busy: busy.clone(), close: close.clone() });
        let (outer, connections, stop, guard) = (outer.clone(), connections.clone(), stop.clone(), tasks.clone());
        tokio::spawn(async move {
            connection(stream, peer, outer, known, busy, close, stop).await;
            connections.lock().remove(&no);
            drop((socket, guard));
        });
    }
    drop(listener);
    let under_way = async {
        tasks.all_gone().await;
        app.hub.emptied().await;
    };
    if tokio::time::timeout(DRAIN, under_way).await.is_err() {
        tracing::warn!("some requests were still under way after the drain");
    }
}

/// Counts running tasks by their clones.
#[derive(Debug, Clone)]
struct Tasks(Arc<watch::Sender<()>>);

impl Default for Tasks {
    fn default() -> Self {
        Tasks(Arc::new(watch::Sender::new(())))
    }
}

impl Tasks {
    /// Resolves when this is the last clone.
    async fn all_gone(self) {
        let mut gone = self.0.subscribe();
        drop(self.0);
        while gone.changed().await.is_ok() {}
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    outer: Outer,
    known: Arc<AtomicBool>,
    busy: Arc<AtomicBool>,
    close: Arc<Notify>,
    mut stop: watch::Receiver<bool>,
) {
    // A connection that sends nothing costs a socket and this task, and no buffers. Looked at rather than asked for readiness,
    // which may be reported where there is nothing to read.
    let mut first = [0];
    tokio::select! {
        seen = tokio::time::timeout(FIRST_HEAD, stream.peek(&mut first)) => {
            if !matches!(seen, Ok(Ok(1..))) {
                return;
            }
        }
        () = close.notified() => return,
        _ = stop.wait_for(|stop| *stop) => return,
    }
    // Boxed: what serves a request would else be a part of every connection that waits.
    Box::pin(serve(stream, peer, outer, known, busy, close, stop)).await;
}

/// Serves requests until the connection ends, or becomes another one's.
async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    outer: Outer,
    known: Arc<AtomicBool>,
    busy: Arc<AtomicBool>,
    close: Arc<Notify>,
    mut stop: watch::Receiver<bool>,
) {
    let _ = stream.set_nodelay(true);
    let begun = Arc::new(Notify::new());
    let first = begun.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        first.notify_one();
        let (outer, known, busy) = (outer.clone(), known.clone(), busy.clone());
        async move {
            let call = Call { peer, id: outer.next_id(), known };
            busy.store(true, Ordering::Relaxed);
            let response = outer.serve(request, call).await;
            busy.store(false, Ordering::Relaxed);
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(NEXT_HEAD).max_buf_size(64 << 10).half_close(false);
    let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let deadline = tokio::time::sleep(FIRST_HEAD);
    let mut deadline = std::pin::pin!(deadline);
    let (mut waiting, mut stopping) = (true, false);
    loop {
        tokio::select! {
            done = connection.as_mut() => {
                if let Err(error) = done {
                    tracing::trace!(error = %error, "a connection broke off");
                }
                return;
            }
            () = begun.notified(), if waiting => waiting = false,
            () = deadline.as_mut(), if waiting => return,
            () = close.notified() => return,
            _ = stop.wait_for(|stop| *stop), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
