//! Figures since the start, for Prometheus. They stay in memory, and no label names a person, a device, a store or a record.

use std::collections::HashSet;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Content type of [`Metrics::text`].
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Content type of [`plain`].
pub const PLAIN: &str = "text/plain; version=0.0.4";

/// Upper bounds of durations, seconds: from an idle pull, answered from memory, to what a person would give up on.
const SECONDS: [f64; 15] = [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];
/// Upper bounds of the jobs in a commit, up to the writer's own.
const JOBS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Clash {
    rule: String,
    winner: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

/// How many changes came to what. Those of a dry run, and of an atomic push that was undone, are not among them.
#[derive(Debug)]
pub struct Changes {
    /// Written as they came.
    pub applied: Counter,
    /// Written together with what others did.
    pub merged: Counter,
    /// Nothing to write.
    pub noop: Counter,
    /// Led to a conflict.
    pub conflict: Counter,
    /// Refused.
    pub rejected: Counter,
}

/// The figures.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Served pushes, seconds.
    pub pushes: Histogram,
    /// Served pulls, seconds.
    pub pulls: Histogram,
    /// Changes by what they came to.
    pub changes: Changes,
    conflicts: Family<Clash, Counter>,
    /// Records given to devices.
    pub pull_records: Counter,
    /// Syncs that were served.
    pub served: Counter,
    /// Syncs that were answered with a problem.
    pub failed: Counter,
    /// Jobs in each commit.
    pub commit_batch: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let (changes, requests) = (Family::<Outcome, Counter>::default(), Family::<Outcome, Counter>::default());
        let (change, request) =
            (|result| changes.get_or_create_owned(&Outcome { result }), |result| requests.get_or_create_owned(&Outcome { result }));
        let metrics = Metrics {
            pushes: Histogram::new(SECONDS),
            pulls: Histogram::new(SECONDS),
            changes: Changes {
                applied: change("applied"),
                merged: change("merged"),
                noop: change("noop"),
                conflict: change("conflict"),
                rejected: change("rejected"),
            },
            conflicts: Family::default(),
            pull_records: Counter::default(),
            served: request("ok"),
            failed: request("failed"),
            commit_batch: Histogram::new(JOBS),
            registry: Registry::default(),
        };
        // Counters get their ending, _total, when they are written.
        registry.register("backroom_sync_push_duration_seconds", "Served pushes", metrics.pushes.clone());
        registry.register("backroom_sync_pull_duration_seconds", "Served pulls", metrics.pulls.clone());
        registry.register("backroom_sync_requests", "Pushes and pulls of known devices", requests.clone());
        registry.register("backroom_sync_changes", "Pushed changes by what they came to", changes.clone());
        registry.register("backroom_sync_conflicts", "Conflicts of pushed changes", metrics.conflicts.clone());
        registry.register("backroom_sync_pull_records", "Records given to devices", metrics.pull_records.clone());
        registry.register("backroom_sync_commit_batch_size", "Jobs in each commit", metrics.commit_batch.clone());
        let build = Family::<Build, Gauge>::default();
        build.get_or_create(&Build { version: env!("CARGO_PKG_VERSION") }).set(1);
        registry.register("backroom_build_info", "The program", build);
        Metrics { registry, ..metrics }
    }
}

impl Metrics {
    /// Counts a conflict.
    pub fn conflict(&self, rule: &str, winner: &str) {
        self.conflicts.get_or_create(&Clash { rule: rule.into(), winner: winner.into() }).inc();
    }

    /// All figures in OpenMetrics, with readings that are taken anew for each look: name, description, value.
    pub fn text(&self, readings: &[(&str, &str, f64)]) -> String {
        let mut now = Registry::default();
        for (name, help, value) in readings {
            let gauge = Gauge::<f64, AtomicU64>::default();
            gauge.set(*value);
            now.register(*name, *help, gauge);
        }
        let mut out = String::new();
        // Writing into a text does not fail.
        let _ = text::encode_registry(&mut out, &self.registry)
            .and_then(|()| text::encode_registry(&mut out, &now))
            .and_then(|()| text::encode_eof(&mut out));
        out
    }
}

/// OpenMetrics in Prometheus' older text format, where a counter's description has the counter's full name.
pub fn plain(openmetrics: &str) -> String {
    let counters: HashSet<&str> = openmetrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut out = String::with_capacity(openmetrics.len() + 8 * counters.len());
    for line in openmetrics.lines().filter(|line| *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(what), Some(name), Some(rest)) if counters.contains(name) => {
                out.extend(["# ", what, " ", name, "_total ", rest]);
            }
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_describes_counters_by_their_full_names() {
        let metrics = Metrics::default();
        metrics.changes.merged.inc_by(2);
        let (new, old) = (metrics.text(&[("backroom_sync_db_bytes", "Size", 4096.0)]), plain(&metrics.text(&[])));
        assert!(new.contains("# TYPE backroom_sync_changes counter\n") && new.ends_with("\n# EOF\n"), "{new}");
        assert!(new.contains("\nbackroom_sync_db_bytes 4096.0\n"), "{new}");
        assert!(old.contains("# HELP backroom_sync_changes_total Pushed") && old.contains("# TYPE backroom_sync_changes_total counter\n"));
        assert!(old.contains("backroom_sync_changes_total{result=\"merged\"} 2\n") && !old.contains("EOF"), "{old}");
        assert!(old.contains("# TYPE backroom_build_info gauge\n"), "{old}");
    }
}
