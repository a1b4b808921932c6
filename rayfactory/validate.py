"""Which values of the settings make sense: checked once, before anything starts."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from rayfactory.bucket.store import is_plain, is_url
from rayfactory.config import AGENTS, OMITTABLE, SLOTS, Config, EmbeddingConfig, ModelConfig, ModelsConfig, Slot
from rayfactory.errors import ConfigError
from rayfactory.shown import HIDDEN, shown_url

TASKS = {
    "generate": "grow a pool of queries (the default)",
    "preview": "show some prompts and what a run would cost and start; asks no model",
    "download": "fetch the databases that a benchmark publishes",
    "report": "show what a pool is like: a page that opens offline, and its figures as JSON",
    "compare": "put runs, and files of queries, side by side: runs=[runs/a,peer.jsonl]",
    "export": "hand the pool of a run to another tool: format=jsonl, csv, sql, huggingface, ..",
    "translate": "find a question for each query of a pool, and keep the pairs that hold",
    "evaluate_text2sql": "score a text-to-SQL model, or predictions of one, on Spider or BIRD",
    "train_text2sql": "tune a text-to-SQL model with questions and their queries",
    "cluster_queries": "tune an encoder with a pool, and judge it on labelled queries",
}
"""What a run can do, by the name that `task=` takes."""

FORMATS = {
    "jsonl": "a JSON object a line with every column of the pool",
    "csv": "the same for a spreadsheet, with nothing that it would calculate",
    "sql": "a .sql file a query, and run.py, which runs them",
    "huggingface": "a dataset folder with its card",
    "bird": "BIRD's JSON; the questions are empty without questions=true",
    "spider": "Spider's JSON; the questions are empty without questions=true",
    "alpaca": "LLaMA-Factory: schema in, query out; name the benchmark too",
    "sharegpt": "the same as conversations",
    "workload": "one query a skeleton with its weight, for tuning a database",
}
"""Forms that a pool is exported in (`exports.formats`), by the name that `format=` takes."""

SPLITS = ("none", "skeleton", "database")
"""How the rows of an export are divided: not at all, or so that all queries of one are in train or all in test."""

DIALECTS = ("duckdb", "sqlite", "postgres", "mysql")
"""Of the queries in a file."""

METHODS = ("factory", "sqlsmith", "templates", "learnedsqlgen", "omnisql")
"""Ways in which the Generation Agent writes, by the name that `models.method=` takes."""

TEXT_TO_SQL_PROMPTS = {
    "plain": "tables with their keys, some values and descriptions; for any model that follows instructions",
    "qwen2.5-coder": "as the Qwen2.5-Coder models are asked in their own evaluation on Spider and BIRD",
    "codes": "as the CodeS models are asked in theirs, without values looked up for a question; no chat",
}
"""How a model is asked for the query that answers a question, by the names of the templates in `prompts/downstream`."""

PAIRED = ("similar", "rewritten")
"""What `task=cluster_queries` brings together, by the name that `clustering.pairs=` takes."""

TRAINERS = ("ray", "llamafactory")
"""Who tunes a model, by the name that `training.trainer=` takes."""

DISPLAY_MODES = ("auto", "panel", "lines", "none")

DEVICES = ("auto", "cpu", "gpu")
BACKENDS = ("auto", "openvino", "sentence-transformers")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


class Rule(NamedTuple):
    """What the value of a setting has to be."""

    holds: Callable[[Any], bool]
    requirement: str


# NaN fails every comparison, so each is written the way that NaN does not pass.
POSITIVE = Rule(lambda value: 0 < value < math.inf, "greater than 0")
NOT_NEGATIVE = Rule(lambda value: 0 <= value < math.inf, "0 or more")
SHARE = Rule(lambda value: 0 <= value <= 1, "between 0 and 1")
FILLED = Rule(lambda value: bool(value.strip()), "filled in")

RULES: dict[str, Rule] = {
    "benchmark.scale_factor": POSITIVE,
    "round.requests": POSITIVE,
    "round.requests_after_warmup": POSITIVE,
    "round.queries_per_request": POSITIVE,
    "management.warmup_rounds": POSITIVE,
    "management.min_executability": SHARE,
    "management.max_similarity_rise": SHARE,
    "management.max_mean_similarity": SHARE,
    "management.exploration_rounds": POSITIVE,
    "management.saturation_expansion_ratio": SHARE,
    "management.saturation_rounds": POSITIVE,
    "management.exhausted_rounds": POSITIVE,
    "table_selection.max_tables": POSITIVE,
    "seed_selection.num_seeds": POSITIVE,
    "models.local_share": SHARE,
    "models.learned.min_rows": POSITIVE,
    "models.learned.max_rows": POSITIVE,
    "models.learned.num_queries": POSITIVE,
    "critic.k": POSITIVE,
    "critic.candidates_per_neighbour": POSITIVE,
    "critic.token_weight": SHARE,
    "critic.ast_weight": SHARE,
    "critic.embedding_weight": SHARE,
    "critic.max_similarity": SHARE,
    "embedding.model": FILLED,
    "embedding.gpu_share": Rule(lambda value: 0 < value <= 1, "greater than 0 and at most 1"),
    "embedding.batch_size": POSITIVE,
    "embedding.max_tokens": POSITIVE,
    "execution.timeout_s": POSITIVE,
    "execution.max_rows": POSITIVE,
    "execution.max_cells": POSITIVE,
    "execution.memory_mb": POSITIVE,
    "profile.max_rows": POSITIVE,
    "profile.max_columns": POSITIVE,
    "cluster.num_cpus": NOT_NEGATIVE,
    "cluster.workers": NOT_NEGATIVE,
    "cluster.databases": Rule(lambda value: value in ("there", "shipped"), "there or shipped"),
    "cluster.database_cache_gb": POSITIVE,
    "cluster.index_shards": POSITIVE,
    "cluster.vectors_per_actor": POSITIVE,
    "cluster.index_gpu_memory_gb": NOT_NEGATIVE,
    "display.interval_s": POSITIVE,
    "evaluation.timeout_s": POSITIVE,
    "translation.num_examples": POSITIVE,
    "translation.temperature": Rule(lambda value: 0 <= value <= 2, "between 0 and 2"),
    "translation.control_share": SHARE,
    "clustering.positives": POSITIVE,
    "clustering.max_pairs": POSITIVE,
    "clustering.epochs": POSITIVE,
    "clustering.batch_size": Rule(lambda value: value >= 2, "2 or more"),
    "clustering.learning_rate": POSITIVE,
    "clustering.warmup_share": SHARE,
    "clustering.scale": POSITIVE,
    "clustering.max_tokens": POSITIVE,
    "training.model": FILLED,
    "training.workers": NOT_NEGATIVE,
    "training.epochs": POSITIVE,
    "training.batch_size": POSITIVE,
    "training.together": POSITIVE,
    "training.learning_rate": POSITIVE,
    "training.warmup_share": SHARE,
    "training.weight_decay": NOT_NEGATIVE,
    "training.adam_beta1": Rule(lambda value: 0 <= value < 1, "0 or more and less than 1"),
    "training.adam_beta2": Rule(lambda value: 0 <= value < 1, "0 or more and less than 1"),
    "training.adam_epsilon": POSITIVE,
    "training.max_grad_norm": POSITIVE,
    "training.max_tokens": POSITIVE,
    "training.max_reply_tokens": POSITIVE,
    "training.max_hours": POSITIVE,
    "clustering.layers": NOT_NEGATIVE,
    "target": POSITIVE,
    # The range that every random generator takes.
    "seed": Rule(lambda value: 0 <= value < 2**63, "between 0 and 2**63 - 1"),
    "run_dir": Rule(
        lambda value: bool(value.strip()) and ("://" not in value or (is_url(value) and is_plain(value))),
        "filled in with a folder, or an address of one in object storage (s3://, gs://, az://)",
    ),
    "max_candidates": POSITIVE,
    "max_cost_usd": NOT_NEGATIVE,
    "test_share": SHARE,
}


_SERVING_RULES: dict[str, Rule] = {
    "tensor_parallel_size": POSITIVE,
    "pipeline_parallel_size": POSITIVE,
    "min_replicas": POSITIVE,
    "max_replicas": POSITIVE,
    "max_ongoing_requests": POSITIVE,
    "target_ongoing_requests": POSITIVE,
    "gpu_memory_utilization": Rule(lambda value: 0 < value <= 1, "greater than 0 and at most 1"),
    "cpu_cache_gb": POSITIVE,
    "port": Rule(lambda value: 0 < value < 65536, "between 1 and 65535"),
    "startup_timeout_s": POSITIVE,
}

_MODEL_RULES: dict[str, Rule] = {
    "context_tokens": POSITIVE,
    "max_output_tokens": POSITIVE,
    "usd_per_million_in": NOT_NEGATIVE,
    "usd_per_million_cached": NOT_NEGATIVE,
    "usd_per_million_out": NOT_NEGATIVE,
    "max_in_flight": POSITIVE,
    "requests_per_minute": POSITIVE,
    "tokens_per_minute": POSITIVE,
    "timeout_s": POSITIVE,
    "max_attempts": POSITIVE,
    "max_pause_s": POSITIVE,
    "batch_price": SHARE,
    "batch_poll_s": POSITIVE,
    "batch_linger_s": NOT_NEGATIVE,
    **{f"serving.{name}": rule for name, rule in _SERVING_RULES.items()},
}

_AGENT_RULES: dict[str, Rule] = {
    "temperature": Rule(lambda value: 0 <= value <= 2, "between 0 and 2"),
    "top_p": Rule(lambda value: 0 < value <= 1, "greater than 0 and at most 1"),
}

RULES |= {f"models.{slot}.{name}": rule for slot in SLOTS for name, rule in _MODEL_RULES.items()}
RULES |= {f"models.{agent}.{name}": rule for agent in AGENTS for name, rule in _AGENT_RULES.items()}


def validate(config: Config) -> None:
    """Check every value that its type alone does not bound. None, where a setting allows it, is no limit.

    Raises:
        ConfigError: the first value that cannot be, with what it has to be.
    """
    for name, rule in RULES.items():
        value = _get(config, name)
        if value is not None and not rule.holds(value):
            raise ConfigError(f"{name} has to be {rule.requirement}, not {value!r}; {_remedy(name)}")
    weights = (config.critic.token_weight, config.critic.ast_weight, config.critic.embedding_weight)
    if not math.isclose(sum(weights), 1.0, abs_tol=1e-9):
        raise ConfigError(
            f"critic.token_weight, ast_weight and embedding_weight have to sum to 1, not {sum(weights):g} "
            f"({' + '.join(f'{weight:g}' for weight in weights)}). Set all three"
        )
    _one_of("task", config.task, TASKS)
    _one_of("format", config.format, FORMATS)
    _one_of("split", config.split, SPLITS)
    _one_of("dialect", config.dialect, DIALECTS)
    _one_of("display.mode", config.display.mode, DISPLAY_MODES)
    _one_of("clustering.pairs", config.clustering.pairs, PAIRED)
    _one_of("clustering.dialect", config.clustering.dialect, DIALECTS)
    _one_of("translation.model", config.translation.model, ("auto", "rule", *SLOTS))
    _one_of("translation.verifier", config.translation.verifier, ("auto", "rule", *SLOTS))
    _one_of("evaluation.rule", config.evaluation.rule, ("auto", "bird", "spider"))
    _one_of("evaluation.model", config.evaluation.model, SLOTS)
    _one_of("evaluation.prompt", config.evaluation.prompt, TEXT_TO_SQL_PROMPTS)
    _one_of("training.prompt", config.training.prompt, TEXT_TO_SQL_PROMPTS)
    _validate_text_to_sql(config)
    _one_of("training.trainer", config.training.trainer, TRAINERS)
    _one_of("training.precision", config.training.precision, ("auto", "fp32", "bf16"))
    _validate_method(config.models)
    if config.models.method == "learnedsqlgen" and not config.profile.content:
        raise ConfigError(
            "models.method='learnedsqlgen' learns from the results of its queries, and profile.content=false keeps the "
            "database from those who write; leave profile.content out"
        )
    _validate_embedding(config.embedding)
    for agent in AGENTS:
        _one_of(f"models.{agent}.model", getattr(config.models, agent).model, ("rule", *SLOTS))
    for slot in SLOTS:
        _validate_key_name(slot, getattr(config.models, slot).api_key_env)
    for slot in used_slots(config.models):
        model = getattr(config.models, slot)
        _validate_model(slot, model)
        if config.max_cost_usd is not None and model.api_key_env and not has_price(model):
            raise ConfigError(
                f"max_cost_usd bounds nothing while models.{slot}, which takes a key, has no price; set "
                f"models.{slot}.usd_per_million_in and models.{slot}.usd_per_million_out to what its endpoint charges, "
                "or leave max_cost_usd out"
            )


def _validate_text_to_sql(config: Config) -> None:
    part = {"evaluate_text2sql": "evaluation", "train_text2sql": "training"}.get(config.task)
    if part is None or (part == "evaluation" and config.evaluation.predictions):
        return
    prompt, slot = getattr(config, part).prompt, config.evaluation.model
    chat = getattr(config.models, slot).chat
    if part == "training" and config.training.trainer == "llamafactory" and (prompt == "codes" or not chat):
        raise ConfigError(
            f"training.trainer='llamafactory' is handed chats, and training.prompt={prompt} with models.{slot}.chat="
            f"{str(chat).lower()} is none; use training.trainer=ray"
        )
    if prompt == "codes" and chat:
        raise ConfigError(
            f"{part}.prompt=codes is one text that a model goes on from, and this one is asked as a chat; set "
            f"models.{slot}.chat=false, or {part}.prompt=plain"
        )


def _validate_method(models: ModelsConfig) -> None:
    method = models.method
    _one_of("models.method", method, METHODS)
    slot = models.generation.model
    if method == "omnisql" and slot == "rule":
        raise ConfigError(
            "models.method='omnisql' is a prompt, and no model answers it; start with models=omnisql and give it one: "
            "models.strong.base_url=URL models.strong.name=MODEL"
        )
    if method == "omnisql" and any(getattr(models, used).constrained for used in used_slots(models)):
        raise ConfigError(
            "models.method='omnisql' is a prompt alone, and a grammar leads the model; set models.local.constrained="
            "false and models.strong.constrained=false"
        )
    if method not in ("factory", "omnisql") and slot != "rule":
        raise ConfigError(f"models.method={method!r} needs no model; start with models={method}")
    if models.local_share and slot != "strong":
        raise ConfigError(
            "models.local_share is a share of what the strong model is asked, and models.generation.model is "
            f"{slot!r}; set models.generation.model=strong, or leave models.local_share out"
        )
    if models.learned.min_rows > models.learned.max_rows:
        raise ConfigError(
            f"models.learned.min_rows={models.learned.min_rows} is more than max_rows={models.learned.max_rows}; "
            "lower the one or raise the other"
        )


def _validate_embedding(embedding: EmbeddingConfig) -> None:
    _one_of("embedding.device", embedding.device, DEVICES)
    _one_of("embedding.backend", embedding.backend, BACKENDS)
    _one_of("embedding.precision", embedding.precision, PRECISIONS)
    if (embedding.device, embedding.backend) == ("gpu", "openvino"):
        raise ConfigError(
            "embedding.backend='openvino' encodes on the CPU, and embedding.device is 'gpu'; set embedding.device=cpu, "
            "or leave embedding.backend out"
        )
    if (embedding.device, embedding.precision) == ("cpu", "fp16"):
        raise ConfigError(
            "embedding.precision='fp16' is for a GPU, and embedding.device is 'cpu'; set embedding.precision=fp32, or "
            "leave it out for the quickest that the CPU has"
        )


def has_price(model: ModelConfig) -> bool:
    """Return whether any token of a model costs something."""
    return bool(model.usd_per_million_in or model.usd_per_million_out)


def used_slots(models: ModelsConfig) -> list[Slot]:
    """Return the models that at least one agent asks."""
    asked = {getattr(models, agent).model for agent in AGENTS} | ({"local"} if models.local_share else set())
    return [slot for slot in SLOTS if slot in asked]


def _validate_key_name(slot: str, name: str) -> None:
    """Raise a ConfigError where a key itself may stand in place of its variable's name, without showing it."""
    # Names are in capitals by custom; of one that is not, only the environment tells that it is one.
    if name and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", name) and name not in os.environ:
        raise ConfigError(
            f"models.{slot}.api_key_env has to be the name of an environment variable that is set, such as "
            f"OPENAI_API_KEY, not the key itself ({HIDDEN}): export OPENAI_API_KEY=... where the run is started"
        )


