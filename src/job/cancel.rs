//! Ends work of other threads early. Not here: signals (`crate::cli`).

use std::sync::Arc;

use tokio::sync::watch;

use crate::error::ErrorKind;

/// A handle that ends the work that was given a clone of it.
#[derive(Clone, Debug)]
pub struct Cancel(Arc<watch::Sender<Option<ErrorKind>>>);

impl Default for Cancel {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl Cancel {
    /// A handle that has not been used.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the work with an error of `kind`: [`ErrorKind::Interrupted`] or [`ErrorKind::Terminated`]. The first kind
    /// stays.
    pub fn cancel(&self, kind: ErrorKind) {
        self.0.send_if_modified(|asked| asked.is_none() && asked.replace(kind).is_none());
    }

    /// Resolves with the kind once the work must end.
    pub async fn cancelled(&self) -> ErrorKind {
        let mut asked = self.0.subscribe();
        // The handle keeps the sender, so that waiting cannot fail.
        let kind = asked.wait_for(Option::is_some).await.ok().and_then(|asked| *asked);
        kind.unwrap_or(ErrorKind::Internal)
    }
}
