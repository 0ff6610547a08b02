//! What a push did, in numbers.

use std::{fmt, time::Duration};

use serde::Serialize;

use super::verdicts::Verdicts;

/// Reasons shown for refused lines.
pub(super) const REASONS_MAX: usize = 10;

/// The report at the end of a push. `lines` = `acked_before` + `acked` + `refused`.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct Report {
    pub(super) stream: String,
    pub(super) files: Vec<String>,
    /// Rows settled, those of an interrupted run that was resumed included.
    pub(super) lines: u64,
    /// Events in the log since the interrupted run.
    pub(super) acked_before: u64,
    /// Events in the log through this run.
    pub(super) acked: u64,
    /// Records that hold all of these, those of an interrupted run included, where rows were joined
    /// into arrays; `null` where each row is a record.
    pub(super) records: Option<u64>,
    /// Of these: events that count, as the lake decided; `null` where that is not known here.
    pub(super) accepted: Option<u64>,
    /// Of these: events whose identity had been accepted before.
    pub(super) repeats: Option<u64>,
    /// Of these: events that break the contract.
    pub(super) quarantined: Option<u64>,
    /// Of these: events that were in the log before we knew where, so that nobody can be asked.
    pub(super) unknown: u64,
    /// Lines that are not in the log.
    pub(super) refused: u64,
    /// Why, the first ones.
    pub(super) reasons: Vec<String>,
    /// Rows that were moved by `--sort-by`: those with a smaller value than the row before them in
    /// their file. `null` where nothing was sorted.
    pub(super) out_of_order: Option<u64>,
    pub(super) interrupted: bool,
    pub(super) seconds: f64,
    pub(super) events_per_second: f64,
    /// Batches that were settled through this run.
    pub(super) batches: u64,
    /// Milliseconds from sending a batch to its ack, on average; `null` without batches.
    pub(super) mean_batch_ms: Option<f64>,
}

impl Report {
    pub(super) fn set_verdicts(&mut self, verdicts: &Verdicts) {
        self.accepted = Some(verdicts.accepted);
        self.repeats = Some(verdicts.repeats);
        self.quarantined = Some(verdicts.quarantined);
        let known = verdicts.accepted + verdicts.repeats + verdicts.quarantined;
        self.unknown = self.acked.saturating_sub(known);
    }

    pub(super) fn set_duration(&mut self, seconds: f64) {
        self.seconds = (seconds * 1e3).round() / 1e3;
        #[allow(clippy::cast_precision_loss)] // shown rounded
        let rate = self.acked as f64 / seconds.max(1e-3);
        self.events_per_second = (rate * 10.0).round() / 10.0;
    }

    /// `took`: of all batches together.
    pub(super) fn set_batches(&mut self, batches: u64, took: Duration) {
        self.batches = batches;
        #[allow(clippy::cast_precision_loss)] // shown rounded
        let mean = took.as_secs_f64() * 1e3 / batches.max(1) as f64;
        self.mean_batch_ms = (batches > 0).then_some((mean * 1e3).round() / 1e3);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known =
            |count: Option<u64>| count.map_or_else(|| "not known here".into(), |n| n.to_string());
        writeln!(f, "stream        {}", self.stream)?;
        for file in &self.files {
            writeln!(f, "file          {file}")?;
        }
        writeln!(f, "lines         {}", self.lines)?;
        if self.acked_before > 0 {
            writeln!(f, "acked before  {}", self.acked_before)?;
        }
        writeln!(f, "acked         {}", self.acked)?;
        if let Some(records) = self.records {
            writeln!(f, "  in records  {records}")?;
        }
        writeln!(f, "  accepted    {}", known(self.accepted))?;
        writeln!(f, "  repeats     {}", known(self.repeats))?;
        writeln!(f, "  quarantined {}", known(self.quarantined))?;
        if self.unknown > 0 {
            writeln!(f, "  not known   {}", self.unknown)?;
        }
        writeln!(f, "refused       {}", self.refused)?;
        for reason in &self.reasons {
            writeln!(f, "  {reason}")?;
        }
        let hidden = self.refused.saturating_sub(self.reasons.len() as u64);
        if hidden > 0 {
            writeln!(f, "  … and {hidden} more")?;
        }
        if let Some(out_of_order) = self.out_of_order {
            writeln!(f, "out of order  {out_of_order}")?;
        }
        writeln!(f, "seconds       {:.1}", self.seconds)?;
        writeln!(f, "events/s      {:.0}", self.events_per_second)?;
        write!(f, "batches       {}", self.batches)?;
        match self.mean_batch_ms {
            Some(mean) => write!(f, "\nms/batch      {mean:.1}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_shows_what_is_known() {
        let mut report = Report {
            stream: "dvd_clicks".into(),
            files: vec!["clicks.ndjson.gz".into()],
            lines: 1_650,
            acked: 1_638,
            refused: 12,
            reasons: vec!["clicks.ndjson.gz:7: bare NaN".into()],
            out_of_order: Some(5),
            ..Report::default()
        };
        report.set_batches(4, Duration::from_micros(10_001));
        report.set_verdicts(&Verdicts { accepted: 1_586, repeats: 40, quarantined: 2 });
        report.set_duration(2.0);
        let expected = [
            "stream        dvd_clicks",
            "file          clicks.ndjson.gz",
            "lines         1650",
            "acked         1638",
            "  accepted    1586",
            "  repeats     40",
            "  quarantined 2",
            "  not known   10",
            "refused       12",
            "  clicks.ndjson.gz:7: bare NaN",
            "  … and 11 more",
            "out of order  5",
            "seconds       2.0",
            "events/s      819",
            "batches       4",
            "ms/batch      2.5",
        ];
        assert_eq!(report.to_string(), expected.join("\n"));
        let json = serde_json::json!(report);
        assert_eq!(json["repeats"], 40);
        assert_eq!(json["acked_before"], 0);
        assert_eq!(json["events_per_second"], 819.0);
        assert_eq!(json["out_of_order"], 5);
        assert_eq!((&json["batches"], &json["mean_batch_ms"]), (&4.into(), &2.5.into()));
    }

    #[test]
    fn a_push_that_sent_and_sorted_nothing_has_no_figures_for_it() {
        let mut report = Report::default();
        report.set_batches(0, Duration::ZERO);
        let json = serde_json::json!(report);
        assert!(json["out_of_order"].is_null() && json["mean_batch_ms"].is_null(), "{json}");
        assert!(report.to_string().ends_with("batches       0"), "{report}");
    }
}
