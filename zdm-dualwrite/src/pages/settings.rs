use std::time::Duration;

use zdm_core::error::{Error, Kind, Result};

/// How pages are cut, how many run at once, and how fast. Plain data.
///
/// ```
/// use zdm_dualwrite::PageSettings;
///
/// let mut settings = PageSettings::default();
/// settings.workers = 4;
/// settings.pace.rows_per_second = Some(5_000);
/// settings.validate().unwrap();
///
/// settings.workers = 0;
/// assert!(settings.validate().unwrap_err().to_string().contains("workers"));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct PageSettings {
    /// Ranges that are worked on at the same time. Default 2. One worker walks the keys in a single
    /// ascending run, which suits a store that lets one writer in at a time, such as SQLite.
    pub workers: usize,
    /// Records of the first page. Default 200: how large they are is not known yet.
    pub first_page_rows: usize,
    /// The smallest page. Default 16.
    pub smallest_page_rows: usize,
    /// The largest page. Two pages per worker are in memory at a time. Default 20,000: what a page costs
    /// whatever its size is then little beside its rows.
    pub largest_page_rows: usize,
    /// About how many bytes of memory the records of a page may take, in stores that know it
    /// ([`Scan::record_bytes`](zdm_core::store::Scan::record_bytes)). Default 8 MiB. A record that is larger is
    /// a page of its own.
    pub largest_page_bytes: usize,
    /// The time that a page should take at the slower of the two stores; the page size follows it.
    /// Default 100 ms: a live write that waits for a page waits no longer than a person notices.
    pub page_target: Duration,
    /// How long one call to a store may take. Default 30 s.
    pub call_timeout: Duration,
    /// How long a page is tried again while a store is unavailable or busy before the run ends with its
    /// error. The checkpoint stands; another run goes on from there. Default 15 min.
    pub give_up_after: Duration,
    /// How often the health check is asked. Default 1 s.
    pub health_interval: Duration,
    /// How fast pages may go.
    pub pace: PaceSettings,
}

/// How fast pages may go.
#[derive(Clone, Debug, PartialEq)]
pub struct PaceSettings {
    /// The most rows per second, over all workers. Default: no ceiling.
    pub rows_per_second: Option<u32>,
    /// The rate below which slow pages and slow requests do not push. Default 100 rows per second, so that
    /// a run always ends.
    pub least_rows_per_second: u32,
    /// A page that takes longer than this at a store counts as congestion. Default 500 ms.
    pub slow_page: Duration,
    /// A live request that takes longer than this counts as slow; more than one in a hundred is
    /// congestion. Requests are reported through [`LatencyProbe`](super::LatencyProbe). Default 50 ms.
    pub slow_request: Duration,
    /// How often the rate moves. Default 500 ms.
    pub window: Duration,
}

impl Default for PageSettings {
    fn default() -> Self {
        Self {
            workers: 2,
            first_page_rows: 200,
            smallest_page_rows: 16,
            largest_page_rows: 20_000,
            largest_page_bytes: 8 << 20,
            page_target: Duration::from_millis(100),
            call_timeout: Duration::from_secs(30),
            give_up_after: Duration::from_secs(15 * 60),
            health_interval: Duration::from_secs(1),
            pace: PaceSettings::default(),
        }
    }
}

impl Default for PaceSettings {
    fn default() -> Self {
        Self {
            rows_per_second: None,
            least_rows_per_second: 100,
            slow_page: Duration::from_millis(500),
            slow_request: Duration::from_millis(50),
            window: Duration::from_millis(500),
        }
    }
}

impl PageSettings {
    /// Checks every field against its bounds.
    ///
    /// # Errors
    /// `Kind::Invalid`, naming the field, its value and its bounds.
    pub fn validate(&self) -> Result<()> {
        const MILLISECOND: Duration = Duration::from_millis(1);
        const DAY: Duration = Duration::from_secs(86_400);
        let pace = &self.pace;
        within("workers", self.workers, 1, 256)?;
        within("smallest_page_rows", self.smallest_page_rows, 1, 1_000_000)?;
        within("largest_page_rows", self.largest_page_rows, self.smallest_page_rows, 1_000_000)?;
        within("first_page_rows", self.first_page_rows, self.smallest_page_rows, self.largest_page_rows)?;
        within("largest_page_bytes", self.largest_page_bytes, 1, 1 << 30)?;
        within("page_target", self.page_target, MILLISECOND, DAY)?;
        within("call_timeout", self.call_timeout, MILLISECOND, DAY)?;
        within("give_up_after", self.give_up_after, Duration::ZERO, 365 * DAY)?;
        within("health_interval", self.health_interval, MILLISECOND, DAY)?;
        within("pace.rows_per_second", pace.rows_per_second.unwrap_or(1), 1, u32::MAX)?;
        within("pace.least_rows_per_second", pace.least_rows_per_second, 1, u32::MAX)?;
        within("pace.slow_page", pace.slow_page, MILLISECOND, DAY)?;
        within("pace.slow_request", pace.slow_request, Duration::ZERO, DAY)?;
        within("pace.window", pace.window, MILLISECOND, DAY)
    }
}

fn within<T: PartialOrd + std::fmt::Debug>(field: &str, value: T, from: T, to: T) -> Result<()> {
    if value >= from && value <= to {
        return Ok(());
    }
    let message = format!("the page setting {field} is {value:?}; it must be from {from:?} to {to:?}");
    Err(Error::new(Kind::Invalid, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_out_of_bounds_is_named_with_its_bounds() {
        type Spoil = fn(&mut PageSettings);
        let cases: [(&str, Spoil); 7] = [
            ("workers", |s| s.workers = 257),
            ("largest_page_rows", |s| s.largest_page_rows = s.smallest_page_rows - 1),
            ("first_page_rows", |s| s.first_page_rows = s.largest_page_rows + 1),
            ("largest_page_bytes", |s| s.largest_page_bytes = 0),
            ("page_target", |s| s.page_target = Duration::ZERO),
            ("pace.rows_per_second", |s| s.pace.rows_per_second = Some(0)),
            ("pace.window", |s| s.pace.window = Duration::ZERO),
        ];
        for (field, spoil) in cases {
            let mut settings = PageSettings::default();
            settings.validate().unwrap();
            spoil(&mut settings);
            let error = settings.validate().unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
