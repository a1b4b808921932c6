"""Thousands of schemas are the same mapping as a few, and take the memory of a few."""

import pickle
import threading

import pytest

from rayfactory.databases import schemas as module
from rayfactory.databases.schema import Schema, Table
from rayfactory.databases.schemas import About, Schemas, about, held

MANY = {f"d{i}": Schema(f"d{i}", "sqlite", (Table("t", (), (), i),), (), fingerprint=f"f{i}") for i in range(10)}


@pytest.fixture
def few_held(monkeypatch):
    monkeypatch.setattr(module, "MAX_HELD", 3)


def read(database):
    return MANY[database]


def test_few_are_in_memory():
    assert held(MANY.values()) == MANY
    assert isinstance(held(MANY.values()), dict)


@pytest.mark.usefixtures("few_held")
def test_many_are_the_same_mapping():
    schemas = held(MANY.values())
    assert isinstance(schemas, Schemas)
    assert list(schemas) == list(MANY)
    assert len(schemas) == 10
    assert dict(schemas) == MANY
    assert [schemas[f"d{i}"].database for i in (9, 0, 5, 9)] == ["d9", "d0", "d5", "d9"]
    assert "d3" in schemas
    with pytest.raises(KeyError, match="d10"):
        schemas["d10"]


@pytest.mark.usefixtures("few_held")
def test_those_that_were_asked_for_last_stay(monkeypatch):
    asked = []

    def noted(database):
        asked.append(database)
        return MANY[database]

    schemas = Schemas({name: About.of(schema) for name, schema in MANY.items()}, noted)
    for name in ("d0", "d1", "d2", "d0", "d3", "d0", "d1"):
        assert schemas[name] is MANY[name]
    assert asked == ["d0", "d1", "d2", "d3", "d1"]


@pytest.mark.usefixtures("few_held")
def test_what_a_plan_needs_reads_none():
    def never(database):
        raise AssertionError(database)

    known = {name: About.of(schema) for name, schema in MANY.items()}
    assert about(Schemas(known, never)) == about(MANY) == known
    assert known["d0"] == About("sqlite", "f0", 1, 0)
    assert known["d7"].num_populated == 1


@pytest.mark.usefixtures("few_held")
def test_they_travel_without_what_is_held():
    schemas = Schemas({name: About.of(schema) for name, schema in MANY.items()}, read)
    assert dict(schemas) == MANY
    size = len(pickle.dumps(schemas))
    travelled = pickle.loads(pickle.dumps(schemas))
    assert dict(travelled) == MANY
    assert size == len(pickle.dumps(Schemas(schemas.about, read)))


@pytest.mark.usefixtures("few_held")
def test_threads_may_ask_at_once():
    schemas, wrong = held(MANY.values()), []

    def ask(start):
        for i in range(300):
            name = f"d{(start + 7 * i) % 10}"
            if schemas[name] != MANY[name]:
                wrong.append(name)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
