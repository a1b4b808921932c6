"""`task=translate`: a question for each query of a pool, so that there are pairs to train text-to-SQL models with.

The queries flow as a Ray Dataset through actors that ask the models, a block at a time; one that is done is on disk.

Source: SQL-Factory, section 5.3.1.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rayfactory.analysis.corpus import Corpus, of_run
from rayfactory.cluster.crew import JOURNAL
from rayfactory.cluster.dataflow import Workers
from rayfactory.cluster.gateway import through_gateway
from rayfactory.cluster.row_flow import Asked, asked, flow, running_on, share
from rayfactory.cluster.schema_store import in_object_store
from rayfactory.cluster.session import connected
from rayfactory.cluster.staff import Staff
from rayfactory.config import SLOTS, AgentConfig, Config, CriticConfig, EmbeddingConfig, ModelsConfig, Slot
from rayfactory.databases.engine import Database
from rayfactory.databases.schema import Schema
from rayfactory.downstream.dialogue import Asking
from rayfactory.downstream.examples import Examples, Retriever, read_examples
from rayfactory.downstream.translated import PAIRS, Tallies, finish, markdown
from rayfactory.downstream.translator import QUERIES_IN_A_ROUND, RULES, Query, Translator, Voice
from rayfactory.errors import BudgetReachedError, ConfigError, EngineError, UserError
from rayfactory.files import sha256_of
from rayfactory.models.chat import ChatStatus
from rayfactory.models.completion import Completion
from rayfactory.models.prompts import Prompts, prompts_dir
from rayfactory.pool_copy import beside, local
from rayfactory.records import Execution, Tree
from rayfactory.reports.working import Say, console, working
from rayfactory.runs import check_models, key_variables, models_served, open_databases
from rayfactory.shown import shown
from rayfactory.tools.similarity import Signature
from rayfactory.tools.words import encode
from rayfactory.translation import FOLDER, OF_THE_QUERY, Q_SCHEMA, Translation, opened
from rayfactory.validate import used_slots

BLOCK = 64
"""Queries that an actor has in hand at a time; all of them ask their models at once."""

_IN_HAND = 2
"""Queries in hand for each call that a model takes at once: while one reply is read, the next is on its way."""

_ADVICE = (
    "take a better verifier (translation.verifier=strong, or another model) and another folder (output=DIR), or go on "
    "all the same with translation.stop_at_bad_verifier=false"
)


def run(config: Config) -> str:
    """Translate, showing progress on standard error; return the figures as a page.

    Raises:
        UserError: the run, its databases or the examples cannot be used, a model cannot be asked, or the verifier
            cannot tell.
    """
    with working("the pool is read") as say:
        out, found = translate(config, say)
    if found["stopped"]:
        console().print(shown(f"{found['stopped']}. What was translated stays; the same command goes on from there"))
    console().print(
        shown(
            f"{out / PAIRS} has the pairs, to train with (task=train_text2sql); task=export questions=true hands them "
            "to other tools"
        )
    )
    return markdown(found)


def translate(config: Config, say: Say) -> tuple[Path, dict[str, Any]]:
    """Translate what is not translated yet; return the folder and its figures.

    Args:
        config: its `run_dir`, `benchmark`, `translation`, `models`, `max_cost_usd`, `output` and `seed` count.
        say: told how far it is.
    """
    config = replace(config, translation=decided(config))
    run_dir = local(config.run_dir, Path(config.data_dir))
    out = Path(config.output) if config.output else beside(config.run_dir) / FOLDER
    if not config.benchmark.name:
        raise ConfigError(
            "a question is about a database, and no benchmark is named; name it as the run did: +benchmark=NAME"
        )
    corpus = of_run(run_dir)
    try:
        databases, schemas = open_databases(config)
        if missing := sorted(
            {row["database"] for row in corpus.rows("SELECT DISTINCT database FROM R")} - set(schemas)
        ):
            raise ConfigError(
                f"database {missing[0]!r} of the run is not one of benchmark {config.benchmark.name!r} as it is named "
                "here; name it as the run did"
            )
        with opened(out, _settings(config, corpus)) as translation:
            stopped = ""
            before = Tallies()
            before.add(translation.done())
            todo = list(_todo(corpus, translation))
            if todo:
                try:
                    _translate(config, corpus, databases, schemas, translation, todo, before, say)
                except BudgetReachedError as error:
                    stopped = f"max_cost_usd is reached ({error})"
                finally:
                    say("the pairs are written")
                    found = _finished(config, corpus, out, stopped)
            else:
                found = _finished(config, corpus, out, stopped)
    finally:
        corpus.close()
    return out, found


def decided(config: Config) -> Any:
    """Return the settings of a translation with its two parts decided where they are `auto`.

    Raises:
        ConfigError: a part is given to a model without a name, or rules are to verify what a model writes.
    """
    settings = config.translation
    named = [slot for slot in reversed(SLOTS) if getattr(config.models, slot).name]
    model = settings.model if settings.model != "auto" else (named[0] if named else "rule")
    verifier = settings.verifier if settings.verifier != "auto" else model
    for part, who in (("model", model), ("verifier", verifier)):
        if who != "rule" and who not in named:
            raise ConfigError(
                f"translation.{part} is {who!r}, and models.{who} has no name. Give it one "
                f"(model@models.{who}=endpoint models.{who}.name=NAME models.{who}.base_url=URL), "
                f"or leave translation.{part} out"
            )
    if verifier == "rule" and model != "rule":
        raise ConfigError(
            "the rules cannot verify what a model writes: they let through their own questions alone; set "
            "translation.verifier=local or strong, or leave it out"
        )
    return replace(settings, model=model, verifier=verifier)


def _todo(corpus: Corpus, translation: Translation) -> Iterator[list[int]]:
    """Yield the queries of each block that is not done."""
    done = set(translation.done()["query_id"].to_pylist())
    for start in range(0, corpus.num_queries, BLOCK):
        block = [number for number in range(start, min(corpus.num_queries, start + BLOCK)) if number not in done]
        if block:
            yield block


def _translate(
    config: Config,
    corpus: Corpus,
    databases: Mapping[str, Database],
    schemas: Mapping[str, Schema],
    translation: Translation,
    todo: Sequence[Sequence[int]],
    tallies: Tallies,
    say: Say,
) -> None:
    """Translate the blocks of queries that are given, and commit each when it is done."""
    config = _with_its_models(config)
    slots = used_slots(config.models)
    for note in check_models(config):
        say(note)
    examples = _examples(config, corpus, translation.folder, say)
    with ExitStack() as stack:
        say("Ray is started")
        stack.enter_context(connected(config.cluster, key_variables(config)))
        served = stack.enter_context(models_served(config, say))
        models: dict[Slot, Any] = {slot: getattr(served.models, slot) for slot in slots}
        voices = stack.enter_context(asked(models, translation.folder / JOURNAL, config.max_cost_usd))
        workers = None
        num_actors = max(1, len(os.sched_getaffinity(0)))
        if models:
            # What is cut down is run on the databases, where they are.
            staff = Staff(served, databases, schemas)
            stack.callback(staff.close)
            workers = Workers(staff.actors("tools"), staff.homes())
            num_actors = max(1, _IN_HAND * max(model.max_in_flight for model in models.values()) // BLOCK)
        known = [share(in_object_store(schemas)), share(examples)]
        weights = replace(corpus.weights, k=config.translation.num_examples)
        rounds: dict[int, list[Sequence[int]]] = {}
        for block in todo:
            rounds.setdefault(block[0] // QUERIES_IN_A_ROUND, []).append(block)
        for number, blocks in rounds.items():
            # One round after the other, so that what waits for its turn is not all of a large pool.
            tables = [_block(corpus, block, with_signatures=examples is not None) for block in blocks]
            for done in flow(tables, QuestionWriter, (served, weights, workers), known, num_actors):
                rows = done.select(Q_SCHEMA.names).cast(Q_SCHEMA)
                translation.commit(rows)
                tallies.add(rows)
                say(_progress(corpus, tallies, voices))
                if (fault := tallies.control.fault()) and config.translation.stop_at_bad_verifier:
                    raise UserError(f"the verifier cannot be trusted: {fault}. What was translated stays; {_ADVICE}")
            translation.compact(number * QUERIES_IN_A_ROUND, (number + 1) * QUERIES_IN_A_ROUND - 1)


class QuestionWriter:
    """Translates blocks of queries on one of the nodes."""

    def __init__(
        self,
        config: Config,
        weights: CriticConfig,
        workers: Workers | None,
        schemas: Mapping[str, Schema],
        examples: Examples | None,
    ) -> None:
        settings, prompts = config.translation, Prompts()
        self._retriever = Retriever(examples, weights) if examples is not None else None

        def voice(who: str) -> Voice | None:
            if who == "rule":
                return None
            slot: Slot = "strong" if who == "strong" else "local"
            return Voice(slot, Asking(getattr(config.models, slot), prompts, settings.temperature))

        writer, verifier = voice(settings.model), voice(settings.verifier)
        complete = _nobody if writer is None and verifier is None else through_gateway()
        run_sql = _nothing if workers is None else running_on(workers)
        self._translator = Translator(settings, config.seed, schemas, writer, verifier, complete, run_sql)

    def __call__(self, block: pa.Table) -> pa.Table:
        queries = [Query(row, self._similar(row)) for row in block.to_pylist()]

        async def all_of_them() -> list[dict[str, Any]]:
            tasks = [asyncio.ensure_future(self._translator.translate(query)) for query in queries]
            try:
                return list(await asyncio.gather(*tasks))
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

        return pa.Table.from_pylist(asyncio.run(all_of_them()), schema=Q_SCHEMA)

    def _similar(self, row: Mapping[str, Any]) -> list[Any]:
        if self._retriever is None:
            return []
        labels, leftmost = np.array(row["labels"], np.int64), np.array(row["leftmost"], np.int32)
        tree = Tree(labels, leftmost) if len(labels) else None
        signature = Signature(encode(row["words"]), tree, np.array(row["vector"], np.float32))
        return self._retriever.nearest(signature)


async def _nobody(*_: Any) -> Completion:
    raise EngineError("no model is asked where the rules write")


async def _nothing(*_: Any) -> Execution:
    raise EngineError("nothing is cut down where the rules write")


def _with_its_models(config: Config) -> Config:
    """Return the settings with the two parts of a translation as the agents of a run: others of it ask nobody."""
    parts = config.translation.model, config.translation.verifier
    writer, verifier = (AgentConfig(model=part) for part in parts)
    models = ModelsConfig(strong=config.models.strong, local=config.models.local, generation=writer, expansion=verifier)
    return replace(config, models=models)


def _examples(config: Config, corpus: Corpus, folder: Path, say: Say) -> Examples | None:
    settings = config.translation
    if not settings.examples or settings.model == "rule":
        return None
    known = corpus.identity.get("settings", {}).get("embedding", {})
    embedding = EmbeddingConfig(model=known.get("model", config.embedding.model))
    return read_examples(
        Path(settings.examples).expanduser(),
        embedding,
        Path(config.data_dir),
        folder / "examples.npy",
        lambda done, total: say(f"{done:,} of {total:,} examples are encoded"),
    )


def _block(corpus: Corpus, query_ids: Sequence[int], *, with_signatures: bool) -> pa.Table:
    columns = ", ".join(f"R.{name}" for name in ("query_id", "database", "dialect", *OF_THE_QUERY))
    source = "R"
    if with_signatures:
        columns += ", S.words, S.labels, S.leftmost, E.vector"
        source = "R JOIN S USING (query_id) JOIN E USING (query_id)"
    return corpus.connection.execute(
        f"SELECT {columns} FROM {source} WHERE R.query_id BETWEEN ? AND ? AND list_contains(?, R.query_id) "
        "ORDER BY R.query_id",
        [query_ids[0], query_ids[-1], list(query_ids)],
    ).to_arrow_table()


def _settings(config: Config, corpus: Corpus) -> dict[str, Any]:
    """Return what makes questions others."""
    settings = config.translation

    asks = settings.model != "rule"
    return {
        "run": corpus.identity.get("config_sha256", ""),
        "seed": config.seed,
        "model": _name(config, settings.model),
        "verifier": _name(config, settings.verifier),
        **(
            {
                "prompts": _prompts_sha256(),
                "temperature": settings.temperature,
                "simplify": settings.simplify,
                "examples": sha256_of(Path(settings.examples).expanduser()) if settings.examples else "",
                "num_examples": settings.num_examples,
            }
            if asks
            else {}
        ),
    }


def _prompts_sha256() -> str:
    digest = hashlib.sha256()
    for name in ("schema", "dialect", "downstream/translation", "downstream/verification", "downstream/simplification"):
        digest.update((prompts_dir() / f"{name}.j2").read_bytes())
    return digest.hexdigest()


def _progress(corpus: Corpus, tallies: Tallies, voices: Asked) -> str:
    parts = [f"{tallies.total:,} of {corpus.num_queries:,} queries: {tallies.kept:,} pairs hold"]
    parts += [f"{count:,} {reason}" for reason, count in tallies.reasons.most_common()]
    status: ChatStatus | None = voices.status
    if status is not None:
        parts.append(f"${status.confirmed_usd:.2f}")
        parts += [slot.waits_for for slot in status.slots if slot.waits_for]
    return ", ".join(parts)


def _finished(config: Config, corpus: Corpus, out: Path, stopped: str) -> dict[str, Any]:
    writer, verifier = (_name(config, who) for who in (config.translation.model, config.translation.verifier))
    return finish(out, out / JOURNAL, corpus.name, corpus.num_queries, writer, verifier, stopped)


def _name(config: Config, who: str) -> str:
    return RULES if who == "rule" else str(getattr(config.models, who).name)
