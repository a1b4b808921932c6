"""Templates: each can be filled in, and what comes of it runs."""

from __future__ import annotations

from random import Random

import pytest

from rayfactory.config import ExecutionConfig
from rayfactory.databases.engine import connect
from rayfactory.databases.schema import without_content
from rayfactory.models.baselines import templates
from tests.models.store import make_store


@pytest.fixture(scope="module", params=["duckdb", "sqlite"])
def store(request, tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store"), request.param)


@pytest.mark.parametrize("template", templates.TEMPLATES)
def test_each_template_is_filled_in_and_runs(store, template, monkeypatch):
    database, schema = store
    monkeypatch.setattr(templates, "TEMPLATES", (template,))
    queries = templates.write_queries(schema, 12, Random(1))
    assert len(queries) == 12
    assert not any("{" in sql for sql in queries)
    engine = connect(database, ExecutionConfig())
    assert sum(engine.run(sql).row_count > 0 for sql in queries) > 0
    engine.close()


def test_a_schema_that_no_template_fits_ends(store, monkeypatch):
    """Constants come from the content: without it, templates that want one cannot be filled in."""
    monkeypatch.setattr(templates, "TEMPLATES", tuple(t for t in templates.TEMPLATES if "{value}" in t))
    assert templates.write_queries(without_content(store[1]), 5, Random(1)) == []


def test_an_equal_seed_writes_the_same(store):
    first, again = (templates.write_queries(store[1], 20, Random(3)) for _ in range(2))
    assert first == again
