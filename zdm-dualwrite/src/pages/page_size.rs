//! How many records the next page has. Pure.

use std::time::Duration;

use super::PageSettings;

/// Steers the page size so that a page takes about the target time.
///
/// A page is one transaction at the secondary: too long and it holds up live writes, too short and its
/// fixed cost dominates. One step at most halves the size or makes it four times as large: one odd page does
/// little, and a run that begins with a short page is soon at its speed.
#[derive(Clone, Debug)]
pub(crate) struct PageSize {
    rows: usize,
    smallest: usize,
    largest: usize,
    largest_bytes: usize,
    target: Duration,
}

impl PageSize {
    pub(crate) fn new(settings: &PageSettings) -> Self {
        Self {
            rows: settings.first_page_rows,
            smallest: settings.smallest_page_rows,
            largest: settings.largest_page_rows,
            largest_bytes: settings.largest_page_bytes,
            target: settings.page_target,
        }
    }

    /// The size of the next page, of records that take about so many bytes each.
    pub(crate) fn rows(&self, record_bytes: Option<usize>) -> usize {
        let fit = record_bytes.map_or(usize::MAX, |bytes| self.largest_bytes / bytes.max(1));
        self.rows.min(fit.max(1))
    }

    /// Learns from a page of `rows` records that took `took`.
    pub(crate) fn observe(&mut self, rows: usize, took: Duration) {
        if rows == 0 {
            return;
        }
        let ideal = rows as f64 * self.target.as_secs_f64() / took.as_secs_f64().max(1e-6);
        if ideal > self.rows as f64 && rows < self.rows {
            // A page from the end of a range says little about what a full one costs.
            return;
        }
        let within_a_step = ideal.clamp(self.rows as f64 / 2.0, self.rows as f64 * 4.0);
        self.rows = (within_a_step as usize).clamp(self.smallest, self.largest);
    }

    /// A page timed out: the next ones are half as large.
    pub(crate) fn shrink(&mut self) {
        self.rows = (self.rows / 2).max(self.smallest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size() -> PageSize {
        let settings = PageSettings {
            first_page_rows: 100,
            smallest_page_rows: 10,
            largest_page_rows: 1_000,
            largest_page_bytes: 64_000,
            page_target: Duration::from_millis(100),
            ..PageSettings::default()
        };
        PageSize::new(&settings)
    }

    #[test]
    fn it_settles_where_a_page_takes_the_target_time() {
        for rows_per_second in [500_f64, 2_000.0, 7_000.0] {
            let mut size = size();
            for _ in 0..20 {
                let rows = size.rows(None);
                size.observe(rows, Duration::from_secs_f64(rows as f64 / rows_per_second));
            }
            let wanted = rows_per_second * 0.1;
            assert!((size.rows(None) as f64 - wanted).abs() <= 0.05 * wanted + 1.0, "{size:?}");
        }
    }

    #[test]
    fn it_stays_within_its_bounds_and_within_a_step() {
        let mut size = size();
        size.observe(100, Duration::ZERO);
        assert_eq!(size.rows(None), 400);
        for _ in 0..20 {
            size.observe(size.rows(None), Duration::from_nanos(1));
        }
        assert_eq!(size.rows(None), 1_000);
        for _ in 0..20 {
            size.observe(size.rows(None), Duration::from_secs(60));
        }
        assert_eq!(size.rows(None), 10);
        size.shrink();
        assert_eq!(size.rows(None), 10);
    }

    #[test]
    fn a_short_last_page_does_not_count_unless_it_was_slow() {
        let mut size = size();
        size.observe(3, Duration::from_millis(1));
        assert_eq!(size.rows(None), 100);
        size.observe(3, Duration::from_secs(1));
        assert_eq!(size.rows(None), 50);
    }
    #[test]
    fn large_records_make_short_pages_at_once() {
        let size = size();
        assert_eq!(size.rows(Some(640)), 100);
        assert_eq!(size.rows(Some(6_400)), 10);
        assert_eq!(size.rows(Some(32_000)), 2, "the smallest page is about speed, this about memory");
        assert_eq!(size.rows(Some(1_000_000)), 1);
        assert_eq!(size.rows(Some(0)), 100);
    }
}
