"""The work of a translation: blocks of queries go to actors, and what comes of them to table Q."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from rayfactory.analysis.corpus import Corpus
from rayfactory.cluster.crew import JOURNAL
from rayfactory.cluster.dataflow import Workers
from rayfactory.cluster.row_flow import ACTOR_CPUS, answering, flow, num_cpus, share
from rayfactory.cluster.schema_store import in_object_store
from rayfactory.cluster.session import connected
from rayfactory.cluster.shortage import Shortage
from rayfactory.cluster.staff import Staff
from rayfactory.config import Config, EmbeddingConfig, ModelConfig, Slot, TranslationConfig
from rayfactory.databases.engine import Database
from rayfactory.databases.schema import Schema
from rayfactory.downstream.examples import Examples, read_examples
from rayfactory.downstream.question_writer import QuestionWriter, Translated
from rayfactory.downstream.translated import COUNTED, Tallies
from rayfactory.downstream.translator import QUERIES_IN_A_ROUND
from rayfactory.errors import BudgetReachedError, ConfigError, RayfactoryError, UserError
from rayfactory.models.chat import ChatStatus
from rayfactory.reports.working import Say
from rayfactory.runs import check_models, interrupted_by_sigterm, key_variables, models_served, unbounded_models
from rayfactory.translation import FOR_NOW, OF_THE_QUERY, Translation
from rayfactory.validate import used_slots

BLOCK = 64
"""Queries that an actor has in hand at a time; all of them ask their models at once."""

_IN_HAND = 2
"""Queries in hand for each call that a model takes at once: while one reply is read, the next is on its way."""

_ADVICE = (
    "take a better verifier (translation.verifier=strong, or another model) and another folder (output=DIR), or go on "
    "all the same with translation.stop_at_bad_verifier=false"
)


@dataclass
class Work:
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
        known = self.translation.done(("query_id", *COUNTED))
        self.tallies.add(known)
        self._done = set(known["query_id"].to_pylist())
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
        blocks = []
        for start in range(0, self.corpus.num_queries, BLOCK):
            ids = range(start, min(self.corpus.num_queries, start + BLOCK))
            if block := [number for number in ids if number not in self._done]:
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
            stack.enter_context(
                answering(models, self.translation.folder / JOURNAL, config.max_cost_usd, self._on_status)
            )
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


def _examples(config: Config, corpus: Corpus, folder: Path, say: Say) -> Examples | None:
    settings = config.translation
    if not settings.examples or settings.model == "rule":
        return None
    known = corpus.identity.get("settings", {}).get("embedding", {})
    embedding = EmbeddingConfig(model=known.get("model", config.embedding.model))
    return read_examples(
        examples_file(settings),
        embedding,
        Path(config.data_dir),
        folder,
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


def examples_file(settings: TranslationConfig) -> Path:
    """Return the file of examples.

    Raises:
        ConfigError: it is not there.
    """
    path = Path(settings.examples).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"translation.examples={settings.examples!r} is no file; name one, as Spider's train_spider.json"
        )
    return path
