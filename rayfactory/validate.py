"""Which values of the settings make sense: checked once, before anything starts."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from rayfactory.config import Config
from rayfactory.errors import ConfigError

TASKS = {
    "generate": "grow a pool of queries (the default)",
    "download": "fetch the databases that a benchmark publishes",
}
"""What a run can do, by the name that `task=` takes."""

DISPLAY_MODES = ("auto", "panel", "lines", "none")


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
    "critic.k": POSITIVE,
    "critic.candidates_per_neighbour": POSITIVE,
    "critic.token_weight": SHARE,
    "critic.ast_weight": SHARE,
    "critic.embedding_weight": SHARE,
    "critic.max_similarity": SHARE,
    "embedding.model": FILLED,
    "embedding.batch_size": POSITIVE,
    "embedding.max_tokens": POSITIVE,
    "execution.timeout_s": POSITIVE,
    "execution.max_rows": POSITIVE,
    "execution.memory_mb": POSITIVE,
    "profile.max_rows": POSITIVE,
    "profile.max_columns": POSITIVE,
    "cluster.num_cpus": NOT_NEGATIVE,
    "cluster.workers": NOT_NEGATIVE,
    "cluster.index_shards": POSITIVE,
    "display.interval_s": POSITIVE,
    "target": POSITIVE,
    # The range that every random generator takes.
    "seed": Rule(lambda value: 0 <= value < 2**63, "between 0 and 2**63 - 1"),
    "run_dir": FILLED,
    "max_candidates": POSITIVE,
    "max_cost_usd": NOT_NEGATIVE,
}


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
    _one_of("display.mode", config.display.mode, DISPLAY_MODES)


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
