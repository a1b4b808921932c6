"""Blocks of rows through actors, as a Ray Dataset, and what these need: models behind a gateway, workers for SQL."""

from __future__ import annotations

import asyncio
import logging
import pickle
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa

from rayfactory.cluster.dataflow import Workers, begin, executed
from rayfactory.cluster.gateway import ask_status, close_gateway, start_gateway
from rayfactory.cluster.losses import Losses, as_own, brief
from rayfactory.cluster.staff import with_shared
from rayfactory.config import ModelConfig, Slot
from rayfactory.errors import RayfactoryError
from rayfactory.models.chat import ChatStatus
from rayfactory.records import Execution

logger = logging.getLogger("rayfactory.cluster")

ACTOR_CPUS = 0.05
"""CPU share of an actor that mostly waits for models: it takes its turn with the workers."""

_LOOK_S = 0.5
"""How often the models are asked how they do, which brings the keys to a gateway that was started again."""

_CLOSE_S = 10.0

_NUMBER = "number of the block"


def flow(
    blocks: Sequence[pa.Table], actor: type, arguments: Sequence[Any], shared: Sequence[Any], num_actors: int
) -> Iterator[pa.Table]:
    """Yield what actors make of blocks, as each of them is done. A block that is lost with its actor is done once more.

    Args:
        blocks: of rows.
        actor: a class whose objects are called with a block and return one.
        arguments: of its constructor.
        shared: its further arguments, as `share` returned them: large ones, which each node gets once.
        num_actors: at work at a time.

    Raises:
        RayfactoryError: as an actor does; what else it raises ends as an EngineError, as does losing actors again and
            again.
    """
    import ray
    from ray.util.annotations import RayDeprecationWarning

    left = {
        number: block.append_column(_NUMBER, pa.array([number] * len(block))) for number, block in enumerate(blocks)
    }
    losses = Losses()
    while left:
        with warnings.catch_warnings():
            # There is no other way yet to have actors that are not restarted.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            dataset: Any = ray.data.from_arrow(list(left.values())).map_batches(
                _by_value(with_shared(actor, list(shared))),
                fn_constructor_args=tuple(arguments),
                batch_size=None,
                batch_format="pyarrow",
                num_cpus=ACTOR_CPUS,
                # Of one that may be restarted Ray says that it may not be able to; what is lost is done again here.
                ray_remote_args_fn=_not_restarted,
                compute=ray.data.ActorPoolStrategy(size=min(num_actors, len(left))),
            )
        try:
            for done in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for number, content in zip(done[_NUMBER].to_pylist(), done["found"].to_pylist(), strict=True):
                    found = pickle.loads(content)  # noqa: S301 - an actor of ours wrote it
                    if isinstance(found, RayfactoryError):
                        raise found
                    del left[number]
                    losses = Losses()  # it gets on
                    yield found
        except ray.exceptions.RayError as error:
            pause_s = losses.pause_s(error)
            if pause_s is None:
                raise as_own(error, "a block of rows could not be worked on") from error
            logger.warning("an actor was lost (%s); its block is done once more", brief(error))
            time.sleep(pause_s)


def _not_restarted() -> dict[str, Any]:
    return {"max_restarts": 0, "max_task_retries": 0}


def _by_value(actor: type) -> type:
    """Return the actor's class so that it gives as bytes what it made, or an error: Ray Data would not keep it."""

    class Actor(actor):  # type: ignore[misc]
        def __call__(self, block: pa.Table) -> pa.Table:
            import ray

            number = block[_NUMBER][0].as_py()
            try:
                found = super().__call__(block.drop_columns([_NUMBER]))
            except (RayfactoryError, ray.exceptions.RayError) as error:
                found = as_own(error, "a block of rows could not be worked on")
            return pa.table({_NUMBER: [number], "found": [pickle.dumps(found, pickle.HIGHEST_PROTOCOL)]})

    Actor.__name__ = Actor.__qualname__ = actor.__name__
    return Actor


def num_cpus() -> int:
    """Return the CPUs of the cluster, at least 1. Ray has to be connected."""
    import ray

    whole: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return max(1, int(whole.get("CPU", 0)))


def share(value: Any) -> Any:
    """Put a value where actors on every node find it; return what stands for it."""
    import ray

    return ray.put(value)


@contextmanager
def answering(
    models: Mapping[Slot, ModelConfig],
    journal: Path,
    max_cost_usd: float | None,
    on_status: Callable[[ChatStatus], None],
) -> Iterator[None]:
    """Have models answer behind their gateway for the length of a with statement.

    Args:
        models: the slots in use; none: there is nothing to ask.
        journal: folder of the journal.
        max_cost_usd: what may be spent; None: no limit.
        on_status: called with what is known of the models, from another thread, about twice a second.
    """
    import ray

    if not models:
        yield
        return
    gateway, ended = start_gateway(models, journal, max_cost_usd), threading.Event()

    def look() -> None:
        while not ended.wait(_LOOK_S):
            # A gateway that is lost is started again; the next call asks it.
            with suppress(ray.exceptions.RayError):
                on_status(ray.get(ask_status(gateway, models), timeout=_CLOSE_S))

    looks = threading.Thread(target=look, name="models", daemon=True)
    looks.start()
    try:
        yield
    finally:
        ended.set()
        looks.join()
        with suppress(ray.exceptions.RayError):
            # What is still open is written to the journal.
            ray.get(close_gateway(gateway, models), timeout=_CLOSE_S)


def running_on(workers: Workers) -> Callable[[str, str, Execution], Any]:
    """Return what runs one statement on the workers that are to work with its database, by turns."""
    turns = count()

    async def run(database: str, sql: str, examined: Execution) -> Execution:
        (worker,) = workers.share(next(turns), [database])
        work = [(database, sql, examined)]
        (found,) = await asyncio.to_thread(executed, worker, work, begin(worker, work))
        return found

    return run
