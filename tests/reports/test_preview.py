"""A preview shows what would be asked, paid and started for what is missing, and follows the settings; it reaches nobody."""

import asyncio
import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from rayfactory import runs
from rayfactory.agents import generation
from rayfactory.agents.writing import Desk, write
from rayfactory.compose import compose
from rayfactory.errors import RunDirError
from rayfactory.identity import FORMAT
from rayfactory.manifests import Manifest, PlannedRequest
from rayfactory.models.journal import FILE_NAME
from rayfactory.records import Evaluation, Failure, Request
from rayfactory.reports.estimates import (
    ADMITTED_SHARE,
    CORRECTED_SHARE,
    TOKENS_PER_OPINION,
    TOKENS_PER_QUERY,
    estimates,
    outlook,
)
from rayfactory.reports.examples import NO_COLUMN, PROMPTS, correction_prompt, example_prompts
from rayfactory.reports.preview import Before, preview
from rayfactory.runs import open_databases
from rayfactory.tools.execution import Connections, ExecutionTool
from tests.agents.scripted_model import says
from tests.shop import make_shop

ENDPOINT = ["models=endpoint", "models.strong.name=m", "models.strong.base_url=http://x/v1"]
PRICES = ["models.strong.usd_per_million_in=2", "models.strong.usd_per_million_out=10"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory, make_data_dir):
    folder = tmp_path_factory.mktemp("shop")
    make_data_dir(folder / "cache")
    return make_shop(folder / "shop.sqlite")


@pytest.fixture
def composed(shop, tmp_path, monkeypatch):
    def no_network(*_args, **_options):
        raise AssertionError("a preview reaches nobody")

    def composed(*words):
        monkeypatch.setattr(socket.socket, "connect", no_network)
        return compose(
            [
                "+benchmark=custom",
                f"benchmark.root={shop}",
                f"data_dir={shop.parent / 'cache'}",
                f"run_dir={tmp_path / 'run'}",
                *words,
            ]
        )

    return composed


@pytest.fixture
def opened(composed):
    def opened(*words):
        config = composed(*words)
        _, schemas = open_databases(config)
        return config, schemas

    return opened


@pytest.fixture(scope="module")
def prompts(shop):
    """Return the examples of a run whose six agents ask one model."""
    config = compose(["+benchmark=custom", f"benchmark.root={shop}", f"data_dir={shop.parent / 'cache'}", *ENDPOINT])
    return example_prompts(config, open_databases(config)[1])


def expected(config, schemas, prompts, manifests=()):
    return {e.agent: e for e in estimates(config, schemas, prompts, outlook(config, manifests))}


def committed(num_rounds, num_rows, num_queries=200):
    evaluation = Evaluation(0, "GEN", num_queries, 1.0, 1.0, None, {}, {"shop": 1}, {"shop": num_rows})
    plan = (PlannedRequest("generation", "shop", ("sale",), num_queries),)
    return tuple(
        Manifest(number, number * num_rows, num_rows, plan, evaluation, 1.0, {}, (), {}) for number in range(num_rounds)
    )


