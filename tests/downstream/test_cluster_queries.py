"""`task=cluster_queries` from the command line: an encoder is tuned with a corpus, judged, and tuned once."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer

from rayfactory.__main__ import main
from rayfactory.analysis.corpus import of_file
from rayfactory.compose import compose
from rayfactory.downstream.cluster_queries import PUBLISHED, markdown
from rayfactory.downstream.pairs import pairs_of, rewritten_pairs
from rayfactory.downstream.query_sets import QuerySet, canonical_of, read_sets, text_of
from rayfactory.errors import UserError
from rayfactory.tools.embedding import source_of

CORPUS = [
    *(f"SELECT name, price FROM product WHERE price > {n} ORDER BY name" for n in range(12)),
    *(f"SELECT city, count(*) FROM customer WHERE age < {n} GROUP BY city" for n in range(12)),
    *(f"SELECT max(total) FROM sale WHERE channel = 'c{n}'" for n in range(12)),
]
JUDGED = [
    ("products", "select name from product where price > 100"),
    ("products", "SELECT price FROM product WHERE price > 7"),
    ("customers", "select city, count(*) from customer group by city"),
    ("customers", "SELECT count(* FROM customer WHERE"),
    ("sales", "SELECT max(total) FROM sale WHERE channel = 'c3'"),
    ("sales", "select min(total) from sale"),
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "corpus.json").write_text(json.dumps(CORPUS), encoding="utf-8")
    (tmp_path / "sets").mkdir()
    lines = ["id\tlabel\tquery", *(f"{i}\t{label}\t{query}" for i, (label, query) in enumerate(JUDGED))]
    (tmp_path / "sets" / "shop.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def words(folder, *more):
    return [
        "task=cluster_queries", f"runs=[{folder / 'corpus.json'}]", "dialect=sqlite", f"run_dir={folder / 'none'}",
        f"clustering.sets={folder / 'sets'}", f"output={folder / 'out'}", "clustering.positives=5", "clustering.batch_size=8",
        "clustering.max_pairs=64", *more,
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_an_encoder_is_tuned_once_and_judged(folder, capsys):
    assert main(words(folder)) == 0
    found = json.loads((folder / "out" / "clustering.json").read_text(encoding="utf-8"))
    assert found["sets"] == {"shop": {"queries": 6, "labels": 3}}
    assert list(found["betacv"]) == ["Aouiche", "Aligon", "Makiyama", "all-MiniLM-L6-v2", "tuned"]
    assert found["betacv"]["tuned"] != found["betacv"]["all-MiniLM-L6-v2"]
    assert found["pairs"] == 64
    assert found["left_out_as_judged"] == 1
    assert found["judged_texts"] == len(JUDGED)
    assert found["judged_texts_learnt"] == 0
    assert len(CORPUS) / 2 < found["learnt_texts"] < len(CORPUS)
    assert "| tuned | " in capsys.readouterr().out
    encoder = folder / "out" / "encoder"
    before = {path: path.stat().st_mtime_ns for path in encoder.rglob("*")}
    assert main(words(folder)) == 0
    assert {path: path.stat().st_mtime_ns for path in encoder.rglob("*")} == before
    assert json.loads((folder / "out" / "clustering.json").read_text(encoding="utf-8")) == found
    assert main(words(folder, "clustering.epochs=2")) == 2
    assert "was tuned with other settings" in capsys.readouterr().err


def test_pairs_are_of_similar_queries_and_none_is_judged(folder):
    corpus = of_file(folder / "corpus.json", compose(words(folder)), lambda _: None)
    judged = {canonical_of(query, "sqlite") for _, query in JUDGED}
    pairs, num_left_out = pairs_of(corpus, 1_000, 5, 0, judged)
    corpus.close()
    assert num_left_out == 1
    assert len(pairs) == 5 * (len(CORPUS) - 1)
    texts = {text for pair in pairs for text in (pair.anchor, pair.positive)}
    assert texts == {text_of(query, "sqlite") for query in CORPUS} - {text_of(JUDGED[4][1], "sqlite")}
    tables = [{table for table in ("product", "customer", "sale") if table in text} for text in texts]
    assert all(len(each) == 1 for each in tables)
    assert all(pair.anchor != pair.positive for pair in pairs)
    assert all(any(t in pair.anchor and t in pair.positive for t in ("product", "customer", "sale")) for pair in pairs)


def test_pairs_are_of_a_query_and_itself_where_that_is_asked_for(folder):
    """None of them judged, written otherwise or not, and the same ones for the same seed."""
    corpus = of_file(folder / "corpus.json", compose(words(folder)), lambda _: None)
    judged = {canonical_of(query, "sqlite") for _, query in JUDGED}
    pairs, num_left_out = rewritten_pairs(corpus, 1_000, 0, judged)
    again, _ = rewritten_pairs(corpus, 10, 0, judged)
    without, _ = rewritten_pairs(corpus, 1_000, 0, {*judged, pairs[0].positive})
    corpus.close()
    assert num_left_out == 1
    assert pairs[:10] == again
    assert pairs[0].positive not in {pair.positive for pair in without}
    assert len(pairs) == len(CORPUS) - 1
    assert len({pair.anchor for pair in pairs}) == len(pairs)
    for pair in pairs:
        assert pair.anchor != pair.positive
        assert re.findall(r"'\w+'|\d+$", pair.anchor) == re.findall(r"'\w+'|\d+$", pair.positive)


@pytest.mark.filterwarnings("ignore")
def test_an_encoder_is_tuned_with_queries_written_otherwise(folder):
    more = ["clustering.pairs=rewritten", "clustering.scale=1", "clustering.max_pairs=16"]
    assert main(words(folder, *more)) == 0
    found = json.loads((folder / "out" / "clustering.json").read_text(encoding="utf-8"))
    assert (found["pairs"], found["mean_similarity_of_pairs"], found["settings"]["pairs"]) == (16, None, "rewritten")
    assert found["betacv"]["tuned"] != found["betacv"]["all-MiniLM-L6-v2"]
    assert main(words(folder, *more[1:])) == 2


@pytest.mark.parametrize(("count", "fewest", "most"), [(20, 0, 1), (35, 1, 1), (50, 1, 2), (140, 4, 4)])
def test_fewer_pairs_than_there_are_are_of_the_whole_corpus(folder, count, fewest, most):
    corpus = of_file(folder / "corpus.json", compose(words(folder)), lambda _: None)
    judged = {canonical_of(query, "sqlite") for _, query in JUDGED}
    pairs, _ = pairs_of(corpus, count, 5, 0, judged)
    again, _ = pairs_of(corpus, count, 5, 0, judged)
    corpus.close()
    assert pairs == again
    assert len({(pair.anchor, pair.positive) for pair in pairs}) == count
    of_each = Counter({text_of(query, "sqlite"): 0 for query in CORPUS if canonical_of(query, "sqlite") not in judged})
    of_each.update(pair.anchor for pair in pairs)
    assert min(of_each.values()) == fewest
    assert max(of_each.values()) == most


def test_what_only_reads_like_a_judged_query_is_left_out_too(folder):
    corpus = of_file(folder / "corpus.json", compose(words(folder)), lambda _: None)
    text = text_of(CORPUS[0], "sqlite")
    pairs, num_left_out = pairs_of(corpus, 1_000, 5, 0, {text})
    corpus.close()
    assert num_left_out == 1
    assert text not in {text for pair in pairs for text in (pair.anchor, pair.positive)}


@pytest.mark.filterwarnings("ignore")
def test_only_the_last_layers_learn_where_that_is_asked_for(folder):
    assert main(words(folder, "clustering.layers=2", "clustering.max_pairs=16")) == 0
    before = SentenceTransformer(source_of("all-MiniLM-L6-v2")).state_dict()
    after = SentenceTransformer(str(folder / "out" / "encoder")).state_dict()
    changed = {name for name, values in before.items() if not torch.equal(values, after[name])}
    assert {found[1] for name in changed if (found := re.search(r"layer\.(\d)\.", name))} == {"4", "5"}
    assert all("layer." in name for name in changed)


def test_published_rows_stand_beside_where_the_sets_are_those():
    names = ("bombay", "ub", "googleplus")
    found: dict[str, Any] = {
        "sets": {name: {"queries": 2, "labels": 2} for name in names},
        "betacv": {"tuned": dict.fromkeys(names, 0.5)},
        "pairs": 10, "queries": 5, "left_out_as_judged": 0,
    }  # fmt: skip
    text = markdown(found)
    assert "| tuned | 0.5000 | 0.5000 | 0.5000 | measured |" in text
    assert "| BERT-Large + SQL-Factory | 0.350 | 0.549 | 0.638 | published |" in text
    assert text.count("published") == len(PUBLISHED)
    del found["sets"]["ub"], found["betacv"]["tuned"]["ub"]
    assert "published" not in markdown(found)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "id\tquery\n1\tSELECT 1\n", "columns label and query"),
        ("a.csv", "", "columns label and query"),
        ("a.csv", "label\tquery\nx\n", "row without a label or a query"),
        ("a.txt", "x", "holds no .csv or .tsv file"),
    ],
)
def test_sets_that_are_none(tmp_path, name, content, message):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_sets(tmp_path)


def test_commas_do_as_well(tmp_path):
    (tmp_path / "a.csv").write_text('label,query\nx,"SELECT 1, 2"\n', encoding="utf-8")
    assert read_sets(tmp_path / "a.csv") == [QuerySet("a", ("SELECT 1, 2",), ("x",))]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["clustering.sets="], "clustering.sets=DIR"),
        (["clustering.sets=absent.csv"], "absent.csv.*cannot be read"),
        (["clustering.batch_size=4000"], "less than a batch"),
        (["clustering.batch_size=1"], "has to be 2 or more"),
        (["clustering.layers=7"], "more than the 6 layers that there are"),
        (["clustering.layers=-1"], "has to be 0 or more"),
    ],
)
def test_what_is_wrong_is_said(folder, capsys, more, message):
    assert main(words(folder, *more)) == 2
    assert re.search(message, capsys.readouterr().err)
