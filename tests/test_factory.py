"""The loop ends with exactly the rows that were asked for, however it was stopped and started."""

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from rayfactory import factory, runs
from rayfactory.agents.planning import Plan, requests_after_warmup
from rayfactory.config import AgentConfig, Config, EmbeddingConfig, ModelConfig
from rayfactory.databases import schemas
from rayfactory.databases.engine import connect as connect_database
from rayfactory.errors import ConfigError, RunDirError
from rayfactory.identity import check_run_dir
from rayfactory.pool import connect, opened, read_manifests
from rayfactory.records import Answer, Candidate, Execution, Request, Tally, Verdict
from rayfactory.rounds import Produced, row_costs, without_surplus
from rayfactory.runs import open_databases, run_identity
from tests.local_crew import StoppedError, grow
from tests.shop import make_shop
from tests.test_compaction import files_no_larger_than, parts, sizes

MEASURED = {"execution_ms"}
"""Columns of R that are times, and so may differ between equal runs."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory, make_data_dir):
    folder = tmp_path_factory.mktemp("shop")
    make_data_dir(folder / "cache")
    return make_shop(folder / "shop.sqlite")


@pytest.fixture
def config(shop, tmp_path):
    config = Config(target=45, run_dir=str(tmp_path / "run"), data_dir=str(shop.parent / "cache"))
    config.benchmark.name = "custom"
    config.benchmark.root = str(shop)
    config.round.requests = 4
    config.round.queries_per_request = 5
    config.display.mode = "none"
    return config


def rows_of(run_dir):
    connection = connect(run_dir)
    relation = connection.sql("SELECT * FROM R ORDER BY query_id")
    kept = [i for i, name in enumerate(relation.columns) if name not in MEASURED]
    return [tuple(row[i] for i in kept) for row in relation.fetchall()]


def test_pool_ends_with_exactly_the_target(config):
    assert grow(config) == "target"
    connection = connect(config.run_dir)
    ids = [row[0] for row in connection.sql("SELECT query_id FROM R ORDER BY 1").fetchall()]
    assert ids == list(range(45))
    assert connection.sql("SELECT count(*) FROM E").fetchone() == (45,)
    assert connection.sql("SELECT count(DISTINCT sql) FROM R").fetchone() == (45,)
    assert connection.sql("SELECT bool_and(nearest_id < query_id) FROM R WHERE nearest_id IS NOT NULL").fetchone() == (
        True,
    )


def test_what_the_target_has_no_room_for_is_kept_as_surplus(config):
    """A plan asks for a little more than is missing; what was written for nothing can be read."""
    config.target = 1
    assert grow(config) == "target"
    assert connect(config.run_dir).sql("SELECT origin, reason FROM rejects").fetchall() == [("generation", "surplus")]


def test_no_round_is_written_that_the_target_does_not_need(config):
    """What is asked for follows from what is still missing: a paid query that nobody wants is money lost."""
    grow(config)
    wasted = connect(config.run_dir).sql("SELECT count(*) FROM rejects WHERE reason = 'surplus'").fetchall()
    # A round has 20 queries: the third one would be for the last few rows only.
    assert wasted < [(10,)]


def test_every_row_runs_again_with_as_many_rows(config):
    grow(config)
    databases, _ = open_databases(config)
    engine = connect_database(databases["shop"], config.execution)
    for sql, row_count in connect(config.run_dir).sql("SELECT sql, row_count FROM R").fetchall():
        assert engine.run(sql).row_count == row_count, sql


def test_run_whose_rounds_are_put_together_makes_the_same_rows(config, tmp_path):
    """Also one that dies, and goes on from segments and rounds."""
    config.target = 90
    grow(config)
    undisturbed = rows_of(config.run_dir)
    config.run_dir = str(tmp_path / "compacted")
    with sizes(2, 4):
        for die_in_round in (3, 1):
            with pytest.raises(StoppedError):
                grow(config, die_in_round=die_in_round)
        assert parts(tmp_path / "compacted") == ["000000-000003"]
        assert grow(config) == "target"
    assert rows_of(config.run_dir) == undisturbed


def test_rounds_that_cannot_be_put_together_do_not_stop_a_run(config, tmp_path, capsys):
    """It says so, once, and makes the same rows."""
    config.target = 90
    grow(config)
    undisturbed = rows_of(config.run_dir)
    largest = max(path.stat().st_size for path in Path(config.run_dir).rglob("*") if path.is_file())
    config.run_dir, config.display.mode = str(tmp_path / "refused"), "lines"
    with sizes(2, 4), files_no_larger_than(largest + 4_096):
        assert grow(config) == "target"
    assert rows_of(config.run_dir) == undisturbed
    assert [name for name in parts(tmp_path / "refused") if "-" in name] == []
    assert capsys.readouterr().out.count("Note: files of rounds could not be put together") == 1


@pytest.mark.parametrize("die_in", ["produce", "judge", "commit"])
@pytest.mark.parametrize("die_in_round", [1, 2])
def test_interrupted_run_ends_with_the_same_rows(config, tmp_path, die_in, die_in_round):
    """A run that dies in any phase of a round and is started again makes the pool of one that was left alone."""
    with pytest.raises(StoppedError):
        grow(config, die_in_round=die_in_round, die_in=die_in)
    committed = rows_of(config.run_dir)
    assert grow(config) == "target"
    resumed = rows_of(config.run_dir)
    assert resumed[: len(committed)] == committed
    config.run_dir = str(tmp_path / "other")
    grow(config)
    assert rows_of(config.run_dir) == resumed


def test_next_round_is_written_while_one_still_is(config):
    """The endpoint of a slow model has the calls of two rounds: round t + 1 needs nothing that round t makes."""
    begun = [threading.Event() for _ in range(30)]

    def patient(inner, requests, on_answer):
        number = requests[0].round
        begun[number].set()
        if number in (0, 2):  # the target leaves no doubt that more rounds are needed
            assert begun[number + 1].wait(60), "the next round does not begin before this one is written"
        return inner(requests, on_answer)

    config.target = 100
    assert grow(config, produce=patient) == "target"
    assert begun[3].is_set()


def test_each_second_of_writing_counts_once(config):
    """What is planned beside what is produced is in both of these, and once in what is written; a start in one round."""

    def beside(inner, requests, on_answer):
        number = requests[0].round
        planned[number].set()
        # The plan of the next round, which takes a while, falls into the time in which this one is produced.
        planned[number + 1].wait(0.5)
        return inner(requests, on_answer)

    planned = [threading.Event() for _ in range(30)]
    with pytest.raises(StoppedError):
        grow(config, die_in_round=2)
    grow(config, produce=beside)
    phases = [manifest.phase_s for manifest in read_manifests(Path(config.run_dir))]
    assert ["start" in phase for phase in phases] == [True, False, True, *[False] * (len(phases) - 3)]
    total = {name: sum(phase.get(name, 0.0) for phase in phases) for name in ("plan", "produce", "write")}
    rounding = 0.002 * len(phases)
    assert max(total["plan"], total["produce"]) - rounding <= total["write"]
    assert total["write"] <= total["plan"] + total["produce"] + rounding


def test_a_round_is_judged_while_the_rest_of_it_is_written(config, tmp_path, monkeypatch):
    """In whole blocks, so that the pool is the one of a run in which each round is there at once."""
    config.embedding.batch_size = 3
    grow(config)
    plain, config.run_dir = config.run_dir, str(tmp_path / "in parts")
    first_verdicts, sizes = threading.Event(), []

    def in_parts(inner, requests, on_answer):
        answers = inner(requests, lambda *_: None)
        for place, answer in [*enumerate(answers)][::-1][1:]:
            on_answer(place, answer)
        if requests[0].round == 0:
            assert first_verdicts.wait(60), "nothing is judged before all is written"
        on_answer(len(answers) - 1, answers[-1])
        return answers

    def judge(inner, chunks, first_id, on_verdicts):
        def counted():
            for chunk in chunks:
                sizes.append(len(chunk))
                yield chunk

        def noted(verdicts):
            first_verdicts.set()
            on_verdicts(verdicts)

        return inner(counted(), first_id, noted)

    monkeypatch.setattr(factory, "_BLOCKS_AT_ONCE", 2)
    assert grow(config, produce=in_parts, judge=judge) == "target"
    assert sizes[:2] == [15, 5]
    assert rows_of(config.run_dir) == rows_of(plain)


def test_rows_do_not_depend_on_which_round_is_written_first(config, tmp_path):
    grow(config)

    def out_of_order(inner, requests, on_answer):
        number = requests[0].round
        if number % 2 == 0:
            finished[number + 1].wait(0.5)
        answers = inner(requests, on_answer)
        finished[number].set()
        return answers

    finished = [threading.Event() for _ in range(30)]
    plain, config.run_dir = config.run_dir, str(tmp_path / "out of order")
    grow(config, produce=out_of_order)
    assert rows_of(config.run_dir) == rows_of(plain)


def test_round_after_the_warm_up_is_as_large_as_the_models_take_at_once(config, tmp_path):
    """It was decided when the run began: what its models take later changes nothing."""
    config.round.requests_after_warmup = 2
    config.target = 60
    grow(config)
    sizes = [len(manifest.plan) for manifest in read_manifests(Path(config.run_dir))]
    assert sizes[:2] == [4, 4]
    assert sizes[2] == max(sizes[2:]) == 2
    config.round.requests_after_warmup = None
    config.models.generation.model = "strong"
    config.models.strong = ModelConfig(name="m", max_in_flight=64)
    assert runs.with_round_size(config).round.requests_after_warmup == 2
    config.run_dir = str(tmp_path / "another")
    assert runs.with_round_size(config).round.requests_after_warmup == 64


@pytest.mark.parametrize(
    ("models", "requests"),
    [
        ({}, 20),
        ({"generation": "strong"}, 64),
        ({"generation": "strong", "expansion": "local"}, 128),
        ({"management": "local"}, 20),
        ({"expansion": "strong", "strong": {"constrained": True}}, 20),
        ({"expansion": "strong", "strong": {"constrained": True, "max_in_flight": 1_001}}, 101),
        ({"management": "local", "expansion": "strong", "strong": {"constrained": True, "max_in_flight": 1_001}}, 801),
        ({"management": "local", "expansion": "strong", "queries": 4}, 512),
        ({"management": "local", "expansion": "strong", "queries": 5}, 64),
        ({"expansion": "strong", "queries": 4}, 64),
        ({"generation": "strong", "strong": {"batch": True}}, 500),
        ({"expansion": "strong", "strong": {"batch": True}}, 64),
    ],
)
def test_models_have_as_many_calls_at_hand_as_may_be_in_flight(models, requests):
    config = Config()
    for name, value in models.items():
        if name == "strong":
            config.models.strong = ModelConfig(**value)
        elif name == "queries":
            config.round.queries_per_request = value
        else:
            getattr(config.models, name).model = value
    config.models.local = ModelConfig(max_in_flight=128)
    assert requests_after_warmup(config) == requests


def test_rows_do_not_depend_on_how_many_schemas_are_in_memory(config, shop, tmp_path, monkeypatch):
    """Of the others a plan knows what it needs, and each actor fetches those that it works with."""
    folder = tmp_path / "many"
    folder.mkdir()
    for name in "abcde":
        shutil.copy(shop, folder / f"{name}.sqlite")
    config.benchmark.root = str(folder)
    assert grow(config) == "target"
    few = replace(config, run_dir=str(tmp_path / "few"))
    monkeypatch.setattr(schemas, "MAX_HELD", 2)
    assert grow(few) == "target"
    assert rows_of(few.run_dir) == rows_of(config.run_dir)
    assert {row[1] for row in rows_of(few.run_dir)} == set("abcde")


def test_another_seed_makes_another_pool(config, tmp_path):
    grow(config)
    first = rows_of(config.run_dir)
    config.seed = 1
    config.run_dir = str(tmp_path / "other")
    grow(config)
    assert {row[3] for row in rows_of(config.run_dir)} != {row[3] for row in first}


def test_larger_target_goes_on_and_smaller_is_refused(config):
    config.target = 10
    grow(config)
    before = rows_of(config.run_dir)
    config.target = 45
    assert grow(config) == "target"
    after = rows_of(config.run_dir)
    assert (len(after), after[:10]) == (45, before)
    config.target = 44
    config.display.mode = "none"
    with pytest.raises(RunDirError, match=r"45 rows already, more than target=44"):
        runs.run(config, "python -m rayfactory")
    assert rows_of(config.run_dir) == after


def test_budget_of_candidates_is_never_passed(config):
    config.max_candidates = 33
    assert grow(config) == "max_candidates"
    connection = connect(config.run_dir)
    count = "(SELECT count(*) FROM R) + (SELECT count(*) FROM rejects)"
    assert connection.sql(f"SELECT {count} BETWEEN 25 AND 33").fetchone() == (True,)
    config.max_candidates = None
    assert grow(config) == "target"
    assert len(rows_of(config.run_dir)) == 45


def test_identity_covers_what_changes_the_rows_and_nothing_else(config):
    _, schemas = open_databases(config)

    def digest(**changes):
        changed = Config(**{**vars(config), **changes})
        return run_identity(changed, schemas)["config_sha256"]

    same = digest()
    assert digest(target=7, run_dir="x", data_dir="y", max_candidates=3, max_cost_usd=1.0) == same
    assert digest(seed=1) != same
    assert digest(critic=type(config.critic)(max_similarity=0.8)) != same
    assert digest(cluster=type(config.cluster)(workers=7)) == same
    assert digest(embedding=EmbeddingConfig(gpu_share=0.5)) == same
    assert digest(embedding=EmbeddingConfig(device="gpu")) != same
    assert digest(embedding=EmbeddingConfig(backend="sentence-transformers")) != same
    assert digest(embedding=EmbeddingConfig(precision="fp32")) != same

    def with_model(**changes):
        models = replace(config.models, strong=ModelConfig(name="m", **changes), expansion=AgentConfig(model="strong"))
        return digest(models=models)

    assert with_model(max_in_flight=3, base_url="elsewhere") == with_model()
    assert with_model(omit=["seed"]) != with_model()
    assert with_model(chat=False) != with_model()


def begin_with(config, precision):
    """Begin a run on a machine that has bf16, whatever this one has; nothing is encoded."""
    config.embedding = EmbeddingConfig(device="cpu", backend="openvino", precision=precision)
    _, schemas = open_databases(config)
    with opened(Path(config.run_dir), run_identity(runs.with_round_size(config), schemas)):
        (Path(config.run_dir) / "rounds" / "000000.json").write_text("{}")
    config.embedding = EmbeddingConfig()


def test_run_keeps_to_the_encoder_that_it_was_begun_with(config):
    """fp32 is had everywhere, also where this machine would choose another."""
    begin_with(config, "fp32")
    known = runs.with_encoder(config).embedding
    assert (known.device, known.backend, known.precision) == ("cpu", "openvino", "fp32")


def test_encoder_leaves_gpus_to_models_that_are_served_on_them(config, monkeypatch):
    """They take theirs whole; where none is left, the encoder would wait for ever."""
    monkeypatch.setattr("rayfactory.tools.embedding.has_gpu", lambda: True)
    config.models.local = ModelConfig(name="m")
    config.models.local.serving.weights = "some"
    assert runs.with_encoder(config).embedding.device == "gpu"
    config.models.generation.model = "local"
    assert runs.with_encoder(config).embedding.device == "cpu"
    config.models.local.serving.device = "cpu"
    assert runs.with_encoder(config).embedding.device == "gpu"


def test_run_is_refused_where_its_encoder_is_not_to_be_had(config, monkeypatch):
    """Vectors of two kinds never mix: the message says what the run was begun with."""
    begin_with(config, "bf16")
    monkeypatch.setattr("rayfactory.tools.embedding.cpu_has_bf16", lambda: False)
    here = runs.with_encoder(runs.with_round_size(config))
    _, schemas = open_databases(config)
    with pytest.raises(RunDirError, match=r"embedding\.precision was 'bf16', now 'fp32'.* choose another run_dir"):
        check_run_dir(Path(config.run_dir), run_identity(here, schemas))
    config.embedding.precision = "bf16"
    with pytest.raises(ConfigError, match=r"set embedding\.precision=fp32 for a new run"):
        runs.with_encoder(config)


def test_complete_run_says_so_without_starting_anything(config, capsys):
    grow(config)
    config.display.mode = "lines"
    config.cluster.address = "nowhere:1"
    assert runs.run(config, "python -m rayfactory") == 0
    assert "is complete: 45 rows" in capsys.readouterr().out
    summary = json.loads((Path(config.run_dir) / "summary.json").read_text())
    assert (summary["stop_reason"], summary["admitted"], summary["target"]) == ("target", 45, 45)
    assert summary["tables"] == 6
    assert summary["candidates"] == 45 + sum(summary["rejected"].values())


def test_budget_that_bounds_nothing_is_told(config, capsys):
    """At the start of a run whose model has no price; where it has one, or nothing bounds it, there is nothing to tell."""
    config.models.strong = ModelConfig(name="m", base_url="http://host/v1")
    config.models.critical.model = "strong"
    assert runs.unbounded_models(config) == []
    config.max_cost_usd = 1.0
    (note,) = runs.unbounded_models(config)
    assert "the strong model 'm' costs, which has no price: set models.strong.usd_per_million_in" in note
    config.models.strong.usd_per_million_out = 1.0
    assert runs.unbounded_models(config) == []


def test_surplus_is_what_comes_after_the_last_place(config):
    candidate = Candidate(0, 0, 0, "generation", "d", "sqlite", "SELECT 1", 1, (), "m", "")
    verdicts = [Verdict(candidate, reason, "", Execution(None, "", "")) for reason in (None, "error", None, None)]
    assert [v.reason for v in without_surplus(verdicts, 1)] == [None, "error", "surplus", "surplus"]
    assert [v.reason for v in without_surplus(verdicts, None)] == [None, "error", None, None]


@pytest.mark.parametrize(
    ("authors", "reasons", "costs"),
    [
        # Each request's own rows share what it cost; all share the 0.6 of the plan.
        ((("m", "m"), ("m",)), ((None, None), (None,)), {0: 1.2, 1: 1.2, 2: 3.2}),
        # What is rejected costs all the same, and so does a request of which nothing is left.
        ((("m", "m"), ("m",)), (("error", None), (None,)), {1: 2.3, 2: 3.3}),
        ((("m", "m"), ("m",)), (("error", "similar"), (None,)), {2: 5.6}),
        # A rule costs nothing, unless there is nobody else to bear it.
        ((("m", "offline-grammar"), ("m",)), ((None, None), (None,)), {0: 2.3, 1: 0.0, 2: 3.3}),
        ((("offline-variation",), ("offline-grammar",)), ((None,), (None,)), {0: 2.8, 1: 2.8}),
        ((("m",), ("m",)), (("error",), ("parse",)), {}),
        ((("m",), ()), ((None,), ()), {0: 5.6}),
    ],
)
def test_rows_share_what_their_round_cost(authors, reasons, costs):
    requests = tuple(Request(0, i, "generation", "d", ("t",), (), (), 2, 0) for i in range(2))
    written = [
        tuple(Candidate(0, i, place, "generation", "d", "sqlite", "SELECT 1", 1, (), model, "") for place, model in enumerate(models))
        for i, models in enumerate(authors)
    ]  # fmt: skip
    tallies = (
        (Tally("generation", cost_usd=1.5), Tally("correction", cost_usd=0.5)),
        (Tally("generation", cost_usd=3.0),),
    )
    answers = tuple(Answer(candidates, tally) for candidates, tally in zip(written, tallies, strict=True))
    planning = (Tally("management", cost_usd=0.2), Tally("table_selection", cost_usd=0.4))
    produced = Produced(Plan(0, "GEN", requests), answers, planning, {})
    verdicts = [
        Verdict(candidate, reason, "", Execution(reason, "", ""))
        for candidates, judged in zip(written, reasons, strict=True)
        for candidate, reason in zip(candidates, judged, strict=True)
    ]
    assert row_costs(produced, verdicts) == pytest.approx(costs)
