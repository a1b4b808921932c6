"""`task=translate`: a question for each query of a pool, so that there are pairs to train text-to-SQL models with.

The queries flow as a Ray Dataset through actors that ask the models, a block at a time; one that is done is on disk.

Source: SQL-Factory, section 5.3.1.
"""

from __future__ import annotations

import asyncio
import hashlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayfactory import __version__
from rayfactory.analysis.corpus import Corpus, of_run
from rayfactory.bucket.store import is_url
from rayfactory.cluster.crew import JOURNAL
from rayfactory.cluster.dataflow import Workers
from rayfactory.cluster.gateway import through_gateway
from rayfactory.cluster.row_flow import ACTOR_CPUS, asked, flow, num_cpus, running_on, share
from rayfactory.cluster.schema_store import in_object_store
from rayfactory.cluster.session import connected
from rayfactory.cluster.shortage import Shortage
from rayfactory.cluster.staff import Staff
from rayfactory.config import (
    SLOTS,
    AgentConfig,
    Config,
    CriticConfig,
    EmbeddingConfig,
    ModelConfig,
    ModelsConfig,
    Slot,
    TranslationConfig,
)
from rayfactory.databases.engine import Database
from rayfactory.databases.schema import Schema
from rayfactory.databases.schemas import about
from rayfactory.downstream.dialogue import Asking
from rayfactory.downstream.examples import Examples, Retriever, read_examples
from rayfactory.downstream.translated import COUNTED, PAIRS, Tallies, finish, markdown
from rayfactory.downstream.translator import QUERIES_IN_A_ROUND, RULES, Query, Translator, Voice
from rayfactory.errors import BudgetReachedError, ConfigError, EngineError, RayfactoryError, UserError
from rayfactory.files import sha256_of
from rayfactory.models.chat import ChatStatus, read_books
from rayfactory.models.completion import Completion
from rayfactory.models.prompts import Prompts, prompts_dir
from rayfactory.pool_copy import beside, local
from rayfactory.records import Execution, Tree
from rayfactory.reports.working import Say, console, working
from rayfactory.runs import (
    check_models,
    interrupted_by_sigterm,
    key_variables,
    models_served,
    open_databases,
    unbounded_models,
)
from rayfactory.shown import shown
from rayfactory.tools.similarity import Signature
from rayfactory.tools.words import encode
from rayfactory.translation import FOLDER, FOR_NOW, OF_THE_QUERY, Q_SCHEMA, Translation, opened
from rayfactory.validate import used_slots, validate

BLOCK = 64
"""Queries that an actor has in hand at a time; all of them ask their models at once."""

_IN_HAND = 2
"""Queries in hand for each call that a model takes at once: while one reply is read, the next is on its way."""

Translated = tuple[pa.Table, RayfactoryError | None]
"""Rows of table Q, and what kept the others of their block from being there."""

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
        out, found = translate(config, say, lambda note: console().print(shown(f"Note: {note}")))
    if found["stopped"]:
        console().print(
            shown(f"{found['stopped']}. What was translated stays; a larger max_cost_usd goes on from there")
        )
    elsewhere = "" if out == _default_folder(config) else f" translation.folder={shlex.quote(str(out))}"
    console().print(
        shown(
            f"{out / PAIRS} has the pairs, to train with (task=train_text2sql); "
            f"task=export questions=true{elsewhere} hands them to other tools"
        )
    )
    return markdown(found)


def translate(config: Config, say: Say, note: Say) -> tuple[Path, dict[str, Any]]:
    """Translate what is not translated yet; return the folder and its figures.

    Args:
        config: its `run_dir`, `benchmark`, `translation`, `models`, `max_cost_usd`, `output` and `seed` count.
        say: told how far it is.
        note: told what a person should know.
    """
    config = _with_its_models(replace(config, translation=decided(config)))
    # The models that are asked are known now.
    validate(config)
    if is_url(config.output):
        raise ConfigError(f"output={config.output!r} has to be a folder here; only a pool may be in object storage")
    out = Path(config.output).expanduser().absolute() if config.output else _default_folder(config)
    if not config.benchmark.name:
        raise ConfigError(
            "a question is about a database, and no benchmark is named; name it as the run did: +benchmark=NAME"
        )
    corpus = of_run(local(config.run_dir, Path(config.data_dir)))
    try:
        databases, schemas = open_databases(config)
        if missing := sorted(
            {row["database"] for row in corpus.rows("SELECT DISTINCT database FROM R")} - set(schemas)
        ):
            raise ConfigError(
                f"database {missing[0]!r} of the run is not one of benchmark {config.benchmark.name!r} as it is named "
                "here; name it as the run did"
            )
        with opened(out, _settings(config, corpus, schemas), out / JOURNAL) as translation:
            # Whether the journal can be read, and nobody else writes it any more, is known before anything starts.
            read_books(out / JOURNAL)
            work = _Work(config, corpus, databases, schemas, translation, say, note)
            work.check_verifier()
            try:
                stopped = work.go_on()
            except BaseException:
                with suppress(RayfactoryError):  # what ended it is what to tell
                    _finished(config, corpus, out, "")
                raise
            say("the pairs are written")
            return out, _finished(config, corpus, out, stopped)
    finally:
        corpus.close()


