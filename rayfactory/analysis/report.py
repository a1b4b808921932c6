"""`task=report`: what a run, or a file of queries, is like: `report.html`, `report.json` and `report.md`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import sqlglot

from rayfactory.analysis.alike import vendi_to_json
from rayfactory.analysis.corpus import Corpus, of_run
from rayfactory.analysis.diversity import vendi_score
from rayfactory.analysis.draw import drawn, take_apart
from rayfactory.analysis.encoding import Encoders
from rayfactory.analysis.markdown import summary
from rayfactory.analysis.measures import measure
from rayfactory.analysis.page import rounded
from rayfactory.analysis.report_page import report_page
from rayfactory.analysis.sample import sample
from rayfactory.config import Config
from rayfactory.errors import RunDirError
from rayfactory.pool_copy import beside, local, name_of
from rayfactory.reports.working import console, working
from rayfactory.shown import shown

REPORT = "report"
"""Name of the files, and of their folder in the run directory where none is named."""

SAMPLE = 1_000
"""Queries that the page has to look at."""

ENCODED = 2_000
"""Queries that are encoded anew for each encoder that is named, at most."""


def run(config: Config) -> None:
    """Write the report of a run, showing progress on standard error.

    Raises:
        RunDirError: there is no run, it has no rows yet, or the folder cannot be written.
    """
    with working("the queries are parsed", config.display) as say:
        out = report(config, lambda what: say(f"{what} of the corpus"))
    console().print(
        shown(f"{out / (REPORT + '.html')} is the report; the same figures are in report.json and report.md")
    )


def report(config: Config, say: Callable[[str], None]) -> Path:
    """Write the report of a run; return its folder. What a report before it left there is replaced.

    Args:
        config: its `run_dir`, `output` and `seed` count.
        say: told what is being worked out.
    """
    corpus = of_run(local(config.run_dir, Path(config.data_dir)), name_of(config.run_dir))
    try:
        measures, rows = figures_of(corpus, config, say)
    finally:
        corpus.close()
    out = Path(config.output) if config.output else beside(config.run_dir) / REPORT
    write(
        out,
        {
            f"{REPORT}.json": shown(json.dumps(measures, indent=1) + "\n"),
            f"{REPORT}.md": summary(measures),
            f"{REPORT}.html": report_page(measures, rows),
        },
    )
    return out


def figures_of(
    corpus: Corpus, config: Config, say: Callable[[str], None]
) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
    """Return the figures of a corpus, and a sample of its queries."""
    taken = take_apart(corpus, config.seed)
    measures = measure(corpus, taken, config.seed, say)
    measures["diversity"]["vendi_by_encoder"] = by_encoder(corpus, config) if config.encoders else []
    for pair in measures["nearest_pairs"]:
        pair["formatted"] = formatted(pair["sql"], pair["dialect"])
        pair["nearest_formatted"] = formatted(pair["nearest_sql"], pair["dialect"])
    return rounded(measures), rounded(sample(corpus, taken, SAMPLE, config.seed))


def by_encoder(corpus: Corpus, config: Config) -> list[dict[str, Any]]:
    """Return the Vendi score under each encoder that is named, of the corpus or of a draw of it.

    Raises:
        ConfigError: one cannot be loaded.
    """
    encoders = Encoders(config)
    query_ids = drawn(corpus.num_queries, ENCODED, config.seed)
    found = []
    for name in encoders.names:
        vectors_ND = encoders.vectors(corpus, query_ids, name)
        n, d = vectors_ND.shape
        found.append(vendi_to_json(vendi_score(vectors_ND), n, d, encoders.description(name)))
    return found


def formatted(query: str, dialect: str) -> str:
    """Return a query over several lines; as it is where it does not parse."""
    try:
        return sqlglot.transpile(query, read=dialect, write=dialect, pretty=True)[0]
    except Exception:  # noqa: BLE001 - whatever sqlglot trips over is a fault of the text
        return query


def write(out: Path, files: Mapping[str, str]) -> None:
    """Write files to a folder, each of them in full or not at all.

    Raises:
        RunDirError: it cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            beside = out / f".{name}.{os.getpid()}"
            try:
                beside.write_text(text, encoding="utf-8", errors="replace")
                beside.replace(out / name)
            finally:
                beside.unlink(missing_ok=True)
    except OSError as error:
        raise RunDirError(
            f"{str(out)!r} cannot be written: {error.strerror or error}; name another folder with output="
        ) from None
