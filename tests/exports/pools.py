"""A pool to export, and exporting it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from rayfactory.__main__ import main
from rayfactory.manifests import PlannedRequest
from rayfactory.pool import connect, opened
from rayfactory.records import R_SCHEMA, Evaluation
from tests.shop import make_shop
from tests.test_pool import IDENTITY, round_tables

EVIL = "=1+1 <b>../x"
"""The name of a database that is a formula, markup and a path."""

QUERIES = [
    "SELECT name FROM customer",
    "SELECT title FROM product",
    "SELECT name FROM customer WHERE customer_id > 3",
    "SELECT name FROM customer WHERE customer_id > 4",
    "SELECT count(*) FROM sale",
    "SELECT customer_id, count(*) FROM sale GROUP BY customer_id",
    "SELECT 'a quoted text,\n with lines' FROM sale",
]
ROUNDS = 4


def make_run(folder: Path) -> Path:
    """Write a run over two databases to a folder, beside their file; return its own folder."""
    make_shop(folder / "shop.sqlite")
    with opened(folder / "run", {**IDENTITY, "benchmark": "custom", "rayfactory": "9.8.7"}) as pool:
        for number in range(ROUNDS):
            tables = round_tables(pool.num_rows, len(QUERIES), 1, number)
            database = [EVIL if number == 1 else "shop"] * len(QUERIES)
            columns: dict[str, list[Any]] = {"database": database, "dialect": ["sqlite"] * len(QUERIES), "sql": QUERIES}
            columns["tables"] = [["product" if "product" in each else "customer"] for each in QUERIES]
            for name, values in columns.items():
                place = R_SCHEMA.get_field_index(name)
                tables["R"] = tables["R"].set_column(
                    place, R_SCHEMA.field(name), pa.array(values, R_SCHEMA.types[place])
                )
            evaluation = Evaluation(
                number, "GEN", len(QUERIES), 1.0, 1.0, None, {}, {"shop": 1}, {"shop": len(QUERIES)}
            )
            pool.commit(tables, [PlannedRequest("generation", "shop", ("sale",), 10)], evaluation, 1.0)
    (folder / "run" / "summary.json").write_text(json.dumps({"executability": 0.875}))
    return folder / "run"


def exported(run_dir: Path, tmp_path: Path, name: str, *more: str) -> Path:
    """Export as a user does; return the folder."""
    out = tmp_path / f"out-{name}"
    benchmark = [
        "+benchmark=custom",
        f"benchmark.root={run_dir.parent / 'shop.sqlite'}",
        f"data_dir={tmp_path / 'data'}",
    ]
    words = [*(benchmark if "benchmark" in more else []), "task=export", f"run_dir={run_dir}", f"format={name}"]
    assert main([*words, f"output={out}", *(word for word in more if word != "benchmark")]) == 0
    assert not list(tmp_path.glob(f".out-{name}*"))
    return out


def only_shop(run_dir: Path, tmp_path: Path) -> Path:
    """Return a run over the one database that is there."""
    tmp_path.mkdir(exist_ok=True)
    with opened(tmp_path / "shop-run", {**IDENTITY, "benchmark": "custom"}) as pool:
        rows = connect(run_dir).sql("SELECT * FROM R WHERE round = 0 ORDER BY query_id").to_arrow_table().cast(R_SCHEMA)
        tables = {**round_tables(0, len(QUERIES)), "R": rows}
        evaluation = Evaluation(0, "GEN", len(QUERIES), 1.0, 1.0, None, {}, {"shop": 1}, {"shop": len(QUERIES)})
        pool.commit(tables, [PlannedRequest("generation", "shop", ("sale",), 10)], evaluation, 1.0)
    (tmp_path / "shop.sqlite").write_bytes((run_dir.parent / "shop.sqlite").read_bytes())
    return tmp_path / "shop-run"
