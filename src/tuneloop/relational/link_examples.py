"""Examples of links: whom each is about, and the list of what it was linked to."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

    from tuneloop.relational.examples import Examples


def as_lists(examples: Examples) -> Examples:
    """The examples with a list of targets each.

    Tables hold either a row for each entity and time, with a list, which stays as it is, or a row for each pair: those
    of one entity and time become one example, ordered by time and entity.
    """
    import pyarrow as pa

    if examples.labels is None or _is_list(examples.labels.type):
        return examples
    # Nulls are no links, and their examples have none.
    rows = pa.table({"key": examples.keys, "time": examples.times, "cut": examples.cuts, "label": examples.labels})
    rows = rows.sort_by([("time", "ascending"), ("key", "ascending"), ("label", "ascending")])
    keys, times = rows["key"].combine_chunks(), rows["time"].to_numpy()
    codes = keys.dictionary_encode(null_encoding="encode").indices.to_numpy()
    first = np.ones(len(rows), bool)
    first[1:] = (codes[1:] != codes[:-1]) | ~_same(times[1:], times[:-1])
    known = rows["label"].combine_chunks().is_valid().to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(first)
    before = np.concatenate([[0], np.cumsum(known)])  # known labels before each row
    offsets = before[np.append(starts, len(rows))]
    labels = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), rows["label"].combine_chunks().drop_null())
    at = pa.array(starts)
    return replace(
        examples,
        keys=pa.chunked_array([keys.take(at)]),
        times=times[starts].astype("datetime64[us]"),
        cuts=rows["cut"].to_numpy()[starts].astype("datetime64[us]"),
        labels=pa.chunked_array([labels]),
    )


def label_pairs(labels: pa.ChunkedArray | pa.Array) -> tuple[np.ndarray, pa.Array]:
    """The examples' targets one after another: (P,) the example's place, and (P,) the keys; nulls are left out."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lists = labels.combine_chunks() if isinstance(labels, pa.ChunkedArray) else labels
    parents, values = pc.list_parent_indices(lists), pc.list_flatten(lists)
    known = values.is_valid()
    return np.asarray(parents.filter(known).to_numpy(), np.int64), values.filter(known)


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _same(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.asarray((one == other) | (np.isnat(one) & np.isnat(other)))
