//! Runs a pipeline: the model operator, workers, progress, report.
