use crate::definition::Finding;
use crate::evaluation::compiled::CompiledFlag;
use crate::snapshot::Snapshot;

/// What changed from one snapshot to the next. Keys are in the order of the files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// The revision of the new snapshot.
    pub revision: u64,
    /// Flags that were not there before.
    pub added: Vec<String>,
    /// Flags that are gone.
    pub removed: Vec<String>,
    /// Flags that are defined otherwise, or that a test, a guard or another flag has touched.
    pub changed: Vec<String>,
    /// What the new snapshot has to say: findings about the files, and shares that were moved in a way
    /// that moves more subjects than needed.
    pub findings: Vec<Finding>,
}

impl Change {
    /// Whether every flag is as it was.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }

    pub(crate) fn between(old: &Snapshot, new: &Snapshot) -> Self {
        let mut change =
            Self { revision: new.revision(), findings: new.findings().to_vec(), ..Self::default() };
        for entry in new.entries() {
            let key = &*entry.flag.key;
            match old.entry(key) {
                None => change.added.push(key.to_owned()),
                Some(before) => {
                    let touched = before.overlay.is_some() || entry.overlay.is_some();
                    if touched || differ(&before.flag, &entry.flag) {
                        change.changed.push(key.to_owned());
                        change.findings.extend(crate::churn::needless(&before.flag, &entry.flag));
                    }
                }
            }
        }
        change.removed = old.keys().filter(|key| new.entry(key).is_none()).map(str::to_owned).collect();
        change
    }
}

fn differ(old: &CompiledFlag, new: &CompiledFlag) -> bool {
    old.fingerprint != new.fingerprint || old.metadata != new.metadata || old.bucketing != new.bucketing
}
