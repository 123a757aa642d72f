"""The functions of the package. Those of tasks come from the declarations of the program: names, options, docstrings."""

import contextlib
import inspect
import json
import os
import textwrap

from . import _native
from ._progress import meter

_DECLARED = json.loads(_native.declarations())
_SCHEMA = _DECLARED["schema"]

# Keys of a step that are parameters of every function.
_GIVEN = ("model", "input", "output")

_DATA = "data"
_TABLE = "ArrowStreamExportable | ArrowArrayExportable"


def _json(value) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


@contextlib.contextmanager
def _meter(title, progress):
    shown = meter(title, progress)
    try:
        yield shown
    finally:
        shown.close()


def run(pipeline, *, set=None, limit=None, fresh=False, prune=False, offline=False, progress=None):
    """Runs a pipeline file, as `hfauto-pipe run` does, and returns the report of the run.

    Parameters
    ----------
    pipeline : path
        The pipeline file (YAML).
    set : dict, optional
        Overrides of keys of the file, such as `{"source.limit": 100}`.
    limit : int, optional
        Read at most this many rows of the source.
    fresh : bool
        Replace an existing output.
    prune : bool
        Remove rows of deleted input files from the output of an incremental pipeline.
    offline : bool
        Use only local files and the cache, as HF_HUB_OFFLINE=1 does.
    progress : bool, optional
        Show progress. Default: in terminals and notebooks.

    Raises
    ------
    Error
        With the text, the kind and the exit code of the program.
    """
    texts = [(key, value if isinstance(value, str) else _json(value)) for key, value in (set or {}).items()]
    with _meter(os.path.basename(os.fspath(pipeline)), progress) as shown:
        report = _native.run(
            pipeline, set=texts, limit=limit, fresh=fresh, prune=prune, offline=offline, meter=shown
        )
    return json.loads(report)


def sql(query, tables=None, /, *, models=None, offline=False, progress=None, **more_tables):
    """Runs a SQL query with models over tables, and returns its rows.

    Every task is a function in SQL: `embed(text, 'model')`. Files are tables by their quoted path:
    `FROM 'reviews/*.parquet'`.

    Parameters
    ----------
    query : str
        A query; statements that write are refused.
    tables, **more_tables : tables or columns
        The tables of the query by name. A column is a table of one column.
    models : dict, optional
        Aliases of models: a hub id, a directory, or a dict with `repo` and the other keys of a model in a pipeline file.
    offline : bool
        Use only local files and the cache, as HF_HUB_OFFLINE=1 does.
    progress : bool, optional
        Show progress. Default: in terminals and notebooks.

    Raises
    ------
    Error
        With the text, the kind and the exit code of the program.
    """
    named = {**(tables or {}), **more_tables}
    with _meter("sql", progress) as shown:
        return _native.sql(
            query, list(named.items()), models=_json(models or {}), offline=offline, meter=shown
        )


class _Value(str):
    """A value that a parameter may have, as Python writes it."""

    def __new__(cls, value):
        return super().__new__(cls, repr(value))


def _union(types) -> str:
    """The union of types; values become one Literal."""
    values = [name for name in types if isinstance(name, _Value)]
    names = [f"Literal[{', '.join(values)}]"] if values else []
    return " | ".join(dict.fromkeys([*names, *(name for name in types if not isinstance(name, _Value))]))


def _types(schema) -> list:
    """The Python types of a JSON Schema, without None."""
    if "$ref" in schema:
        return _types(_SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[-1]])
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return [name for option in schema[key] for name in _types(option)]
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values is not None:
        return [_Value(value) for value in values if value is not None]
    names = schema.get("type", [])
    names = [names] if isinstance(names, str) else names
    plain = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "object": "dict[str, Any]"}
    types = []
    for name in names:
        if name == "array":
            types.append(f"Sequence[{_union(_types(schema.get('items', {}))) or 'Any'}]")
        elif name != "null":
            types.append(plain[name])
    return types


def _step(task) -> dict:
    """The schema of a task's step."""
    steps = (step["properties"] for step in _SCHEMA["$defs"]["RawStep"]["oneOf"])
    return next(step[task["id"]] for step in steps if task["id"] in step)


class _Parameter:
    """A parameter of a task's function."""

    def __init__(self, name, types, doc, default=inspect.Parameter.empty):
        self.name, self.types, self.doc, self.default = name, types, doc, default

    def inspected(self) -> inspect.Parameter:
        kinds = {_DATA: inspect.Parameter.POSITIONAL_ONLY, "column": inspect.Parameter.POSITIONAL_OR_KEYWORD}
        kind = kinds.get(self.name, inspect.Parameter.KEYWORD_ONLY)
        return inspect.Parameter(self.name, kind, default=self.default)


