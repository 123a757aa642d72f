//! Tells other systems about a run: events of OpenLineage when it begins and when it ends, and the report to webhooks.
//! Nothing here fails a run or waits during one. Not here: what is told to whom (`crate::config`), and the report
//! (`crate::report`). Entry: [`Notices`].
//!
//! ```text
//! begin ─ START ────────► outbox, a thread per address ─► collector
//! end   ─ COMPLETE ─────►   attempts, pauses
//!       ─ the report ───►  outbox ────────────────────► webhook
//! ```

mod dataset;
mod openlineage;
mod outbox;

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use self::openlineage::Lineage;
use self::outbox::Outbox;
use crate::config::pipeline::{AddressSpec, NoticesSpec, Pipeline};
use crate::job::Job;
use crate::report::{Report, Status};

/// The variable with the token for the collector, unless the pipeline file has one; the name is that of OpenLineage's own
/// clients.
const API_KEY: &str = "OPENLINEAGE_API_KEY";

/// What one run tells other systems.
pub(crate) struct Notices {
    spec: NoticesSpec,
    run_id: String,
    lineage: Option<(Lineage, Outbox)>,
}

impl Notices {
    /// What the run `run_id` of a pipeline tells; `None` if that is nothing. `nominal_time` is the time that it was scheduled
    /// for.
    pub(crate) fn new(
        pipeline: &Pipeline,
        run_id: String,
        nominal_time: Option<DateTime<Utc>>,
    ) -> Option<Self> {
        let spec = pipeline.notices.clone();
        if spec == NoticesSpec::default() {
            return None;
        }
        let lineage = spec.openlineage.as_ref().map(|collector| {
            let lineage =
                Lineage::new(pipeline, &run_id, collector.namespace.clone(), nominal_time);
            let mut address = collector.address.clone();
            if address.headers.is_empty()
                && let Ok(key) = std::env::var(API_KEY)
                && !key.trim().is_empty()
            {
                address
                    .headers
                    .push(("Authorization".to_owned(), format!("Bearer {}", key.trim())));
            }
            (lineage, Outbox::new(address))
        });
        Some(Self { spec, run_id, lineage })
    }

    /// The id of the run in events and in the report.
    pub(crate) fn run_id(&self) -> &str {
        &self.run_id
    }

    /// Sends that the run has begun.
    pub(crate) fn begin(&self, at: &str) {
        if let Some((lineage, outbox)) = &self.lineage {
            outbox.send("the event START", lineage.start(at));
        }
    }

    /// Sets the columns that the run reads and writes, once they are known.
    pub(crate) fn describe(&mut self, job: &Job) {
        if let Some((lineage, _)) = &mut self.lineage {
            lineage.describe(job);
        }
    }

    /// Sends that the run has ended, as `report` says. Waits for all answers, at most for `time`, and returns what was not
    /// delivered.
    pub(crate) fn end(self, report: &Report, time: Duration) -> Vec<String> {
        let deadline = Instant::now() + time;
        let mut outboxes = Vec::new();
        if let Some((lineage, outbox)) = self.lineage {
            let (name, event) = lineage.end(report);
            outbox.send(name, event);
            outboxes.push(outbox);
        }
        let (key, webhook) = match report.status {
            Status::Done => ("the report of `on_success`", self.spec.on_success),
            _ => ("the report of `on_failure`", self.spec.on_failure),
        };
        outboxes.extend(webhook.map(|address| post(key, address, report)));
        // All of them end together.
        for outbox in &mut outboxes {
            outbox.close();
        }
        outboxes.into_iter().flat_map(|outbox| outbox.settle(deadline)).collect()
    }
}

/// Posts a report to a webhook.
fn post(what: &str, address: AddressSpec, report: &Report) -> Outbox {
    let outbox = Outbox::new(address);
    match report.to_json() {
        Ok(text) => outbox.send(what, text),
        Err(error) => outbox.fail(what, &error.to_string()),
    }
    outbox
}

/// An id for a run: a UUID of version 7 (RFC 9562), milliseconds and then random bits.
pub(crate) fn new_run_id() -> String {
    let random = || u128::from(RandomState::new().hash_one((std::process::id(), Utc::now())));
    uuid7(Utc::now().timestamp_millis() as u128, (random() << 64) | random())
}

fn uuid7(millis: u128, random: u128) -> String {
    let random = random & 0x0fff_3fff_ffff_ffff_ffff;
    let id = ((millis & 0xffff_ffff_ffff) << 80) | (7 << 76) | (0b10 << 62) | random;
    let hex = format!("{id:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_bits_of_version_7() {
        assert_eq!(uuid7(0, 0), "00000000-0000-7000-8000-000000000000");
        // The example of RFC 9562.
        let random = 0x0cc3_18c4_dc0c_0c07_398f;
        assert_eq!(uuid7(0x017f_22e2_79b0, random), "017f22e2-79b0-7cc3-98c4-dc0c0c07398f");
        assert_eq!(uuid7(u128::MAX, u128::MAX), "ffffffff-ffff-7fff-bfff-ffffffffffff");
        assert_ne!(new_run_id(), new_run_id());
    }
}
