"""The report and the comparison as a user asks for them, and what is said where one cannot be had."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rayfactory.__main__ import main
from rayfactory.analysis.compare import distinct_names
from rayfactory.analysis.markdown import plain
from rayfactory.analysis.page import figure, for_script
from rayfactory.analysis.report_page import report_page
from rayfactory.config import Config

EVIL = "</script><img src=x onerror=alert(1)>'\"\x1b[31m\u202e{{7*7}}"


@pytest.fixture(scope="module")
def report(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the run's report."""
    out = tmp_path_factory.mktemp("report")
    assert main(["task=report", f"run_dir={run_dir}", f"output={out}"]) == 0
    return out


class Outline(HTMLParser):
    """What of a page a browser would act on."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def outline(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Outline()
    parser.feed(page)
    return parser.tags


def sample_in(page: str) -> list[dict[str, object]]:
    found = re.search(r'<script type="application/json" id="sample">(.*?)</script>', page, flags=re.DOTALL)
    assert found
    rows: list[dict[str, object]] = json.loads(found[1])
    return rows


def test_report_has_the_same_figures_in_three_forms(report: Path):
    assert sorted(path.name for path in report.iterdir()) == ["report.html", "report.json", "report.md"]
    figures = json.loads((report / "report.json").read_text())
    page, text = (report / "report.html").read_text(), (report / "report.md").read_text()
    vendi = figures["diversity"]["vendi"]
    for value in ("130", f"{vendi['score']:.3f}", f"n = {vendi['n']}, d = 384, cosine kernel, order 1"):
        assert value in page
        assert value in text
    assert len(sample_in(page)) == 130
    assert figures["diversity"]["vendi_by_encoder"] == []


def test_page_loads_nothing(report: Path):
    tags = outline((report / "report.html").read_text())
    assert not [tag for tag, _ in tags if tag in ("iframe", "object", "embed", "form", "base")]
    addresses = [
        value for _, attributes in tags for name, value in attributes.items() if name in ("src", "href", "xlink:href")
    ]
    assert all(value is not None and value.startswith(("#", "data:")) for value in addresses)
    policy = next(attributes["content"] for tag, attributes in tags if attributes.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_every_link_leads_somewhere_and_every_control_has_a_name(report: Path):
    tags = outline((report / "report.html").read_text())
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [str(attributes["href"]) for tag, attributes in tags if tag == "a"]
    assert {link[1:] for link in links} <= set(ids)
    named = {attributes["for"] for tag, attributes in tags if tag == "label"}
    assert {attributes["id"] for tag, attributes in tags if tag in ("input", "select")} == named


def test_a_second_report_replaces_the_first(report: Path, run_dir: Path):
    (report / "own.txt").write_text("stays")
    before = json.loads((report / "report.json").read_text())
    assert main(["task=report", f"run_dir={run_dir}", f"output={report}", "encoders=[all-MiniLM-L6-v2]"]) == 0
    after = json.loads((report / "report.json").read_text())
    (again,) = after["diversity"].pop("vendi_by_encoder")
    assert before["diversity"].pop("vendi_by_encoder") == []
    assert after == before
    assert again["score"] == pytest.approx(after["diversity"]["vendi"]["score"])
    assert (report / "own.txt").read_text() == "stays"
    (report / "own.txt").unlink()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task=report"], "no run is named"),
        (["task=report", "run_dir=TMP/none"], "there is no run in"),
        (["task=report", "run_dir=RUN", "output=RUN/run.json"], "cannot be written"),
        (["task=compare"], "needs two corpora"),
        (["task=compare", "runs=[RUN]"], "needs two corpora"),
        (["task=compare", "runs=[RUN,TMP/none.json]"], "cannot be read"),
        (["task=compare", "runs=[RUN,TMP]"], "there is no run in"),
        (["task=compare", "runs=[RUN,RUN]", "dialect=oracle"], "dialect has to be one of"),
    ],
)
def test_what_cannot_be_done_is_said(
    words: list[str], message: str, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = [word.replace("RUN", f"'{run_dir}'" if "[" in word else str(run_dir)) for word in words]
    words = [
        word.replace("'" + str(run_dir) + "'/", str(run_dir) + "/").replace("TMP", str(tmp_path)) for word in words
    ]
    assert main(words) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed


def test_hostile_names_and_queries_are_text(report: Path):
    """Whatever stands in a query, a name or a message, the page has no element more than without it."""
    figures = json.loads((report / "report.json").read_text())
    sample = sample_in((report / "report.html").read_text())
    for each in [figures["corpus"], figures["table_1"], *figures["figure_7"]["tables"], *figures["models"]]:
        each |= {name: EVIL for name in ("name", "benchmark", "database", "table", "model") if name in each}
    for pair in figures["nearest_pairs"]:
        pair["formatted"] = pair["database"] = EVIL
    for reason in figures["rejects"]:
        for example in reason["examples"]:
            example |= {"sql": EVIL, "detail": EVIL, "database": EVIL}
    harmless = report_page(json.loads((report / "report.json").read_text()), sample)
    hostile = report_page(figures, [row | {"sql": EVIL, "formatted": EVIL, "tables": [EVIL]} for row in sample])
    without = [re.sub("<svg.*?</svg>", "", page, flags=re.DOTALL) for page in (hostile, harmless)]
    assert [tag for tag, _ in outline(without[0])] == [tag for tag, _ in outline(without[1])]
    # A picture of many tables of one name is another one, of the same parts.
    assert {tag for tag, _ in outline(hostile)} == {tag for tag, _ in outline(harmless)}
    assert "{{7*7}}" in hostile
    assert not re.search("[\x1b\u202e]", hostile)
    assert sample_in(hostile)[0]["sql"] == EVIL.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")


def test_script_data_never_ends_its_element():
    assert "<" not in for_script({"a": ["</script>", "<!--", "&lt;"]})
    assert json.loads(str(for_script(["</script>&", 1, None]))) == ["</script>&", 1, None]


def test_markdown_has_no_markup_of_others():
    assert plain("a|b\n`<b>`*_[x](y)") == r"a\|b \`\<b\>\`\*\_\[x\](y)"


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [(None, "n", "unknown"), (1234567, "n", "1,234,567"), (0.5, "%", "50.0%"), (1.2345, "3", "1.234"), (0.001, "$", "<$0.01"), ("x", "", "x")],
)  # fmt: skip
def test_figures_are_written_for_people(value: object, kind: str, expected: str):
    assert figure(value, kind) == expected


def test_runs_and_files_stand_side_by_side(
    run_dir: Path, shop_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    peer = tmp_path / "peer.jsonl"
    peer.write_text(
        "".join(json.dumps({"sql": f"SELECT name FROM customer WHERE customer_id = {i}"}) + "\n" for i in range(60))
    )
    out = tmp_path / "out"
    words = [
        "task=compare",
        f"runs=['{run_dir}','{peer}']",
        "dialect=sqlite",
        f"output={out}",
        f"data_dir={shop_config.data_dir}",
    ]
    assert main(words) == 0
    found = json.loads((out / "compare.json").read_text())
    ours, theirs = found["corpora"]
    assert found["n"] == 60
    assert [column["name"] for column in found["corpora"]] == ["shop run", "peer.jsonl"]
    assert ours["at_n"]["draws"] == 5
    assert theirs["at_n"]["draws"] == 1
    assert ours["at_n"]["vendi"][0]["low"] <= ours["at_n"]["vendi"][0]["score"] <= ours["at_n"]["vendi"][0]["high"]
    assert theirs["at_n"]["vendi"][0]["score"] < 3 < ours["at_n"]["vendi"][0]["score"]
    assert theirs["similarity"]["mean"] > 0.9 > ours["similarity"]["mean"]
    assert theirs["at_n"]["distinct_skeletons_share"] == pytest.approx(1 / 60, abs=1e-6)
    assert theirs["corpus"]["executability"] is None
    page, text = (out / "compare.html").read_text(), (out / "compare.md").read_text()
    printed = capsys.readouterr().err
    for value in ("shop run", "peer.jsonl", "different skeletons, n = 60", "unknown"):
        assert value in page
        assert plain(value) in text
        assert value in printed


def test_names_tell_corpora_apart():
    assert distinct_names([Path("/a/x"), Path("/b/y")]) == ["x", "y"]
    assert distinct_names([Path("/a/x"), Path("/b/x"), Path("/c/y")]) == ["a/x", "b/x", "y"]
    assert distinct_names([Path("/a/x"), Path("/a/x")])[0] != distinct_names([Path("/a/x"), Path("/a/x")])[1]


def test_odd_and_tiny_files_are_compared(shop_config: Config, tmp_path: Path):
    """One query, and texts that no database has, which count as not parsed."""
    (tmp_path / "one.json").write_text('["SELECT 1 AS a"]')
    (tmp_path / "odd.json").write_text(
        json.dumps(["SELECT '\ud800'", "SELECT '\0'", "SELECT name FROM customer", "(("])
    )
    out = tmp_path / "out"
    words = [f"runs=[{tmp_path}/one.json,{tmp_path}/odd.json]", f"output={out}", f"data_dir={shop_config.data_dir}"]
    assert main(["task=compare", *words]) == 0
    one, odd = json.loads((out / "compare.json").read_text())["corpora"]
    assert (one["corpus"]["queries"], one["similarity"], one["at_n"]["vendi"][0]["score"]) == (1, None, 1.0)
    assert (odd["corpus"]["queries"], odd["corpus"]["unparsed"]) == (1, 3)
