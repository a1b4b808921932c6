"""A context window that is too small is found before anybody is asked."""

from __future__ import annotations

import pytest

from rayfactory.agents.preflight import check_context_windows
from rayfactory.config import AGENTS, Config, ModelConfig
from rayfactory.databases.schema import Column, ColumnProfile, Schema, Table
from rayfactory.errors import ConfigError
from tests.models.store import make_store


@pytest.fixture(scope="module")
def schemas(tmp_path_factory):
    return {"store": make_store(tmp_path_factory.mktemp("store"), "duckdb")[1]}


def config(agent, **model):
    settings = Config()
    settings.models.local = ModelConfig(name="small", **model)
    getattr(settings.models, agent).model = "local"
    return settings


@pytest.mark.parametrize("agent", AGENTS)
def test_window_that_is_too_small(agent, schemas):
    """For whoever a model plays; the same model is no concern of those on their rules."""
    check_context_windows(config(agent), schemas)
    check_context_windows(config(agent, context_tokens=4096, max_output_tokens=1000), schemas)
    too_small = config(agent, context_tokens=700, max_output_tokens=600)
    with pytest.raises(
        ConfigError, match=rf"the {agent} prompt .*context_tokens=700 .*'small'.*models\.{agent}\.model=rule"
    ):
        check_context_windows(too_small, schemas)
    getattr(too_small.models, agent).model = "rule"
    check_context_windows(too_small, schemas)


def test_window_of_a_model_that_answers_a_share(schemas):
    """It is asked the same as the one that it stands in for; a method without a rule has none to be left to."""
    settings = config("generation", context_tokens=700, max_output_tokens=600)
    settings.models.strong = ModelConfig(name="large")
    settings.models.generation.model = "strong"
    settings.models.method = "omnisql"
    check_context_windows(settings, schemas)
    settings.models.local_share = 0.5
    with pytest.raises(ConfigError, match=r"the omnisql prompt .*context_tokens=700 .*'small'") as caught:
        check_context_windows(settings, schemas)
    assert "rule" not in str(caught.value)


@pytest.mark.parametrize("agent", ["generation", "expansion"])
def test_every_table_of_every_database_is_looked_at(agent, schemas, caplog):
    """A database with one whose keys alone are too much is named; and what was only tried is not told as cut."""
    profile = ColumnProfile(num_sampled=10, null_fraction=0.0, num_distinct=5)
    columns = tuple(Column(f"c{i}" * 20, "INTEGER", "integer", "key", True, profile) for i in range(100))
    # Keys take room, other columns are left out.
    tables = (Table("a", columns, (), 10), Table("b", columns, tuple(column.name for column in columns), 10))
    window = {"context_tokens": 3_000, "max_output_tokens": 800}
    check_context_windows(config(agent, **window), {**schemas, "wide": Schema("wide", "duckdb", tables[:1], ())})
    with pytest.raises(ConfigError, match=r"database 'wide' does not fit .* table 'b' alone"):
        check_context_windows(config(agent, **window), {**schemas, "wide": Schema("wide", "duckdb", tables, ())})
    assert not caplog.records
