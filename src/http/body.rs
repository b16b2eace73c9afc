//! Request bodies: bounded in size and time, gunzipped under the same bound.

use std::io::Read;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, header};
use serde::de::DeserializeOwned;
use warp::reply::Response;

use crate::protocol;
use crate::protocol::problem::{Code, Problem};

use super::answer;

/// Between two pieces of a body.
const PIECE: Duration = Duration::from_secs(15);
/// For all of it. 8 MiB in it is 140 KB a second.
const WHOLE: Duration = Duration::from_secs(60);
/// An oversized body is read to its end up to this multiple of the limit, so that its sender reads the answer.
const DRAIN: usize = 2;
/// Above this, decompression leaves the event loop.
const ASIDE: usize = 64 << 10;

fn refuse(code: Code, detail: impl Into<String>) -> Response {
    let mut response = answer::problem(Problem::new(code, detail));
    response.extensions_mut().insert(answer::CloseAfter);
    response
}

/// Reads a body of at most `limit` bytes, decoded.
pub(super) async fn read<S, B>(headers: &HeaderMap, stream: S, limit: usize) -> Result<Bytes, Response>
where
    S: Stream<Item = Result<B, warp::Error>>,
    B: Buf,
{
    let encoding = headers.get(header::CONTENT_ENCODING).map(|v| v.to_str().unwrap_or("?").trim().to_ascii_lowercase());
    let gzip = match encoding.as_deref() {
        None | Some("" | "identity") => false,
        Some("gzip" | "x-gzip") => true,
        Some(_) => return Err(refuse(Code::UnsupportedMediaType, "Bodies are plain or gzip.")),
    };
    let too_large = || refuse(Code::PayloadTooLarge, format!("The body is larger than {limit} bytes."));
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit * DRAIN) {
        return Err(too_large());
    }
    let slow = || refuse(Code::RequestTimeout, "The body did not arrive in time.");
    let collect = async {
        let mut stream = std::pin::pin!(stream);
        let (mut body, mut size) = (BytesMut::with_capacity(announced.unwrap_or(0).min(limit)), 0);
        loop {
            let piece = tokio::time::timeout(PIECE, stream.next()).await.map_err(|_| slow())?;
            let Some(piece) = piece else { break };
            let mut piece = piece.map_err(|_| refuse(Code::InvalidRequest, "The body broke off."))?;
            size += piece.remaining();
            if size > limit * DRAIN {
                return Err(too_large());
            }
            while size <= limit && piece.has_remaining() {
                let part = piece.chunk();
                let length = part.len();
                body.extend_from_slice(part);
                piece.advance(length);
            }
        }
        if size > limit { Err(too_large()) } else { Ok(body.freeze()) }
    };
    let body = tokio::time::timeout(WHOLE, collect).await.map_err(|_| slow())??;
    if !gzip {
        return Ok(body);
    }
    let unpacked = if body.len() > ASIDE {
        tokio::task::spawn_blocking(move || gunzip(&body, limit)).await.unwrap_or(Err(false))
    } else {
        gunzip(&body, limit)
    };
    unpacked.map_err(|large| if large { too_large() } else { refuse(Code::InvalidRequest, "The body is not gzip.") })
}

/// `Err(true)`: larger than the limit; `Err(false)`: not gzip.
fn gunzip(body: &[u8], limit: usize) -> Result<Bytes, bool> {
    let mut plain = Vec::with_capacity((body.len() * 4).min(limit));
    let read = flate2::read::MultiGzDecoder::new(body).take(limit as u64 + 1).read_to_end(&mut plain);
    match read {
        Ok(size) if size > limit => Err(true),
        Ok(_) => Ok(plain.into()),
        Err(_) => Err(false),
    }
}

/// Reads a small JSON body.
pub(super) async fn json<T, S, B>(headers: &HeaderMap, stream: S) -> Result<T, Response>
where
    T: DeserializeOwned,
    S: Stream<Item = Result<B, warp::Error>>,
    B: Buf,
{
    const SMALL: usize = 64 << 10;
    let body = read(headers, stream, SMALL).await?;
    protocol::object(&body).map_err(|e| answer::problem(Problem::new(Code::InvalidRequest, format!("The body is not understood: {e}."))))
}
