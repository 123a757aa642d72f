//! Files as tables, by their quoted path: `SELECT * FROM 'reviews/*.parquet'`. They are read like the source of a
//! pipeline. Not here: listing and reading (`crate::source`).

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::DynamicFileCatalog;
use datafusion::catalog::{TableProvider, UrlTableFactory};
use datafusion::common::Result;
use datafusion::error::DataFusionError;
use datafusion::execution::context::SessionContext;

use crate::config::pipeline::SourceSpec;
use crate::source;
use crate::store;

/// A context that resolves unregistered tables as a file, a folder or a glob; relative paths start from `dir`.
///
/// # Errors
/// `Resources` when the context of files cannot be set up.
pub fn with_file_tables(context: SessionContext, dir: PathBuf) -> crate::Result<SessionContext> {
    let files = Files { context: source::session(None)?, dir };
    let catalogs =
        DynamicFileCatalog::new(Arc::clone(context.state().catalog_list()), Arc::new(files));
    context.register_catalog_list(Arc::new(catalogs));
    Ok(context)
}

struct Files {
    context: SessionContext,
    dir: PathBuf,
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Files").field("dir", &self.dir).finish_non_exhaustive()
    }
}

#[async_trait]
impl UrlTableFactory for Files {
    async fn try_new(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        // Only names that look like a path, so that a mistyped table name is reported as a table.
        if !name.contains(['/', '.', '*']) {
            return Ok(None);
        }
        let path = store::join(&self.dir, name);
        let spec = SourceSpec::of_path(path.display().to_string(), format!("table '{name}'"));
        let source = source::open(&self.context, &spec)
            .await
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
        Ok(Some(source.dataframe.into_view()))
    }
}
