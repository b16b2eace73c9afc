//! Live connections: the handshake, messages in both directions, pings, and how a connection ends. Who is told what is the
//! hub's; what a pushed change comes to is `sync::push`'s, as over HTTP.

mod meter;

use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};
use warp::Filter;
use warp::reply::Response;

use crate::auth::ticket::Key;
use crate::domain::limits;
use crate::hub::{Ear, Full, Told};
use crate::protocol;
use crate::protocol::live::{self as wire, message};
use crate::protocol::problem::{Code, Problem};
use crate::store::accounts::Device;
use crate::sync::live::{self, Caller, Subscription};
use crate::sync::{figures, push};

use meter::Meter;

use super::answer::{self, Handled};
use super::caller::{self, Call, call};
use super::devices::parameter;
use super::{Routes, Settings, Shared, with};

/// What one read takes from the network at once. It is held by every connection, so it is small.
const READ: usize = 2 << 10;
/// A message that a peer has not taken in after so long ends the connection.
const SEND: Duration = Duration::from_secs(30);
/// After a close frame the peer has so long to answer it.
const GOODBYE: Duration = Duration::from_millis(500);
/// What a peer may still send after it was told to stop, so that it reads why: else its system throws the close frame away.
const LEFTOVER: usize = 16 << 20;
/// Read of that at once.
const PIECE: usize = 512;

/// What the system holds for a peer in each direction. Else it would be megabytes for one that does not read.
const KERNEL: usize = 32 << 10;

/// Why a connection ends, as its close frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The peer went, or cannot be reached.
    Gone,
    /// The appliance stops.
    Stopping,
    /// The device was revoked or enrolled anew, or its user was disabled or signed out.
    Revoked,
    /// The user has another password, role or store.
    Access,
    /// No sign of life.
    Idle,
    /// Frames against RFC 6455.
    Malformed,
    /// A message in another form than text.
    Binary,
    /// Text that is not UTF-8.
    Encoding,
    /// A message that is too large.
    Large,
    /// Too many messages.
    Flood,
}

impl End {
    /// RFC 6455, section 7.4.1; from 4000 on by agreement with clients.
    fn frame(self) -> Option<CloseFrame> {
        let (code, reason) = match self {
            End::Gone => return None,
            End::Stopping => (1001, "the appliance stops"),
            End::Malformed => (1002, "malformed frame"),
            End::Binary => (1003, "messages are text"),
            End::Encoding => (1007, "text is UTF-8"),
            End::Flood => (1008, "too many messages"),
            End::Large => (1009, "message too large"),
            End::Revoked => (4401, "access ended"),
            End::Access => (4401, "access changed"),
            End::Idle => (4408, "no sign of life"),
        };
        Some(CloseFrame { code: CloseCode::from(code), reason: Utf8Bytes::from_static(reason) })
    }

    fn of(error: &tungstenite::Error) -> End {
        match error {
            tungstenite::Error::Capacity(CapacityError::MessageTooLong { .. }) => End::Large,
            tungstenite::Error::Utf8(_) => End::Encoding,
            tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => End::Gone,
            tungstenite::Error::Protocol(_) | tungstenite::Error::Capacity(_) => End::Malformed,
            tungstenite::Error::Io(error) if error.kind() == ErrorKind::TimedOut => End::Idle,
            tungstenite::Error::Io(error) if error.kind() == ErrorKind::FileTooLarge => End::Large,
            _ => End::Gone,
        }
    }
}

/// `GET /sync/ws`.
pub(super) fn routes(app: &Shared, settings: &Arc<Settings>, stop: &watch::Receiver<bool>) -> Routes {
    let (settings, stop, turns) = (settings.clone(), stop.clone(), Arc::new(Semaphore::new(meter::TURNS)));
    let socket = warp::path!("api" / "v1" / "sync" / "ws")
        .and(warp::get())
        .and(with(app))
        .and(call())
        .and(warp::query::raw().or(warp::any().map(String::new)).unify())
        .and(warp::ext::optional::<OnUpgrade>())
        .map(move |app: Shared, call: Call, headers: HeaderMap, query: String, upgrade: Option<OnUpgrade>| {
            get_socket(app, call, &headers, &query, upgrade, &settings, stop.clone(), turns.clone())
        });
    socket.map(answer::settle).boxed()
}

