"""Writes the type stubs of the package, from the declarations of the installed one: `just stubs`."""

import sys
from pathlib import Path

import hfauto_pipe
from hfauto_pipe import _functions, _native

HEAD = '''"""Hugging Face models over tables."""

# Written by crates/python/stubs.py from the declarations of the program.

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Literal, Protocol, overload

__version__: str

class ArrowStreamExportable(Protocol):
    """A table or a column in chunks: of pyarrow, polars, DuckDB, pandas."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...

class ArrowArrayExportable(Protocol):
    """A record batch or a column."""

    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]: ...

class Array:
    """An Arrow column, in chunks. `pyarrow.chunked_array(array)` and `polars.Series(array)` read it without copies."""

    def __len__(self) -> int: ...
    def to_pylist(self) -> list[Any]: ...
    def __arrow_c_schema__(self) -> object: ...
    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]: ...
    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...

class Table:
    """A table of Arrow columns. `pyarrow.table(table)`, `polars.from_arrow(table)` and DuckDB read it without copies."""

    @property
    def num_rows(self) -> int: ...
    @property
    def column_names(self) -> list[str]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, name: str) -> Array: ...
    def to_pylist(self) -> list[dict[str, Any]]: ...
    def __arrow_c_schema__(self) -> object: ...
    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...

class Error(Exception):
    """An error of hfauto-pipe: a subclass for each kind, with the program's text."""

    kind: str
    exit_code: int

'''

CALLS = '''
def run(
    pipeline: str | PathLike[str],
    *,
    set: Mapping[str, Any] | None = None,
    limit: int | None = None,
    fresh: bool = False,
    prune: bool = False,
    offline: bool = False,
    progress: bool | None = None,
) -> dict[str, Any]:
    """{run}"""

def sql(
    query: str,
    tables: Mapping[str, ArrowStreamExportable | ArrowArrayExportable | Sequence[str | None]] | None = None,
    /,
    *,
    models: Mapping[str, str | Mapping[str, Any]] | None = None,
    offline: bool = False,
    progress: bool | None = None,
    **more_tables: ArrowStreamExportable | ArrowArrayExportable | Sequence[str | None],
) -> Table:
    """{sql}"""

def unload() -> None:
    """{unload}"""
'''


def declaration(name, parameters, data, result):
    lines = [f"def {name}("]
    for parameter in parameters:
        types = data if parameter.name == "data" else parameter.types
        default = "" if parameter.default is parameter.inspected().empty else f" = {parameter.default!r}"
        lines.append(f"    {parameter.name}: {types}{default},")
        if parameter.name == "data":
            lines.append("    /,")
        if parameter.name == "column":
            lines.append("    *,")
    lines.append(f") -> {result}:")
    return lines


def text() -> str:
    """The stubs."""
    lines = [HEAD.rstrip("\n"), ""]
    for name, kind in vars(_native).items():
        if name.endswith("Error") and name != "Error":
            lines += [f"class {name}(Error):", f'    """{kind.__doc__}"""', ""]
    docs = {name: getattr(hfauto_pipe, name).__doc__ for name in ("run", "sql", "unload")}
    lines.append(CALLS.strip("\n").format(**{name: (doc or "").strip() for name, doc in docs.items()}))
    for name, parameters in _functions.PARAMETERS.items():
        doc = _functions.TASKS[name].__doc__.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
        doc = "\n".join(f"    {line}".rstrip() for line in doc.splitlines()).strip()
        table = parameters[0].types
        docstring = [f'    """{doc}', '    """']
        if _functions.READS[name] > 1:
            lines += ["", *declaration(name, parameters, table, "Table"), *docstring]
            continue
        # A table and a column have the same interface: only a list is known to be a column.
        lines += ["", "@overload", *declaration(name, parameters, "Sequence[str | None]", "Array"), *docstring]
        lines += ["", "@overload", *declaration(name, parameters, table, "Any"), "    ..."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "python/hfauto_pipe/__init__.pyi"
    target.write_text(text())
