"""What does the way to a model cost? Tokens a second through agents, client and Ray Serve, beside vLLM alone.

    python -m benchmarks.serving [--requests 4] [--in-flight 32] [--models packaged tiny]

Prints one JSON object. The Generation Agent answers requests over TPC-DS with a model, decoded by a grammar a query;
then `vllm.LLM.generate` gets the very same prompts, seeds and grammars in one list, already in tokens. `ratio` is the
first in tokens a second over the second. `packaged` has 270 million parameters; `tiny` has none to speak of, so that
its ratio is what the way costs where a model costs nothing. With four requests or more, a ratio of `packaged` below 0.9
ends it with exit code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rayfactory.agents import generation
from rayfactory.agents.player import player_of
from rayfactory.agents.table_selection import select_tables
from rayfactory.agents.writing import Desk, write
from rayfactory.cluster.authors import GenerationAgent
from rayfactory.cluster.gateway import start_gateway
from rayfactory.cluster.serving import app_settings, serve_models
from rayfactory.cluster.session import connected
from rayfactory.compose import compose
from rayfactory.config import Config
from rayfactory.databases.engine import Database
from rayfactory.databases.schema import Schema
from rayfactory.errors import CompletionError
from rayfactory.models.completion import CallKey, Completion, Prompt
from rayfactory.models.packaged import PACKAGED_WEIGHTS, packaged_model
from rayfactory.models.prompts import Prompts
from rayfactory.records import Request
from rayfactory.runs import open_databases
from rayfactory.tools.execution import Connections, ExecutionTool
from tests.cluster.tiny_model import make_tiny_model

FULL_REQUESTS = 4
MIN_RATIO = 0.9

Asked = list[tuple[CallKey, Prompt]]


def requests_over(schemas: Mapping[str, Schema], num_requests: int, num_queries: int) -> list[Request]:
    """Return generation requests as the rules of the planning agents make them."""
    (schema,) = schemas.values()
    made = []
    for index in range(num_requests):
        tables = select_tables(schema, {}, 8, random.Random(index))
        made.append(Request(0, index, "generation", schema.database, tables, (), (), num_queries, index))
    return made


def prompts_of(
    config: Config, databases: Mapping[str, Database], schemas: Mapping[str, Schema], requests: Sequence[Request]
) -> Asked:
    """Return what the agent asks a model for these requests."""
    asked: Asked = []

    async def note(_slot: object, key: CallKey, prompt: Prompt) -> Completion:
        asked.append((key, prompt))
        raise CompletionError("only noted")

    async def ask_all(desk: Desk) -> None:
        player = player_of(config, "generation", note, Prompts())
        assert player is not None
        for request in requests:
            await write(request, generation.CRAFT, player, desk, self_correction=False)

    with ThreadPoolExecutor(max_workers=1) as thread:
        tool = ExecutionTool(databases, schemas, config.execution)
        asyncio.run(ask_all(Desk(schemas, Connections(databases, config.execution), tool, thread)))
    return asked


def through_everything(
    config: Config, databases: Mapping[str, Database], schemas: Mapping[str, Schema], requests: Sequence[Request]
) -> dict[str, float]:
    """Return tokens and seconds of the agent's answers through gateway, client, Ray Serve and vLLM."""
    import ray

    with (
        connected(replace(config.cluster, dashboard=False)),
        serve_models([config.models.local], Path(config.data_dir), _say) as (local,),
        tempfile.TemporaryDirectory() as journal,
    ):
        served = replace(
            config, models=replace(config.models, local=replace(config.models.local, base_url=local.base_url))
        )
        gateway = start_gateway({"local": served.models.local}, Path(journal), None)
        actor: Any = ray.remote(GenerationAgent)
        author = actor.options(num_cpus=0).remote(served, databases, schemas)
        ray.get([gateway.status.remote(), author.__ray_ready__.remote()])
        begun = time.monotonic()
        ray.get([author.answer.remote(request) for request in requests])
        wall_s = time.monotonic() - begun
        ledger = ray.get(gateway.status.remote()).ledger
        ray.get(gateway.close.remote())
    return {
        "completions": sum(row["requests"] for row in ledger),
        "tokens_in": sum(row["tokens_in"] for row in ledger),
        "tokens": sum(row["tokens_out"] for row in ledger),
        "wall_s": wall_s,
    }


