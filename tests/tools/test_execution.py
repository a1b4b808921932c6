"""The Execution Tool tells of each candidate whether it ran, and why not."""

import pytest

from rayfactory.config import BenchmarkConfig, ExecutionConfig, ProfileConfig
from rayfactory.databases.benchmark import load_schemas, open_benchmark
from rayfactory.tools.execution import ExecutionTool, examine
from tests.shop import make_shop


@pytest.fixture(scope="module")
def tool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    make_shop(folder / "shop.sqlite")
    benchmark = open_benchmark(BenchmarkConfig(name="custom", root=str(folder / "shop.sqlite")), folder)
    limits = ExecutionConfig(timeout_s=0.3, max_rows=1000)
    schemas = {s.database: s for s in load_schemas(benchmark, ProfileConfig(), limits, folder)}
    tool = ExecutionTool({d.name: d for d in benchmark.databases}, schemas, limits)
    yield tool
    tool.close()


def run(tool, text):
    return tool.run("shop", text, examine(text, "sqlite"))


def test_what_ran_has_its_tables_features_and_rows(tool):
    found = run(tool, "SELECT c.NAME FROM Customer c JOIN REGION r USING (region_id) WHERE r.country = 'Spain'")
    assert found.reason is None
    assert found.tables == ("customer", "region")
    assert found.features is not None
    assert (found.features.num_joins, found.row_count) == (1, 15)
    assert found.execution_ms > 0


@pytest.mark.parametrize(
    ("text", "reason", "detail"),
    [
        ("SELEC 1", "parse", ""),
        ("SELECT 1; SELECT 2", "parse", "one statement"),
        ("DROP TABLE sale", "refused", "DROP"),
        ("SELECT load_extension('x')", "refused", "load_extension"),
        ("SELECT name FROM supplier", "error", "no such table: supplier"),
        ("SELECT price FROM sale", "error", "price"),
        ("SELECT a.sale_id FROM sale a, sale b, sale_item c", "too_many_rows", "1000"),
        ("SELECT COUNT(*) FROM sale a, sale b, sale c, sale d WHERE a.channel || b.channel < c.channel", "timeout", ""),
    ],
)
def test_what_did_not_run_has_a_reason(tool, text, reason, detail):
    found = run(tool, text)
    assert found.reason == reason
    assert detail in found.detail.replace(",", "")


def test_tables_of_a_failed_statement_are_told(tool):
    assert run(tool, "SELECT price FROM sale").tables == ("sale",)
