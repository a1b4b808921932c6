"""The grammar that constrains a model: how much it leaves open, how long its sentences are, and that they run."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest

from rayfactory.config import ExecutionConfig
from rayfactory.databases.engine import Database, Engine, connect
from rayfactory.databases.schema import Schema
from rayfactory.errors import ConfigError
from rayfactory.models.grammar import draw_grammar
from rayfactory.models.grammar.cfg import Grammar
from rayfactory.models.grammar.conditions import draw_conditions
from rayfactory.models.grammar.draft import Draft, Shared
from rayfactory.models.grammar.skeleton import KeyGraph
from rayfactory.models.grammar.tellings import BYTES_PER_TOKEN
from rayfactory.sql.safety import check_safe
from rayfactory.sql.statement import parse
from tests.models.store import TABLES, make_store

Store = tuple[Database, Schema, Engine]

NUM_GRAMMARS = 24


@pytest.fixture(scope="module", params=["duckdb", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    database, schema = make_store(tmp_path_factory.mktemp("store"), request.param)
    engine = connect(database, ExecutionConfig())
    yield database, schema, engine
    engine.close()


@pytest.fixture(scope="module")
def drawn(store: Store) -> list[Grammar]:
    _, schema, engine = store
    return [draw_grammar(schema, TABLES, Random(seed), engine) for seed in range(NUM_GRAMMARS)]


def test_much_is_left_to_the_model(drawn: list[Grammar]) -> None:
    """Half of the grammars have a hundred alternatives and a thousand sentences, and nearly none has only a few."""
    assert statistics.median(grammar.size for grammar in drawn) >= 100
    assert statistics.median(math.log2(grammar.num_derivations()) for grammar in drawn) >= 10
    assert sum(grammar.size < 15 for grammar in drawn) <= 2


def test_every_telling_is_safe_and_runs(store: Store, drawn: list[Grammar]) -> None:
    """Whichever telling a sentence begins with, it is one safe statement that runs, and nearly always finds rows."""
    database, _, engine = store
    found = []
    for place, grammar in enumerate(drawn):
        for telling in grammar.rules["root"]:
            sql = Grammar({**grammar.rules, "root": (telling,)}).sample(Random(place))
            check_safe(parse(sql, database.dialect), database.dialect)
            found.append(engine.run(sql).row_count > 0)
    assert sum(found) / len(found) >= 0.9


def test_tellings_share_their_joins(store: Store) -> None:
    """The same question told again stands on the same tables under the same aliases, with conditions of its own."""
    _, schema, engine = store
    graph = KeyGraph(schema)
    for seed in range(6):
        rng, shared = Random(seed), Shared()
        drafts = [Draft(graph, TABLES, rng, engine, Counter(), shared) for _ in range(3)]
        scopes = [draft.spine(3).scope for draft in drafts]
        assert len({(scope.from_sql, scope.joins) for scope in scopes}) == 1
        conditions = {tuple(draw_conditions(draft, scope, 2)) for draft, scope in zip(drafts, scopes, strict=True)}
        assert len(conditions) == 3


@pytest.mark.parametrize("max_tokens", [140, 200, 340])
def test_no_sentence_passes_the_budget(store: Store, max_tokens: int) -> None:
    """The longest sentence is as short as is asked for, also where most questions take more."""
    _, schema, engine = store
    longest = [
        draw_grammar(schema, TABLES, Random(seed), engine, max_tokens=max_tokens).max_bytes() for seed in range(8)
    ]
    assert max(longest) <= BYTES_PER_TOKEN * max_tokens


def test_without_room_the_plainest_question_is_asked(store: Store) -> None:
    """It runs, and is as short as is asked for; where it cannot be, there is no grammar."""
    _, schema, engine = store
    grammar = draw_grammar(schema, TABLES, Random(1), engine, max_tokens=100)
    assert grammar.max_bytes() <= BYTES_PER_TOKEN * 100
    engine.run(grammar.sample(Random(1)))
    with pytest.raises(ConfigError, match="within the 5 tokens of a reply: raise the model's max_output_tokens"):
        draw_grammar(schema, TABLES, Random(1), engine, max_tokens=5)


def test_same_seed_same_grammar(store: Store) -> None:
    """The grammar depends on nothing but the seed and the database."""
    database, schema, engine = store
    other = connect(database, ExecutionConfig())
    for seed in range(5):
        first = draw_grammar(schema, TABLES, Random(seed), engine)
        assert draw_grammar(schema, TABLES, Random(seed), other) == first
    other.close()


def test_without_a_database(store: Store) -> None:
    """Without an engine the constants come from the profiles; every sentence still runs."""
    _, schema, engine = store
    for seed in range(6):
        grammar = draw_grammar(schema, TABLES, Random(seed), None)
        for again in range(4):
            engine.run(grammar.sample(Random(again)))
