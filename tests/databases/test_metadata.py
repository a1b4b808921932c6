"""What benchmarks publish beside their databases, in the state in which they publish it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rayfactory.databases.metadata import read_descriptions, read_tables_files
from rayfactory.databases.schema import ForeignKey

ENTRY = {
    "db_id": "shop",
    "table_names_original": ["Customer", "order lines"],
    "column_names_original": [[-1, "*"], [0, "Id"], [0, "Name"], [1, "Customer Id"], [1, "Line"]],
    "primary_keys": [1, [3, 4]],
    "foreign_keys": [[3, 1]],
}


def test_keys_are_resolved_from_their_numbers(tmp_path: Path):
    """Composite primary keys are lists of numbers; foreign keys are pairs."""
    (tmp_path / "dev_tables.json").write_text(json.dumps([ENTRY]), encoding="utf-8")
    found = read_tables_files([tmp_path, tmp_path / "missing"])["shop"]
    assert found.primary_keys == {"Customer": ("Id",), "order lines": ("Customer Id", "Line")}
    assert found.foreign_keys == (ForeignKey("order lines", ("Customer Id",), "Customer", ("Id",), "benchmark"),)


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"db_id": "x"}', '[{"db_id": "x"}]', "null"])
def test_a_file_of_another_format_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
):
    """A foreign tables.json beside one's databases is no reason to stop."""
    (tmp_path / "tables.json").write_text(content, encoding="utf-8")
    (tmp_path / "dev_tables.json").write_text("\ufeff" + json.dumps([ENTRY]), encoding="utf-8")
    assert set(read_tables_files([tmp_path])) == {"shop"}
    assert "tables.json is not a schema file" in caplog.text


def test_descriptions_in_any_encoding(tmp_path: Path):
    """UTF-8 with and without a mark, and Windows-1252; several lines become one; long ones are cut."""
    header = "original_column_name,column_name,column_description,data_format,value_description\n"
    (tmp_path / "Customer.csv").write_bytes(("\ufeff" + header + 'Id ,id,"unique\nnumber",integer,\n').encode())
    (tmp_path / "order lines.csv").write_bytes((header + "Preis,price,,real,in €\nx,,,,\n,a,b,c,d\n").encode("cp1252"))
    (tmp_path / "long.csv").write_text(header + f"c,,{'word ' * 100},,\n", encoding="utf-8")
    (tmp_path / "empty.csv").write_bytes(b"")
    (tmp_path / "nul.csv").write_bytes(b"\x00\x00,\n\x00")
    found = read_descriptions(tmp_path)
    assert found["customer", "id"] == "unique number"
    assert found["order lines", "preis"] == "price; in €"
    assert ("order lines", "x") not in found
    assert len(found["long", "c"]) <= 200
    assert found["long", "c"].endswith("...")


@pytest.mark.realdata
def test_the_published_schemas_of_bird_and_spider(shared_data: Path):
    """All databases are read, and every key lies within its database."""
    bird = read_tables_files([shared_data / "bird"])
    assert len(bird) == 11
    assert sum(len(entry.foreign_keys) for entry in bird.values()) > 90
    spider = read_tables_files([shared_data / "spider"])
    assert len(spider) == 166
    assert spider["concert_singer"].foreign_keys
