"""Embeddings in files: read beside the catalogue, in parts, joined to one."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tuneloop.tasks.embedding_files import Known, Parts, dimensions_of, embeddings_schema, is_file, text_hash

SCHEMA = embeddings_schema(3, model="shöp", version="7", run_id="r1")


def write(parts: Parts, *ids: str) -> None:
    vectors = np.array([[ord(each[0]), 1, 2] for each in ids], np.float32)
    parts.write(SCHEMA, ids, vectors, [text_hash(each) for each in ids])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "t.parts"


def test_parts_become_one_file_that_others_read(folder: Path, tmp_path: Path) -> None:
    parts = Parts(str(folder))
    write(parts, "a", "b")
    write(parts, "c")
    output = tmp_path / "out.parquet"
    parts.join(str(output), SCHEMA, check=lambda: None)
    parts.delete()
    assert list(tmp_path.iterdir()) == [output]
    table = pq.read_table(output)
    assert table.column_names[:2] == ["object_id", "embedding"]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 3)
    assert table.column("object_id").to_pylist() == ["a", "b", "c"]
    assert table.column("embedding").to_pylist()[2] == [99, 1, 2]
    told = table.schema.metadata
    assert (told[b"tuneloop.model"].decode(), told[b"tuneloop.version"]) == ("shöp", b"7")
    assert pq.ParquetFile(output).num_row_groups == 2
    assert (dimensions_of(str(output), "r1"), dimensions_of(str(output), "r2")) == (3, None)


def test_no_items_make_an_empty_file(folder: Path, tmp_path: Path) -> None:
    Parts(str(folder)).join(str(tmp_path / "out.parquet"), SCHEMA, check=lambda: None)
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 0


def test_what_is_known_is_found_in_the_order_of_ids(folder: Path) -> None:
    parts = Parts(str(folder))
    write(parts, "a", "c", "e")
    write(parts, "g", "é", "😀")
    [urls] = Parts(str(folder)).earlier()
    known = Known(urls, "r1")
    assert set(known.take({"a": text_hash("a"), "b": text_hash("b"), "c": text_hash("changed")})) == {"a"}
    assert set(known.take({"f": text_hash("f")})) == set()
    found = known.take({each: text_hash(each) for each in ("g", "é", "😀")})
    assert found["😀"].tolist() == [ord("😀"), 1, 2]
    assert known.take({"😁": text_hash("x")}) == {}


def test_another_models_embeddings_and_broken_files_are_not_known(folder: Path, tmp_path: Path) -> None:
    parts = Parts(str(folder))
    write(parts, "a")
    [urls] = Parts(str(folder)).earlier()
    assert Known(urls, "r2").take({"a": text_hash("a")}) == {}
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 no more")
    known = Known([str(broken), str(tmp_path / "gone.parquet"), *urls], "r1")
    assert set(known.take({"a": text_hash("a")})) == {"a"}
    assert dimensions_of(str(broken), "r1") is None


def test_each_begin_is_a_sequence_of_its_own_and_half_a_part_is_none(folder: Path) -> None:
    first = Parts(str(folder))
    write(first, "a")
    write(first, "b")
    (folder / "0001" / "00000002.parquet.part").write_bytes(b"half")
    second = Parts(str(folder))
    assert [len(urls) for urls in second.earlier()] == [2]
    write(second, "a")
    third = Parts(str(folder))
    assert [len(urls) for urls in third.earlier()] == [2, 1]
    assert all(is_file(url) for urls in third.earlier() for url in urls)
    third.delete()
    third.delete()
    assert not folder.exists()
