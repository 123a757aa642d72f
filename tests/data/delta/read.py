"""Prints the rows of a Delta table as delta-rs reads them, by `id`, one JSON object a line: read.py TABLE"""

import json
import sys

from deltalake import DeltaTable, QueryBuilder

table = DeltaTable(sys.argv[1])
rows = QueryBuilder().register("t", table).execute("SELECT * FROM t").read_all().to_struct_array().to_pylist()
for row in sorted(rows, key=lambda row: row["id"]):
    print(json.dumps({key: value.isoformat() if hasattr(value, "isoformat") else value for key, value in row.items()}))
