//! One review: its body, its verdict, its answer.
//!
//! Invariant: what is large, a body or an answer, holds one of few places until its connection has ended; so memory has a
//! bound, whoever asks (`docs/decisions/0020-webhook.md`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Request, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;
use tokio::time::timeout;

use crate::core::admission::{self, Answer, Verdict};
use crate::webhook::door::Stay;
use crate::webhook::metrics::NoVerdict;
use crate::webhook::port::PATIENCE;
use crate::webhook::server::Shared;

/// The largest request that an API server takes itself, in bytes (`MaxRequestBodyBytes` of k8s.io/apiserver); etcd takes half
/// of it (`--max-request-bytes`).
const LARGEST: usize = 3 << 20;
/// Reviews are some 10 KiB; every connection may have one of this size, in bytes.
const SMALL: usize = 64 * 1024;

/// For a large body that has a place: an API server, which has it whole, sends it in milliseconds.
const LARGE_PATIENCE: Duration = Duration::from_secs(2);

/// Why there is no verdict.
struct Unanswered {
    status: StatusCode,
    says: String,
    counts_as: NoVerdict,
}

impl Unanswered {
    fn invalid(status: StatusCode, says: impl Into<String>) -> Self {
        Self { status, says: says.into(), counts_as: NoVerdict::Invalid }
    }

    fn dropped(status: StatusCode, says: &str) -> Self {
        Self { status, says: says.to_owned(), counts_as: NoVerdict::Dropped }
    }
}

pub(super) async fn mutate(
    State(shared): State<Arc<Shared>>,
    Extension(stay): Extension<Arc<Stay>>,
    request: Request<Body>,
) -> Response {
    let (head, body) = request.into_parts();
    let answered = match received(&head.headers, body, &shared, &stay).await {
        Ok(body) => answered(body, &shared, &stay),
        Err(error) => Err(error),
    };
    let mut response = match answered {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(Unanswered { status, says, counts_as }) => {
            shared.metrics.unanswered(counts_as);
            // A pod that the API server asks about gets no answer: that is not for strangers to write many lines of.
            if status == StatusCode::BAD_REQUEST || !shared.full.may_say(counts_as.name()) {
                tracing::debug!(says, "no review");
            } else {
                tracing::warn!(source = %stay.source(), says, "no answer");
            }
            (status, says + "\n").into_response()
        }
    };
    if stay.holds_large() || response.status().is_client_error() || response.status().is_server_error() {
        response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    }
    response
}

/// The body, if it has an end, is not too large and arrives in time.
async fn received(headers: &HeaderMap, body: Body, shared: &Shared, stay: &Stay) -> Result<Vec<u8>, Unanswered> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    // API servers say it; without it nobody knows what there has to be room for.
    let length =
        length.ok_or_else(|| Unanswered::invalid(StatusCode::LENGTH_REQUIRED, "a review has a Content-Length"))?;
    if length > LARGEST {
        let says = format!("the review has {length} bytes; more than {LARGEST} no API server takes itself");
        return Err(Unanswered::invalid(StatusCode::PAYLOAD_TOO_LARGE, says));
    }
    let patience = if length > SMALL {
        let place = timeout(PATIENCE, shared.large.enter(stay.source())).await.ok().flatten();
        let place = place.ok_or_else(|| {
            Unanswered::dropped(StatusCode::SERVICE_UNAVAILABLE, "too many large reviews at once; ask again")
        })?;
        stay.hold(place);
        LARGE_PATIENCE
    } else {
        PATIENCE
    };
    let late = || Unanswered::dropped(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time");
    timeout(patience, collected(body, length)).await.map_err(|_| late())?
}

async fn collected(body: Body, length: usize) -> Result<Vec<u8>, Unanswered> {
    let mut whole = Vec::with_capacity(length);
    let mut parts = body.into_data_stream();
    while let Some(part) = parts.next().await {
        let part = part.map_err(|_| Unanswered::dropped(StatusCode::BAD_REQUEST, "the body broke off"))?;
        whole.extend_from_slice(&part);
    }
    Ok(whole)
}

fn answered(body: Vec<u8>, shared: &Shared, stay: &Stay) -> Result<String, Unanswered> {
    let begun = Instant::now();
    let asked = admission::read(&body);
    drop(body);
    let answer = asked.and_then(|asked| admission::review(&asked, &shared.options));
    let answer = answer.map_err(|error| Unanswered::invalid(StatusCode::BAD_REQUEST, error.to_string()))?;
    let text = answer.review.to_string();
    if text.len() > SMALL && !stay.holds_large() {
        // It waits for nothing, since it is large already.
        let place = shared.large.enter_now(stay.source()).ok_or_else(|| {
            Unanswered::dropped(StatusCode::SERVICE_UNAVAILABLE, "too many large answers at once; ask again")
        })?;
        stay.hold(place);
    }
    if shared.flood.may_log(begun) {
        log(&answer);
    }
    shared.metrics.reviewed(answer.verdict, begun.elapsed());
    Ok(text)
}

fn log(Answer { pod, notes, verdict, .. }: &Answer) {
    match verdict {
        Verdict::Injected => tracing::info!(?pod, ?notes, "injected"),
        Verdict::Untouched => tracing::debug!(?pod, "left as it is"),
        Verdict::Refused => tracing::warn!(?pod, ?notes, "refused"),
    }
}
