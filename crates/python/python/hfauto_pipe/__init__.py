"""Hugging Face models over tables: a task's function adds a column to a table, `sql` runs queries, `run` runs pipelines.

Tables and columns are anything with the Arrow PyCapsule interface: those of pyarrow, polars, DuckDB and pandas. Results
have it, too.

>>> import hfauto_pipe
>>> hfauto_pipe.embed(["a quiet inn", "a loud bar"], model="sentence-transformers/all-MiniLM-L6-v2")
hfauto_pipe.Array of 2 values: FixedSizeList(384 x non-null Float32)
"""

from . import _functions, _native
from ._functions import run, sql
from ._native import Array, Error, Table, __version__, unload

_errors = {name: kind for name, kind in vars(_native).items() if name.endswith("Error")}
globals().update(_errors)
globals().update(_functions.TASKS)

__all__ = ["Array", "Table", "run", "sql", "unload", *_functions.TASKS, *_errors]
