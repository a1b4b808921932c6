"""Which databases a benchmark has, wherever it was unpacked, and what a person is told when it has none."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayfactory.config import BenchmarkConfig, DownloadConfig, ExecutionConfig, ProfileConfig
from rayfactory.databases.benchmark import load_schema, load_schemas, open_benchmark
from rayfactory.databases.cache import schema_from_json, schema_to_json
from rayfactory.databases.catalogue import quote
from rayfactory.databases.engine import connect
from rayfactory.databases.schema import Schema
from rayfactory.errors import BenchmarkError, DatabaseError, UserError
from tests.conftest import as_nobody
from tests.databases.make_bird_folder import make_bird_folder

PETS = (
    "CREATE TABLE Owner (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO Owner VALUES (1, 'Ann'), (2, 'Bob');"
    "CREATE TABLE pet (id INTEGER PRIMARY KEY, keeper INTEGER, weight REAL); INSERT INTO pet VALUES (1, 1, 2.5), (2, 2, 30);"
)


def make_sqlite(path: Path, script: str = PETS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lite = sqlite3.connect(path)
    lite.executescript(script)
    lite.close()
    return path


def make_duckdb(path: Path, script: str = PETS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(str(path)) as duck:
        duck.execute(script)
    return path


def names(name: str, root: Path, data_dir: Path, databases: list[str] | None = None) -> list[str]:
    """Return the names of the databases that are found."""
    settings = BenchmarkConfig(name=name, root=str(root), databases=databases or [])
    return [database.name for database in open_benchmark(settings, data_dir).databases]


def load(name: str, root: Path, data_dir: Path, databases: list[str] | None = None) -> list[Schema]:
    benchmark = open_benchmark(BenchmarkConfig(name=name, root=str(root), databases=databases or []), data_dir)
    return list(load_schemas(benchmark, ProfileConfig(), ExecutionConfig(), data_dir))


def state(folder: Path) -> dict[str, str]:
    """Return every file below a folder with a digest of what is in it."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("spider", "."),
        ("spider", "database"),
        ("spider", "spider_data/database"),
        ("spider", "spider_data/spider_data/database"),
        ("spider", "test_database"),
        ("bird", "."),
        ("bird", "dev_databases"),
        ("bird", "dev_20240627/dev_databases"),
        ("bird", "dev/dev_20240627/dev_databases"),
        ("bird", "train/train_databases"),
    ],
)
def test_a_published_folder_is_found_however_deep_it_was_unpacked(tmp_path: Path, name: str, folder: str):
    """What lies beside the databases, such as a Mac's files and other folders, is not taken for one."""
    place = tmp_path / "root" / folder
    for database in ("b", "a"):
        make_sqlite(place / database / f"{database}.sqlite")
    make_sqlite(place / "a" / "other.sqlite")
    make_sqlite(place / "__MACOSX" / "._a.sqlite")
    assert names(name, tmp_path / "root", tmp_path / "data") == ["a", "b"]


def test_bird_may_have_both_sets(tmp_path: Path):
    """Dev and train databases make one benchmark."""
    make_sqlite(tmp_path / "bird" / "dev" / "dev_databases" / "a" / "a.sqlite")
    make_sqlite(tmp_path / "bird" / "train" / "train_databases" / "b" / "b.sqlite")
    assert names("bird", tmp_path / "bird", tmp_path / "data") == ["a", "b"]


def test_keys_and_descriptions_come_from_beside_the_databases(tmp_path: Path):
    """Keys that the file does not declare are completed, in the file's own spelling, and columns are described."""
    place = tmp_path / "dev_databases"
    make_sqlite(place / "pets" / "pets.sqlite", PETS.replace("id INTEGER PRIMARY KEY", "id INTEGER"))
    entry = {
        "db_id": "pets",
        "table_names_original": ["owner", "Pet"],
        "column_names_original": [[-1, "*"], [0, "ID"], [1, "Id"], [1, "KEEPER"], [1, "gone"]],
        "primary_keys": [1, 2],
        "foreign_keys": [[3, 1], [4, 1]],
    }
    (tmp_path / "dev_tables.json").write_text(json.dumps([entry]))
    (place / "pets" / "database_description").mkdir()
    (place / "pets" / "database_description" / "PET.csv").write_text(
        "original_column_name,column_description\nWeight,in kg\n"
    )
    (schema,) = load("bird", tmp_path, tmp_path / "data")
    (key,) = schema.foreign_keys
    assert (key.table, key.columns, key.referenced_table, key.referenced_columns) == (
        "pet",
        ("keeper",),
        "Owner",
        ("id",),
    )
    assert key.source == "benchmark"
    assert schema.table("Owner").primary_key == ("id",)
    assert schema.table("pet").column("weight").description == "in kg"
    assert schema.table("pet").column("keeper").role == "key"


