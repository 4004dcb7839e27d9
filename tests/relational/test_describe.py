"""A dataset for the eye: the terminal's tables and the picture tell what is in it."""

import io
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console

from support.tables import shop_document, write_shop
from tuneloop.relational import Dataset
from tuneloop.relational.describe import show
from tuneloop.relational.picture import draw
from tuneloop.relational.sources import Sources


def test_show_tells_rows_types_keys_nulls_and_samples(tmp_path: Path) -> None:
    dataset = Dataset.parse(write_shop(tmp_path))
    text = io.StringIO()
    show(dataset.tables, dataset.task, Sources(), Console(file=text, width=200))
    said = text.getvalue()
    assert "transactions  edge table, 800 rows" in said
    lines = {line.split("│")[1].strip(): line for line in said.splitlines() if line.count("│") > 3}
    assert "candidate key" in lines["article_id"] or "→ articles.article_id" in lines["article_id"]
    assert "time" in lines["t_dat"] and "datetime" in lines["t_dat"]
    assert "category" in lines["region"] and "%" in lines["region"]
    assert "text" in lines["text"]
    assert "integer" in lines["age"]
    assert "50" in lines["train"] and "% true" in lines["train"]


def test_the_picture_has_every_table_column_and_key(tmp_path: Path) -> None:
    dataset = Dataset.parse(write_shop(tmp_path))
    dataset.visualize(tmp_path / "shop.svg")
    root = ElementTree.parse(tmp_path / "shop.svg").getroot()
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    for wanted in ("customers", "articles", "transactions", "task churn", "region", "price", "t_dat"):
        assert wanted in texts
    arrows = [each for each in root.iter("{http://www.w3.org/2000/svg}path") if each.get("marker-end")]
    assert len(arrows) == 3


def test_names_harm_no_picture() -> None:
    document = shop_document(Path("/data"))
    document["name"] = "<script>&"
    document["tables"][0]["foreign_keys"] = [{"column": "boss<&>", "link_to": "customers.customer_id"}]
    dataset = Dataset.parse(document)
    picture = draw(dataset.name, dataset.tables, dataset.task, {})
    ElementTree.fromstring(picture)
    assert "<script>" not in picture
