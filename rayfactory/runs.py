"""One run, from the command to the farewell: what is checked first, what is opened, and how the run ends.

Everything that can be known to be wrong is said before anything is started, generated or paid for.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rayfactory import __version__
from rayfactory.agents.planning import requests_after_warmup
from rayfactory.agents.preflight import check_context_windows
from rayfactory.analysis import outline
from rayfactory.bucket.store import is_url, variables
from rayfactory.cluster.crew import JOURNAL, Crew
from rayfactory.cluster.session import connected
from rayfactory.compose import with_hidden_keys
from rayfactory.config import SLOTS, Config, ModelConfig, Slot
from rayfactory.databases.benchmark import load_schemas, open_benchmark
from rayfactory.databases.engine import Database
from rayfactory.databases.schema import Schema
from rayfactory.databases.schemas import about, held
from rayfactory.errors import ConfigError, RayfactoryError, RunDirError
from rayfactory.factory import Clock, Loop
from rayfactory.identity import check_run_dir, setting_of
from rayfactory.models.chat import check_endpoints, read_books
from rayfactory.models.grammar_check import check_grammars
from rayfactory.models.packaged import PACKAGED_WEIGHTS, packaged_folder
from rayfactory.models.prompts import templates_sha256
from rayfactory.pool import Pool, count_rows, opened, read_manifests, read_summary
from rayfactory.pool_copy import Copy, local
from rayfactory.reports.monitor import Monitor, Progress, greeting
from rayfactory.reports.preview import Before
from rayfactory.reports.preview import preview as previewed
from rayfactory.reports.summary import STOP_REASONS, StopReason, farewell, summarise
from rayfactory.shown import address_variable, shown
from rayfactory.standing import reason_to_stop
from rayfactory.tools.embedding import ENCODERS, decided
from rayfactory.validate import has_price, used_slots

# Settings that change what is done or shown, and not which rows the pool gets.
_NOT_IN_IDENTITY = (
    *("target", "max_candidates", "max_cost_usd", "run_dir", "data_dir", "task", "cluster", "display"),
    *("format", "output", "split", "test_share", "runs", "dialect", "encoders", "evaluation", "clustering"),
    *("translation", "questions", "training"),
)

# Of a model: where it is, what it costs, and how it is asked. What it is asked and what it may reply stay in.
_NOT_IN_MODEL_IDENTITY = tuple(
    setting.name
    for setting in fields(ModelConfig)
    if setting.name not in ("name", "chat", "context_tokens", "max_output_tokens", "constrained", "omit")
)

# Of the encoder: how much of a GPU it holds.
_NOT_IN_EMBEDDING_IDENTITY = ("gpu_share",)

# Of the benchmark: where it lies and comes from. What is in it has a fingerprint.
_NOT_IN_BENCHMARK_IDENTITY = ("root", "url", "password_env", "downloads", "manual")


def run(config: Config, command: str) -> int:
    """Grow the pool of a run until it stops; return the exit code: 0, or 130 where the user interrupted it.

    Args:
        config: of the run, validated.
        command: what the user typed, for the message that says how to go on.

    Raises:
        UserError: the databases or the run directory cannot be used.
        EngineError: the engine failed; what is committed stays.
    """
    if not is_url(config.run_dir):
        return _run(config, command, None)
    with _held(config) as copy:
        return _run(replace(config, run_dir=str(copy.run_dir)), command, copy)


def _say(text: str) -> None:
    sys.stderr.write(f"{shown(text)}\n")
    sys.stderr.flush()


@contextmanager
def _held(config: Config) -> Iterator[Copy]:
    """Have a copy of a pool in object storage here, and nobody else write it. Errors tell of the pool, not the copy."""
    copy = Copy(config.run_dir, Path(config.data_dir))
    try:
        with copy.held(_say):
            yield copy
    except RayfactoryError as error:
        # What is said of the run directory is meant of the pool; what is said of files in it, of the files.
        text = str(error).replace(f"run_dir {str(copy.run_dir)!r}", f"run_dir {copy.url!r}")
        if text == str(error):
            raise
        raise type(error)(text) from error


def _run(config: Config, command: str, copy: Copy | None) -> int:
    """As `run`, with a folder for the run directory.

    Args:
        config: as of `run`.
        command: as of `run`.
        copy: what the folder is a copy of, where the pool is in object storage.
    """
    config = with_hidden_keys(config)
    run_dir = Path(config.run_dir)
    place = copy.url if copy is not None else str(run_dir)
    # What is wrong with the run directory is said before anything is generated or read for it.
    check_run_dir(run_dir, {})
    config = with_round_size(config)
    check_target(config, run_dir)
    notes = [*check_models(config), *unbounded_models(config)]
    databases, schemas = open_databases(config)
    check_context_windows(config, schemas)
    config = with_encoder(config)
    identity = run_identity(config, schemas)
    progress = Progress(f"rayfactory {config.benchmark.name}", config.target)
    monitor = Monitor(progress, config.display)
    for note in notes:
        monitor.say(f"Note: {note}")
    with opened(run_dir, identity, copy) as pool:
        pool.write_schema(outline.to_json(schemas.values()))
        reason = reason_to_stop(config, pool) or _spent(config, pool)
        if reason is not None:
            monitor.say(f"{place} is complete: {pool.num_rows} rows, {STOP_REASONS[reason]}.")
            if not _is_written(pool, reason, config.target):
                _finish(config, pool, place, schemas, identity, reason, pool.wall_s, monitor)
            return 0
        clock = Clock(pool.wall_s)
        # Whether the journal can be read, and nobody else writes it any more, is known before anything starts.
        read_books(run_dir / JOURNAL)
        try:
            # Ray puts a handler for SIGTERM of its own in place when it starts; ours comes after it.
            with (
                connected(config.cluster, key_variables(config)) as session,
                interrupted_by_sigterm(),
                monitor.showing(),
                models_served(config, monitor.say, copy) as served,
            ):
                progress.dashboard = session.dashboard
                monitor.say(
                    greeting(
                        config.benchmark.name,
                        config.target,
                        len(schemas),
                        sum(each.num_populated for each in about(schemas).values()),
                        sum(each.num_tables - each.num_populated for each in about(schemas).values()),
                        pool.num_rows,
                        session.dashboard,
                    )
                )
                loop = Loop(config, schemas, pool, monitor, progress, clock)
                progress.activity = "starting the agents"
                monitor.tick(now=True)
                crew = Crew(served, databases, schemas, loop.committed_tables, copy)
                try:
                    reason = loop.run(crew)
                finally:
                    crew.close()
                    loop.show_models(crew)
        except (KeyboardInterrupt, SystemExit):
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not cost the summary
            _finish(config, pool, place, schemas, identity, "interrupted", clock.wall_s, monitor)
            monitor.say(f"Go on with: {command}")
            return 130
        except RayfactoryError:
            with suppress(RunDirError):  # the error that ended the run is the one to tell
                _finish(config, pool, place, schemas, identity, "interrupted", clock.wall_s, monitor)
            raise
        _finish(config, pool, place, schemas, identity, reason, clock.wall_s, monitor)
    return 0


def key_variables(config: Config) -> set[str]:
    """Return the variables of the environment for keys to endpoints and databases, whether they are set or not."""
    models: list[ModelConfig] = [getattr(config.models, slot) for slot in SLOTS]
    by_custom = {name for name in os.environ if name.endswith("_API_KEY")}
    named = {config.benchmark.password_env, *(model.api_key_env for model in models)}
    return by_custom | named | {address_variable(slot) for slot in SLOTS} | set(variables())


def with_round_size(config: Config) -> Config:
    """Return the settings with the size of a round decided where they leave it open: as the run began, if it has."""
    if config.round.requests_after_warmup is not None:
        return config
    begun_with = setting_of(Path(config.run_dir), "round.requests_after_warmup")
    requests = begun_with if isinstance(begun_with, int) else requests_after_warmup(config)
    return replace(config, round=replace(config.round, requests_after_warmup=requests))


def with_encoder(config: Config) -> Config:
    """Return the settings with the encoder decided where they leave it open: as the run began, where that can be.

    Raises:
        ConfigError: the model cannot be loaded, or this machine cannot encode as is asked for.
    """
    cache = Path(config.data_dir) / ENCODERS
    if config.embedding.device == "auto" and _serves_on_gpus(config):
        # A model that is served takes its GPUs whole, and none may be left.
        config = replace(config, embedding=replace(config.embedding, device="cpu"))
    gpu_elsewhere = bool(config.cluster.address)
    begun_with = {
        name: setting_of(Path(config.run_dir), f"embedding.{name}")
        for name in ("device", "backend", "precision")
        if getattr(config.embedding, name) == "auto"
    }
    known: dict[str, Any] = {name: value for name, value in begun_with.items() if isinstance(value, str)}
    if known:
        # Where this machine cannot, it says what it can do instead, and the run directory refuses by that name.
        with suppress(ConfigError):
            begun = replace(config.embedding, **known)
            return replace(config, embedding=decided(begun, cache, gpu_elsewhere=gpu_elsewhere))
    return replace(config, embedding=decided(config.embedding, cache, gpu_elsewhere=gpu_elsewhere))


def _serves_on_gpus(config: Config) -> bool:
    models: list[ModelConfig] = [getattr(config.models, slot) for slot in used_slots(config.models)]
    return any(model.serving.weights and model.serving.device == "gpu" for model in models)


def preview(config: Config) -> str:
    """Return what a run would ask, cost and start, for what its run directory does not have yet.

    Nothing is asked, started or written but databases that are generated, profiles that are cached and the encoder as
    it is kept.

    Raises:
        UserError: the databases or the run directory cannot be used, or a prompt does not fit.
    """
    config = replace(with_hidden_keys(config), run_dir=str(local(config.run_dir, Path(config.data_dir), journal=True)))
    run_dir = Path(config.run_dir)
    check_run_dir(run_dir, {})
    config = with_round_size(config)
    _, schemas = open_databases(config)
    check_context_windows(config, schemas)
    config = with_encoder(config)
    journal, addresses = run_dir / JOURNAL, _addresses(config)
    try:
        check_run_dir(run_dir, run_identity(config, schemas))
    except RunDirError as error:
        note = f"This run would be refused: {error}. What follows is for a new run_dir."
        return previewed(config, schemas, Before(note=note, journal=journal, addresses=addresses))
    check_target(config, run_dir)
    manifests = tuple(read_manifests(run_dir))
    return previewed(config, schemas, Before(manifests, _books_now(run_dir / JOURNAL), "", journal, addresses))


def _books_now(journal: Path) -> list[dict[str, Any]]:
    """Return the ledger's rows of a run that may be going on; what is in flight counts as unconfirmed.

    A copy is read: a journal that is opened is also put in order, which is for the process that holds the run.
    """
    with TemporaryDirectory() as folder:
        copy = Path(folder) / JOURNAL
        try:
            if journal.is_dir():
                shutil.copytree(journal, copy)
            return read_books(copy)
        except OSError as error:
            raise RunDirError(f"the journal {str(journal)!r} cannot be read ({error}); make it readable") from None
        except RunDirError as error:
            raise RunDirError(str(error).replace(str(copy), str(journal))) from None


def _addresses(config: Config) -> dict[Slot, str]:
    """Return where the models that the run serves itself would answer, as far as can be told without Ray."""
    from rayfactory.cluster.serving import app_name, app_settings

    host = "<head node>" if config.cluster.address else "127.0.0.1"
    found: dict[Slot, str] = {}
    for slot in used_slots(config.models):
        model: ModelConfig = getattr(config.models, slot)
        weights = model.serving.weights
        if not weights:
            continue
        if weights == PACKAGED_WEIGHTS:
            try:
                weights = str(packaged_folder(Path(config.data_dir)))
            except ConfigError:  # what is missing is told when it is to be started
                continue
        elif Path(weights).expanduser().is_dir():
            weights = str(Path(weights).expanduser().resolve())
        found[slot] = f"http://{host}:{model.serving.port}/{app_name(model, app_settings(model, weights))}/v1"
    return found


def check_target(config: Config, run_dir: Path) -> None:
    """Return if the target can still be met exactly.

    Raises:
        RunDirError: the pool has more rows than the target.
    """
    num_rows = count_rows(run_dir)
    if config.target is not None and config.target < num_rows:
        raise RunDirError(
            f"run_dir {str(run_dir)!r} has {num_rows} rows already, more than target={config.target}; "
            "ask for at least as many, or choose another run_dir"
        )


def check_models(config: Config) -> list[str]:
    """Return if the models that agents ask can be asked, as far as this machine tells; costs nothing.

    Returns:
        What a person should know of them.

    Raises:
        UserError: one cannot: no key, a wrong one, no such model, nobody there, no vLLM.
    """
    from rayfactory.cluster.servable import check_servable

    asked = _asked_elsewhere(config)
    for slot in used_slots(config.models):
        if slot not in asked:
            check_servable(getattr(config.models, slot))
    return asyncio.run(check_endpoints(asked)) if asked else []


def unbounded_models(config: Config) -> list[str]:
    """Return what a person should know of models that `max_cost_usd` does not bound, because they have no price.

    One that takes a key has to have one; one without may well be free.
    """
    if config.max_cost_usd is None:
        return []
    return [
        f"max_cost_usd does not bound what the {slot} model {model.name!r} costs, which has no price: set "
        f"models.{slot}.usd_per_million_in and models.{slot}.usd_per_million_out if its endpoint charges"
        for slot, model in _asked_elsewhere(config).items()
        if not has_price(model)
    ]


def check_decoding(config: Config, say: Callable[[str], None], copy: Copy | None = None) -> None:
    """Return if the models that are to decode by a grammar do; asks for one word, once in the life of a run.

    `check_models` costs nothing and has no run directory; this may cost a few tokens, so it comes once there is a
    journal and a budget to keep to. A model that the run serves itself is not asked: its vLLM is known.

    Raises:
        EndpointError: one does not.
        EngineError: one has been away for too long.
    """
    constrained = {slot: model for slot, model in _asked_elsewhere(config).items() if model.constrained}
    if constrained:
        journal = Path(config.run_dir) / JOURNAL
        mirror = copy.mirror if copy is not None else None
        asyncio.run(check_grammars(constrained, journal, config.max_cost_usd, config.seed, say, mirror))


def _asked_elsewhere(config: Config) -> dict[Slot, ModelConfig]:
    """Return the models that agents ask and that the run does not serve itself."""
    models = {slot: getattr(config.models, slot) for slot in used_slots(config.models)}
    return {slot: model for slot, model in models.items() if not model.serving.weights}


@contextmanager
def models_served(config: Config, say: Callable[[str], None], copy: Copy | None = None) -> Iterator[Config]:
    """Have the models that the run serves itself answer; give the settings with their addresses in.

    What becomes of them until the end is said. Before any of them starts, which takes minutes, and once there is known
    to be room for all, the others are asked whether they decode by a grammar, which may cost something.
    """
    from rayfactory.cluster.health import watched
    from rayfactory.cluster.serving import apps_with_room, serve_apps

    used: list[tuple[Slot, ModelConfig]] = [(slot, getattr(config.models, slot)) for slot in used_slots(config.models)]
    to_serve = {slot: model for slot, model in used if model.serving.weights}
    apps = apps_with_room(list(to_serve.values()), Path(config.data_dir), say) if to_serve else []
    check_decoding(config, say, copy)
    if not to_serve:
        yield config
        return
    with serve_apps(apps, say) as served, watched(served, say):
        models = replace(config.models)
        for (slot, model), each in zip(to_serve.items(), served, strict=True):
            setattr(models, slot, replace(model, base_url=each.base_url))
        yield replace(config, models=models)


def open_databases(config: Config) -> tuple[dict[str, Database], Mapping[str, Schema]]:
    """Return the databases of the run and their schemas, by name.

    Raises:
        UserError: they are missing or cannot be used.
    """
    data_dir = Path(config.data_dir)
    benchmark = open_benchmark(config.benchmark, data_dir)
    schemas = held(load_schemas(benchmark, config.profile, config.execution, data_dir))
    return {database.name: database for database in benchmark.databases if database.name in schemas}, schemas


def run_identity(config: Config, schemas: Mapping[str, Schema]) -> dict[str, Any]:
    """Return what makes a run this run: benchmark, seed, release, all settings that can change R, and their digest."""
    settings = asdict(config)
    for name in _NOT_IN_IDENTITY:
        del settings[name]
    for name in _NOT_IN_BENCHMARK_IDENTITY:
        del settings["benchmark"][name]
    for name in _NOT_IN_EMBEDDING_IDENTITY:
        del settings["embedding"][name]
    used = used_slots(config.models)
    for slot in SLOTS:
        for name in _NOT_IN_MODEL_IDENTITY:
            del settings["models"][slot][name]
        if settings["models"][slot]["chat"]:
            # Runs from before this was a setting go on.
            del settings["models"][slot]["chat"]
        if slot not in used:
            del settings["models"][slot]
    if used:
        settings["prompts"] = templates_sha256()
    covered = {"settings": settings, "fingerprints": {name: each.fingerprint for name, each in about(schemas).items()}}
    digest = hashlib.sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()
    return {
        "benchmark": config.benchmark.name,
        "seed": config.seed,
        # Another release may write other queries.
        "rayfactory": __version__,
        "config_sha256": digest,
        # What the digest covers, so that a difference has a name.
        **covered,
    }


def _finish(
    config: Config,
    pool: Pool,
    place: str,
    schemas: Mapping[str, Schema],
    identity: Mapping[str, Any],
    reason: StopReason,
    wall_s: float,
    monitor: Monitor,
) -> None:
    """Write the summary and say where the results are."""
    summary = summarise(
        pool.run_dir,
        identity,
        schemas,
        pool.manifests,
        config.target,
        reason,
        wall_s,
        read_books(pool.run_dir / JOURNAL),
        config.max_cost_usd,
    )
    pool.write_summary(summary)
    monitor.say(farewell(place, summary))


def _spent(config: Config, pool: Pool) -> StopReason | None:
    """Return that the budget is spent where the summary says so and the budget has not grown since."""
    summary = read_summary(pool.run_dir)
    try:
        spent = summary["stop_reason"] == "max_cost" and config.max_cost_usd <= summary["max_cost_usd"]
    except (KeyError, TypeError):
        return None
    return "max_cost" if spent else None


def _is_written(pool: Pool, reason: StopReason, target: int | None) -> bool:
    """Return whether `summary.json` tells of this end of the run already."""
    summary = read_summary(pool.run_dir)
    told = tuple(summary.get(name) for name in ("stop_reason", "target", "admitted"))
    return told == (reason, target, pool.num_rows)


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Treat SIGTERM, which a scheduler sends before it takes a machine away, like Ctrl-C."""

    def interrupt(_signum: int, _frame: object) -> None:
        raise KeyboardInterrupt

    try:
        previous = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread, as in a notebook's worker: the caller owns the signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
