//! Where rows come from: DataFusion file formats, globs, hive partitions.
