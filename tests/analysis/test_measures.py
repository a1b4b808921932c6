"""Every figure of a report, worked out again from R and E by other means: plain Python over the Parquet files."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import sqlglot
import zss
from rapidfuzz import fuzz
from sqlglot import exp
from vendi_score import vendi

from rayfactory import sql
from rayfactory.analysis import alike, measures
from rayfactory.analysis.corpus import Corpus, of_file, of_run
from rayfactory.analysis.diversity import sampled_similarity
from rayfactory.analysis.draw import Taken, take_apart
from rayfactory.analysis.measures import measure
from rayfactory.analysis.sample import sample
from rayfactory.config import Config
from rayfactory.records import DID_NOT_RUN
from rayfactory.tools.trees import label

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def corpus(run_dir: Path) -> Iterator[Corpus]:
    corpus = of_run(run_dir)
    yield corpus
    corpus.close()


@pytest.fixture(scope="module")
def taken(corpus: Corpus) -> Taken:
    return take_apart(corpus, 0)


@pytest.fixture(scope="module")
def found(corpus: Corpus, taken: Taken) -> dict[str, Any]:
    return measure(corpus, taken, 0, lambda _: None)


def table(run_dir: Path, name: str) -> Rows:
    """Return the rows of a table of the pool, in order of the rounds."""
    return [row for path in sorted(run_dir.glob(f"rounds/*/{name}.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.fixture(scope="module")
def rows(run_dir: Path) -> Rows:
    return table(run_dir, "R")


@pytest.fixture(scope="module")
def rejects(run_dir: Path) -> Rows:
    return table(run_dir, "rejects")


@pytest.fixture(scope="module")
def vectors_ND(run_dir: Path) -> np.ndarray:  # noqa: N802 - its shape
    return np.array([row["vector"] for row in table(run_dir, "E")], np.float64)


def share(values: list[bool]) -> float:
    return sum(values) / len(values)


def test_what_the_corpus_is(found: dict[str, Any], rows: Rows, rejects: Rows):
    about = found["corpus"]
    candidates = len(rows) + len(rejects)
    assert rejects, "the run should have some rejects to tell of"
    assert about["queries"] == len(rows) == about["taken_apart"]
    assert about["candidates"] == candidates
    assert about["executability"] == (candidates - sum(row["reason"] in DID_NOT_RUN for row in rejects)) / candidates
    assert about["non_empty_rate"] == share([row["row_count"] > 0 for row in rows])
    assert about["admission_rate"] == len(rows) / candidates
    assert about["expansion"] == sum(row["origin"] == "expansion" for row in rows)
    assert about["generation"] + about["expansion"] == len(rows)
    similar = [row["similarity"] for row in rows if row["similarity"] is not None]
    assert about["mean_similarity_at_admission"] == pytest.approx(statistics.fmean(similar))
    assert about["median_execution_ms"] == pytest.approx(statistics.median(row["execution_ms"] for row in rows))


def test_table_1(found: dict[str, Any]):
    assert found["table_1"] == {
        "benchmark": "custom", "databases": 1, "tables": 6, "columns_per_database": 24.0, "queries": 130, "price_usd": 0,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["joins", "predicates", "subqueries", "aggregates", "windows"])
def test_figure_6_counts(found: dict[str, Any], rows: Rows, name: str):
    bars = found["figure_6"][name]
    top = len(bars) - 1
    counts = Counter(min(row[f"num_{name}"], top) for row in rows)
    assert [bar["queries"] for bar in bars] == [counts[n] for n in range(top + 1)]
    assert [bar["count"] for bar in bars] == [*map(str, range(top)), f"{top}+"]
    assert sum(bar["queries"] for bar in bars) == len(rows)


def test_figure_6_tokens_and_shares(found: dict[str, Any], rows: Rows):
    tokens = [row["num_tokens"] for row in rows]
    for bar in found["figure_6"]["tokens"]:
        last = bar["to"] if bar["to"] is not None else max(tokens)
        assert bar["queries"] == sum(bar["from"] <= n <= last for n in tokens)
    quartiles = np.quantile(tokens, [0, 0.25, 0.5, 0.75, 1])
    assert found["figure_6"]["token_quartiles"] == pytest.approx(quartiles.tolist(), abs=0.051)
    shares = found["figure_6"]["shares"]
    assert shares["join"] == share([row["num_joins"] >= 1 for row in rows])
    assert shares["joins_2_or_more"] == share([row["num_joins"] >= 2 for row in rows])
    assert shares["predicates_2_or_more"] == share([row["num_predicates"] >= 2 for row in rows])
    assert shares["predicates_4_or_more"] == share([row["num_predicates"] >= 4 for row in rows])
    assert shares["subquery"] == share([row["num_subqueries"] >= 1 for row in rows])
    assert shares["aggregate"] == share([row["num_aggregates"] >= 1 for row in rows])
    assert shares["window"] == share([row["num_windows"] >= 1 for row in rows])


def test_figure_7(found: dict[str, Any], rows: Rows):
    use = Counter(name for row in rows for name in row["tables"])
    figure = found["figure_7"]
    # The shop's sixth table has no rows: nobody can ask about it, and it is no part of the evenness.
    assert {each["table"]: each["queries"] for each in figure["tables"]} == use | {"wish": 0}
    assert (figure["used"], figure["populated"]) == (5, 5)
    counts = list(use.values())
    differences = sum(abs(a - b) for a in counts for b in counts)
    assert figure["gini"] == pytest.approx(differences / (2 * len(counts) * sum(counts)))
    assert sum(bar["tables"] for bar in figure["histogram"]) == 5
    for bar in figure["histogram"]:
        assert bar["tables"] == sum(bar["from"] <= n <= bar["to"] for n in counts)


@pytest.mark.parametrize(("counts", "num_bins"), [([], 0), ([0], 1), ([0, 0, 7], 8), ([100, 3, 50], 12)])
def test_histogram_has_every_count(counts: list[int], num_bins: int):
    bins = measures.histogram(counts)
    assert len(bins) == num_bins
    assert sum(bar["tables"] for bar in bins) == len(counts)


class Compared:
    """Queries compared by rapidfuzz, zss and numpy, from their text and the vectors of E."""

    def __init__(self, rows: Rows, vectors_ND: np.ndarray) -> None:
        self._trees = [sql.parse(row["sql"], row["dialect"]) for row in rows]
        self._texts = [sql.normalise(tree, "sqlite") for tree in self._trees]
        self._sizes = [sum(1 for _ in tree.walk()) for tree in self._trees]
        self._vectors_ND = vectors_ND
        self._nodes = [self._node(tree) for tree in self._trees]

    def _node(self, tree: exp.Expr) -> zss.Node:
        return zss.Node(label(tree), [self._node(child) for child in tree.iter_expressions()])

    def similarity(self, a: int, b: int) -> float:
        words = fuzz.token_sort_ratio(self._texts[a], self._texts[b]) / 100
        distance = zss.simple_distance(self._nodes[a], self._nodes[b], label_dist=lambda x, y: x != y)
        structure = max(0.0, 1 - distance / max(self._sizes[a], self._sizes[b]))
        x, y = self._vectors_ND[a], self._vectors_ND[b]
        meaning = max(0.0, float(x @ y / np.linalg.norm(x) / np.linalg.norm(y)))
        return float(0.6 * words + 0.3 * structure + 0.1 * meaning)


def test_similarity_of_pairs(corpus: Corpus, found: dict[str, Any], rows: Rows, vectors_ND: np.ndarray):
    """Of the shortest queries all pairs are worked out again; of all, the estimate comes close to all pairs."""
    shortest = sorted(range(len(rows)), key=lambda place: rows[place]["ast_nodes"])[:9]
    compared = Compared([rows[place] for place in shortest], vectors_ND[shortest])
    expected = statistics.fmean(compared.similarity(a, b) for a, b in combinations(range(9), 2))

    def signatures_of(places):
        return corpus.signatures([shortest[place] for place in places])

    measured = sampled_similarity(9, signatures_of, corpus.weights, alike.PAIRS, 0)
    assert measured.mean == measured.low == measured.high == pytest.approx(expected, abs=1e-6)
    assert measured.num_pairs == 36
    every = sampled_similarity(len(rows), corpus.signatures, corpus.weights, 10**6, 0)
    drawn = found["diversity"]["similarity"]
    assert drawn["low"] <= drawn["mean"] <= drawn["high"]
    assert drawn["mean"] == pytest.approx(every.mean, abs=3 * (drawn["high"] - drawn["low"]))


def test_figure_8(found: dict[str, Any], rows: Rows, run_dir: Path, corpus: Corpus):
    """The similarity is of the whole pool at each point, whatever the round that has just been admitted is like."""
    manifests = [json.loads(path.read_text()) for path in sorted(run_dir.glob("rounds/*.json"))]
    points = found["figure_8"]
    assert [point["round"] for point in points] == [each["round"] for each in manifests if each["num_rows"]]
    for point in points:
        before = [row for row in rows if row["round"] <= point["round"]]
        assert point["queries"] == len(before)
        assert point["state"] == manifests[point["round"]]["evaluation"]["state"]
        assert point["expansion_ratio"] == share([row["origin"] == "expansion" for row in before])
        every = sampled_similarity(len(before), corpus.signatures, corpus.weights, 10**6, 0)
        assert point["similarity"] == pytest.approx(every.mean, abs=2 * (point["high"] - point["low"]) + 1e-9)


def test_curve_over_many_rounds_has_few_points_and_ends_at_the_end(corpus: Corpus, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(alike, "POINTS", 3)
    points = alike.figure_8(corpus, 0)
    assert 1 < len(points) <= 4
    assert points[-1]["queries"] == corpus.num_queries


def test_vendi_score(found: dict[str, Any], vectors_ND: np.ndarray):
    unit_ND = vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    reported = found["diversity"]["vendi"]
    assert reported["score"] == pytest.approx(vendi.score_K(unit_ND @ unit_ND.T), abs=1e-4)
    assert (reported["n"], reported["d"]) == vectors_ND.shape
    assert (reported["kernel"], reported["order"]) == ("cosine", 1)
    assert reported["encoder"].startswith("all-MiniLM-L6-v2 (")


def test_skeletons_and_ngrams(found: dict[str, Any], rows: Rows):
    skeletons = Counter(sql.skeleton(sql.parse(row["sql"], "sqlite"), "sqlite") for row in rows)
    reported = found["diversity"]["skeletons"]
    assert reported["distinct"] == len(skeletons)
    assert reported["distinct_share"] == len(skeletons) / len(rows)
    assert reported["occur_once_share"] == sum(n == 1 for n in skeletons.values()) / len(rows)
    shares = np.array(list(skeletons.values())) / len(rows)
    assert reported["effective_number"] == pytest.approx(float(np.exp(-(shares * np.log(shares)).sum())))
    texts = [[token.text.lower() for token in sqlglot.tokenize(row["sql"], dialect="sqlite")] for row in rows]
    for length in (1, 2, 3, 4):
        grams = [" ".join(text[i : i + length]) for text in texts for i in range(len(text) - length + 1)]
        assert found["diversity"]["distinct_ngrams"][str(length)] == pytest.approx(len(set(grams)) / len(grams))


def test_models_and_rejects(found: dict[str, Any], rows: Rows, rejects: Rows):
    for each in found["models"]:
        admitted = [row for row in rows if (row["model"], row["origin"]) == (each["model"], each["origin"])]
        refused = [row for row in rejects if (row["model"], row["origin"]) == (each["model"], each["origin"])]
        assert each["admitted"] == len(admitted)
        assert each["candidates"] == len(admitted) + len(refused)
        assert each["ran"] == each["candidates"] - sum(row["reason"] in DID_NOT_RUN for row in refused)
        assert each["executability"] == each["ran"] / each["candidates"]
        assert each["admission_rate"] == each["admitted"] / each["candidates"]
    assert sum(each["candidates"] for each in found["models"]) == len(rows) + len(rejects)
    reasons = Counter(row["reason"] for row in rejects)
    assert {each["reason"]: each["candidates"] for each in found["rejects"]} == reasons
    for each in found["rejects"]:
        assert len(each["examples"]) == min(3, each["candidates"])
        texts = {row["sql"] for row in rejects if row["reason"] == each["reason"]}
        assert {example["sql"] for example in each["examples"]} <= texts


def test_nearest_pairs_are_the_nearest(found: dict[str, Any], rows: Rows, vectors_ND: np.ndarray):
    near = sorted((row for row in rows if row["nearest_id"] is not None), key=lambda row: -row["nearest_similarity"])
    assert [pair["query_id"] for pair in found["nearest_pairs"]] == [row["query_id"] for row in near[:20]]
    compared = Compared(rows, vectors_ND)
    for pair in found["nearest_pairs"]:
        assert pair["sql"] == rows[pair["query_id"]]["sql"]
        assert pair["nearest_sql"] == rows[pair["nearest_id"]]["sql"]
    for pair in found["nearest_pairs"][:6]:
        assert pair["similarity"] == pytest.approx(compared.similarity(pair["nearest_id"], pair["query_id"]), abs=1e-6)


def test_coverage(found: dict[str, Any], rows: Rows):
    """Names of the shop's columns that no text has cannot be read, and what the texts equate is joined along."""
    coverage = found["coverage"]
    assert coverage["columns"] == 22  # of the five tables with rows
    assert coverage["columns_used"] == coverage["columns"] - len(coverage["unused_columns"])
    words = {word for row in rows for word in row["sql"].lower().replace(".", " ").replace(",", " ").split()}
    for each in coverage["unused_columns"]:
        assert each["column"] not in words or each["column"] in {
            "name",
            "region_id",
            "customer_id",
            "sale_id",
            "product_id",
        }
    assert coverage["join_paths"] == 4
    assert coverage["join_paths_used"] == sum(path["queries"] > 0 for path in coverage["paths"])
    for path in coverage["paths"]:
        key = path["path"].partition("(")[2].partition(")")[0]
        equated = sum(f".{key} = " in row["sql"] for row in rows)
        assert path["queries"] <= equated


