//! One verb a file; the only place that prints.