def alone(config: Config, weights: str, asked: Asked) -> dict[str, float]:
    """Return tokens and seconds of `vllm.LLM.generate` over the same prompts, in a process of its own."""
    settings = app_settings(config.models.local, weights)
    engine = {
        name: value for name, value in settings["engine_kwargs"].items() if name != "enable_prompt_tokens_details"
    }
    job = {
        "engine": {**engine, "model": weights},
        "prompts": [{**asdict(prompt), "seed": key.sampling_seed()} for key, prompt in asked],
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving", "--reference"],
        input=json.dumps(job),
        env={**os.environ, **settings["runtime_env"]["env_vars"], "VLLM_LOGGING_LEVEL": "ERROR"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def reference(job: dict[str, Any]) -> dict[str, float]:
    """Do what `alone` asks for; the engine is warmed up first, as Serve's is."""
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    llm = LLM(**job["engine"])
    tokenizer = llm.get_tokenizer()
    prompts, sampling = [], []
    for prompt in job["prompts"]:
        messages = [{"role": role, "content": prompt[role]} for role in ("system", "user")]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        prompts.append({"prompt_token_ids": tokenizer.encode(text, add_special_tokens=False)})
        grammar = prompt["grammar"]
        sampling.append(
            SamplingParams(
                temperature=prompt["temperature"],
                top_p=prompt["top_p"],
                max_tokens=prompt["max_tokens"],
                seed=prompt["seed"],
                structured_outputs=StructuredOutputsParams(grammar=grammar) if grammar else None,
            )
        )
    warm_up = SamplingParams(max_tokens=1, structured_outputs=StructuredOutputsParams(grammar='root ::= "SELECT"'))
    llm.generate([{"prompt_token_ids": prompts[0]["prompt_token_ids"][:8]}], warm_up, use_tqdm=False)
    begun = time.monotonic()
    outputs = llm.generate(prompts, sampling, use_tqdm=False)
    wall_s = time.monotonic() - begun
    return {
        "completions": len(outputs),
        "tokens_in": sum(len(output.prompt_token_ids) for output in outputs),
        "tokens": sum(len(output.outputs[0].token_ids) for output in outputs),
        "wall_s": wall_s,
    }


def measure(name: str, config: Config, num_requests: int) -> dict[str, Any]:
    """Return both speeds for one model, and their ratio."""
    databases, schemas = open_databases(config)
    requests = requests_over(schemas, num_requests, config.round.queries_per_request)
    asked = prompts_of(config, databases, schemas, requests)
    ours = through_everything(config, databases, schemas, requests)
    weights = config.models.local.serving.weights
    folder = str(packaged_model(Path(config.data_dir), _say)) if weights == PACKAGED_WEIGHTS else weights
    theirs = alone(config, folder, asked)
    speeds = {side: result["tokens"] / result["wall_s"] for side, result in (("ours", ours), ("reference", theirs))}
    return {
        "model": name,
        "ours": {**ours, "tokens_per_s": round(speeds["ours"], 1)},
        "reference": {**theirs, "tokens_per_s": round(speeds["reference"], 1)},
        "ratio": round(speeds["ours"] / speeds["reference"], 3),
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=FULL_REQUESTS, help="generation requests")
    parser.add_argument("--queries", type=int, default=10, help="calls of one request")
    parser.add_argument("--in-flight", type=int, help="calls at once; the model's own setting if not given")
    parser.add_argument("--models", nargs="+", choices=("packaged", "tiny"), default=["packaged", "tiny"])
    parser.add_argument("--data-dir", help="where the packaged model is unpacked")
    parser.add_argument("--reference", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.reference:
        print(json.dumps(reference(json.load(sys.stdin))))
        return
    logging.getLogger("httpx").setLevel(logging.WARNING)
    overrides = ["+benchmark=tpcds", "models=vllm_cpu", "models.self_correction=false", "run_dir=unused"]
    overrides.append(f"round.queries_per_request={arguments.queries}")
    if arguments.in_flight:
        overrides.append(f"models.local.max_in_flight={arguments.in_flight}")
    if arguments.data_dir:
        overrides.append(f"data_dir={arguments.data_dir}")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            extra: list[str] = []
            if name == "tiny":
                make_tiny_model(Path(folder))
                # Its tokens are bytes.
                extra = ["models.local.name=tiny", "models.local.context_tokens=16384"]
                extra.append(f"models.local.serving.weights={folder}")
            results.append(measure(name, compose([*overrides, *extra]), arguments.requests))
    print(json.dumps({"benchmark": "serving", "cpus": os.cpu_count(), "results": results}))
    for result in results:
        if arguments.requests >= FULL_REQUESTS and result["model"] == "packaged" and result["ratio"] < MIN_RATIO:
            sys.exit(f"ratio {result['ratio']} is less than {MIN_RATIO}")


if __name__ == "__main__":
    main()