def test_constructs(found: dict[str, Any], rows: Rows):
    counts = {each["construct"]: each["queries"] for each in found["constructs"]["counts"]}
    trees = [sql.parse(row["sql"], "sqlite") for row in rows]
    for name, kind in {"group by": exp.Group, "window": exp.Window, "case": exp.Case, "having": exp.Having}.items():
        assert counts[name] == sum(tree.find(kind) is not None for tree in trees)
    assert found["constructs"]["missing"] == [name for name, n in counts.items() if n == 0]
    assert all(each["share"] == each["queries"] / len(rows) for each in found["constructs"]["counts"])


def test_work_and_cost_of_an_offline_run(found: dict[str, Any], run_dir: Path):
    manifests = [json.loads(path.read_text()) for path in sorted(run_dir.glob("rounds/*.json"))]
    work = found["work"]
    assert work["wall_s"] == manifests[-1]["wall_s"]
    assert work["rounds"] == len(manifests)
    assert work["queries_per_second"] == pytest.approx(130 / work["wall_s"])
    for phase, seconds in work["phase_s"].items():
        assert seconds == pytest.approx(sum(each["phase_s"].get(phase, 0) for each in manifests), abs=1e-3)
    assert found["cost"]["cost_usd"] == 0
    assert found["cost"]["strong_model_alone_usd"] is None