def _default_folder(config: Config) -> Path:
    return (beside(config.run_dir) / FOLDER).absolute()


def decided(config: Config) -> TranslationConfig:
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


@dataclass
class _Work:
    """What is left to translate, and with whom.

    Attributes:
        config: with the models of the translation.
        corpus: the pool.
        databases, schemas: of the run, by name.
        translation: what is done is added to.
        say: told how far it is.
        note: told what a person should know.
        tallies: what has become of queries.
    """

    config: Config
    corpus: Corpus
    databases: Mapping[str, Database]
    schemas: Mapping[str, Schema]
    translation: Translation
    say: Say
    note: Say
    tallies: Tallies = field(default_factory=Tallies)

    def __post_init__(self) -> None:
        self.tallies.add(self.translation.done(COUNTED))
        self._status: ChatStatus | None = None
        self._noted: set[str] = set()

    def check_verifier(self) -> None:
        """Return if the verifier may be well, as far as it is known.

        Raises:
            UserError: it cannot tell, and that is to end all.
        """
        if self.config.translation.stop_at_bad_verifier and (fault := self.tallies.control.fault()):
            raise UserError(f"the verifier cannot be trusted: {fault}. What was translated stays; {_ADVICE}")

    def go_on(self) -> str:
        """Translate the queries that are left, and commit each block when it is done; return why it stopped before."""
        done = set(self.translation.done()["query_id"].to_pylist())
        blocks = []
        for start in range(0, self.corpus.num_queries, BLOCK):
            ids = range(start, min(self.corpus.num_queries, start + BLOCK))
            if block := [number for number in ids if number not in done]:
                blocks.append(block)
        if not blocks:
            return ""
        config = self.config
        for text in (*check_models(config), *unbounded_models(config)):
            self.note(text)
        examples = _examples(config, self.corpus, self.translation.folder, self.say)
        with ExitStack() as stack:
            self.say("Ray is started")
            stack.enter_context(connected(config.cluster, key_variables(config)))
            stack.enter_context(interrupted_by_sigterm())
            served = stack.enter_context(
                models_served(replace(config, run_dir=str(self.translation.folder)), self.note)
            )
            shortage = Shortage(config, ACTOR_CPUS)
            stack.callback(shortage.close)
            models: dict[Slot, ModelConfig] = {slot: getattr(served.models, slot) for slot in used_slots(served.models)}
            stack.enter_context(asked(models, self.translation.folder / JOURNAL, config.max_cost_usd, self._on_status))
            workers = None
            num_actors = config.cluster.workers or num_cpus()
            if models:
                # What is cut down is run on the databases, where they are.
                staff = Staff(served, self.databases, self.schemas)
                stack.callback(staff.close)
                workers = Workers(staff.actors("tools"), staff.homes())
                num_actors = max(2, _IN_HAND * max(model.max_in_flight for model in models.values()) // BLOCK)
            weights = replace(self.corpus.weights, k=config.translation.num_examples)
            shared = [share(in_object_store(self.schemas)), share(examples)]
            # One round after the other, so that what waits for its turn is not all of a large pool.
            for number, some in groupby(blocks, lambda block: block[0] // QUERIES_IN_A_ROUND):
                tables = [_block(self.corpus, block, with_signatures=examples is not None) for block in some]
                results = flow(tables, QuestionWriter, (served, weights, workers), shared, num_actors)
                if error := self._commit_all(results, num_actors, shortage):
                    if isinstance(error, BudgetReachedError):
                        return f"max_cost_usd is reached ({error})"
                    raise error
                self.translation.compact(number * QUERIES_IN_A_ROUND, (number + 1) * QUERIES_IN_A_ROUND - 1)
        return ""

    def _commit_all(self, results: Iterator[Translated], num_actors: int, shortage: Shortage) -> RayfactoryError | None:
        """Commit what comes of blocks; after an error also what other actors have in hand, and return it."""
        ended: RayfactoryError | None = None
        num_more = num_actors
        for rows, error in results:
            lasting = rows.filter(pc.invert(pc.is_in(rows["reason"], pa.array(sorted(FOR_NOW)))))
            self.translation.commit(lasting)
            self.tallies.add(lasting)
            shortage.got_on()
            self._tell()
            ended = ended or error
            if ended is not None:
                num_more -= 1
                if not num_more:
                    break
            else:
                self.check_verifier()
        return ended

    def _on_status(self, status: ChatStatus) -> None:
        """Take what is known of the models, in another thread."""
        self._status = status
        for text in status.notices:
            if text not in self._noted:
                self._noted.add(text)
                self.note(text)
        self._tell()

    def _tell(self) -> None:
        tallies = self.tallies
        parts = [f"{tallies.total:,} of {self.corpus.num_queries:,} queries: {tallies.kept:,} pairs hold"]
        parts += [f"{count:,} {reason}" for reason, count in tallies.reasons.most_common()]
        if self._status is not None:
            parts.append(f"${self._status.confirmed_usd:.2f}")
            parts += [slot.waits_for for slot in self._status.slots if slot.waits_for]
        self.say(", ".join(parts))


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

    def __call__(self, block: pa.Table) -> Translated:
        queries = [Query(row, self._similar(row)) for row in block.to_pylist()]

        async def all_of_them() -> list[dict[str, Any] | BaseException]:
            return await asyncio.gather(*map(self._translator.translate, queries), return_exceptions=True)

        found = asyncio.run(all_of_them())
        rows = [row for row in found if isinstance(row, dict)]
        ended = None
        for error in found:
            if isinstance(error, RayfactoryError):
                ended = ended or error
            elif isinstance(error, BaseException):
                raise error
        # What was paid for is done, whatever ended the others.
        return pa.Table.from_pylist(rows, schema=Q_SCHEMA), ended

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
    """Return the settings with the two parts of a translation as agents of a run: what is checked, served and paid for
    are the models that agents ask. No reply is led by a grammar.
    """
    parts = config.translation.model, config.translation.verifier
    writer, verifier = (AgentConfig(model=part) for part in parts)
    free = {slot: replace(getattr(config.models, slot), constrained=False) for slot in SLOTS}
    return replace(config, models=ModelsConfig(**free, generation=writer, expansion=verifier))


def _examples(config: Config, corpus: Corpus, folder: Path, say: Say) -> Examples | None:
    settings = config.translation
    if not settings.examples or settings.model == "rule":
        return None
    known = corpus.identity.get("settings", {}).get("embedding", {})
    embedding = EmbeddingConfig(model=known.get("model", config.embedding.model))
    return read_examples(
        _examples_file(settings),
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


def _settings(config: Config, corpus: Corpus, schemas: Mapping[str, Schema]) -> dict[str, Any]:
    """Return what makes questions others."""
    settings = config.translation
    fingerprints = sorted((name, each.fingerprint) for name, each in about(schemas).items())
    found = {
        "run": corpus.identity.get("config_sha256", ""),
        "databases": hashlib.sha256(repr(fingerprints).encode()).hexdigest(),
        "rayfactory": __version__,
        "seed": config.seed,
        "model": _name(config, settings.model),
        "verifier": _name(config, settings.verifier),
    }
    asked_of = {part: getattr(config.models, part) for part in (settings.model, settings.verifier) if part != "rule"}
    if asked_of:
        found["prompts"] = _prompts_sha256()
        for slot, model in asked_of.items():
            found[f"{slot}.context_tokens"] = model.context_tokens
            found[f"{slot}.max_output_tokens"] = model.max_output_tokens
    if settings.model != "rule":
        found |= {
            "temperature": settings.temperature,
            "simplify": settings.simplify,
            "examples": sha256_of(_examples_file(settings)) if settings.examples else "",
            "num_examples": settings.num_examples,
        }
    return found


def _examples_file(settings: TranslationConfig) -> Path:
    path = Path(settings.examples).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"translation.examples={settings.examples!r} is no file; name one, as Spider's train_spider.json"
        )
    return path


def _prompts_sha256() -> str:
    digest = hashlib.sha256()
    for name in ("schema", "dialect", "downstream/translation", "downstream/verification", "downstream/simplification"):
        digest.update((prompts_dir() / f"{name}.j2").read_bytes())
    return digest.hexdigest()


def _finished(config: Config, corpus: Corpus, out: Path, stopped: str) -> dict[str, Any]:
    writer, verifier = (_name(config, who) for who in (config.translation.model, config.translation.verifier))
    return finish(out, out / JOURNAL, corpus.name, corpus.num_queries, writer, verifier, stopped)


def _name(config: Config, who: str) -> str:
    return RULES if who == "rule" else str(getattr(config.models, who).name)