@pytest.mark.realdata
def test_spider_as_it_is_shared(shared_data: Path, tmp_path: Path):
    """80 databases with 313 tables; the 250 declared keys are kept; the few inferred ones point to unique columns."""
    before = sorted(path.name for path in (shared_data / "spider" / "database" / "pets_1").iterdir())
    schemas = load("spider", shared_data / "spider", tmp_path)
    assert len(schemas) == 80
    assert sum(len(schema.tables) for schema in schemas) == 313
    keys = [(schema, key) for schema in schemas for key in schema.foreign_keys]
    assert sum(key.source == "declared" for _, key in keys) == 250
    assert 1 <= sum(key.source == "inferred" for _, key in keys) <= 20
    for schema, key in keys:
        if key.source == "inferred":
            assert schema.table(key.referenced_table).column(key.referenced_columns[0]).profile.unique
    assert sorted(path.name for path in (shared_data / "spider" / "database" / "pets_1").iterdir()) == before
    assert load("spider", shared_data / "spider" / "database", tmp_path) == schemas


def test_your_own_files_of_both_kinds(tmp_path: Path):
    """A file, or a folder with files and folders of files; the first bytes decide, and names stay apart."""
    root = tmp_path / "mine"
    make_sqlite(root / "a.db")
    make_duckdb(root / "b.db")
    make_duckdb(root / "a.duckdb")
    make_sqlite(root / "sub" / "c.sqlite")
    make_sqlite(root / "sub" / "b.sqlite3")
    (root / "notes.txt").write_text("nothing")
    benchmark = open_benchmark(BenchmarkConfig(name="custom", root=str(root)), tmp_path / "data")
    assert {database.name: database.dialect for database in benchmark.databases} == {
        "a": "sqlite",
        "mine_a": "duckdb",
        "b": "duckdb",
        "sub_b": "sqlite",
        "c": "sqlite",
    }
    assert names("custom", root / "a.duckdb", tmp_path / "data") == ["a"]
    assert {schema.dialect for schema in load("custom", root, tmp_path / "data")} == {"duckdb", "sqlite"}


def test_databases_are_chosen_by_name(tmp_path: Path):
    """A wrong name is answered with those that are near; a chosen few need no others."""
    for name in ("alpha", "beta", "gamma"):
        make_sqlite(tmp_path / "mine" / f"{name}.db")
    (tmp_path / "mine" / "delta.db").write_bytes(b"no database at all, but longer than a header" * 10)
    assert names("custom", tmp_path / "mine", tmp_path / "data", ["gamma", "alpha"]) == ["alpha", "gamma"]
    with pytest.raises(BenchmarkError, match=r"names 'gama', which is none of the .* found; there is 'gamma'"):
        names("custom", tmp_path / "mine", tmp_path / "data", ["alpha", "gama"])


def test_a_folder_of_many_with_a_bad_one_names_it_and_the_way_around(tmp_path: Path):
    """One damaged database among good ones is an error that says how to leave it out."""
    for name in ("a", "b"):
        make_sqlite(tmp_path / "database" / name / f"{name}.sqlite")
    bad = tmp_path / "database" / "bad" / "bad.sqlite"
    make_sqlite(bad, "CREATE TABLE t (x); INSERT INTO t VALUES (zeroblob(90000));")
    bad.write_bytes(bad.read_bytes()[:30_000])
    with pytest.raises(DatabaseError, match=r"(?s)database 'bad'.*benchmark\.databases"):
        load("spider", tmp_path, tmp_path / "data")
    assert len(load("spider", tmp_path, tmp_path / "data", ["a", "b"])) == 2


