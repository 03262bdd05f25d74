//! Flags over HTTP.

use std::sync::mpsc;
use std::time::Duration;

use super::{Fetched, Source, SourceError};

/// A file behind a URL. It is asked for again with the `ETag` of the last answer, so that an unchanged file
/// costs one empty answer. After failures it waits longer and longer, with random pauses.
///
/// Where the engine wants signatures, they are fetched from the same URL with `.sig` at its end.
///
/// Plain HTTP only: for TLS or your own client, fetch the bytes and call [`Flags::apply`](crate::Flags::apply),
/// or implement [`Source`].
#[derive(Debug)]
pub struct HttpSource {
    url: String,
    every: Duration,
    longest: Duration,
    signed: bool,
    etag: Option<String>,
    agent: ureq::Agent,
}

impl HttpSource {
    /// Asks every 30 s, and gives up on an answer after 10 s.
    pub fn new(url: impl Into<String>) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(10)))
            .http_status_as_error(false)
            .build();
        Self {
            url: url.into(),
            every: Duration::from_secs(30),
            longest: Duration::from_secs(600),
            signed: false,
            etag: None,
            agent: config.new_agent(),
        }
    }

    /// How long to wait between two requests. Default: 30 s.
    #[must_use]
    pub fn every(mut self, every: Duration) -> Self {
        self.every = every.max(Duration::from_millis(10));
        self
    }

    /// Fetches the signature beside the file.
    #[must_use]
    pub fn signed(mut self) -> Self {
        self.signed = true;
        self
    }

    fn ask(&self, url: &str, etag: Option<&str>) -> Result<Answer, SourceError> {
        let mut request = self.agent.get(url);
        if let Some(etag) = etag {
            request = request.header("If-None-Match", etag);
        }
        let failed = |error| SourceError::new(format!("{url} does not answer")).with_source(error);
        let mut answer = request.call().map_err(failed)?;
        match answer.status().as_u16() {
            304 if etag.is_some() => Ok(Answer::Unchanged),
            200 => {
                let etag = answer.headers().get("ETag").and_then(|tag| tag.to_str().ok()).map(str::to_owned);
                let limit = crate::definition::MAX_BYTES as u64 + 1;
                let bytes = answer.body_mut().with_config().limit(limit).read_to_vec().map_err(failed)?;
                Ok(Answer::Content(bytes, etag))
            }
            status => Err(SourceError::new(format!("{url} answers with status {status}"))),
        }
    }
}

enum Answer {
    Unchanged,
    Content(Vec<u8>, Option<String>),
}

impl Source for HttpSource {
    fn name(&self) -> String {
        self.url.clone()
    }

    fn fetch(&mut self) -> Result<Fetched, SourceError> {
        let (bytes, etag) = match self.ask(&self.url, self.etag.as_deref())? {
            Answer::Unchanged => return Ok(Fetched::Unchanged),
            Answer::Content(bytes, etag) => (bytes, etag),
        };
        let signature = if self.signed {
            match self.ask(&format!("{}.sig", self.url), None)? {
                Answer::Content(signature, _) => Some(signature),
                Answer::Unchanged => None,
            }
        } else {
            None
        };
        // Kept only now: if the signature could not be fetched, the file is asked for again.
        self.etag = etag;
        Ok(Fetched::Content { bytes, signature })
    }

    fn pause(&self, failures: u32) -> Duration {
        if failures == 0 {
            return self.every;
        }
        // Doubling up to a limit; anywhere between half of that and all of it, so that many processes do
        // not come back together.
        let longest = self.every.saturating_mul(1 << failures.min(16)).min(self.longest).max(self.every);
        let half = longest / 2;
        half + half.mul_f64(fastrand::f64())
    }

    fn on_change(&mut self, _: mpsc::Sender<()>) {}
}
