//! What a peer may have under way of one message: bounded in time and in bytes, and large ones take turns, so that many peers
//! with many unfinished messages do not take the memory of the appliance.
//!
//! The codec above says when a message is complete; this sees only bytes.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use crate::domain::limits;

/// From here on a message is large.
const LARGE: usize = 64 << 10;
/// Large messages at once: with 2 MiB each, 32 MiB.
pub(super) const TURNS: usize = 16;
/// A message must be complete so long after its first byte, a large one after its turn came.
const COMPLETE: Duration = Duration::from_secs(30);
/// Bytes of a message with the heads of its frames: a million empty frames are no message.
const BYTES: usize = limits::MESSAGE_BYTES + (64 << 10);
/// The head of a control frame from a client.
const CONTROL: usize = 6;

type Turn = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send + Sync>>;

/// A stream that counts what it reads.
pub(super) struct Meter<S> {
    stream: S,
    turns: Arc<Semaphore>,
    read: usize,
    deadline: Option<Pin<Box<Sleep>>>,
    waiting: Option<Turn>,
    turn: Option<OwnedSemaphorePermit>,
}

impl<S> Meter<S> {
    pub(super) fn new(stream: S, turns: Arc<Semaphore>) -> Meter<S> {
        Meter { stream, turns, read: 0, deadline: None, waiting: None, turn: None }
    }

    /// A message is complete.
    pub(super) fn complete(&mut self) {
        (self.read, self.deadline, self.waiting, self.turn) = (0, None, None, None);
    }

    /// So many bytes were of a control frame, which may come in the middle of a message.
    pub(super) fn control(&mut self, payload: usize) {
        self.read = self.read.saturating_sub(payload + CONTROL);
        if self.read == 0 {
            self.complete();
        }
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Meter<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let meter = &mut *self;
        if meter.read > BYTES {
            return Poll::Ready(Err(ErrorKind::FileTooLarge.into()));
        }
        if meter.read > 0 {
            let deadline = meter.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(COMPLETE)));
            if meter.waiting.is_none() && deadline.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(ErrorKind::TimedOut.into()));
            }
        }
        if meter.read > LARGE && meter.turn.is_none() {
            let turns = &meter.turns;
            let waiting = meter.waiting.get_or_insert_with(|| Box::pin(turns.clone().acquire_owned()));
            let turn = ready!(waiting.as_mut().poll(cx)).map_err(io::Error::other)?;
            (meter.turn, meter.waiting) = (Some(turn), None);
            let mut deadline = Box::pin(tokio::time::sleep(COMPLETE));
            let _ = deadline.as_mut().poll(cx);
            meter.deadline = Some(deadline);
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut meter.stream).poll_read(cx, buffer))?;
        meter.read += buffer.filled().len() - before;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Meter<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn large_messages_take_turns_and_none_stays_unfinished() {
        let turns = Arc::new(Semaphore::new(1));
        let mut peers = Vec::new();
        for _ in 0..2 {
            let (near, far) = tokio::io::duplex(1 << 20);
            peers.push((Meter::new(near, turns.clone()), far));
        }
        let [(first, far_first), (second, far_second)] = peers.as_mut_slice() else { panic!() };
        let large = vec![0u8; LARGE + 10];
        far_first.write_all(&large).await.unwrap();
        far_second.write_all(&large).await.unwrap();
        let mut piece = vec![0u8; LARGE + 1];
        first.read_exact(&mut piece).await.unwrap();
        second.read_exact(&mut piece).await.unwrap();
        // The one has its turn, the other waits for it, and not in its own time.
        assert!(first.read(&mut piece).await.unwrap() > 0);
        let waits = tokio::time::timeout(2 * COMPLETE, second.read(&mut piece));
        assert!(waits.await.is_err());
        assert_eq!(first.read(&mut piece).await.unwrap_err().kind(), ErrorKind::TimedOut);
        first.complete();
        assert!(second.read(&mut piece).await.unwrap() > 0);
        assert_eq!(second.read(&mut piece).await.unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_ping_within_a_message_is_not_of_it_and_frames_without_end_are_none() {
        let (near, mut far) = tokio::io::duplex(4 << 20);
        let mut meter = Meter::new(near, Arc::new(Semaphore::new(1)));
        far.write_all(&[0; 10]).await.unwrap();
        meter.read_exact(&mut [0; 10]).await.unwrap();
        meter.control(4);
        assert_eq!(meter.read, 0);
        far.write_all(&vec![0; BYTES + 1]).await.unwrap();
        let mut all = vec![0; BYTES + 1];
        meter.read_exact(&mut all).await.unwrap();
        assert_eq!(meter.read(&mut all).await.unwrap_err().kind(), ErrorKind::FileTooLarge);
    }
}
