"""A preview shows what would be asked and paid, and follows the settings; it reaches nobody."""

import socket
from pathlib import Path

import pytest

from rayfactory.agents.player import MAX_DECISION_TOKENS
from rayfactory.compose import compose
from rayfactory.reports.preview import ADMITTED_SHARE, TOKENS_PER_QUERY, estimates, example_prompts, preview
from rayfactory.runs import open_databases
from tests.shop import make_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return make_shop(tmp_path_factory.mktemp("shop") / "shop.sqlite")


@pytest.fixture
def opened(shop, monkeypatch):
    def no_network(*_args, **_options):
        raise AssertionError("a preview reaches nobody")

    def opened(*words):
        config = compose(["+benchmark=custom", f"benchmark.root={shop}", f"data_dir={shop.parent / 'cache'}", *words])
        _, schemas = open_databases(config)
        monkeypatch.setattr(socket.socket, "connect", no_network)
        return config, schemas

    return opened


def test_paper_settings_show_every_author_and_what_is_started_where(opened, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-to-be-shown")
    config, schemas = opened("models=paper", "target=10000", "max_cost_usd=20")
    text = preview(config, schemas)
    for word in ("## generation: system", "## expansion: user", "## table_selection: system", "gpt-4o", "4 GPU(s)"):
        assert word in text
    assert "OPENAI_API_KEY, which is set" in text
    assert "sk-not-to-be-shown" not in text
    assert "max_cost_usd=20 is never passed" in text
    assert not Path(config.run_dir).exists()


def test_estimates_follow_target_prices_and_prompts(opened):
    """Twice the target costs about twice as much, a dearer model in proportion; only what a model plays is there."""
    words = [
        "models=endpoint",
        "models.strong.name=m",
        "models.strong.base_url=http://x/v1",
        "models.management.model=rule",
    ]
    prices = ["models.strong.usd_per_million_in=2", "models.strong.usd_per_million_out=10"]
    config, schemas = opened(*words, *prices, "target=8500")
    prompts = example_prompts(config, schemas)
    found = {e.agent: e for e in estimates(config, schemas, prompts)}
    assert set(found) == {"generation", "expansion", "table_selection", "seed_selection", "critical"}
    queries = 8500 / ADMITTED_SHARE
    assert found["generation"].calls + found["expansion"].calls == pytest.approx(queries / 10, abs=1)
    assert found["generation"].tokens_out + found["expansion"].tokens_out == pytest.approx(
        queries * TOKENS_PER_QUERY, abs=TOKENS_PER_QUERY
    )
    for e in found.values():
        assert e.cost_usd == pytest.approx((2 * e.tokens_in + 10 * e.tokens_out) / 1e6)
    config.target = 17000
    more = {e.agent: e for e in estimates(config, schemas, prompts)}
    for author in ("generation", "expansion"):
        assert more[author].cost_usd / found[author].cost_usd == pytest.approx(2, abs=0.1)
    assert more["critical"].tokens_out <= more["critical"].calls * MAX_DECISION_TOKENS


def test_constrained_models_are_asked_once_a_query_and_batches_cost_half(opened):
    words = ["models=endpoint", "models.strong.name=m", "models.strong.base_url=http://x/v1", "target=100"]
    words += ["models.strong.usd_per_million_out=10"]
    config, schemas = opened(*words)
    plain = {e.agent: e for e in estimates(config, schemas, {})}
    config.models.strong.batch = True
    batch = {e.agent: e for e in estimates(config, schemas, {})}
    assert batch["generation"].cost_usd == pytest.approx(plain["generation"].cost_usd / 2)
    config.models.strong.constrained = True
    led = {e.agent: e for e in estimates(config, schemas, {})}
    assert led["generation"].calls == pytest.approx(10 * plain["generation"].calls, abs=10)


def test_offline_says_that_nothing_is_paid(opened):
    assert "nothing is paid" in preview(*opened())
