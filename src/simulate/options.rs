//! What is simulated when a request asks for nothing special.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// Entries of the log by default: enough for a long load test in a few hundred megabytes.
pub const LOG_ENTRIES_MAX: usize = 1_000_000;

/// How the provider behaves. A request's `metadata` overrides it for that request.
#[derive(Clone, Debug)]
pub struct Options {
    /// Time before the first byte of an answer.
    pub latency: Duration,
    /// Content chunks of a stream; never more than it has tokens.
    pub chunks: u32,
    /// Time after each content chunk.
    pub pace: Duration,
    /// Share of requests answered 500, in millionths.
    pub error_ratio_ppm: u32,
    /// Share of requests answered 429, in millionths.
    pub rate_limited_ppm: u32,
    /// Requests of one credential in a minute; beyond them, 429 and `retry-after`.
    pub requests_per_minute: Option<u32>,
    /// The bearer tokens that are accepted. Empty: all, and none.
    pub credentials: Vec<String>,
    /// Where what was served is appended as JSON lines. Fixed when serving begins.
    pub log_file: Option<PathBuf>,
    /// Entries that the log in memory keeps. Fixed at the start.
    pub log_entries_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            latency: Duration::ZERO,
            chunks: 16,
            pace: Duration::ZERO,
            error_ratio_ppm: 0,
            rate_limited_ppm: 0,
            requests_per_minute: None,
            credentials: Vec::new(),
            log_file: None,
            log_entries_max: LOG_ENTRIES_MAX,
        }
    }
}

impl Options {
    /// As `GET /simulate/options` shows them.
    pub(super) fn written(&self) -> serde_json::Value {
        let written = Written {
            latency_ms: millis(self.latency),
            chunks: self.chunks,
            pace_ms: millis(self.pace),
            error_ratio_ppm: self.error_ratio_ppm,
            rate_limited_ppm: self.rate_limited_ppm,
            requests_per_minute: self.requests_per_minute,
            credentials: None,
        };
        serde_json::to_value(written).expect("numbers are JSON")
    }

    /// These options with a JSON object merged in.
    pub(super) fn patched(&self, patch: &[u8]) -> Result<Options, String> {
        let patch: serde_json::Map<_, _> = serde_json::from_slice(patch).map_err(|e| e.to_string())?;
        let mut whole = self.written();
        whole.as_object_mut().expect("written as an object").extend(patch);
        let written: Written = serde_json::from_value(whole).map_err(|e| e.to_string())?;
        Ok(Options {
            latency: Duration::from_millis(written.latency_ms),
            chunks: written.chunks,
            pace: Duration::from_millis(written.pace_ms),
            error_ratio_ppm: written.error_ratio_ppm,
            rate_limited_ppm: written.rate_limited_ppm,
            requests_per_minute: written.requests_per_minute,
            credentials: written.credentials.unwrap_or_else(|| self.credentials.clone()),
            ..self.clone()
        })
    }
}

/// The options that can be changed over HTTP. The log file is not one of them: who reaches the
/// port must not choose which file is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    latency_ms: u64,
    chunks: u32,
    pace_ms: u64,
    error_ratio_ppm: u32,
    rate_limited_ppm: u32,
    requests_per_minute: Option<u32>,
    /// Taken, never shown. Absent: as they were.
    #[serde(default, skip_serializing)]
    credentials: Option<Vec<String>>,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_changes_only_what_it_names() {
        let before = Options {
            requests_per_minute: Some(3),
            credentials: vec!["sk-a".to_owned()],
            ..Options::default()
        };
        let after = before.patched(br#"{"latency_ms": 250, "requests_per_minute": null}"#).unwrap();
        assert_eq!(after.latency, Duration::from_millis(250));
        assert_eq!(after.requests_per_minute, None);
        assert_eq!((after.chunks, after.credentials), (before.chunks, before.credentials));
    }

    #[test]
    fn unknown_and_forbidden_options_are_refused() {
        for patch in [r#"{"latency": 1}"#, r#"{"log_file": "/x"}"#, "[]", r#"{"chunks": -1}"#] {
            assert!(Options::default().patched(patch.as_bytes()).is_err(), "{patch}");
        }
        assert!(!Options::default().written().to_string().contains("credentials"));
    }
}
