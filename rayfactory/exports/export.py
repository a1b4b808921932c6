"""`task=export`: the pool of a run as a folder that another tool reads."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from rayfactory.config import Config
from rayfactory.databases.schema import Schema
from rayfactory.errors import ConfigError, RunDirError
from rayfactory.exports.formats import FORMATS, Format, Source
from rayfactory.exports.rows import Rows
from rayfactory.identity import read_identity
from rayfactory.runs import open_databases
from rayfactory.shown import shown

EXPORTS = "exports"
"""Folder of a run directory that exports go to where none is named."""


def run(config: Config) -> None:
    """Export the pool of a run, showing progress on standard error.

    The folder is written under another name first, so that it is there in full or not at all. One that is there
    already is somebody's, and stays.

    Raises:
        ConfigError: the format shows the schema, and no benchmark is named.
        RunDirError: there is no run, it has no rows yet, or the folder cannot be written.
    """
    from rich.console import Console

    console = Console(stderr=True, markup=False, highlight=False)
    out, counts = export(config, lambda done: console.print(f"{done} queries are read"))
    parts = ", ".join(f"{count} {split}" for split, count in sorted(counts.items(), reverse=True))
    console.print(shown(f"{sum(counts.values())} queries ({parts}) are in {out}"), soft_wrap=True)
    if config.split != "none" and len(counts) < 2:
        console.print(
            f"All of them are in {next(iter(counts))}: no {config.split} is small enough for "
            f"test_share={config.test_share:g} of the rows; set a larger one, or divide by something else",
            soft_wrap=True,
        )


def export(config: Config, on_progress: Callable[[int], None]) -> tuple[Path, Counter[str]]:
    """Export the pool of a run; return the folder, and the rows in each split.

    Args:
        config: its `run_dir`, `format`, `output`, `split`, `test_share` and `seed` count.
        on_progress: called with how many queries are read.
    """
    run_dir = Path(config.run_dir)
    identity = read_identity(run_dir)
    if identity is None:
        raise RunDirError(f"there is no run in run_dir={str(run_dir)!r}; name the folder of a run that was started")
    name = config.format if config.split == "none" else f"{config.format}-{config.split}"
    out = Path(config.output) if config.output else run_dir / EXPORTS / name
    if out.exists():
        raise RunDirError(f"{str(out)!r} is there already, and stays as it is; remove it, or name another with output=")
    format_type = FORMATS[config.format]
    schemas: Mapping[str, Schema] = {}
    if format_type.needs_schemas:
        if not config.benchmark.name:
            raise ConfigError(
                f"format={config.format} shows the tables of each query; name the benchmark as the run did: "
                "+benchmark=NAME"
            )
        _, schemas = open_databases(config)
    rows = Rows(run_dir, config.split, config.test_share, config.seed, on_progress)
    if not len(rows):
        raise RunDirError(f"the run in {str(run_dir)!r} has no rows yet; export it when it has some")
    splits = Counter(row.split for row in rows)
    source = Source(identity, _summary(run_dir), schemas, splits, rows.num_skeletons, config.split)
    partial = out.with_name(out.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        writer: Format = format_type(partial, source)
        for row in rows:
            writer.write(row)
        writer.close()
        partial.rename(out)
    except OSError as error:
        raise RunDirError(
            f"{str(out)!r} cannot be written: {error.strerror or error}; name another with output="
        ) from error
    return out, splits


def _summary(run_dir: Path) -> dict[str, object]:
    try:
        found = json.loads((run_dir / "summary.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
