/// What a caller that meets an error should do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Advice {
    /// Try the same call again at once: it lost a race.
    RetryNow,
    /// Try this key again after a pause; other keys are not affected.
    RetryLater,
    /// Stop calling this store, probe it, and go on when it answers.
    RetryWhenStoreIsBack,
    /// Put the keys that contend for one unique value into one transaction.
    Regroup,
    /// Set the record aside: it will not fit however often it is tried.
    Park,
    /// Do not try again: a person or another call must change something first.
    Stop,
}
