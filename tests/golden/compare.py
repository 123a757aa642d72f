#!/usr/bin/env python3
"""Compare a column of embeddings in two Parquet files; exit 0 if they agree, 1 if not, 2 if they cannot be compared.

    python compare.py A.parquet B.parquet [--column embedding] [--key id] [--atol 1e-5]

Agreement means: the same number of rows, the same keys in the same order, nulls in the same rows,
the same dimensions, and no two numbers further apart than --atol. A file may be a folder of files.

Needs: pyarrow and numpy.
"""
import argparse
import sys

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq


def read(path, key, column):
    """-> keys as text (or None without a key column), rows as f32 arrays or None."""
    table = pq.read_table(path)
    if column not in table.column_names:
        raise ValueError(f"{path}: no column {column!r}; it has {', '.join(table.column_names)}")
    keys = [None if k is None else str(k) for k in table[key].to_pylist()] if key in table.column_names else None
    lists = table[column].combine_chunks()
    values = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32)   # flatten leaves null rows out
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_pylist()
    ends = np.cumsum(lengths)
    rows = [values[end - length:end] if valid else None
            for end, length, valid in zip(ends, lengths, lists.is_valid().to_pylist())]
    return keys, rows


def problems(a, b, atol):
    """Yields descriptions of the differences, with the first example of each kind."""
    (keys_a, rows_a), (keys_b, rows_b) = a, b
    if len(rows_a) != len(rows_b):
        yield f"{len(rows_a)} rows against {len(rows_b)}"
        return
    if (keys_a is None) != (keys_b is None):
        yield "only one of the two has the key column"
    elif keys_a != keys_b:
        i = next(i for i, (x, y) in enumerate(zip(keys_a, keys_b)) if x != y)
        same = " (the same keys in another order)" if sorted(map(str, keys_a)) == sorted(map(str, keys_b)) else ""
        yield f"row {i}: key {keys_a[i]!r} against {keys_b[i]!r}{same}"
    nulls = [i for i, (x, y) in enumerate(zip(rows_a, rows_b)) if (x is None) != (y is None)]
    if nulls:
        yield f"{len(nulls)} rows are null in one only, the first is row {nulls[0]}"
    both = [i for i, (x, y) in enumerate(zip(rows_a, rows_b)) if x is not None and y is not None]
    shapes = [i for i in both if len(rows_a[i]) != len(rows_b[i])]
    if shapes:
        yield f"row {shapes[0]}: {len(rows_a[shapes[0]])} dimensions against {len(rows_b[shapes[0]])}"
        return
    if not both:
        return
    apart = np.array([np.abs(rows_a[i] - rows_b[i]).max(initial=0) for i in both])
    apart[np.isnan(apart)] = np.inf
    worst = int(apart.argmax())
    print(f"{len(both)} rows compared, {len(rows_a) - len(both)} null; largest difference {apart[worst]:.3g} in row {both[worst]}, "
          f"mean of the rows' largest {apart.mean():.3g}")
    if apart[worst] > atol:
        yield f"{int((apart > atol).sum())} rows differ by more than {atol:g}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("a")
    parser.add_argument("b")
    parser.add_argument("--column", default="embedding")
    parser.add_argument("--key", default="id")
    parser.add_argument("--atol", type=float, default=1e-5)
    args = parser.parse_args()
    try:
        a, b = read(args.a, args.key, args.column), read(args.b, args.key, args.column)
    except (OSError, ValueError, KeyError) as error:
        print(error, file=sys.stderr)
        return 2
    found = list(problems(a, b, args.atol))
    for problem in found:
        print("differs:", problem)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