def test_a_database_without_rows_among_others_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """An empty database is no reason to stop, several are, if there is nothing else."""
    make_sqlite(tmp_path / "database" / "full" / "full.sqlite")
    make_sqlite(tmp_path / "database" / "rowless" / "rowless.sqlite", "CREATE TABLE t (x)")
    make_sqlite(tmp_path / "database" / "tableless" / "tableless.sqlite", "PRAGMA user_version = 1")
    assert [schema.database for schema in load("spider", tmp_path, tmp_path / "data")] == ["full"]
    assert "'rowless'" in caplog.text
    assert "has no tables" in caplog.text
    with pytest.raises(BenchmarkError, match=r"(?s)no table with rows.*rowless.*benchmark\.root"):
        load("spider", tmp_path, tmp_path / "data", ["rowless", "tableless"])


def damaged(folder: Path) -> dict[str, Path]:
    """Return one path of each bad kind, by what is wrong with it."""
    folder.mkdir()
    (folder / "empty folder").mkdir()
    (folder / "text.db").write_text("this is no database\n" * 100)
    (folder / "nothing.db").write_bytes(b"")
    (folder / "encrypted.sqlite").write_bytes(hashlib.shake_256(b"key").digest(8_192))
    whole = make_sqlite(folder / "whole.sqlite", "CREATE TABLE t (x); INSERT INTO t VALUES (zeroblob(90000));")
    (folder / "truncated.sqlite").write_bytes(whole.read_bytes()[:20_000])
    duck = make_duckdb(
        folder / "whole.duckdb", "CREATE TABLE t AS SELECT range AS i, hash(range) AS h FROM range(200000)"
    )
    (folder / "truncated.duckdb").write_bytes(duck.read_bytes()[:600_000])
    # A page in the middle overwritten: only reading the content shows it.
    content = bytearray(whole.read_bytes())
    content[4_096:8_192] = b"\xff" * 4_096
    (folder / "overwritten.sqlite").write_bytes(content)
    make_sqlite(folder / "no tables.sqlite", "PRAGMA user_version = 1")
    make_sqlite(folder / "no rows.sqlite", "CREATE TABLE t (x)")
    make_duckdb(folder / "no tables.duckdb", "SELECT 1")
    columns = ", ".join(f"c{number} INTEGER" for number in range(2_000))
    make_sqlite(folder / "wide.sqlite", f"CREATE TABLE t ({columns}); INSERT INTO t (c0) VALUES (1);")
    kinds = [path for path in folder.iterdir() if not path.name.startswith("whole")]
    return {"missing.sqlite": folder / "missing.sqlite", **{path.name: path for path in kinds}}


def test_every_bad_input_ends_with_a_message_that_names_it_and_changes_nothing(tmp_path: Path):
    """Each is a UserError with exit code 2, names the path, and leaves the folder as it was."""
    bad = damaged(tmp_path / "bad")
    assert len(bad) == 12
    before = state(tmp_path / "bad")
    for name, path in bad.items():
        with pytest.raises(UserError) as raised:
            load("custom", path, tmp_path / "data")
        message = str(raised.value)
        assert raised.value.exit_code == 2, name
        assert name.partition(".")[0] in message, name
        assert any(remedy in message for remedy in ("give ", "check ", "fill ", "raise ", "name the")), (name, message)
        assert state(tmp_path / "bad") == before, name


def test_the_widest_table_that_is_allowed_works(tmp_path: Path):
    """1,999 columns are read."""
    columns = ", ".join(f"c{number} INTEGER" for number in range(1_999))
    path = make_sqlite(tmp_path / "wide.sqlite", f"CREATE TABLE t ({columns}); INSERT INTO t (c0) VALUES (1);")
    (schema,) = load("custom", path, tmp_path / "data")
    assert len(schema.tables[0].columns) == 1_999


def test_a_file_that_may_not_be_read(open_path: Path):
    """The message says so."""
    path = make_sqlite(open_path / "secret.sqlite")
    path.chmod(0)
    data_dir = open_path / "data"
    data_dir.mkdir()
    data_dir.chmod(0o777)
    with as_nobody(), pytest.raises(UserError, match=r"secret\.sqlite.*cannot be read"):
        load("custom", path, data_dir)


