//! The pipeline file: as written, checked, as used. Not here: anything that needs files, network or
//! weights other than the pipeline file itself.

pub mod pipeline;
