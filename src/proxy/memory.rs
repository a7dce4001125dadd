//! Gives memory back to the system once many connections have gone.
//!
//! glibc keeps what was freed below the top of each thread's heap, so a sidecar that once had thousands of connections
//! would stay as large for ever, in a container whose limit was not made for it.

use std::sync::Arc;
use std::time::Duration;

use crate::proxy::Sidecar;

const PERIOD: Duration = Duration::from_secs(2);
/// Fewer connections than this free too little to be worth the locks while others go on ending.
const WORTH_IT: u64 = 128;
/// And fewer than this even once no more do.
const WORTH_IT_IN_THE_END: u64 = 16;

/// Looks every other second whether many connections have ended since it last gave back.
pub(super) async fn watch(sidecar: Arc<Sidecar>) {
    let (mut given_back_at, mut before) = (0, 0);
    loop {
        tokio::time::sleep(PERIOD).await;
        let ended = sidecar.board.begun().saturating_sub(sidecar.lifecycle.connections.len() as u64);
        let least = if ended == before { WORTH_IT_IN_THE_END } else { WORTH_IT };
        before = ended;
        if ended >= given_back_at + least {
            given_back_at = ended;
            // It takes some milliseconds, in which this thread would accept nobody.
            let _ = tokio::task::spawn_blocking(give_back).await;
        }
    }
}

#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
fn give_back() {
    // SAFETY: malloc_trim(3) takes no pointer, returns none that were given out, and is safe among threads.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// Other C libraries' allocators, musl's among them, give back by themselves.
#[cfg(not(target_env = "gnu"))]
fn give_back() {}
