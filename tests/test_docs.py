"""What the documents say is true: their commands are understood, their tables are those of the code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from rayfactory.__main__ import help_text
from rayfactory.compose import compose, groups, settings
from rayfactory.config import Config
from rayfactory.records import E_SCHEMA, R_SCHEMA, REJECT_REASONS, REJECTS_SCHEMA
from rayfactory.reports.summary import STOP_REASONS
from rayfactory.validate import validate
from tests.test_imports import LAW

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")

COMMANDS = sorted({match[1] for match in re.finditer(r"python -m rayfactory ([^\n`#]*)", README + GUIDE + help_text())})


def rows(after: str) -> dict[str, list[str]]:
    """Return the rows of the first table after a text, by what their first cell has in backquotes."""
    lines = README.partition(after)[2].split("\n")
    table: list[str] = []
    for line in lines:
        if line.startswith("|"):
            table.append(line)
        elif table:
            break
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]
    return {cells_of_row[0].strip("`"): cells_of_row[1:] for cells_of_row in cells}


@pytest.mark.parametrize("command", [command for command in COMMANDS if not re.search(r"NAME|--help", command)])
def test_every_command_is_understood(command):
    """Whatever the documents tell a person to type is accepted."""
    validate(compose([word for word in shlex.split(command) if word not in {"--cfg", "job"}]))


def test_pictures_of_the_guide_are_there():
    for name in re.findall(r"!\[[^]]+\]\(([^)]+)\)", GUIDE):
        assert (ROOT / "docs" / name).stat().st_size > 1_000


def test_settings_are_there_with_their_defaults():
    """The table of settings names what there is, and what it is without being set."""
    for name, (default, *_) in rows("## Settings worth knowing").items():
        assert name in settings() or name in groups()
        if re.fullmatch(r"[\d.]+", default):
            value: Any = Config()
            for part in name.split("."):
                value = getattr(value, part)
            assert value == float(default)


def test_reasons_are_those_of_the_code():
    """Both tables of reasons are complete and mean what the code says."""
    stops = {name: cells[0].replace("`", "") for name, cells in rows("`stop_reason` in").items()}
    assert stops.keys() == STOP_REASONS.keys()
    assert all(stops[name].startswith(meaning) for name, meaning in STOP_REASONS.items())
    rejects = {name: cells[0].replace("`", "") for name, cells in rows("`reason` in").items()}
    assert rejects == REJECT_REASONS


def test_views_are_those_of_the_pool():
    """The columns of R, E and rejects are told in their order."""
    told = {name: cells[1].strip("`").split(", ") for name, cells in rows("It has three views").items()}
    assert told == {"R": R_SCHEMA.names, "E": E_SCHEMA.names, "rejects": REJECTS_SCHEMA.names}


def test_benchmarks_are_those_of_conf():
    """Every benchmark is told."""
    assert rows("## Benchmarks").keys() == groups()["benchmark"].keys()


def test_import_law_is_the_one_that_is_enforced():
    """CONTRIBUTING has the law of tests/test_imports.py."""
    told = re.search(r"stands left of it in\s+`([^`]*)`", CONTRIBUTING)
    assert told
    assert tuple(re.split(r",\s+", told[1])) == LAW