def _validate_model(slot: str, model: ModelConfig) -> None:
    where = f"models.{slot}"
    _one_of(f"{where}.serving.device", model.serving.device, ("gpu", "cpu"))
    for name in model.omit:
        _one_of(f"{where}.omit, each of its members,", name, OMITTABLE)
    if not model.name.strip():
        raise ConfigError(
            f"{where} is asked by an agent and has no name; set {where}.name to what the endpoint calls the model, "
            f"or choose one: model@{where}=gpt-4o"
        )
    if not model.serving.weights.strip() and not re.match(r"https?://", model.base_url):
        raise ConfigError(
            f"{where}.base_url has to be an address such as http://host:8000/v1, not "
            f"{shown_url(model.base_url)!r}; or set {where}.serving.weights to have the model served here"
        )
    if model.batch and not model.chat:
        raise ConfigError(f"{where}.batch=true sends chats, and {where}.chat is false; leave {where}.batch out")
    if model.max_output_tokens >= model.context_tokens:
        raise ConfigError(
            f"{where}.max_output_tokens={model.max_output_tokens} leaves no room for a prompt in "
            f"{where}.context_tokens={model.context_tokens}; lower the one or raise the other"
        )
    if model.serving.min_replicas > model.serving.max_replicas:
        raise ConfigError(
            f"{where}.serving.min_replicas={model.serving.min_replicas} is more than "
            f"max_replicas={model.serving.max_replicas}; raise {where}.serving.max_replicas"
        )
    _validate_scaling(where, model)


