"""`task=evaluate_text2sql`: how well a model, or a file of predictions, answers the questions of Spider or BIRD."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

from rayfactory.analysis.report import write
from rayfactory.cluster.crew import JOURNAL
from rayfactory.cluster.session import connected
from rayfactory.config import AgentConfig, Config, ModelConfig, ModelsConfig, Slot
from rayfactory.databases.benchmark import Benchmark, open_benchmark
from rayfactory.databases.engine import FILE_DIALECTS
from rayfactory.downstream.questions import Question, find_questions, read_predictions, read_questions
from rayfactory.downstream.scoring import KINDS, Rule, figures, score_all
from rayfactory.downstream.text_to_sql import prompt_of, reader_of
from rayfactory.errors import CompletionError, ConfigError
from rayfactory.models.chat import Chat
from rayfactory.models.completion import CallKey, Complete, Prompt
from rayfactory.models.prompts import Prompts
from rayfactory.reports.working import Say, console, working
from rayfactory.runs import check_models, key_variables, models_served, open_databases
from rayfactory.shown import shown

EVALUATION = "evaluation"

MAX_ROWS = 1_000_000
"""Rows of a result that is compared; a larger one would not fit beside another."""


def run(config: Config) -> str:
    """Evaluate, showing progress on standard error; return the figures as a page.

    Raises:
        UserError: questions, predictions or databases are missing or cannot be used, or a model cannot be asked.
    """
    with working("the questions are read", config.display) as say:
        out, found = evaluate(config, say)
    console().print(shown(f"{out} has these figures, and what came of each prediction in predictions.jsonl"))
    return markdown(found)


def evaluate(config: Config, say: Say) -> tuple[Path, dict[str, Any]]:
    """Write the evaluation; return its folder and its figures. What one before it left there is replaced.

    Args:
        config: its `benchmark`, `evaluation`, `output`, `models`, `execution` and `seed` count.
        say: told what is being done.
    """
    benchmark = open_benchmark(config.benchmark, Path(config.data_dir))
    if any(database.dialect not in FILE_DIALECTS for database in benchmark.databases):
        raise ConfigError(
            "predictions are not run on a server, which lets its users do more than read; name databases that are "
            "files: benchmark.root=PATH"
        )
    rule = _rule(config)
    path = _questions_file(config, benchmark)
    places, questions, num_all = _answerable(read_questions(path), benchmark)
    out = Path(config.output) if config.output else Path(EVALUATION).absolute()
    if config.evaluation.predictions:
        source = config.evaluation.predictions
        of_all = read_predictions(Path(source).expanduser(), num_all)
        predictions = [of_all[place] for place in places]
        cost_usd = 0.0
    else:
        source = _model(config).name
        predictions, cost_usd = asked(config, questions, out, say)
    # The benchmarks bound the time of a query alone.
    limits = replace(
        config.execution, timeout_s=config.evaluation.timeout_s, max_rows=MAX_ROWS, max_cells=10 * MAX_ROWS
    )
    databases = {database.name: database for database in benchmark.databases}
    scored = score_all(
        databases, limits, rule, questions, predictions, lambda done: say(f"{done} of {len(questions)} are compared")
    )
    found = {
        "benchmark": config.benchmark.name,
        "rule": rule,
        "questions_file": path.name,
        "predictions_of": source,
        "prompt": "" if config.evaluation.predictions else config.evaluation.prompt,
        "left_out": num_all - len(questions),
        "cost_usd": round(cost_usd, 6),
        "timeout_s": config.evaluation.timeout_s,
        **figures(questions, scored),
    }
    lines = [
        json.dumps({"number": number, **asdict(question), "prediction": prediction, **asdict(each)})
        for number, question, prediction, each in zip(places, questions, predictions, scored, strict=True)
    ]
    write(
        out,
        {
            "evaluation.json": json.dumps(found, indent=1) + "\n",
            "evaluation.md": markdown(found),
            "predictions.jsonl": "\n".join(lines) + "\n",
        },
    )
    return out, found


def asked(config: Config, questions: Sequence[Question], out: Path, say: Say) -> tuple[list[str], float]:
    """Have the model answer the questions; return a query for each, an empty one where it gave none, and what it cost.

    What it replied is kept in the folder of the evaluation: the same command goes on from there, and pays once.

    Raises:
        ConfigError: the questions have no text, or no model is named.
        UserError: the endpoint refuses.
        BudgetReachedError: `max_cost_usd` is reached.
    """
    if not all(question.text for question in questions):
        raise ConfigError(
            "the file has gold queries and no questions that a model could be asked; name one that has some with "
            "evaluation.questions=FILE, or predictions with evaluation.predictions=FILE"
        )
    _, schemas = open_databases(config)
    model = _model(config)
    if empty := sorted({question.database for question in questions} - set(schemas)):
        raise ConfigError(
            f"database {empty[0]!r} has no rows, so that no prompt shows it; leave its questions out of "
            "evaluation.questions"
        )
    prompts = Prompts()
    asks = [prompt_of(config.evaluation.prompt, schemas[each.database], each, model, prompts) for each in questions]
    slot: Slot = "strong" if config.evaluation.model == "strong" else "local"
    # The models of a run are those that its agents ask: here there is one agent.
    models = ModelsConfig(strong=config.models.strong, local=config.models.local, generation=AgentConfig(model=slot))
    config = replace(config, models=models)
    check_models(config)
    journal = out / JOURNAL
    with ExitStack() as stack:
        if model.serving.weights:
            stack.enter_context(connected(config.cluster, key_variables(config)))
        served = stack.enter_context(models_served(replace(config, run_dir=str(out)), say))
        model = getattr(served.models, slot)
        return asyncio.run(_ask_all(served, slot, model, journal, questions, asks, say))


async def _ask_all(
    config: Config,
    slot: Slot,
    model: ModelConfig,
    journal: Path,
    questions: Sequence[Question],
    asks: Sequence[Prompt],
    say: Say,
) -> tuple[list[str], float]:
    chat = Chat({slot: model}, journal, config.max_cost_usd)
    read = reader_of(config.evaluation.prompt)
    num_done = 0

    async def ask(complete: Complete, number: int, question: Question) -> str:
        nonlocal num_done
        # What tells two evaluations in one folder apart is the question, not its place.
        digest = hashlib.blake2b(f"{question.database}\0{question.text}\0{question.evidence}".encode(), digest_size=4)
        key = CallKey(config.seed, "text2sql", 0, int.from_bytes(digest.digest(), "big"))
        try:
            reply = read((await complete(slot, key, asks[number])).text)
        except CompletionError as error:
            say(f"question {number}: {error}")
            reply = ""
        num_done += 1
        say(f"{num_done} of {len(questions)} questions are answered, ${chat.ledger.confirmed_usd:.2f}")
        return reply

    tasks = [asyncio.create_task(ask(chat.complete, number, each)) for number, each in enumerate(questions)]
    try:
        return list(await asyncio.gather(*tasks)), chat.ledger.confirmed_usd
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await chat.close()


def markdown(found: Mapping[str, Any]) -> str:
    """Return the figures as a page of Markdown."""
    lines = [
        f"# {found['predictions_of']} on {found['benchmark']} ({found['questions_file']})",
        "",
        "| questions | number | executability | execution accuracy |",
        "|---|---|---|---|",
    ]
    rows = {"all": found, **found["by_difficulty"]}
    lines += [
        f"| {name} | {row['questions']} | {row['executability']:.2%} | {row['execution_accuracy']:.2%} |"
        for name, row in rows.items()
    ]
    lines += ["", "| what came of a prediction | number |", "|---|---|"]
    lines += [f"| {KINDS[kind]} | {count} |" for kind, count in found["kinds"].items()]
    notes = [f"Compared as {found['rule'].capitalize()}'s own evaluation does, {found['timeout_s']:g} s a query."]
    if found["left_out"]:
        notes.append(f"{found['left_out']} questions are left out: their databases are not there.")
    if found["kinds"].get("gold"):
        notes.append("Gold queries that do not run count as not right.")
    return "\n".join([*lines, "", *notes, ""])


def _answerable(questions: Sequence[Question], benchmark: Benchmark) -> tuple[list[int], list[Question], int]:
    """Return the questions whose databases are there, with their places among all, and how many there are in all."""
    names = {database.name for database in benchmark.databases}
    places = [place for place, question in enumerate(questions) if question.database in names]
    if not places:
        raise ConfigError(
            f"none of the {len(questions)} questions is about a database that is there: the first is about "
            f"{questions[0].database!r}; check benchmark.root and evaluation.questions"
        )
    return places, [questions[place] for place in places], len(questions)


def _questions_file(config: Config, benchmark: Benchmark) -> Path:
    if config.evaluation.questions:
        return Path(config.evaluation.questions).expanduser()
    folders = dict.fromkeys(parent for database in benchmark.databases for parent in Path(database.path).parents[:4])
    found = find_questions(list(folders))
    if found is None:
        raise ConfigError(
            "there is no dev set beside the databases (dev.json, dev_gold.sql); name it with evaluation.questions=FILE"
        )
    return found


def _rule(config: Config) -> Rule:
    named = config.benchmark.name if config.evaluation.rule == "auto" else config.evaluation.rule
    for rule in get_args(Rule):
        if rule == named:
            found: Rule = rule
            return found
    raise ConfigError(
        "whose definition of a right result counts is not known for this benchmark; set evaluation.rule=bird (equal "
        "sets of rows) or evaluation.rule=spider (equal tables, whatever the order of columns)"
    )


def _model(config: Config) -> ModelConfig:
    model: ModelConfig = getattr(config.models, config.evaluation.model)
    if not model.name:
        raise ConfigError(
            f"nobody answers the questions: models.{config.evaluation.model} has no name. Give it one "
            f"(model@models.{config.evaluation.model}=endpoint models.{config.evaluation.model}.name=NAME "
            f"models.{config.evaluation.model}.base_url=URL), or evaluation.predictions=FILE"
        )
    return model
