"""Examples of links: whom each is about, and the list of what it was linked to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa


def as_lists(
    keys: pa.ChunkedArray, times: np.ndarray, labels: pa.ChunkedArray
) -> tuple[pa.ChunkedArray, np.ndarray, pa.ChunkedArray]:
    """Examples' keys, times (datetime64) and labels with a list of targets each.

    Tables hold either a row for each entity and time, with a list, which stays as it is, or a row for each pair: those
    of one entity and time become one example, ordered by time and entity.
    """
    import pyarrow as pa

    if _is_list(labels.type):
        return keys, times, labels
    rows = pa.table({"key": keys, "time": times, "label": labels})
    rows = rows.sort_by([("time", "ascending"), ("key", "ascending"), ("label", "ascending")])
    ordered, when = rows["key"].combine_chunks(), rows["time"].to_numpy().astype("datetime64[us]")
    codes = ordered.dictionary_encode(null_encoding="encode").indices.to_numpy()
    first = np.ones(len(rows), bool)
    first[1:] = (codes[1:] != codes[:-1]) | ~_same(when[1:], when[:-1])
    linked = rows["label"].combine_chunks()
    known = linked.is_valid().to_numpy(zero_copy_only=False)  # nulls are no links, and their examples have none
    starts = np.flatnonzero(first)
    before = np.concatenate([[0], np.cumsum(known)])  # known labels before each row
    lists = pa.ListArray.from_arrays(pa.array(before[np.append(starts, len(rows))], pa.int32()), linked.drop_null())
    return pa.chunked_array([ordered.take(pa.array(starts))]), when[starts], pa.chunked_array([lists])


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