def _validate_scaling(where: str, model: ModelConfig) -> None:
    """Raise a ConfigError where the requests that a replica and a run have at once never call for another replica."""
    serving = model.serving
    if serving.target_ongoing_requests > serving.max_ongoing_requests:
        raise ConfigError(
            f"{where}.serving.target_ongoing_requests={serving.target_ongoing_requests} is more than a replica ever "
            f"answers at once, max_ongoing_requests={serving.max_ongoing_requests}; lower the one or raise the other"
        )
    enough = serving.min_replicas * serving.target_ongoing_requests
    if serving.weights.strip() and serving.max_replicas > serving.min_replicas and model.max_in_flight <= enough:
        raise ConfigError(
            f"{where}.max_in_flight={model.max_in_flight} never calls for more than "
            f"serving.min_replicas={serving.min_replicas} replica(s) of "
            f"target_ongoing_requests={serving.target_ongoing_requests} each; set "
            f"{where}.max_in_flight={serving.max_replicas * serving.target_ongoing_requests}, which reaches "
            f"max_replicas={serving.max_replicas}, or lower {where}.serving.target_ongoing_requests"
        )


def _get(config: Config, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _remedy(name: str) -> str:
    default = _get(Config(), name)
    if name == "run_dir":
        return "for instance run_dir=runs/first"
    return f"leave {name} out for no limit" if default is None else f"the default is {name}={default}"


def _one_of(name: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} has to be one of {', '.join(choices)}, not {value!r}")