def test_strong_model_alone_costs_what_a_row_of_it_costs_times_all_rows(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
):
    tokens = {"requests": 9, "tokens_in": 9, "tokens_cached": 0, "tokens_out": 9, "unconfirmed_usd": 0.25}
    ledger = [
        {"model": "gpt-4o", "agent": "generation", "cost_usd": 3.0, **tokens},
        {"model": "qwen", "agent": "expansion", "cost_usd": 0.5, **tokens},
    ]
    monkeypatch.setattr(corpus, "summary", dict(corpus.summary) | {"ledger": ledger, "cost_unconfirmed_usd": 0.25})
    found = measures.cost(corpus)
    assert found is not None
    generation = corpus.value("SELECT count(*) FROM R WHERE origin = 'generation'")
    assert found["cost_usd"] == 3.5
    assert found["strong_model_alone_usd"] == pytest.approx(3.0 / generation * 130)
    assert found["saved_share"] == pytest.approx(1 - 3.5 / (3.0 / generation * 130))


def test_sample_has_each_query_with_its_neighbours(corpus: Corpus, taken: Taken, rows: Rows):
    shown = sample(corpus, taken, 40, 0)
    assert len(shown) == 40
    assert [row["query_id"] for row in shown] == sorted({row["query_id"] for row in shown})
    for row in shown:
        source = rows[row["query_id"]]
        assert row["sql"] == source["sql"]
        assert sqlglot.parse_one(row["formatted"], dialect="sqlite") == sqlglot.parse_one(row["sql"], dialect="sqlite")
        related = {source["nearest_id"]: source["nearest_similarity"]} | {
            other["query_id"]: other["nearest_similarity"] for other in rows if other["nearest_id"] == row["query_id"]
        }
        expected = sorted(((-s, i) for i, s in related.items() if i is not None))[:3]
        assert [(-each["similarity"], each["other"]) for each in row["neighbours"]] == expected
    assert len(sample(corpus, taken, 1_000, 0)) == len(rows)


