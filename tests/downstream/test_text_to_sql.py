"""How a model is asked: what each prompt shows of a database."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from rayfactory.compose import compose
from rayfactory.config import ModelConfig
from rayfactory.downstream.questions import Question
from rayfactory.downstream.text_to_sql import prompt_of
from rayfactory.errors import ConfigError
from rayfactory.models.prompts import Prompts
from rayfactory.runs import open_databases

QUESTION = Question("air", "How many\nflights?", "all of them\ncount", "SELECT count(*) FROM Flight", "")


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    folder = tmp_path_factory.mktemp("air")
    with closing(sqlite3.connect(folder / "air.sqlite")) as database:
        database.executescript(
            """
            CREATE TABLE Airport (Code TEXT PRIMARY KEY, "City Name" VARCHAR(20));
            CREATE TABLE Flight (
                Id INTEGER PRIMARY KEY, "From" TEXT REFERENCES Airport(Code), Late BOOLEAN, Note
            );
            INSERT INTO Airport VALUES ('BER', 'Berlin'), ('OSL', 'Oslo'), ('LIS', 'Lisbon');
            INSERT INTO Flight VALUES (1, 'BER', 1, 'a note of more than twenty-five letters'), (2, 'OSL', 0, NULL);
            """
        )
        database.commit()
    _, schemas = open_databases(
        compose(["+benchmark=custom", f"benchmark.root={folder / 'air.sqlite'}", f"data_dir={folder / 'cache'}"])
    )
    return schemas["air"]


def test_codes_is_shown_a_database_as_it_was_taught(schema):
    """Lower case, two short values of each column, names of several words in backticks, and one text."""
    model = ModelConfig(name="codes-1b", chat=False, max_output_tokens=256)
    prompt = prompt_of("codes", schema, QUESTION, model, Prompts())
    assert prompt.system == ""
    assert prompt.user.endswith("\nmatched contents : None\nall of them count; How many flights?")
    lines = prompt.user.splitlines()
    assert lines[0] == "database schema :"
    assert lines[1].startswith("table airport , columns = [ airport.code ( text | primary key | values : ")
    assert "airport.`city name` ( varchar(20) | values : " in lines[1]
    assert lines[1].endswith(" ) ]")
    assert lines[2] == (
        "table flight , columns = [ flight.id ( integer | primary key | values : 1 , 2 ) , "
        "flight.from ( text | values : BER , OSL ) , flight.late ( boolean | values : 0 , 1 ) , flight.note (  ) ]"
    )
    assert lines[3:5] == ["foreign keys :", "flight.from = airport.code"]


def test_a_database_without_foreign_keys_says_so(schema):
    alone = replace(schema, foreign_keys=())
    model = ModelConfig(name="codes-1b", chat=False, max_output_tokens=256)
    assert "\nforeign keys : None\n" in prompt_of("codes", alone, QUESTION, model, Prompts()).user


def test_a_small_window_goes_without_values_and_descriptions(schema):
    """Rather than without an answer; and where there is no room for names, that is said."""
    flight = schema.table("Flight")
    described = replace(flight, columns=tuple(replace(each, description="what it is " * 9) for each in flight.columns))
    wordy = replace(schema, tables=(described,))
    forms: list[tuple[bool, bool] | None] = []
    for window in range(150, 900, 5):
        model = ModelConfig(name="codes-1b", chat=False, context_tokens=window, max_output_tokens=64)
        try:
            text = prompt_of("codes", wordy, QUESTION, model, Prompts()).user
        except ConfigError as error:
            assert f"more than context_tokens={window} of model 'codes-1b'" in str(error)  # noqa: PT017
            forms.append(None)
        else:
            assert "flight.note" in text
            forms.append(("values :" in text, "comment :" in text))
    assert list(dict.fromkeys(forms)) == [None, (False, False), (True, False), (True, True)]
