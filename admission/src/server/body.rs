//! Takes bodies off the wire, within limits.

use std::sync::Arc;

use actix_web::{
    HttpRequest,
    http::{StatusCode, header},
    web::{Bytes, BytesMut, Payload},
};
use futures::StreamExt as _;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Bodies up to this size are not rationed: a usual one is far below.
const SMALL: usize = 512 * 1024;
/// What large bodies may hold together, in KiB.
const LARGE_KIB: usize = 64 * 1024;

/// Why there is no body.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// It is announced as something else.
    #[error("the body has to be application/json")]
    MediaType,
    /// It is over the limit.
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    /// The caller hung up, or does not speak HTTP well.
    #[error("the body did not arrive: {0}")]
    Broken(String),
    /// Nothing came.
    #[error("there is no body")]
    Empty,
}

impl BodyError {
    /// The status of the answer, and the reason in the words of Kubernetes.
    pub(super) fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::MediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType"),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge"),
            Self::Broken(_) | Self::Empty => (StatusCode::BAD_REQUEST, "BadRequest"),
        }
    }
}

/// Bounds the memory that bodies hold.
#[derive(Clone, Debug)]
pub(super) struct Ration {
    limit: usize,
    large: Arc<Semaphore>,
}

/// A body, together with its share of the memory.
pub(super) struct Taken<'r> {
    pub bytes: Bytes,
    _share: Option<SemaphorePermit<'r>>,
}

impl Ration {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, large: Arc::new(Semaphore::new(LARGE_KIB.max(limit.div_ceil(1024)))) }
    }

    /// Reads the body of a request. A body in one piece is not copied.
    pub(super) async fn take(&self, request: &HttpRequest, mut payload: Payload) -> Result<Taken<'_>, BodyError> {
        if !is_json(request) {
            return Err(BodyError::MediaType);
        }
        let announced = request
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok())
            .and_then(|length| length.parse::<usize>().ok());
        if announced.is_some_and(|length| length > self.limit) {
            return Err(BodyError::TooLarge(self.limit));
        }
        // The share is taken as a whole before the first byte, so that two half bodies never wait for each other.
        let worst = announced.unwrap_or(self.limit);
        let share = if worst > SMALL {
            let kib = u32::try_from(worst.div_ceil(1024)).unwrap_or(u32::MAX);
            Some(self.large.acquire_many(kib).await.map_err(|error| BodyError::Broken(error.to_string()))?)
        } else {
            None
        };
        let next = |piece: Option<Result<Bytes, _>>| {
            piece.transpose().map_err(|error: actix_web::error::PayloadError| BodyError::Broken(error.to_string()))
        };
        let Some(first) = next(payload.next().await)? else { return Err(BodyError::Empty) };
        if announced == Some(first.len()) {
            return Ok(Taken { bytes: first, _share: share });
        }
        let mut whole = BytesMut::with_capacity(announced.unwrap_or(first.len() * 2));
        whole.extend_from_slice(&first);
        drop(first);
        loop {
            if whole.len() > self.limit {
                return Err(BodyError::TooLarge(self.limit));
            }
            match next(payload.next().await)? {
                Some(piece) => whole.extend_from_slice(&piece),
                None => return Ok(Taken { bytes: whole.freeze(), _share: share }),
            }
        }
    }
}

fn is_json(request: &HttpRequest) -> bool {
    request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .and_then(|kind| kind.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}
