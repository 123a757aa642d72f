"""The same step as a program of Daft: a column of texts of a Parquet file, embedded into another file."""

import sys

import daft
from daft.functions import embed_text

rows, model, out = sys.argv[1:]
frame = daft.read_parquet(rows)
frame = frame.with_column("e", embed_text(daft.col("text"), provider="transformers", model=model))
frame.write_parquet(out, write_mode="overwrite")
