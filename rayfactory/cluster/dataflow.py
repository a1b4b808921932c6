"""The judging of one round as a Ray Dataset: parse and normalise, execute, embed.

A block is a fixed number of candidates in their order, whatever the number of workers, so that the critic sees the same
blocks on every machine. The stages are tasks; `ToolWorker` and `Encoder` actors hold what has state.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial, wraps
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayfactory.cluster.workplaces import Homes
from rayfactory.records import Candidate, Execution, Features, Tree
from rayfactory.tools.execution import examine

logger = logging.getLogger("rayfactory.cluster")

TASK_CPUS = 0.5
"""CPU share of a block's task, which parses for a moment and then waits for actors. So there are two blocks at work for
each CPU: with more of them the first is ready when the last is, and the critic has nothing to do until then."""

_INPUT = pa.schema(
    [
        pa.field("block", pa.int64()),
        pa.field("position", pa.int64()),
        pa.field("database", pa.string()),
        pa.field("dialect", pa.string()),
        pa.field("sql", pa.string()),
        pa.field("ended", pa.list_(pa.string())),
    ]
)
_EXECUTION = pa.schema(
    [
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("text", pa.string()),
        pa.field("canonical", pa.string()),
        pa.field("words", pa.string()),
        pa.field("labels", pa.list_(pa.int64())),
        pa.field("leftmost", pa.list_(pa.int32())),
        pa.field("tables", pa.list_(pa.string())),
        pa.field("features", pa.struct([(name, pa.int64()) for name in Features.__slots__])),
        pa.field("row_count", pa.int64()),
        pa.field("execution_ms", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Workers:
    """Handles of `ToolWorker` actors, and which of them are to work with which database."""

    handles: Sequence[Any]
    homes: Homes

    def share(self, number: int, databases: Sequence[str]) -> dict[Any, list[int]]:
        """Return what each worker has of a block: places of its candidates, in ascending order.

        Args:
            number: of the block.
            databases: of its candidates.
        """
        everybody = range(len(self.handles))
        near: dict[str, Sequence[int]] = dict.fromkeys(databases, everybody)
        if self.homes.places is not None:
            near = {name: [n for n in self.homes.of(name) if n in everybody] or everybody for name in near}
        shares: dict[Any, list[int]] = {}
        for place, database in enumerate(databases):
            who = near[database]
            shares.setdefault(self.handles[who[number % len(who)]], []).append(place)
        return shares


Took = Callable[[str, float], None]
"""Is told of a stage, and the seconds that it took for a block."""


def run_and_embed(
    candidates: Sequence[Candidate],
    first: int,
    workers: Workers,
    encoders: Mapping[str, Any],
    block_size: int,
    took: Took,
) -> Iterator[tuple[list[int], list[Execution], list[npt.NDArray[np.float32] | None]]]:
    """Yield (positions, executions, vectors) of one block after the other, in the order of the candidates.

    Args:
        candidates: of one round, in order.
        first: position of the first of them in the round: that of the beginning of a block.
        workers: that run them.
        encoders: handles of `Encoder` actors, by the id of their node.
        block_size: candidates in a block.
        took: told of each stage of each block.
    """
    import ray

    leave_alone_what_is_there()
    blocks = [
        pa.Table.from_pylist(
            [
                {"block": (first + start) // block_size, "position": first + start + i, **_columns(candidate)}
                for i, candidate in enumerate(candidates[start : start + block_size])
            ],
            schema=_INPUT,
        )
        for start in range(0, len(candidates), block_size)
    ]
    if not blocks:
        return
    stages: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow", "num_cpus": TASK_CPUS}
    dataset: Any = (
        ray.data.from_arrow(blocks)
        .map_batches(parse_block, **stages)
        .map_batches(partial(execute_block, workers=workers), **stages)
        .map_batches(partial(embed_block, encoders=dict(encoders)), **stages)
    )
    for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for stage in ("parse", "execute", "embed"):
            took(stage, block[f"{stage}_s"][0].as_py())
        yield block["position"].to_pylist(), _executions(block), _arrays(block["vector"])


def _columns(candidate: Candidate) -> dict[str, Any]:
    return {name: getattr(candidate, name) for name in ("database", "dialect", "sql", "ended")}


def timed(work: Callable[..., pa.Table]) -> Callable[..., pa.Table]:
    """Have a stage add the seconds that it took as a column, ``<stage>_s`` of the function ``<stage>_block``.

    It keeps its name, by which Ray's dashboard shows it.
    """

    @wraps(work)
    def stage(*args: Any, **kwargs: Any) -> pa.Table:
        began = time.monotonic()
        found = work(*args, **kwargs)
        column = pa.array([time.monotonic() - began] * len(found), pa.float64())
        return found.append_column(f"{work.__name__.removesuffix('_block')}_s", column)

    return stage


@timed
def parse_block(block: pa.Table) -> pa.Table:
    """Add what parsing tells of each candidate."""
    leave_alone_what_is_there()
    examined = [_fields(_examined(*row)) for row in _rows(block, "sql", "dialect", "ended")]
    columns = pa.Table.from_pylist(examined, schema=_EXECUTION)
    for name in _EXECUTION.names:
        block = block.append_column(name, columns[name])
    return block


@cache
def leave_alone_what_is_there() -> None:
    """Spare the garbage collector the libraries of this process: to look through them takes as long as to parse."""
    gc.collect()
    gc.freeze()


def _examined(sql: str, dialect: str, ended: list[str] | None) -> Execution:
    examined = examine(sql, dialect)
    if ended is None or examined.reason is not None:
        return examined
    reason, detail = ended
    return replace(examined, reason=reason, detail=detail)


@timed
def execute_block(block: pa.Table, workers: Workers) -> pa.Table:
    """Run each candidate that may run."""
    # What running does not need, text and tree above all, stays here.
    work = [
        (database, sql, Execution(reason, detail, "", tables=tuple(tables)))
        for database, sql, reason, detail, tables in _rows(block, "database", "sql", "reason", "detail", "tables")
    ]
    shares = workers.share(block["block"][0].as_py(), [database for database, _, _ in work])
    begun = {worker: begin(worker, [work[place] for place in places]) for worker, places in shares.items()}
    found: dict[int, Execution] = {}
    for worker, places in shares.items():
        done = executed(worker, [work[place] for place in places], begun[worker])
        found.update(zip(places, done, strict=True))
    executions = [found[place] for place in range(len(work))]
    for name in ("reason", "detail", "tables", "row_count", "execution_ms"):
        field = _EXECUTION.field(name)
        column = pa.array([getattr(execution, name) for execution in executions], field.type)
        block = block.set_column(block.schema.get_field_index(name), field, column)
    return block


def begin(worker: Any, work: Sequence[tuple[str, str, Execution]]) -> Any:
    """Have a worker begin to run candidates; return the reference to what comes of them."""
    return worker.execute.options(max_task_retries=0).remote(work)


def executed(worker: Any, work: Sequence[tuple[str, str, Execution]], begun: Any) -> list[Execution]:
    """Return what came of candidates. Where their worker is lost, each of them runs once more, alone.

    Args:
        worker: that runs them.
        work: the candidates.
        begun: reference to what comes of them.
    """
    import ray

    try:
        executions: list[Execution] = ray.get(begun)
        return executions
    except ray.exceptions.RayActorError as error:
        logger.warning("a worker was lost; what it ran is run once more, one statement at a time: %s", error)
    executions = []
    for item in work:
        if item[2].reason is not None:  # it was not to run at all
            executions.append(item[2])
            continue
        ray.get(worker.ready.options(max_task_retries=-1).remote())
        try:
            executions += ray.get(begin(worker, [item]))
        except ray.exceptions.RayActorError:
            executions.append(replace(item[2], reason="crashed", detail="the worker that ran it alone was lost"))
    return executions


@timed
def embed_block(block: pa.Table, encoders: Mapping[str, Any]) -> pa.Table:
    """Add the vector of each candidate that ran; the others have none."""
    import ray

    ran = [text for text, reason in _rows(block, "text", "reason") if reason is None]
    vectors = iter(ray.get(_encoder(block, encoders).embed.remote(ran)) if ran else ())
    column = [next(vectors) if reason is None else None for reason in block["reason"].to_pylist()]
    return block.append_column("vector", pa.array(column, pa.list_(pa.float32())))


def _encoder(block: pa.Table, encoders: Mapping[str, Any]) -> Any:
    """Return the encoder of the node that this runs on; where it has none, another one, by turns."""
    import ray

    own = encoders.get(ray.get_runtime_context().get_node_id())
    if own is not None:
        return own
    others = list(encoders.values())
    return others[block["block"][0].as_py() % len(others)]


def _rows(block: pa.Table, *names: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(block[name].to_pylist() for name in names), strict=True)


def _fields(execution: Execution) -> dict[str, Any]:
    """Return an execution as a row of `_EXECUTION`."""
    fields = {name: getattr(execution, name, None) for name in _EXECUTION.names}
    if execution.features is not None:
        fields["features"] = asdict(execution.features)
    if execution.tree is not None:
        fields |= {"labels": execution.tree.labels, "leftmost": execution.tree.leftmost}
    return fields


def _executions(block: pa.Table) -> list[Execution]:
    trees = zip(_arrays(block["labels"]), _arrays(block["leftmost"]), strict=True)
    names = ("reason", "detail", "text", "canonical", "words", "tables", "features", "row_count", "execution_ms")
    return [
        Execution(
            reason,
            detail,
            text,
            canonical,
            words,
            None if labels is None or leftmost is None else Tree(labels, leftmost),
            tuple(tables),
            None if counts is None else Features(**counts),
            row_count,
            execution_ms,
        )
        for (labels, leftmost), (
            reason,
            detail,
            text,
            canonical,
            words,
            tables,
            counts,
            row_count,
            execution_ms,
        ) in zip(trees, _rows(block, *names), strict=True)
    ]


def _arrays(column: pa.ChunkedArray) -> list[npt.NDArray[Any] | None]:
    """Return a column of lists as arrays, with None where there is no list."""
    return [None if not value.is_valid else value.values.to_numpy() for chunk in column.chunks for value in chunk]
