"""The methods of others: what they leave out of a run, and what is asked of whoever starts one."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from rayfactory.agents import baselines
from rayfactory.agents.critical import reject
from rayfactory.agents.management import Past, decide_state
from rayfactory.agents.table_selection import TableSelectionAgent
from rayfactory.agents.writing import write
from rayfactory.compose import compose
from rayfactory.config import Config, CriticConfig, ExecutionConfig, ManagementConfig, TableSelectionConfig
from rayfactory.errors import ConfigError
from rayfactory.pool import connect, read_manifests
from rayfactory.records import Request
from rayfactory.validate import METHODS, used_slots, validate
from tests.agents.scripted_model import ScriptedModel, says
from tests.agents.test_writing import close, make_desk, tagged
from tests.local_crew import grow
from tests.models.store import TABLES, make_store
from tests.shop import make_shop

REQUEST = Request(0, 0, "generation", "store", ("sale", "customer"), (), (), 1, 42)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store"), "duckdb")


@pytest.fixture
def desk(store):
    desk = make_desk(store, ExecutionConfig())
    yield desk
    close(desk)


def settings(*words):
    config = compose(["+benchmark=tpcds", "run_dir=/nowhere", *words])
    validate(config)
    return config


# -- the sets of settings ---------------------------------------------------------


@pytest.mark.parametrize("method", baselines.RULES)
def test_a_set_of_settings_leaves_out_what_is_ours(method):
    config = settings(f"models={method}")
    assert (config.models.method, config.models.name) == (method, method)
    assert used_slots(config.models) == []
    assert config.critic.admit_all
    assert not config.table_selection.balanced
    assert config.management.warmup_rounds > 10_000


def test_omnisql_asks_one_model_or_a_mix():
    at = ["models.strong.base_url=http://h/v1", "models.strong.name=m"]
    local = ["models.local.base_url=http://l/v1", "models.local.name=n", "models.local_share=0.8"]
    assert used_slots(settings("models=omnisql", *at).models) == ["strong"]
    assert used_slots(settings("models=omnisql", *at, *local).models) == ["strong", "local"]
    drawn = Counter(baselines.is_local(Request(0, i, "generation", "d", (), (), (), 1, i), 0.8) for i in range(1000))
    assert 750 < drawn[True] < 850


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["models.method=nothing"], "factory, sqlsmith, templates, learnedsqlgen, omnisql"),
        (["models.method=omnisql"], "models=omnisql"),
        (["models=endpoint", "models.strong.base_url=http://h/v1", "models.strong.name=m", "models.method=sqlsmith"],
         "models=sqlsmith"),
        (["models=omnisql", "models.strong.base_url=http://h/v1", "models.strong.name=m",
          "models.strong.constrained=true"], "models.strong.constrained=false"),
        (["models.local_share=0.5"], "models.generation.model=strong"),
        (["models=learnedsqlgen", "profile.content=false"], "leave profile.content out"),
        (["models=learnedsqlgen", "models.learned.min_rows=5", "models.learned.max_rows=2"], "lower the one"),
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other_name_the_remedy(words, remedy):
    with pytest.raises(ConfigError, match=remedy):
        settings(*words)


def test_every_method_can_be_chosen():
    assert set(METHODS) == {"factory", "omnisql", *baselines.RULES}


# -- what is left out -------------------------------------------------------------


def test_everything_that_runs_is_admitted():
    """One table of two, a duplicate, nearer than the limit: none of it keeps a query out."""
    lenient = CriticConfig(admit_all=True)
    for origin in ("generation", "expansion"):
        assert reject(origin, 1, 2, True, 0.99, CriticConfig()) is not None
        assert reject(origin, 1, 2, True, 0.99, lenient) is None


def test_without_the_switch_exploitation_goes_on():
    fixed = ManagementConfig(switch=False)
    assert [decide_state(Past(n, ["GEN"] * n, 0, None, ()), fixed) for n in range(4)] == ["GEN", "GEN", "EXP", "EXP"]


def test_drawn_tables_do_not_look_at_their_use(store):
    """Chance alone decides where to begin, and keys where to go on."""
    agent = TableSelectionAgent(TableSelectionConfig(max_tables=4, balanced=False), {"store": store[1]})
    use = {"store": {name: 0.0 if name == "category" else 1_000.0 for name in TABLES}}
    asks = [("store", 10, seed) for seed in range(400)]
    drawn = agent.select(asks, use)
    assert drawn == agent.select(asks, {})
    starts = Counter(tables[0] for tables in drawn)
    assert set(starts) == set(TABLES)
    assert max(starts.values()) < 2 * min(starts.values())
    assert {len(tables) for tables in drawn} == {1, 2, 3, 4}


# -- writing ------------------------------------------------------------------------


def test_omnisql_prompt_draws_a_level_functions_and_columns(store):
    """The same for the same request; over many requests each level and function comes up."""
    schemas = {"store": store[1]}
    player = says().player()

    def prompt(seed):
        request = Request(0, 0, "generation", "store", ("sale", "customer"), (), (), 1, seed)
        return baselines.omnisql_prompt(request, player, schemas)

    assert prompt(1) == prompt(1)
    texts = [prompt(seed).user for seed in range(120)]
    for word in [*baselines.OMNISQL_LEVELS, *baselines.OMNISQL_FUNCTIONS, "1 column,", "2 columns,"]:
        assert any(word in text for text in texts), word
    assert "sale" in prompt(1).system
    assert "refund" not in prompt(1).system


def test_omnisql_has_no_rule_to_fall_back_on(desk):
    """What its model writes is the answer; what it does not is missing, and booked as such."""
    craft = baselines.craft(settings("models=omnisql", "models.strong.base_url=http://h/v1", "models.strong.name=m"))

    def answer(model):
        return asyncio.run(write(REQUEST, craft, model.player(), desk, self_correction=False))

    found = answer(ScriptedModel(lambda key, prompt: tagged("SELECT COUNT(*) FROM sale")))
    assert [candidate.sql for candidate in found.candidates] == ["SELECT COUNT(*) FROM sale"]
    none = answer(says("I would rather not."))
    assert none.candidates == ()
    assert none.tallies[0].unusable == 1


# -- runs ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shop(tmp_path_factory, make_data_dir):
    folder = tmp_path_factory.mktemp("shop")
    make_data_dir(folder / "cache")
    return make_shop(folder / "shop.sqlite")


def run_config(shop, tmp_path, *words):
    root = [f"benchmark.root={shop}", f"data_dir={shop.parent / 'cache'}", f"run_dir={tmp_path / 'run'}"]
    small = ["round.requests=4", "round.queries_per_request=5", "target=30", "display.mode=none"]
    config = compose(["+benchmark=custom", *root, *small, *words])
    validate(config)
    return config


@pytest.mark.parametrize("method", baselines.RULES)
def test_a_run_by_another_method_explores_to_its_target(shop, tmp_path, method):
    config = run_config(shop, tmp_path, f"models={method}", "models.learned.num_queries=64")
    assert grow(config) == "target"
    found = connect(config.run_dir).sql("SELECT DISTINCT origin, model FROM R").fetchall()
    assert found == [("generation", method)]
    assert {manifest.evaluation.state for manifest in read_manifests(tmp_path / "run")} == {"GEN"}
    gate = "SELECT count(*) FROM rejects WHERE reason IN ('duplicate', 'similar', 'single_table')"
    assert connect(config.run_dir).sql(gate).fetchall() == [(0,)]


def test_without_overlap_a_round_is_written_when_the_one_before_is_committed(shop, tmp_path):
    """And judged when it is written; the rows are those of a run with overlap."""
    happened = []

    def produce(inner, requests, on_answer):
        happened.append(("write", requests[0].round))
        answers = inner(requests, on_answer)
        happened.append(("written", requests[0].round))
        return answers

    def judge(inner, chunks, *others):
        chunks = list(chunks)
        happened.append(("judge", chunks[0][0].round))
        verdicts = inner(chunks, *others)
        happened.append(("judged", chunks[0][0].round))
        return verdicts

    config = run_config(shop, tmp_path, "round.overlap=false")
    grow(config, produce=produce, judge=judge)
    rounds = len(read_manifests(tmp_path / "run"))
    assert rounds > 1
    steps = ("write", "written", "judge", "judged")
    assert happened == [(step, number) for number in range(rounds) for step in steps]
    usual = run_config(shop, tmp_path, f"run_dir={tmp_path / 'usual'}")
    grow(usual)
    sql = "SELECT sql FROM R ORDER BY query_id"
    assert connect(config.run_dir).sql(sql).fetchall() == connect(usual.run_dir).sql(sql).fetchall()


def test_without_content_no_value_is_known_to_who_writes(shop, tmp_path):
    """The rules get no database to look into, and prompts show no values."""
    from rayfactory.cluster.authors import GenerationAgent
    from rayfactory.runs import open_databases

    config = run_config(shop, tmp_path, "profile.content=false")
    databases, schemas = open_databases(config)
    for schema in schemas.values():
        assert all(c.profile.num_sampled == 0 and not c.profile.common_values for t in schema.tables for c in t.columns)
    agent = GenerationAgent(config, databases, schemas)
    assert not agent._craft.looks
    assert grow(config) == "target"


def test_default_settings_are_those_of_our_method():
    config = Config()
    assert config.models.method == "factory"
    assert not config.critic.admit_all
