"""The made-up shop as a whole: the same seed gives the same shop, and its files say what they promise."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tuneloop.demo.lexicon import Lexicon
from tuneloop.demo.shop import Shop


def test_the_same_seed_gives_the_same_shop(small):
    one, two = Shop(small), Shop(small)
    assert one.articles == two.articles
    assert all(one.tables()[name].equals(two.tables()[name]) for name in one.tables())
    assert list(one.sessions(1)) == list(two.sessions(1))
    assert one.held_out == two.held_out


def test_the_same_seed_gives_the_same_shop_in_another_process(small):
    code = (
        "import zlib; from tuneloop.demo.shop import Shop; from tuneloop.demo.parameters import ShopParameters as P\n"
        f"shop = Shop(P(**{vars(small) | {'first_day': None}!r} | {{'first_day': P.first_day}}))\n"
        "print(zlib.crc32(repr([session.line() for session in shop.sessions(0)]).encode()))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": s}
        )
        for s in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout != ""


def test_another_seed_gives_another_shop(small):
    other = Shop(replace(small, seed=8))
    assert other.articles != Shop(small).articles
    assert other.lexicon.words != Shop(small).lexicon.words


def test_articles_have_stable_ids_and_natural_texts(shop):
    assert len(shop.articles) == 2000
    assert shop.articles[0].object_id == "art-0001"
    assert len({article.object_id for article in shop.articles}) == 2000
    for article in shop.articles:
        assert article.type in article.text.lower()
        assert article.colour in article.text.lower()
        assert article.season in article.text
        assert article.brand in article.text
        assert article.price > 0


def test_no_article_says_an_invented_word(shop):
    texts = " ".join(article.text.lower() for article in shop.articles)
    plain = {word for words in shop.lexicon.words.values() for phrase in words.plain for word in phrase.split()}
    for word in shop.lexicon.invented:
        assert word not in texts
        assert word not in plain


def test_every_concept_has_a_word_of_its_own(shop):
    invented = [word for words in Lexicon(shop.parameters).words.values() for word in words.invented]
    assert len(invented) == len(set(invented)) > 100
    assert all(words.plain and words.invented for words in shop.lexicon.words.values())


def test_tables_fit_together(shop, tmp_path):
    shop.write_tables(tmp_path)
    customers, articles, transactions, returns = (
        pq.read_table(tmp_path / f"{name}.parquet") for name in ("customers", "articles", "transactions", "returns")
    )
    assert (customers.num_rows, articles.num_rows) == (1500, 2000)
    assert pc.all(pc.is_in(transactions["customer_id"], customers["customer_id"])).as_py()
    assert pc.all(pc.is_in(transactions["article_id"], articles["article_id"])).as_py()
    assert pc.all(pc.is_in(returns["transaction_id"], transactions["transaction_id"])).as_py()
    dates = transactions["t_dat"].to_numpy()
    assert (np.diff(dates) >= np.timedelta64(0)).all()
    assert dates[0] >= np.datetime64(shop.parameters.first_day)
    assert dates[-1] <= np.datetime64(shop.parameters.last_day)
    assert set(customers.column_names) == {"customer_id", "joined", "age", "region"}  # nothing says who left


def test_nothing_happens_before_its_time(shop):
    tables = shop.tables()
    launched = {row["article_id"]: row["launched"] for row in tables["articles"].to_pylist()}
    joined = {row["customer_id"]: row["joined"] for row in tables["customers"].to_pylist()}
    bought = {row["transaction_id"]: row for row in tables["transactions"].to_pylist()}
    for row in bought.values():
        assert launched[row["article_id"]] <= row["t_dat"]
        assert joined[row["customer_id"]] <= row["t_dat"]
    for row in tables["returns"].to_pylist():
        assert bought[row["transaction_id"]]["t_dat"] < row["t_dat"] <= shop.parameters.last_day


def test_who_left_buys_no_more_and_searches_no_more(shop, sessions):
    history = shop.history
    left = history.left[history.customer]
    assert ((left < 0) | (np.array(history.day) < left)).all()
    gone = {customer for customer, day in zip(shop.customers.ids, history.left, strict=True) if day >= 0}
    assert 0.25 < len(gone) / len(shop.customers.ids) < 0.6
    assert not gone & {session.user_id for session in sessions}


def test_seasons_show_in_what_is_bought(shop):
    history = shop.history
    kinds = np.array([article.type for article in shop.articles])[history.article]
    month = (np.array(history.day) % 365) // 30.5
    summer, winter = (month >= 5) & (month <= 7), (month <= 1) | (month >= 11)
    for kind, season, other in (("coat", winter, summer), ("sandals", summer, winter), ("swimsuit", summer, winter)):
        assert (kinds[season] == kind).mean() > 3 * (kinds[other] == kind).mean()


def test_the_files_for_benchmarks(small, tmp_path):
    shop = Shop(small)
    shop.write(tmp_path, rounds=2)
    lines = {name: _lines(tmp_path / f"{name}.jsonl") for name in ("items", "sessions", "heldout")}
    assert [line["object_id"] for line in lines["items"]] == [article.object_id for article in shop.articles]
    assert len(lines["sessions"]) == 2 * small.sessions_per_round
    assert lines["sessions"][-1]["session_id"] == f"demo-1-{small.sessions_per_round - 1}"
    assert [line["relevance"] for line in lines["heldout"]] == [held.relevance for held in shop.held_out]
    assert json.loads((tmp_path / "parameters.json").read_text())["seed"] == small.seed
    assert {path.stem for path in (tmp_path / "tables").iterdir()} == set(shop.tables())


def test_the_files_can_be_had_from_the_command_line(tmp_path):
    command = [sys.executable, "-m", "tuneloop.demo", "shop", "--out", str(tmp_path / "data")]
    subprocess.run(command, check=True, capture_output=True)
    assert len(_lines(tmp_path / "data" / "items.jsonl")) == 2000
    assert len(_lines(tmp_path / "data" / "heldout.jsonl")) >= 300


def test_the_demo_imports_no_torch():
    code = "import sys, tuneloop.demo.__main__; sys.exit('torch' in sys.modules or 'mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]
