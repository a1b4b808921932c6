"""The judging of one round as a Ray Dataset: parse and normalise, execute, embed.

A block is a fixed number of candidates in their order, whatever the number of workers, so that the critic sees the same
blocks on every machine. The stages are tasks; `ToolWorker` and `Encoder` actors hold what has state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayfactory.records import Candidate, Execution, Features
from rayfactory.tools.execution import examine

TASK_CPUS = 0.25
"""CPU share of a stage's task: it parses for a few milliseconds, then waits for an actor."""

_INPUT = pa.schema(
    [
        pa.field("block", pa.int64()),
        pa.field("position", pa.int64()),
        pa.field("database", pa.string()),
        pa.field("dialect", pa.string()),
        pa.field("sql", pa.string()),
    ]
)
_EXECUTION = pa.schema(
    [
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("text", pa.string()),
        pa.field("canonical", pa.string()),
        pa.field("tables", pa.list_(pa.string())),
        pa.field("features", pa.struct([(name, pa.int64()) for name in Features.__slots__])),
        pa.field("row_count", pa.int64()),
        pa.field("execution_ms", pa.float64()),
    ]
)


def run_and_embed(
    candidates: Sequence[Candidate], workers: Sequence[Any], encoders: Mapping[str, Any], block_size: int
) -> Iterator[tuple[list[int], list[Execution], list[npt.NDArray[np.float32] | None]]]:
    """Yield (positions, executions, vectors) of one block after the other, in the order of the candidates.

    Args:
        candidates: of one round, in order.
        workers: handles of `ToolWorker` actors.
        encoders: handles of `Encoder` actors, by the id of their node.
        block_size: candidates in a block.
    """
    import ray

    blocks = [
        pa.Table.from_pylist(
            [
                {"block": start // block_size, "position": start + i, **_columns(candidate)}
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
        .map_batches(partial(execute_block, workers=list(workers)), **stages)
        .map_batches(partial(embed_block, encoders=dict(encoders)), **stages)
    )
    for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        vectors = [None if vector is None else np.asarray(vector, np.float32) for vector in block["vector"].to_pylist()]
        yield block["position"].to_pylist(), _executions(block), vectors


def _columns(candidate: Candidate) -> dict[str, str]:
    return {"database": candidate.database, "dialect": candidate.dialect, "sql": candidate.sql}


def parse_block(block: pa.Table) -> pa.Table:
    """Add what parsing tells of each candidate."""
    return _with_executions(block, [examine(sql, dialect) for sql, dialect in _rows(block, "sql", "dialect")])


def execute_block(block: pa.Table, workers: Sequence[Any]) -> pa.Table:
    """Run each candidate that may run."""
    import ray

    work = [
        (database, sql, execution)
        for (database, sql), execution in zip(_rows(block, "database", "sql"), _executions(block), strict=True)
    ]
    return _with_executions(block, ray.get(_worker(block, workers).execute.remote(work)))


def embed_block(block: pa.Table, encoders: Mapping[str, Any]) -> pa.Table:
    """Add the vector of each candidate that ran; the others have none."""
    import ray

    executions = _executions(block)
    ran = [execution.text for execution in executions if execution.reason is None]
    vectors = iter(ray.get(_encoder(block, encoders).embed.remote(ran)) if ran else ())
    column = [next(vectors).tolist() if execution.reason is None else None for execution in executions]
    return block.append_column("vector", pa.array(column, pa.list_(pa.float32())))


def _worker(block: pa.Table, workers: Sequence[Any]) -> Any:
    return workers[block["block"][0].as_py() % len(workers)]


def _encoder(block: pa.Table, encoders: Mapping[str, Any]) -> Any:
    """Return the encoder of the node that this runs on; where it has none, another one, by turns."""
    import ray

    own = encoders.get(ray.get_runtime_context().get_node_id())
    return _worker(block, list(encoders.values())) if own is None else own


def _rows(block: pa.Table, *names: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(block[name].to_pylist() for name in names), strict=True)


def _with_executions(block: pa.Table, executions: Sequence[Execution]) -> pa.Table:
    columns = pa.Table.from_pylist([asdict(execution) for execution in executions], schema=_EXECUTION)
    kept = block.select(_INPUT.names)
    for name in _EXECUTION.names:
        kept = kept.append_column(name, columns[name])
    return kept


def _executions(block: pa.Table) -> list[Execution]:
    return [
        Execution(
            reason,
            detail,
            text,
            canonical,
            tuple(tables),
            None if counts is None else Features(**counts),
            row_count,
            execution_ms,
        )
        for reason, detail, text, canonical, tables, counts, row_count, execution_ms in _rows(block, *_EXECUTION.names)
    ]
