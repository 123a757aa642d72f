//! Resolves `images`, the limits on images.

use super::{Cursor, Resolver};
use crate::config::pipeline::ImagesSpec;
use crate::config::raw::RawImages;
use crate::document::Diagnostic;
use crate::store;

impl Resolver<'_> {
    pub(super) fn images(&mut self, raw: Option<&RawImages>, at: Cursor<'_>) -> ImagesSpec {
        let default = ImagesSpec::default();
        let Some(raw) = raw else { return default };
        let here = at.key("root");
        let root = raw.root.as_deref().and_then(|root| self.path(root, here, "root"));
        if root.as_ref().is_some_and(|root| store::is_url(&root.to_string_lossy())) {
            self.report.push(
                Diagnostic::new(here.value, "images are read from local files only")
                    .hint("name a local folder"),
            );
        }
        ImagesSpec {
            root,
            max_pixels: raw.max_pixels.map_or(default.max_pixels, u64::from),
            max_file_bytes: self.size(
                raw.max_file_size.as_ref(),
                at.key("max_file_size"),
                "max_file_size",
                default.max_file_bytes,
            ),
        }
    }
}
