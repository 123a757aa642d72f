//! What an executor of this program runs: units of pipelines and of queries. Not here: either of them.

use std::sync::Arc;

use async_trait::async_trait;

use super::allow::Allow;
use super::pipelines::PipelineUnits;
use super::query::{QueryUnits, ResultsClient};
use super::security::{Address, Credentials};
use super::units::{UnitDone, Units};
use crate::error::Result;
use crate::hub::Hub;
use crate::job::Cancel;

/// Runs every unit that a client of this program submits.
pub(crate) struct Work {
    pipelines: PipelineUnits,
    queries: QueryUnits,
}

impl Work {
    /// Work that writes and reads below the allowed places. Results of queries go to the scheduler at `address`.
    ///
    /// # Errors
    /// `Usage` if a certificate is damaged.
    pub(crate) fn new(
        hub: Hub,
        allow: &Allow,
        credentials: &Credentials,
        address: &Address,
    ) -> Result<Self> {
        let hub = Arc::new(hub);
        let results = ResultsClient::new(credentials.client(address)?, address.clone());
        Ok(Self {
            pipelines: PipelineUnits::new(Arc::clone(&hub), allow.clone()),
            queries: QueryUnits::new(hub, allow.clone(), results),
        })
    }
}

#[async_trait]
impl Units for Work {
    async fn run(&self, job: &[u8], unit: &[u8], cancel: &Cancel) -> Result<UnitDone> {
        if QueryUnits::is_for(job) {
            return self.queries.run(job, unit, cancel).await;
        }
        self.pipelines.run(job, unit, cancel).await
    }
}
