"""`task=export`: the pool of a run as a folder that another tool reads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rayfactory.config import Config
from rayfactory.databases.schema import Schema
from rayfactory.errors import ConfigError, RunDirError
from rayfactory.exports.form import Format, Source
from rayfactory.exports.formats import FORMATS
from rayfactory.exports.rows import Row, Rows
from rayfactory.identity import read_identity
from rayfactory.pool import read_summary
from rayfactory.pool_copy import beside, local
from rayfactory.reports.working import console, working
from rayfactory.runs import open_databases
from rayfactory.shown import shown
from rayfactory.translation import FOLDER, settings_of

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
    with working("queries are read", config.display) as say:
        out, splits = export(config, lambda done: say(f"{done} queries are read"))
    parts = ", ".join(f"{num_rows} {name}" for name, num_rows in splits.items())
    console().print(shown(f"{sum(splits.values())} queries ({parts}) are in {out}"))
    if config.split != "none" and len(splits) < 2:
        console().print(
            f"All of them are in {next(iter(splits))}: no {config.split} is small enough for "
            f"test_share={config.test_share:g} of the rows; set a larger one, or divide by something else"
        )


def export(config: Config, on_progress: Callable[[int], None]) -> tuple[Path, Mapping[str, int]]:
    """Export the pool of a run; return the folder, and the rows in each split.

    Args:
        config: its `run_dir`, `format`, `output`, `split`, `test_share`, `questions` and `seed` count.
        on_progress: called with how many queries are read.
    """
    run_dir = local(config.run_dir, Path(config.data_dir))
    identity = read_identity(run_dir)
    if identity is None:
        raise RunDirError(f"there is no run in run_dir={config.run_dir!r}; name the folder of a run that was started")
    name = config.format if config.split == "none" else f"{config.format}-{config.split}"
    name += "-questions" if config.questions else ""
    out = Path(config.output) if config.output else beside(config.run_dir) / EXPORTS / name
    if out.exists():
        raise RunDirError(f"{str(out)!r} is there already, and stays as it is; remove it, or name another with output=")
    questions = _translation(config, identity) if config.questions else None
    rows = Rows(run_dir, config.split, config.test_share, config.seed, on_progress, questions)
    try:
        if not len(rows) and config.questions:
            raise RunDirError(f"no query of run_dir={config.run_dir!r} has a question; find some with task=translate")
        if not len(rows):
            raise RunDirError(f"the run in {config.run_dir!r} has no rows yet; export it when it has some")
        format_type = FORMATS[config.format]
        schemas = _schemas(config, rows.databases) if format_type.needs_schemas else {}
        source = Source(
            identity,
            read_summary(run_dir),
            schemas,
            rows.models,
            rows.splits,
            rows.num_skeletons,
            config.split,
            config.questions,
        )
        _write(out, rows, partial(format_type, source=source))
    finally:
        rows.close()
    return out, rows.splits


def _translation(config: Config, identity: Mapping[str, Any]) -> Path:
    """Return the folder of the run's questions.

    Raises:
        RunDirError: they are another run's, or there are none.
    """
    named = config.translation.folder
    folder = Path(named).expanduser() if named else beside(config.run_dir) / FOLDER
    known = settings_of(folder)
    if not known:
        raise RunDirError(
            f"there are no questions in {str(folder)!r}; find some with task=translate, or name the folder of others "
            "with translation.folder=DIR"
        )
    if known.get("run") != identity.get("config_sha256"):
        raise RunDirError(
            f"the questions in {str(folder)!r} are not about the queries of run_dir={config.run_dir!r}; name the "
            "folder of those with translation.folder=DIR"
        )
    return folder


def _schemas(config: Config, databases: Collection[str]) -> Mapping[str, Schema]:
    """Return the schemas of the databases of a run."""
    if not config.benchmark.name:
        raise ConfigError(
            f"format={config.format} shows the tables of each query; name the benchmark as the run did: +benchmark=NAME"
        )
    _, schemas = open_databases(config)
    if missing := sorted(set(databases) - set(schemas)):
        raise ConfigError(
            f"format={config.format} shows the tables of each query, and database {missing[0]!r} of the run is not one "
            f"of benchmark {config.benchmark.name!r} as it is named here; name it as the run did"
        )
    return schemas


def _write(out: Path, rows: Iterable[Row], make: Callable[[Path], Format]) -> None:
    """Write a folder, which is there in full or not at all."""
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        beside.mkdir(parents=True)
        try:
            writer = make(beside)
            for row in rows:
                writer.write(row)
            writer.close()
            beside.rename(out)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
    except OSError as error:
        raise RunDirError(
            f"{str(out)!r} cannot be written: {error.strerror or error}; name another with output="
        ) from error
