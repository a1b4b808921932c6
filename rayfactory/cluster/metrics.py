"""What Ray's metrics say of a run, for Prometheus: set by the process that started it, exported by its node.

Ray puts `ray_` before every name. `launch/README.md` has them in a table, with how to look at them.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from rayfactory.reports.monitor import Progress

if TYPE_CHECKING:
    from ray.util.metrics import Counter, Gauge

GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "rayfactory_rows": ("Rows of the pool.", ()),
    "rayfactory_target_rows": ("Rows that the pool is to have; 0: no limit.", ()),
    "rayfactory_round": ("Number of the round that is being judged, from 0.", ()),
    "rayfactory_state": ("1 for the state of that round: GEN explores, EXP exploits.", ("state",)),
    "rayfactory_similarity_ratio": ("Mean similarity of the pool's rows to their neighbours, in [0, 1].", ()),
    "rayfactory_tables": ("Tables with rows of the databases of the run.", ()),
    "rayfactory_tables_covered": ("Of these, tables that some row of the pool references.", ()),
    "rayfactory_candidates_waiting": ("Candidates that are written and have not gone to the critics.", ()),
    "rayfactory_model_requests_in_flight": ("Requests that a model has at work.", ("model",)),
    "rayfactory_model_requests_waiting": ("Requests that wait for a model to take them.", ("model",)),
}
"""Help text and tags, but for that of the run, of what goes up and down."""

COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "rayfactory_candidates_total": (
        "Candidates of committed rounds by what became of them: admitted, or why not.",
        ("outcome",),
    ),
    "rayfactory_model_tokens_total": (
        "Tokens by model, agent and kind: in, cached (among those in), out.",
        ("model", "agent", "kind"),
    ),
    "rayfactory_model_cost_dollars_total": ("US dollars by model and agent.", ("model", "agent")),
}
"""The same of what only grows, over the whole run: a process that goes on with one begins with what it has come to."""

RUN = "run"
"""Tag of them all: the `run_dir`."""

STAGES = ("plan", "produce", "parse", "execute", "embed", "admit", "judge")
STAGE = "rayfactory_stage_seconds"
STAGE_HELP = (
    "Seconds that a stage took, waiting for its turn included: parse, execute, embed and admit a block of candidates; "
    "plan, produce and judge a round."
)
BOUNDS_S = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0]

_PLAIN = " " + string.punctuation.translate({ord(char): None for char in '"%\\'})


class Metrics:
    """The metrics of this process's run. Ray has to be connected.

    Ray exports those of a process for a while after its end, so every one says in a tag of which run it is.

    Args:
        run: the `run_dir` of the run.
    """

    def __init__(self, run: str) -> None:
        from ray.util import metrics

        self._run = _labels({RUN: run})
        self._gauges: dict[str, Gauge] = {
            name: metrics.Gauge(name, text, (RUN, *tags)) for name, (text, tags) in GAUGES.items()
        }
        self._counters: dict[str, Counter] = {
            name: metrics.Counter(name, text, (RUN, *tags)) for name, (text, tags) in COUNTERS.items()
        }
        self._stage = metrics.Histogram(STAGE, STAGE_HELP, BOUNDS_S, (RUN, "stage"))
        self._counted: dict[tuple[str, tuple[str, ...]], float] = {}

    def took(self, stage: str, seconds: float) -> None:
        """A stage (one of `STAGES`) took so long."""
        self._stage.observe(seconds, self._run | {"stage": stage})

    def show(self, progress: Progress) -> None:
        """Say what there is to be said of a run."""
        self._set("rayfactory_rows", progress.admitted)
        self._set("rayfactory_target_rows", progress.target or 0)
        self._set("rayfactory_round", progress.round)
        for state in ("GEN", "EXP"):
            self._set("rayfactory_state", progress.state == state, state=state)
        if progress.similarity is not None:
            self._set("rayfactory_similarity_ratio", progress.similarity)
        self._set("rayfactory_tables", progress.tables)
        self._set("rayfactory_tables_covered", progress.tables_covered)
        self._set("rayfactory_candidates_waiting", max(0, progress.written_ahead))
        rejected = progress.reasons
        self._count("rayfactory_candidates_total", progress.candidates - rejected.total(), outcome="admitted")
        for reason, count in rejected.items():
            self._count("rayfactory_candidates_total", count, outcome=reason)
        if progress.models is not None:
            for slot in progress.models.slots:
                self._set("rayfactory_model_requests_in_flight", slot.in_flight, model=slot.model)
                self._set("rayfactory_model_requests_waiting", slot.waiting, model=slot.model)
            for row in progress.models.ledger:
                self._book(row)

    def _book(self, row: Mapping[str, Any]) -> None:
        whose = {"model": str(row["model"]), "agent": str(row["agent"])}
        for kind in ("in", "cached", "out"):
            self._count("rayfactory_model_tokens_total", row[f"tokens_{kind}"], **whose, kind=kind)
        self._count("rayfactory_model_cost_dollars_total", row["cost_usd"], **whose)

    def _set(self, name: str, value: float, **tags: str) -> None:
        self._gauges[name].set(float(value), self._run | _labels(tags))

    def _count(self, name: str, total: float, **tags: str) -> None:
        """Let a counter have grown to a total."""
        key = name, tuple(tags.values())
        grown = total - self._counted.get(key, 0.0)
        if grown > 0:
            self._counters[name].inc(grown, self._run | _labels(tags))
            self._counted[key] = total


def _labels(tags: Mapping[str, str]) -> dict[str, str]:
    """Return tags as Ray can record them, which takes ASCII alone: what else a name has stands as in an address."""
    return {name: quote(value, safe=_PLAIN) for name, value in tags.items()}
