"""`task=translate`: a question for each query of a pool, so that there are pairs to train text-to-SQL models with.

The queries flow as a Ray Dataset through actors that ask the models, a block at a time; one that is done is on disk.

Source: SQL-Factory, section 5.3.1.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rayfactory import __version__
from rayfactory.analysis.corpus import Corpus, of_run
from rayfactory.bucket.store import is_url
from rayfactory.cluster.crew import JOURNAL
from rayfactory.config import SLOTS, AgentConfig, Config, ModelsConfig, TranslationConfig
from rayfactory.databases.schema import Schema
from rayfactory.databases.schemas import about
from rayfactory.downstream.translated import Tallies, finish, markdown
from rayfactory.downstream.translating import Work, examples_file
from rayfactory.downstream.translator import RULES
from rayfactory.errors import ConfigError, RayfactoryError
from rayfactory.files import sha256_of
from rayfactory.models.chat import read_books
from rayfactory.models.prompts import templates_sha256
from rayfactory.pool_copy import beside, local
from rayfactory.reports.working import Say, console, working
from rayfactory.runs import open_databases
from rayfactory.shown import shown
from rayfactory.translation import FOLDER, PAIRS, opened
from rayfactory.validate import validate

_TEMPLATES = ("schema", "dialect", "downstream/translation", "downstream/verification", "downstream/simplification")


def run(config: Config) -> str:
    """Translate, showing progress on standard error; return the figures as a page.

    Raises:
        UserError: the run, its databases or the examples cannot be used, a model cannot be asked, or the verifier
            cannot tell.
    """
    with working("the pool is read", config.display) as say:
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
            work = Work(config, corpus, databases, schemas, translation, say, note)
            work.check_verifier()
            try:
                stopped = work.go_on()
            except BaseException:
                with suppress(RayfactoryError):  # what ended it is what to tell
                    _finished(config, corpus, out, work.tallies, "")
                raise
            say("the pairs are written")
            return out, _finished(config, corpus, out, work.tallies, stopped)
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


def _with_its_models(config: Config) -> Config:
    """Return the settings with the two parts of a translation as agents of a run: what is checked, served and paid for
    are the models that agents ask. No reply is led by a grammar.
    """
    parts = config.translation.model, config.translation.verifier
    writer, verifier = (AgentConfig(model=part) for part in parts)
    free = {slot: replace(getattr(config.models, slot), constrained=False) for slot in SLOTS}
    return replace(config, models=ModelsConfig(**free, generation=writer, expansion=verifier))


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
        found["prompts"] = templates_sha256(_TEMPLATES)
        for slot, model in asked_of.items():
            found[f"{slot}.context_tokens"] = model.context_tokens
            found[f"{slot}.max_output_tokens"] = model.max_output_tokens
            if not model.chat:
                # Translations from before this was a setting go on.
                found[f"{slot}.chat"] = False
    if settings.model != "rule":
        found |= {
            "temperature": settings.temperature,
            "simplify": settings.simplify,
            "examples": sha256_of(examples_file(settings)) if settings.examples else "",
            "num_examples": settings.num_examples,
        }
    return found


def _finished(config: Config, corpus: Corpus, out: Path, tallies: Tallies, stopped: str) -> dict[str, Any]:
    writer, verifier = (_name(config, who) for who in (config.translation.model, config.translation.verifier))
    return finish(out, out / JOURNAL, tallies, corpus.name, corpus.num_queries, writer, verifier, stopped)


def _name(config: Config, who: str) -> str:
    return RULES if who == "rule" else str(getattr(config.models, who).name)