@pytest.mark.parametrize("name", ["spider", "bird", "imdb"])
def test_a_benchmark_that_is_not_there_names_the_command_and_the_manual_way(tmp_path: Path, name: str):
    """With and without a root; nothing is made."""
    settings = BenchmarkConfig(
        name=name, downloads=[DownloadConfig(url="http://127.0.0.1/x.zip")], manual="By hand: ask"
    )
    for root in ("", str(tmp_path / "missing"), str(tmp_path)):
        settings.root = root
        with pytest.raises(BenchmarkError) as raised:
            open_benchmark(settings, tmp_path / "data")
        assert f"python -m rayfactory +benchmark={name} task=download" in str(raised.value)
        assert "By hand: ask" in str(raised.value)
        assert (root or str(tmp_path / "data" / name)) in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_your_own_benchmark_needs_a_root(tmp_path: Path):
    """Without one the message says what it may be."""
    with pytest.raises(BenchmarkError, match=r"benchmark\.root is not set; give an SQLite or DuckDB file"):
        open_benchmark(BenchmarkConfig(name="custom"), tmp_path)
    with pytest.raises(BenchmarkError, match="there is no benchmark 'tpch'"):
        open_benchmark(BenchmarkConfig(name="tpch"), tmp_path)


def test_a_schema_is_kept_and_made_again_when_something_changes(tmp_path: Path):
    """The second reading comes from the kept file; another content, another profile setting or damage make it anew."""
    path = make_sqlite(tmp_path / "pets.sqlite")
    data_dir = tmp_path / "data"
    (first,) = load("custom", path, data_dir)
    (kept,) = (data_dir / "schemas").iterdir()
    # A mark in the kept file shows that it is what is read.
    data = json.loads(kept.read_text())
    data["tables"][0]["description"] = "from the kept file"
    kept.write_text(json.dumps(data))
    (again,) = load("custom", path, data_dir)
    assert again.tables[0].description == "from the kept file"
    for damage in ("", "{", "[]", '{"database": 1}', "null", '{"tables": [1]}'):
        kept.write_text(damage)
        assert load("custom", path, data_dir) == [first]
    benchmark = open_benchmark(BenchmarkConfig(name="custom", root=str(path)), data_dir)
    other = load_schema(benchmark, benchmark.databases[0], ProfileConfig(max_rows=1), ExecutionConfig(), data_dir)
    assert other.tables[0].columns[0].profile.num_sampled == 1
    assert other.fingerprint == first.fingerprint
    make_sqlite(path, "INSERT INTO pet VALUES (3, 1, 4.0)")
    (changed,) = load("custom", path, data_dir)
    assert changed.table("pet").num_rows == 3
    assert changed.fingerprint != first.fingerprint