/// Whose connection it is to be: a ticket's holder, or the bearer of a token.
fn holder(app: &Shared, call: &Call, headers: &HeaderMap, query: &str) -> Result<Key, Response> {
    let key = match parameter(query, "ticket") {
        Some(ticket) => app.tickets.take(&ticket),
        None => {
            caller::device(app, call, headers)?;
            caller::key(app, headers)
        }
    };
    key.ok_or_else(|| {
        answer::problem(Problem::new(Code::Unauthorized, "The ticket is unknown, was used, or has expired. Ask for a new one."))
    })
}

#[allow(clippy::too_many_arguments, reason = "a request's four parts, and what connections share")]
fn get_socket(
    app: Shared,
    call: Call,
    headers: &HeaderMap,
    query: &str,
    upgrade: Option<OnUpgrade>,
    settings: &Settings,
    stop: watch::Receiver<bool>,
    turns: Arc<Semaphore>,
) -> Handled {
    let key = holder(&app, &call, headers, query)?;
    let Some(caller) = Caller::of(&app, &key) else {
        return Err(answer::problem(Problem::new(Code::Unauthorized, "Nobody holds this ticket any more.")));
    };
    let (Some(upgrade), Some(accept)) = (upgrade, accept(headers)) else {
        let mut response = answer::problem(Problem::new(Code::UpgradeRequired, "Connect with a WebSocket of version 13 (RFC 6455)."));
        response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return Err(response);
    };
    let ear = app.hub.join(caller.listener(), app.limits.device_sockets, settings.sockets).map_err(|full| match full {
        Full::Own => answer::wait(Code::TooManySockets, "Close a live connection before you open another one.", Duration::from_secs(5)),
        Full::All => answer::wait(Code::Unavailable, "All live connections are in use. Go on by pulling.", Duration::from_secs(30)),
    })?;
    call.known.store(true, Ordering::Relaxed);
    let (ping, idle) = (settings.ping, settings.idle);
    tokio::spawn(async move {
        let Ok(Ok(upgraded)) = tokio::time::timeout(SEND, upgrade).await else { return };
        let most = limits::MESSAGE_BYTES;
        let config =
            WebSocketConfig::default().read_buffer_size(READ).write_buffer_size(0).max_message_size(Some(most)).max_frame_size(Some(most));
        let Some((stream, read)) = take(upgraded) else { return };
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&stream, KERNEL);
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&stream, KERNEL);
        let stream = WebSocketStream::from_partially_read(Meter::new(stream, turns), read, Role::Server, Some(config)).await;
        let per_second = Quota::per_second(limits::MESSAGES_PER_SECOND).allow_burst(limits::MESSAGES_BURST);
        let mut socket = Socket {
            access: caller.access,
            app,
            key,
            ear,
            stream,
            stop,
            call,
            count: 0,
            subscription: Subscription::default(),
            limiter: RateLimiter::direct(per_second),
        };
        let end = socket.run(caller, ping, idle).await;
        tracing::debug!(request.id = %socket.call.id, live.end = ?end, "live connection ends");
        socket.close(end).await;
    });
    let mut response = Response::default();
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields: [(HeaderName, HeaderValue); 3] = [
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ];
    response.headers_mut().extend(fields);
    Ok(response)
}

/// The socket, and what was read of it beyond the handshake: copied, since the buffer it is in is large.
fn take(upgraded: Upgraded) -> Option<(TcpStream, Vec<u8>)> {
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().ok()?;
    Some((parts.io.into_inner(), parts.read_buf.to_vec()))
}

/// The answer to a handshake's key, if the request is one (RFC 6455, section 4.2.1).
fn accept(headers: &HeaderMap) -> Option<HeaderValue> {
    let has = |name: HeaderName, wanted: &str| {
        let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|text| text.split(',')).any(|token| token.trim().eq_ignore_ascii_case(wanted))
    };
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?.as_bytes();
    let whole = has(header::CONNECTION, "upgrade") && has(header::UPGRADE, "websocket") && has(header::SEC_WEBSOCKET_VERSION, "13");
    let nonce = key.len() == 24 && key.ends_with(b"==");
    (whole && nonce).then(|| HeaderValue::from_str(&derive_accept_key(key)).ok()).flatten()
}

/// Whoever holds a key, unless that is nobody now, or their access changed.
fn present(app: &Shared, key: &Key, access: i64) -> Result<Caller, End> {
    match Caller::of(app, key) {
        Some(caller) if caller.access == access => Ok(caller),
        Some(_) => Err(End::Access),
        None => Err(End::Revoked),
    }
}

/// What a connection meets next.
enum Next {
    /// Something to tell.
    Told(Told),
    /// Something from the peer, or its end.
    Received(Option<Result<Message, tungstenite::Error>>),
    /// Accounts or sessions changed.
    Review,
    /// The appliance stops.
    Stop,
    /// A ping is due.
    Ping,
}

