//! Where batches wait for as long as an ordered fault demands.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::proxy::faults::Gate;

/// One direction's way past the gate; each batch passes it once.
pub(super) struct Passage {
    state: State,
}

enum State {
    /// The next batch has not been held up yet.
    Open(Option<Gate>),
    Waiting(Pin<Box<dyn Future<Output = Gate> + Send>>),
    /// The batch under way has passed.
    Passed(Option<Gate>),
}

impl fmt::Debug for Passage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passage")
    }
}

impl Passage {
    pub(super) fn new(gate: Gate) -> Box<Self> {
        Box::new(Self { state: State::Open(Some(gate)) })
    }

    /// Ready when a batch of so many bytes may go on.
    pub(super) fn poll_pass(&mut self, bytes: usize, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.state = match &mut self.state {
                State::Passed(_) => return Poll::Ready(()),
                State::Waiting(waiting) => State::Passed(Some(ready!(waiting.as_mut().poll(cx)))),
                State::Open(gate) => match gate.take() {
                    Some(mut gate) => State::Waiting(Box::pin(async move {
                        gate.pass(bytes).await;
                        gate
                    })),
                    None => State::Passed(None),
                },
            };
        }
    }

    /// The batch is delivered; the next one is held up again.
    pub(super) fn next_batch(&mut self) {
        if let State::Passed(gate) = &mut self.state {
            self.state = State::Open(gate.take());
        }
    }
}