def test_large_corpus_is_parsed_in_part(corpus: Corpus):
    some = take_apart(corpus, 3, limit=50)
    assert len(some.query_ids) == len(set(some.query_ids)) == 50
    found = measure(corpus, some, 0, lambda _: None)
    assert found["corpus"]["taken_apart"] == found["constructs"]["n"] == found["coverage"]["n"] == 50
    assert found["corpus"]["queries"] == 130


def test_file_of_the_same_queries_has_the_same_figures(
    found: dict[str, Any], rows: Rows, shop_config: Config, tmp_path: Path
):
    """All that does not need the run: it is read back out of a file that has the text alone."""
    path = tmp_path / "queries.jsonl"
    path.write_text("".join(json.dumps({"sql": row["sql"]}) + "\n" for row in rows) + '"SELECT FROM WHERE"\n')
    config = Config(dialect="sqlite", data_dir=shop_config.data_dir)
    corpus = of_file(path, config, lambda _: None)
    again = measure(corpus, take_apart(corpus, 0), 0, lambda _: None)
    corpus.close()
    assert again["figure_6"] == found["figure_6"]
    assert again["corpus"]["unparsed"] == 1
    assert again["diversity"]["skeletons"] == found["diversity"]["skeletons"]
    assert again["diversity"]["vendi"] == pytest.approx(found["diversity"]["vendi"])
    assert again["diversity"]["similarity"] == pytest.approx(found["diversity"]["similarity"])
    assert again["corpus"]["executability"] is None
    assert again["corpus"]["non_empty_rate"] is None
    assert again["cost"] is None
    assert again["work"] is None
    assert again["coverage"] is None
    assert again["figure_8"] == again["models"] == again["rejects"] == []


@pytest.mark.parametrize(
    "summary", [{}, {"ledger": None}, {"ledger": [{}], "admitted": 3}, {"ledger": [7], "admitted": 3}]
)
def test_cost_is_unknown_without_a_summary_that_can_be_read(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, summary: dict[str, Any]
):
    """While the first process of a run is at work, and where the file is damaged: never told as nothing."""
    monkeypatch.setattr(corpus, "summary", summary)
    found = measures.cost(corpus)
    assert found is not None
    assert found["cost_usd"] is None
    assert found["cost_usd_per_1000"] is None