def _parameters(task) -> list:
    reads, step = task["parameters"], _step(task)
    if len(reads) == 1:
        data = f"A table; or a column of `{reads[0]}`, also as a list, for which the result is a column."
        column = f"The column to read. Default: `{reads[0]}`, or the only text column."
    else:
        named = ", ".join(f'"{name}": …' for name in reads)
        data = "A table."
        column = f"The columns to read: `{{{named}}}`. Default: those of these names."
    parts = task["parts"]
    whole, several = "str | " if len(reads) == 1 else "", "Mapping[str, str | Sequence[str]] | "
    columns = f"{whole}{several if parts or not whole else ''}None"
    if parts:
        named = ", ".join(f'"{name}": …' for name in parts)
        column += f" Or several columns: `{{{named}}}`."
    is_embed = task["function"] == "embed"
    has_default = is_embed or task["model"] is not None
    default_model = ""
    if has_default:
        default_model = f" Default: {'the small English model of the package' if is_embed else '`' + task['model'] + '`'}."
    parameters = [
        _Parameter(_DATA, _TABLE, data),
        _Parameter("column", columns, column, None),
        _Parameter(
            "model",
            f"str | Mapping[str, Any]{' | None' if has_default else ''}",
            "A hub id, a directory, or a dict with `repo` and the other keys of a model in a pipeline file, such as "
            f"`revision` and `dtype`.{default_model}",
            None if has_default else inspect.Parameter.empty,
        ),
        _Parameter("output", "str", "The name of the new column of a table.", task["output"] or task["function"]),
    ]
    required = step.get("required", [])
    for key, schema in step["properties"].items():
        if key in _GIVEN:
            continue
        default = inspect.Parameter.empty if key in required else None
        types = _union(_types(schema)) + ("" if key in required else " | None")
        parameters.append(_Parameter(key, types, schema.get("description", ""), default))
    parameters += [
        _Parameter("offline", "bool", "Use only local files and the cache, as HF_HUB_OFFLINE=1 does.", False),
        _Parameter("progress", "bool | None", "Show progress. Default: in terminals and notebooks.", None),
    ]
    return parameters


def _doc(task, parameters) -> str:
    lines = [task["summary"], "", task["description"], "", "Parameters", "----------"]
    for parameter in parameters:
        types = "table or column" if parameter.name == _DATA else parameter.types
        lines.append(f"{parameter.name} : {types}")
        text = " ".join(parameter.doc.split())
        lines += textwrap.wrap(text, 100, initial_indent="    ", subsequent_indent="    ")
    lines += ["", "Returns", "-------", "Table or Array"]
    lines += ["    The table with one more column; for a column, the new column alone."]
    lines += ["", "Raises", "------", "Error", "    With the text, the kind and the exit code of the program."]
    return "\n".join(lines)


def _function(task):
    """The function of a task."""
    parameters = _parameters(task)
    signature = inspect.Signature([parameter.inspected() for parameter in parameters])
    name = task["function"]
    own = ("model", "output", "offline", "progress")
    options = [parameter.name for parameter in parameters if parameter.name not in (_DATA, "column", *own)]

    def function(data, /, column=None, **given):
        unknown = [key for key in given if key not in options and key not in own]
        if not unknown:
            # Raises a TypeError that names a required parameter.
            bound = signature.bind(data, column, **given)
            bound.apply_defaults()
            values = bound.arguments
        else:
            # The program's error names the nearest option.
            values = {"model": "", "output": name, "offline": True, "progress": False, **given}
        chosen = {key: values[key] for key in [*options, *unknown] if values.get(key) is not None}
        with _meter(name, values["progress"]) as shown:
            return _native.task(
                name,
                data,
                column=_json(column),
                model=_json(values["model"]),
                output=values["output"],
                options=_json(chosen),
                offline=values["offline"],
                meter=shown,
            )

    function.__name__ = function.__qualname__ = name
    function.__module__ = "hfauto_pipe"
    function.__signature__ = signature
    function.__doc__ = _doc(task, parameters)
    return function


TASKS = {task["function"]: _function(task) for task in _DECLARED["tasks"]}
# The number of columns that each reads.
READS = {task["function"]: len(task["parameters"]) for task in _DECLARED["tasks"]}
PARAMETERS = {task["function"]: _parameters(task) for task in _DECLARED["tasks"]}

for _name in ("run", "sql"):
    globals()[_name].__module__ = "hfauto_pipe"