def test_a_folder_for_kept_schemas_that_cannot_be_written_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Reading works, with a warning."""
    path = make_sqlite(tmp_path / "pets.sqlite")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "schemas").write_text("a file where a folder is needed")
    (schema,) = load("custom", path, tmp_path / "data")
    assert schema.populated
    assert "cannot be kept" in caplog.text


def test_the_fingerprint_follows_the_content_and_nothing_else(tmp_path: Path):
    """A copy with another date in another place has it; one more row, or one more key beside it, has not."""
    path = make_sqlite(tmp_path / "one" / "database" / "pets" / "pets.sqlite")
    copy = tmp_path / "two" / "database" / "pets" / "pets.sqlite"
    copy.parent.mkdir(parents=True)
    shutil.copyfile(path, copy)
    os.utime(copy, (1, 1))

    def fingerprint(folder: str) -> str:
        (schema,) = load("spider", tmp_path / folder, tmp_path / "data")
        return schema.fingerprint

    first = fingerprint("one")
    assert fingerprint("two") == first
    assert len(first) == 64
    entry = {
        "db_id": "pets",
        "table_names_original": ["owner", "pet"],
        "column_names_original": [[-1, "*"], [0, "id"], [1, "keeper"]],
        "primary_keys": [],
        "foreign_keys": [[2, 1]],
    }
    (tmp_path / "two" / "tables.json").write_text(json.dumps([entry]))
    assert fingerprint("two") != first


@pytest.mark.parametrize("dialect", ["sqlite", "duckdb"])
def test_a_schema_survives_being_written_as_json(tmp_path: Path, dialect: str):
    """What is read back is equal, whatever is in it: views, composite keys, Unicode, large numbers."""
    script = (
        'CREATE TABLE "Tä b" (a BIGINT, b VARCHAR, c DOUBLE, d DATE, e BOOLEAN, PRIMARY KEY (a, b));'
        """INSERT INTO "Tä b" VALUES (9223372036854775807, 'x"y', 0.1, '2020-01-01', true), (1, '数', 1e300, NULL, false);"""
        'CREATE TABLE u (a BIGINT, b VARCHAR, FOREIGN KEY (a, b) REFERENCES "Tä b" (a, b)); CREATE VIEW v AS SELECT a FROM u;'
    )
    path = (make_sqlite if dialect == "sqlite" else make_duckdb)(tmp_path / f"x.{dialect}", script)
    (schema,) = load("custom", path, tmp_path / "data")
    assert schema_from_json(json.loads(json.dumps(schema_to_json(schema)))) == schema
    assert load("custom", path, tmp_path / "data") == [schema]
    assert schema.views[0].base_tables == ("u",)
    assert schema.table("tä B").column("E").profile.common_values == ((False, 0.5), (True, 0.5))


@pytest.mark.realdata
def test_birds_layout_with_its_published_schemas(shared_data: Path, tmp_path: Path):
    """Every foreign key that BIRD publishes arrives, in databases that declare none, and columns are described."""
    make_bird_folder(shared_data / "bird" / "dev_tables.json", tmp_path / "bird", num_rows=20)
    entries = {entry["db_id"]: entry for entry in json.loads((tmp_path / "bird" / "dev_tables.json").read_text())}
    schemas = load("bird", tmp_path / "bird", tmp_path / "data")
    assert [schema.database for schema in schemas] == sorted(entries)
    for schema in schemas:
        published = {tuple(pair) for pair in entries[schema.database]["foreign_keys"] if pair[0] != pair[1]}
        assert sum(key.source == "benchmark" for key in schema.foreign_keys) == len(published)
        assert len(schema.populated) == len(entries[schema.database]["table_names_original"])
    by_name = {schema.database: schema for schema in schemas}
    assert by_name["financial"].table("account").column("account_id").description == "account id"
    assert by_name["financial"].table("account").primary_key == ("account_id",)


names_of_any_form = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=8
).filter(lambda name: not name.lower().startswith("sqlite_"))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tables=st.dictionaries(
        names_of_any_form, st.lists(names_of_any_form, min_size=1, max_size=4), min_size=1, max_size=3
    ),
    rows=st.lists(
        st.lists(st.one_of(st.none(), st.integers(0, 3), st.text(max_size=3)), min_size=4, max_size=4), max_size=4
    ),
    dialect=st.sampled_from(["sqlite", "duckdb"]),
)
def test_any_small_database_is_read(
    tmp_path_factory: pytest.TempPathFactory, tables: dict[str, list[str]], rows: list[list[object]], dialect: str
):
    """Names, values and tables of any form give a schema whose names can be queried."""
    path = tmp_path_factory.mktemp("any") / f"any.{dialect}"
    folded = {name.casefold(): (name, {c.casefold(): c for c in columns}) for name, columns in tables.items()}
    statements = []
    for name, columns in folded.values():
        listed = ", ".join(f"{quote(column)} VARCHAR" for column in columns.values())
        statements.append(f"CREATE TABLE {quote(name)} ({listed})")
    connection = sqlite3.connect(path) if dialect == "sqlite" else duckdb.connect(str(path))
    for statement in statements:
        connection.execute(statement)
    for name, columns in folded.values():
        for row in rows:
            marks = ", ".join("?" * len(columns))
            connection.execute(f"INSERT INTO {quote(name)} VALUES ({marks})", row[: len(columns)])
    connection.commit()
    connection.close()
    data_dir = path.parent / "data"
    benchmark = open_benchmark(BenchmarkConfig(name="custom", root=str(path)), data_dir)
    schema = load_schema(benchmark, benchmark.databases[0], ProfileConfig(), ExecutionConfig(), data_dir)
    assert {table.name for table in schema.tables} == {name for name, _ in folded.values()}
    assert load_schema(benchmark, benchmark.databases[0], ProfileConfig(), ExecutionConfig(), data_dir) == schema
    engine = connect(benchmark.databases[0], ExecutionConfig())
    for table in schema.tables:
        listed = ", ".join(quote(column.name) for column in table.columns)
        assert engine.run(f"SELECT {listed} FROM {quote(table.name)}").row_count == table.num_rows == len(rows)
    engine.close()