/// One live connection.
struct Socket {
    app: Shared,
    key: Key,
    /// The user's `access` when it began; another one ends it.
    access: i64,
    ear: Ear,
    stream: WebSocketStream<Meter<TcpStream>>,
    stop: watch::Receiver<bool>,
    call: Call,
    /// Messages so far, to name them in problems.
    count: u64,
    subscription: Subscription,
    limiter: DefaultDirectRateLimiter,
}

impl Socket {
    /// Speaks and listens until one of both ends it.
    async fn run(&mut self, caller: Caller, ping: Duration, idle: Duration) -> End {
        // First the place, then the position: what is committed between them is told.
        self.ear.see(self.subscription.views(&self.app, &caller.actor));
        caller.seen(&self.app);
        let hello = message("hello", "null", &live::hello(&self.app, &caller));
        drop(caller);
        if let Err(end) = self.send(Message::text(hello)).await {
            return end;
        }
        let mut pings = tokio::time::interval_at(tokio::time::Instant::now() + ping, ping);
        pings.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            let next = tokio::select! {
                told = self.ear.told() => Next::Told(told),
                received = self.stream.next() => Next::Received(received),
                () = self.ear.reviewed() => Next::Review,
                _ = self.stop.wait_for(|stop| *stop) => Next::Stop,
                _ = pings.tick() => Next::Ping,
            };
            let done = match next {
                Next::Told(told) => self.tell(told).await,
                Next::Received(Some(Ok(received))) => {
                    heard = Instant::now();
                    self.receive(received).await
                }
                Next::Received(Some(Err(error))) => Err(End::of(&error)),
                Next::Received(None) => Err(End::Gone),
                Next::Review => self.caller().map(drop),
                Next::Stop => Err(End::Stopping),
                Next::Ping if heard.elapsed() >= idle => Err(End::Idle),
                Next::Ping => self.ping().await,
            };
            if let Err(end) = done {
                return end;
            }
        }
    }

    /// Who is at the other end, as the accounts have them now.
    fn caller(&self) -> Result<Caller, End> {
        present(&self.app, &self.key, self.access)
    }

    async fn send(&mut self, message: Message) -> Result<(), End> {
        self.deliver(Some(message)).await
    }

    /// Sends one message, or what waits to be sent, unless the connection has to end meanwhile.
    async fn deliver(&mut self, message: Option<Message>) -> Result<(), End> {
        let deadline = tokio::time::Instant::now() + SEND;
        let (key, access) = (self.key, self.access);
        let stream = &mut self.stream;
        let mut sending = std::pin::pin!(async move {
            match message {
                Some(message) => stream.send(message).await,
                None => stream.flush().await,
            }
        });
        loop {
            tokio::select! {
                sent = sending.as_mut() => return sent.map_err(|error| End::of(&error)),
                () = tokio::time::sleep_until(deadline) => return Err(End::Idle),
                () = self.ear.reviewed() => drop(present(&self.app, &key, access)?),
                _ = self.stop.wait_for(|stop| *stop) => return Err(End::Stopping),
            }
        }
    }

    /// Looks whether the peer is there. Sessions end by their age as well, which nobody announces.
    async fn ping(&mut self) -> Result<(), End> {
        self.caller()?.seen(&self.app);
        self.send(Message::Ping(Bytes::new())).await
    }

    /// Says what came together.
    async fn tell(&mut self, mut told: Told) -> Result<(), End> {
        let caller = self.caller()?;
        if told.rules {
            self.ear.see_anew(self.subscription.views(&self.app, &caller.actor));
            told.forget();
        }
        for text in live::messages(&self.app, &caller, &told) {
            self.send(Message::text(text)).await?;
        }
        Ok(())
    }

    async fn receive(&mut self, received: Message) -> Result<(), End> {
        let meter = self.stream.get_mut();
        match &received {
            Message::Ping(payload) | Message::Pong(payload) => meter.control(payload.len()),
            _ => meter.complete(),
        }
        if self.limiter.check().is_err() {
            return Err(End::Flood);
        }
        match received {
            Message::Text(text) => {
                let caller = self.caller()?;
                caller.seen(&self.app);
                self.count += 1;
                // Boxed: a push's state would else be part of every idle connection.
                let answering: Pin<Box<dyn Future<Output = String> + Send + '_>> = Box::pin(self.answer(caller, text));
                let answer = answering.await;
                self.send(Message::text(answer)).await
            }
            Message::Binary(_) => Err(End::Binary),
            // Answered by the codec, which has to be given the chance to send.
            Message::Ping(_) => self.deliver(None).await,
            Message::Pong(_) | Message::Close(_) | Message::Frame(_) => Ok(()),
        }
    }

    /// The answer to one message.
    async fn answer(&mut self, caller: Caller, text: Utf8Bytes) -> String {
        let whole = Bytes::from(text);
        let asked: Result<wire::Message<'_>, String> = protocol::object(&whole);
        let (asked, id) = match &asked {
            Ok(asked) => match asked.id() {
                Some(id) => (asked, id),
                None => return self.refuse("null", invalid("\"id\" is a text or a number.")),
            },
            Err(error) => return self.refuse("null", invalid(format!("The message is not understood: {error}."))),
        };
        let payload = asked.payload.filter(|payload| payload.get() != "null");
        if payload.is_some_and(|payload| !payload.get().starts_with('{')) {
            return self.refuse(id, invalid("\"payload\" is an object."));
        }
        match &*asked.kind() {
            "ping" => message("pong", id, "{}"),
            "subscribe" | "unsubscribe" => match self.subscribe(&caller, &asked.kind(), payload) {
                Ok(subscribed) => message("subscribed", id, &subscribed),
                Err(problem) => self.refuse(id, problem),
            },
            "push_change" => {
                let body = payload.map_or_else(Bytes::new, |payload| whole.slice_ref(payload.get().as_bytes()));
                match push(&self.app, caller.device.as_ref(), body, &self.name()).await {
                    Ok((kind, body)) => message(kind, id, &body),
                    Err(problem) => self.refuse(id, problem),
                }
            }
            _ => self.refuse(id, invalid("The types of messages are subscribe, unsubscribe, push_change and ping.")),
        }
    }

    /// Names this message in the log.
    fn name(&self) -> String {
        format!("{}-{}", self.call.id, self.count)
    }

    fn refuse(&self, id: &str, problem: Problem) -> String {
        let problem = Problem { request_id: self.name(), ..problem };
        message("error", id, &serde_json::to_string(&problem).unwrap_or_default())
    }

    fn subscribe(&mut self, caller: &Caller, kind: &str, payload: Option<&RawValue>) -> Result<String, Problem> {
        let tables: wire::Tables = match payload {
            Some(payload) => {
                protocol::object(payload.get().as_bytes()).map_err(|e| invalid(format!("The tables are not understood: {e}.")))?
            }
            None => wire::Tables::default(),
        };
        if tables.tables.as_ref().is_some_and(|tables| tables.len() > limits::PULL_TABLES) {
            return Err(invalid(format!("At most {} tables may be named.", limits::PULL_TABLES)));
        }
        let subscription = &mut self.subscription;
        let changed = match kind {
            "subscribe" => subscription.add(&self.app, &caller.actor, tables.tables),
            _ => subscription.remove(&self.app, &caller.actor, tables.tables),
        };
        changed.map_err(answer::told)?;
        self.ear.see(self.subscription.views(&self.app, &caller.actor));
        Ok(self.subscription.payload(&self.app, &caller.actor))
    }

    /// Says why, and lets the peer read it.
    async fn close(self, end: End) {
        let Socket { ear, mut stream, .. } = self;
        drop(ear);
        let goodbye = async {
            if let Some(frame) = end.frame() {
                let _ = stream.close(Some(frame)).await;
                while let Some(Ok(_)) = stream.next().await {}
            }
            let mut rest = stream.into_inner().into_inner();
            let _ = rest.shutdown().await;
            let (mut left, mut piece) = (LEFTOVER, vec![0; PIECE]);
            while let Ok(read @ 1..) = rest.read(&mut piece).await
                && read < left
            {
                left -= read;
            }
        };
        let _ = tokio::time::timeout(GOODBYE, goodbye).await;
    }
}

/// A push as over HTTP: the type of the answer and its payload.
async fn push(app: &Shared, device: Option<&Arc<Device>>, body: Bytes, name: &str) -> Result<(&'static str, String), Problem> {
    let Some(device) = device else {
        return Err(Problem::new(Code::Forbidden, "Changes are pushed by devices. A browser resolves conflicts and restores versions."));
    };
    if device.activity.limiter.check().is_err() {
        figures::refused(app);
        return Err(Problem::new(Code::RateLimited, "This device sends more requests than its rate allows."));
    }
    let pushed = push::push(app, device, body, name).await.map_err(answer::told)?;
    let kind = if pushed.refused { "error" } else { "sync_complete" };
    Ok((kind, String::from_utf8(pushed.body).unwrap_or_default()))
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(Code::InvalidRequest, detail)
}
