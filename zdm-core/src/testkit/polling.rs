use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

/// More polls than any future of this crate takes; a future that needs more waits for something that
/// never comes.
const TOO_MANY: usize = 100_000;

/// Runs a future to its end and tells how often it was polled.
///
/// ```
/// use zdm_core::testkit::count_polls;
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let (answer, polls) = count_polls(async { tokio::task::yield_now().await; 42 }).await;
/// assert_eq!((answer, polls), (42, 2));
/// # });
/// ```
pub async fn count_polls<F: Future>(future: F) -> (F::Output, usize) {
    let mut future = pin!(future);
    let mut polls = 0;
    let output = poll_fn(|context| {
        polls += 1;
        future.as_mut().poll(context)
    })
    .await;
    (output, polls)
}

/// Polls a future at most `polls` times and drops it. `None` when it was dropped before its end.
pub async fn drop_after_polls<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    if polls == 0 {
        return None;
    }
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|context| {
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Drops a future at every point where it can be dropped.
///
/// For 0 polls, 1 poll, 2 polls and so on: makes a future, polls it so often, drops it, and then runs
/// `check` with the number of polls and `None`. Ends with the first future that comes to its end; its
/// output goes to `check`. Returns how many polls that took.
///
/// ```
/// use zdm_core::store::{MemoryStore, Store};
/// use zdm_core::testkit::drop_at_every_poll;
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let store = MemoryStore::<u64, String>::new();
/// let two_writes = |_| async {
///     store.put(&1, &"one".to_owned()).await?;
///     tokio::task::yield_now().await;
///     store.put(&2, &"two".to_owned()).await
/// };
/// let polls = drop_at_every_poll(two_writes, async |polls, output| {
///     assert_eq!(store.len(), polls, "one write for each poll");
///     assert_eq!(output.is_some(), polls == 2);
/// })
/// .await;
/// assert_eq!(polls, 2);
/// # });
/// ```
///
/// # Panics
/// When the future does not come to its end within 100,000 polls.
pub async fn drop_at_every_poll<F: Future>(
    mut make: impl FnMut(usize) -> F,
    mut check: impl AsyncFnMut(usize, Option<F::Output>),
) -> usize {
    for polls in 0..TOO_MANY {
        let output = drop_after_polls(polls, make(polls)).await;
        let ended = output.is_some();
        check(polls, output).await;
        if ended {
            return polls;
        }
    }
    panic!("the future did not come to its end within {TOO_MANY} polls");
}