def test_paper_settings_show_every_prompt_and_what_is_started_where(composed, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-to-be-shown")
    config = composed(
        "models=paper", "target=10000", "max_cost_usd=2000", "cluster.workers=3", "cluster.index_shards=2"
    )
    text = runs.preview(config)
    for name in PROMPTS:
        assert f"## {name}: system" in text
        assert f"## {name}: user" in text
    # Where a line ends depends on how long the paths are.
    in_one_line = " ".join(text.split())
    for words in (
        "gpt-4o, for generation", "OPENAI_API_KEY, which is set", "up to 64 requests in flight", "1 replica(s) x 4 GPU(s)",
        "http://127.0.0.1:8000/qwen2-5-coder-14b-instruct-", "workers: 3 each", "critics: 2",
        f"journal in {config.run_dir}/journal", "20 requests of 10 queries: 200 queries; then",
        "128 requests of 10 queries: 1,280 queries", "GEN: 128 calls for generation, up to 64 in flight",
        "max_cost_usd=2000 is never passed",
    ):  # fmt: skip
        assert words in in_one_line
    assert "sk-not-to-be-shown" not in text
    assert not Path(config.run_dir).exists()


@pytest.mark.parametrize(
    "agent", ["generation", "expansion", "table_selection", "seed_selection", "management", "critical"]
)
def test_agents_on_their_rules_have_no_prompt(opened, agent):
    config, schemas = opened(*ENDPOINT, f"models.{agent}.model=rule", "models.self_correction=false")
    assert set(example_prompts(config, schemas)) == set(PROMPTS) - {agent, "correction"}


def test_examples_are_marked_and_rest_on_computed_data(opened):
    """What a model would see of a pool is there, told as made up; failures are told as the database tells them."""
    config, schemas = opened(*ENDPOINT)
    prompts = example_prompts(config, schemas)
    text = preview(config, schemas, Before())
    assert text.count("(EXAMPLE DATA: ") == 5
    assert "used by 0 queries" in prompts["table_selection"].system
    assert "\n11 | EXP | 0.950 | " in prompts["management"].user
    assert "Choose the state of round 13." in prompts["management"].user
    assert f"no such column: {NO_COLUMN}" in prompts["critical"].user
    assert "Query 3: " in prompts["expansion"].user
    assert "Choose the queries for 20 requests: 20 lines of 3 ids" in prompts["seed_selection"].user


def test_correction_is_what_an_author_would_ask(opened):
    """An author whose query fails asks its model for exactly what the example shows, with the same message."""
    config, schemas = opened(*ENDPOINT)
    databases, _ = open_databases(config)
    request = Request(0, 0, "generation", "shop", ("product",), (), (), 1, 7)
    sql = f"SELECT {NO_COLUMN}, title FROM product"
    model = says(f"<start-sql>\n{sql}\n<end-sql>", "I would not know.")
    player = replace(model.player(config.models.strong), agent=config.models.generation)
    with ThreadPoolExecutor(1) as thread:
        connections = Connections(databases, config.execution)
        execution = ExecutionTool(databases, schemas, config.execution)
        desk = Desk(schemas, connections, execution, thread)
        asyncio.run(write(request, generation.CRAFT, player, desk, self_correction=True))
        thread.submit(connections.close).result()
        thread.submit(execution.close).result()
    failure = Failure("shop", sql, "error", f"no such column: {NO_COLUMN}")
    (_, _, asked) = model.calls[1]
    assert correction_prompt(request, [failure], player, schemas) == asked


def test_grammar_of_a_constrained_model_is_shown_in_part(opened, monkeypatch):
    monkeypatch.setattr("rayfactory.reports.preview.MAX_GRAMMAR_LINES", 2)
    config, schemas = opened(*ENDPOINT, "models.strong.constrained=true")
    prompt = example_prompts(config, schemas)["generation"]
    assert prompt.grammar.startswith("root ::= ")
    assert "Generate one complex SQL query." in prompt.user
    text = preview(config, schemas, Before())
    lines = prompt.grammar.splitlines()
    assert lines[0][:200] in text
    assert lines[-1] not in text
    assert f"[... cut here: {len(lines):,} lines, {len(prompt.grammar):,} characters in all]" in text
    assert "GEN: 200 calls for generation, up to 64 in flight" in text


def test_prompt_that_does_not_fit_leaves_the_decision_to_the_rule(opened):
    config, schemas = opened(*ENDPOINT, "models.strong.context_tokens=2600", "models.strong.max_output_tokens=400")
    config.models.management.model = "rule"
    config.seed_selection.num_seeds = 40
    config.round.requests = 1
    text = preview(config, schemas, Before())
    assert "seed_selection: its prompt does not fit" in text
    assert "## seed_selection" not in text
    assert "## expansion: system" in text


def test_estimates_follow_target_prices_and_prompts(opened, prompts):
    """Twice the target costs about twice as much, a dearer model in proportion; only what a model plays is there."""
    config, schemas = opened(*ENDPOINT, *PRICES, "models.management.model=rule", "target=8500")
    found = expected(config, schemas, prompts)
    assert set(found) == {"generation", "expansion", "table_selection", "seed_selection", "critical", "correction"}
    queries = 8500 / ADMITTED_SHARE
    assert found["generation"].calls + found["expansion"].calls == pytest.approx(queries / 10, abs=1)
    assert found["correction"].calls == pytest.approx(CORRECTED_SHARE * queries / 10, abs=1)
    assert found["generation"].tokens_out + found["expansion"].tokens_out == pytest.approx(
        queries * TOKENS_PER_QUERY, abs=TOKENS_PER_QUERY
    )
    assert found["critical"].tokens_out == found["critical"].calls * TOKENS_PER_OPINION
    for e in found.values():
        assert e.cost_usd == pytest.approx((2 * e.tokens_in + 10 * e.tokens_out) / 1e6)
        assert e.least_usd == pytest.approx(e.cost_usd)
    config.target = 17000
    more = expected(config, schemas, prompts)
    for agent in ("generation", "expansion", "correction"):
        assert more[agent].cost_usd / found[agent].cost_usd == pytest.approx(2, abs=0.1)
    longer = {**prompts, "generation": replace(prompts["generation"], system=prompts["generation"].system * 2)}
    assert expected(config, schemas, longer)["generation"].tokens_in > 1.5 * more["generation"].tokens_in


def test_another_method_is_shown_and_estimated_as_it_asks(opened):
    """Its own prompt, one query a call, from both models by their share."""
    local = ["models.local.name=n", "models.local.base_url=http://y/v1", "models.local_share=0.8"]
    at = [*ENDPOINT[1:], *PRICES, "models=omnisql"]
    config, schemas = opened(*at, *local, "target=850")
    shown = example_prompts(config, schemas)
    assert list(shown) == ["generation"]
    assert "of this level of complexity" in shown["generation"].user
    found = estimates(config, schemas, shown, outlook(config))
    assert [(e.agent, e.model, e.calls) for e in found] == [("generation", "m", 200), ("generation", "n", 800)]
    assert found[0].cost_usd > 0
    assert found[1].cost_usd == 0


def test_cached_prefix_gives_a_range(opened, prompts):
    """At a tenth of the price, a prefix that the endpoint has can take up to nine tenths off what goes in."""
    config, schemas = opened(*ENDPOINT, *PRICES, "models.strong.usd_per_million_cached=0.2")
    found = expected(config, schemas, prompts)["generation"]
    cost_out = 10 * found.tokens_out / 1e6
    assert 0.1 < (found.least_usd - cost_out) / (found.cost_usd - cost_out) < 0.2
    assert "instead of" in preview(config, schemas, Before())


def test_constrained_models_are_asked_once_a_query_and_batches_cost_half(opened, prompts):
    config, schemas = opened(*ENDPOINT, "target=100", "models.strong.usd_per_million_out=10")
    plain = expected(config, schemas, prompts)
    config.models.strong.batch = True
    assert expected(config, schemas, prompts)["generation"].cost_usd == pytest.approx(plain["generation"].cost_usd / 2)
    config.models.strong.constrained = True
    led = expected(config, schemas, prompts)
    assert led["generation"].calls == pytest.approx(10 * plain["generation"].calls, abs=10)
    assert "correction" not in led


def test_only_what_is_missing_is_estimated(opened, prompts):
    """Rows and candidates of the run directory are subtracted, and its warm-up is over."""
    config, schemas = opened(*ENDPOINT, *PRICES, "target=1000")
    manifests = committed(4, 150)
    left = outlook(config, manifests)
    assert (left.rows, left.queries, left.first_round) == (400, 471, 4)
    assert left.explored < outlook(config).explored
    some, everything = (
        sum(e.cost_usd for e in expected(config, schemas, prompts, m).values()) for m in (manifests, ())
    )
    assert 0.3 < some / everything < 0.5
    config.max_candidates = 900
    assert outlook(config, manifests).queries == 100
    config.max_candidates = None
    config.target = 600
    assert outlook(config, manifests).queries == 0
    assert "Nothing is left to ask for." in preview(config, schemas, Before(manifests))


def test_what_is_spent_counts_against_the_budget(opened):
    config, schemas = opened(*ENDPOINT, *PRICES, "target=1000", "max_cost_usd=20")
    row = {"requests": 70, "tokens_in": 1_200_000, "tokens_out": 34_000, "cost_usd": 17.5, "unconfirmed_usd": 2.25}
    text = preview(config, schemas, Before(committed(4, 150), [row]))
    assert "Of 1,000 rows, 600 are there from 4 round(s), and 400 are missing" in text
    assert "70 replies with 1.2M tokens in and 34k out; $19.75 are spent" in " ".join(text.split())
    assert "It leaves $0.25, which is less than the estimate" in " ".join(text.split())


def test_damaged_and_foreign_run_dirs_are_told(composed):
    config = composed(*ENDPOINT)
    run_dir = Path(config.run_dir)
    (run_dir / "rounds").mkdir(parents=True)
    (run_dir / "rounds" / "000000.json").write_text("{")
    (run_dir / "run.json").write_text(json.dumps({"format": FORMAT, "seed": 5}))
    assert "This run would be refused: run_dir" in " ".join(runs.preview(config).split())
    (run_dir / "run.json").write_text("{")
    with pytest.raises(RunDirError, match=r"run\.json cannot be read"):
        runs.preview(config)


def test_journal_is_read_and_stays_as_it_is(composed):
    """Another process may be writing it: what is in flight counts as unconfirmed, and a line half written stays."""
    config = composed(*ENDPOINT, *PRICES)
    folder = Path(config.run_dir) / "journal"
    folder.mkdir(parents=True)
    (folder.parent / "run.json").write_text(json.dumps({"format": FORMAT}))
    file = folder / FILE_NAME
    sent = '{"sent":0,"key":[0,"generation",0,0,0],"request":"r","model":"m","worst":[1000,500,3.25]}\n'
    file.write_text(sent + '{"done":0,"key"')
    text = " ".join(runs.preview(config).split())
    assert "So far 0 replies with 0 tokens in and 0 out; $3.25 are spent, what is unconfirmed included" in text
    assert file.read_text() == sent + '{"done":0,"key"'
    assert [path.name for path in folder.iterdir()] == [FILE_NAME]
    file.write_text("damaged\n" + sent)
    with pytest.raises(RunDirError, match=re.escape(f"line 1 of {str(file)!r} is damaged")):
        runs.preview(config)


def test_offline_says_that_nothing_is_paid(opened):
    config, schemas = opened()
    assert "nothing is paid" in preview(config, schemas, Before())
