"""Makes the Delta tables beside this file and what their readers must find, with delta-rs:

    pip install deltalake==1.6.6 pyarrow && python make.py
"""

import datetime
import decimal
import json
import pathlib
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, convert_to_deltalake, write_deltalake

HERE = pathlib.Path(__file__).parent


def text(value):
    return value.isoformat() if hasattr(value, "isoformat") else value


def expected(name, versions):
    """The rows of each version by `id`, with what JSON has no type for as text."""
    found = {}
    for version in versions:
        table = DeltaTable(HERE / name, version=version).to_pyarrow_table()
        rows = [{key: text(value) for key, value in row.items()} for row in table.to_pylist()]
        found[str(version)] = {"columns": table.column_names, "rows": sorted(rows, key=lambda row: row["id"])}
    (HERE / f"{name}.json").write_text(json.dumps(found, ensure_ascii=False, indent=1, default=str) + "\n")


def fresh(name):
    shutil.rmtree(HERE / name, ignore_errors=True)
    return str(HERE / name)


def versions():
    """Appends, a deletion, a column that is added, and rows that are replaced."""
    path = fresh("versions")
    write_deltalake(path, pa.table({"id": [1, 2, 3], "text": ["boats", "bread", None]}))
    write_deltalake(path, pa.table({"id": [4, 5], "text": ["birds", "beans"]}), mode="append")
    DeltaTable(path).delete("id = 2")
    more = pa.table({"id": [6], "text": ["books"], "lang": ["en"]})
    write_deltalake(path, more, mode="append", schema_mode="merge")
    last = pa.table({"id": [7, 8], "text": ["bells", "boots"], "lang": ["en", None]})
    write_deltalake(path, last, mode="overwrite")
    expected("versions", range(5))


def partitioned():
    """Partitions with nulls, dates and characters that are escaped twice; a column between others."""
    path = fresh("partitioned")
    day = datetime.date(2026, 12, 1)
    table = pa.table(
        {
            "id": [1, 2, 3, 4],
            "lang": ["en", "a/b c=ü%", None, "en"],
            "text": ["boats", "bread", "birds", "beans"],
            "day": pa.array([day, day, None, day + datetime.timedelta(1)], pa.date32()),
            "n": pa.array([1, 2, 3, 4], pa.int32()),
        }
    )
    write_deltalake(path, table, partition_by=["lang", "day"])
    expected("partitioned", [0])


def checkpointed():
    """A checkpoint whose versions are cleaned up, and one version after it."""
    path = fresh("checkpointed")
    for number in range(4):
        lang = pa.array(["en" if number % 2 else None], pa.string())
        rows = pa.table({"id": [number], "lang": lang})
        write_deltalake(path, rows, mode="append", partition_by=["lang"])
    DeltaTable(path).delete("id = 1")
    DeltaTable(path).create_checkpoint()
    for version in range(4):
        (HERE / "checkpointed" / "_delta_log" / f"{version:020}.json").unlink()
    write_deltalake(path, pa.table({"id": [9], "lang": ["fr"]}), mode="append")
    expected("checkpointed", [5])


def types():
    """Every type, and times as old versions of Spark write them (INT96)."""
    path = fresh("types")
    at = datetime.datetime(2026, 12, 1, 4, 5, 6, 789000)
    table = pa.table(
        {
            "id": [1, 2],
            "at": pa.array([at, None], pa.timestamp("ns")),
            "price": pa.array([decimal.Decimal("1.50"), None], pa.decimal128(10, 2)),
            "small": pa.array([1, None], pa.int16()),
            "ok": [True, None],
            "vector": pa.array([[0.5, 1.5], []], pa.list_(pa.float32())),
            "pair": pa.array([{"label": "x", "score": 0.5}, None]),
        }
    )
    (HERE / "types").mkdir()
    pq.write_table(table, HERE / "types" / "part-0.parquet", use_deprecated_int96_timestamps=True)
    convert_to_deltalake(path)
    # As Spark declares them.
    log = HERE / "types" / "_delta_log" / f"{0:020}.json"
    log.write_text(log.read_text().replace('\\"timestamp_ntz\\"', '\\"timestamp\\"'))


if __name__ == "__main__":
    versions()
    partitioned()
    checkpointed()
    types()
