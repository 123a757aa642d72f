//! One task a file: its column type from config alone, model outputs to Arrow.
