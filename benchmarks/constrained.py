"""What does decoding by the schema grammar do for a small model, and are the words its own? Prints one JSON object.

    python -m benchmarks.constrained [--requests 6] [--grammars 12 --samples 16]

The packaged model, through `vllm.LLM.generate`, answers the Generation Agent's own prompts over TPC-DS, ten queries a
request: each with a grammar of its own, and without. `sampler` is the control: it walks the same grammars and takes
each alternative with equal chance. Then the model answers some of the prompts several times, and so does the sampler;
`choices` compares how often they took which alternative:

- `model_or_sampler`: a permutation test of the hypothesis that both choose alike. Who wrote which sentence is
  shuffled within each grammar; the statistic is the sum over all choice points of chi-square. `p_value` is the share of
  shuffles that reach it, and `grammars_below_0.05` the share of grammars where it is below 0.05 alone.
- `sampler_or_sampler`: the same for two halves of the sampler's own sentences, which must not differ.
- `prompt_or_none`: the same for the model with its prompt and with an empty one: what it has read decides, and not
  merely the way in which its tokens fall into the grammar.
- `bits`: mean information of a sentence under the sampler, in bits.

With six requests or more, an executability below 0.95 with the grammar ends it with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.quality import measure_diversity, parse_all
from benchmarks.serving import Asked, prompts_of, requests_over
from rayfactory.agents.writing import CALLS_PER_REQUEST
from rayfactory.cluster.serving import app_settings
from rayfactory.compose import compose
from rayfactory.config import Config
from rayfactory.databases.schema import Schema
from rayfactory.models import replies
from rayfactory.models.completion import Prompt
from rayfactory.models.grammar import Grammar, draw_grammar
from rayfactory.models.grammar.cfg import Terminal
from rayfactory.models.packaged import packaged_model
from rayfactory.records import Request
from rayfactory.runs import open_databases
from rayfactory.tools.execution import Connections, ExecutionTool, examine

FULL_REQUESTS = 6
MIN_EXECUTABILITY = 0.95

NUM_SHUFFLES = 2_000

EXAMPLES = 3

Choice = tuple[str, int]
"""A rule and the position of the alternative that was taken."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model wrote."""

    text: str
    num_tokens: int
    truncated: bool


class Model:
    """The packaged model in vLLM, with the settings that Ray Serve would get."""

    def __init__(self, config: Config) -> None:
        weights = str(packaged_model(Path(config.data_dir), _say))
        settings = app_settings(config.models.local, weights)
        os.environ.update(settings["runtime_env"]["env_vars"] | {"VLLM_LOGGING_LEVEL": "ERROR"})
        from vllm import LLM

        engine = {
            key: value for key, value in settings["engine_kwargs"].items() if key != "enable_prompt_tokens_details"
        }
        self._llm = LLM(model=weights, **engine)

    def answer(self, asked: Sequence[tuple[Prompt, int]]) -> list[Reply]:
        """Return the replies to prompts, each with a seed of its sampling."""
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        tokenizer = self._llm.get_tokenizer()
        prompts, sampling = [], []
        for prompt, seed in asked:
            messages = [{"role": role, "content": getattr(prompt, role)} for role in ("system", "user")]
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            prompts.append({"prompt_token_ids": tokenizer.encode(text, add_special_tokens=False)})
            sampling.append(
                SamplingParams(
                    temperature=prompt.temperature,
                    top_p=prompt.top_p,
                    max_tokens=prompt.max_tokens,
                    seed=seed,
                    structured_outputs=StructuredOutputsParams(grammar=prompt.grammar) if prompt.grammar else None,
                )
            )
        begun = time.monotonic()
        outputs = [one.outputs[0] for one in self._llm.generate(prompts, sampling, use_tqdm=False)]
        _say(f"{len(asked)} replies in {time.monotonic() - begun:.0f} s")
        return [Reply(one.text, len(one.token_ids), one.finish_reason == "length") for one in outputs]


def grammars_of(
    requests: Sequence[Request], asked: Asked, schemas: Mapping[str, Schema], connections: Connections
) -> list[Grammar]:
    """Return the grammars that the prompts carry, as data.

    Args:
        requests: one for each prompt.
        asked: prompts with their keys.

    Raises:
        RuntimeError: one of them was drawn in another way.
    """
    found = []
    for request, (key, prompt) in zip(requests, asked, strict=True):
        place = key.ordinal % CALLS_PER_REQUEST
        rng = random.Random(f"{request.rng_seed}/{place}")
        grammar = draw_grammar(schemas[request.database], request.tables, rng, connections.get(request.database))
        if grammar.ebnf() != prompt.grammar:
            raise RuntimeError(f"grammar {place} of request {request.index} is not the one that its prompt carries")
        found.append(grammar)
    return found


def levelled(grammar: Grammar) -> Grammar:
    """Return the grammar with equal weights."""
    return Grammar(
        {name: tuple(replace(one, weight=1.0) for one in alternatives) for name, alternatives in grammar.rules.items()}
    )


def choices(grammar: Grammar, sentence: str) -> tuple[Choice, ...] | None:
    """Return the alternatives that make up a sentence, the first way of several; None for no sentence."""

    @cache
    def ends(symbol: str, start: int) -> dict[int, tuple[Choice, ...]]:
        found: dict[int, tuple[Choice, ...]] = {}
        for position, alternative in enumerate(grammar.rules[symbol]):
            reached: dict[int, tuple[Choice, ...]] = {start: ((symbol, position),)}
            for part in alternative.symbols:
                following: dict[int, tuple[Choice, ...]] = {}
                for at, taken in reached.items():
                    if isinstance(part, Terminal):
                        if sentence.startswith(part.text, at):
                            following.setdefault(at + len(part.text), taken)
                    else:
                        for end, more in ends(part.name, at).items():
                            following.setdefault(end, taken + more)
                reached = following
            for end, taken in reached.items():
                found.setdefault(end, taken)
        return found

    return ends("root", 0).get(len(sentence))


def bits(grammar: Grammar, taken: Sequence[Choice]) -> float:
    """Return the information of a sentence where each alternative has an equal chance."""
    return sum(math.log2(len(grammar.rules[rule])) for rule, _ in taken)


def shuffled_statistics(
    a: Sequence[Sequence[Choice]], b: Sequence[Sequence[Choice]], generator: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Return the sum of chi-square over choice points, first as it is and then `NUM_SHUFFLES` times shuffled."""
    sentences = [*a, *b]
    columns = {
        choice: position for position, choice in enumerate(sorted({one for taken in sentences for one in taken}))
    }
    counts_SC = np.zeros((len(sentences), len(columns)))
    for row, taken in enumerate(sentences):
        for choice, number in Counter(taken).items():
            counts_SC[row, columns[choice]] = number
    rules = [rule for rule, _ in columns]
    same_CC = np.array([[own == other for other in rules] for own in rules], dtype=float)
    first = np.arange(len(sentences)) < len(a)
    sides_NS = np.array([first, *(generator.permutation(first) for _ in range(NUM_SHUFFLES))], dtype=float)
    total_C = counts_SC.sum(axis=0)
    of_rule_C = same_CC @ total_C
    statistic = np.zeros(len(sides_NS))
    for side_NS in (sides_NS, 1 - sides_NS):
        seen_NC = side_NS @ counts_SC
        expected_NC = total_C * (seen_NC @ same_CC) / of_rule_C
        difference_NC = np.where(expected_NC > 0, (seen_NC - expected_NC) ** 2 / np.maximum(expected_NC, 1e-12), 0)
        statistic += difference_NC.sum(axis=1)
    return statistic


def compare(pairs: Sequence[tuple[Sequence[Sequence[Choice]], Sequence[Sequence[Choice]]]]) -> dict[str, Any]:
    """Return how likely it is that both sides of all pairs choose alike."""
    generator = np.random.default_rng(0)
    statistics_GN = np.array([shuffled_statistics(a, b, generator) for a, b in pairs])

    def p_value(values: npt.NDArray[np.float64]) -> float:
        # The figures of equal shuffles differ in their last bits.
        return float(np.mean(values >= values[0] * (1 - 1e-9)))

    alone = [p_value(values) for values in statistics_GN]
    pooled = statistics_GN.sum(axis=0)
    return {
        "p_value": round(p_value(pooled), 5),
        "chi_square": round(float(pooled[0]), 1),
        "chi_square_shuffled": round(float(pooled[1:].mean()), 1),
        "grammars_below_0.05": round(statistics.fmean(p < 0.05 for p in alone), 3),
    }


def measure_arm(
    requests: Sequence[Request], queries: Sequence[str], tool: ExecutionTool, dialect: str
) -> dict[str, Any]:
    """Return how many queries run, and how much they differ."""
    ran = [
        tool.run(request.database, sql, examine(sql, dialect)) for request, sql in zip(requests, queries, strict=True)
    ]
    failed = [(one.reason, one.detail, sql) for one, sql in zip(ran, queries, strict=True) if one.reason is not None]
    parsed, _ = parse_all(queries, [request.database for request in requests], dialect)
    diversity = measure_diversity(parsed, {}) if len(parsed) > 1 else {}
    return {
        "executability": round(1 - len(failed) / len(ran), 4),
        "non_empty": round(sum(bool(one.row_count) for one in ran) / len(ran), 4),
        "parsed": len(parsed),
        "failures": dict(Counter(reason for reason, _, _ in failed)),
        "failure_examples": [{"detail": detail[:300], "sql": sql[:600]} for _, detail, sql in failed[:EXAMPLES]],
        "distinct": len(set(queries)),
        "mean_pairwise_similarity": diversity.get("mean_pairwise_similarity"),
        "vendi": diversity.get("vendi"),
    }


def measure_tokens(replied: Sequence[Reply]) -> dict[str, Any]:
    """Return how long the replies are."""
    return {
        "tokens": sum(one.num_tokens for one in replied),
        "tokens_most": max(one.num_tokens for one in replied),
        "truncated": sum(one.truncated for one in replied),
        "bytes_per_token_least": round(min(len(one.text.encode()) / max(one.num_tokens, 1) for one in replied), 2),
    }


def measure(config: Config, num_requests: int, num_grammars: int, num_samples: int) -> dict[str, Any]:
    """Measure everything."""
    databases, schemas = open_databases(config)
    of_ten = requests_over(schemas, num_requests, config.round.queries_per_request)
    keyed = prompts_of(config, databases, schemas, of_ten)
    asked = [prompt for _, prompt in keyed]
    requests = [of_ten[key.ordinal // CALLS_PER_REQUEST] for key, _ in keyed]
    grammars = grammars_of(requests, keyed, schemas, Connections(databases, config.execution))
    tool = ExecutionTool(databases, schemas, config.execution)
    (dialect,) = {schema.dialect for schema in schemas.values()}
    model = Model(config)
    seeds = [key.sampling_seed() for key, _ in keyed]
    report: dict[str, Any] = {
        "requests": num_requests,
        "queries": len(asked),
        "grammars": {
            "alternatives": _quartiles([grammar.size for grammar in grammars]),
            "log2_derivations": _quartiles([math.log2(grammar.num_derivations()) for grammar in grammars]),
            "max_bytes": max(grammar.max_bytes() for grammar in grammars),
        },
    }

    def book(name: str, result: dict[str, Any]) -> None:
        # What is known already is not lost with a run that is given up.
        _say(json.dumps({name: result}))
        report[name] = result

    def book_replies(name: str, prompts: Sequence[Prompt]) -> None:
        replied = model.answer(list(zip(prompts, seeds, strict=True)))
        queries = [replies.one_query(one.text, truncated=one.truncated) for one in replied]
        book(name, measure_arm(requests, queries, tool, dialect) | measure_tokens(replied))

    book_replies("with_grammar", asked)
    book_replies("without_grammar", [replace(prompt, grammar="") for prompt in asked])
    sampled = [levelled(grammar).sample(random.Random(place)) for place, grammar in enumerate(grammars)]
    book("sampler", measure_arm(requests, sampled, tool, dialect))
    chosen = range(0, len(asked), max(1, len(asked) // num_grammars))[:num_grammars]
    several = [(asked[place], 1_000 * number + place) for place in chosen for number in range(num_samples)]
    by_prompt = model.answer(several)
    by_none = model.answer([(replace(prompt, system="", user=""), 500_000 + seed) for prompt, seed in several])
    book("choices", measure_choices([grammars[place] for place in chosen], by_prompt, by_none, num_samples))
    return report


def measure_choices(
    grammars: Sequence[Grammar], by_prompt: Sequence[Reply], by_none: Sequence[Reply], num_samples: int
) -> dict[str, Any]:
    """Compare what the model chose with what the sampler did, grammar by grammar."""
    read, blind, drawn = [], [], []
    for place, grammar in enumerate(grammars):
        own = slice(place * num_samples, (place + 1) * num_samples)
        read.append([taken for one in by_prompt[own] if (taken := choices(grammar, one.text)) is not None])
        blind.append([taken for one in by_none[own] if (taken := choices(grammar, one.text)) is not None])
        rng, even = random.Random(place), levelled(grammar)
        sentences = [even.sample(rng) for _ in range(2 * num_samples)]
        drawn.append([taken for one in sentences if (taken := choices(grammar, one)) is not None])
    half = num_samples
    return {
        "samples": num_samples,
        "sentences_of_the_grammar": sum(map(len, read)) / (len(grammars) * num_samples),
        "model_or_sampler": compare([(a, b[:half]) for a, b in zip(read, drawn, strict=True)]),
        "sampler_or_sampler": compare([(b[:half], b[half:]) for b in drawn]),
        "prompt_or_none": compare(list(zip(read, blind, strict=True))),
        "bits": {
            name: round(
                statistics.fmean(
                    bits(grammar, one) for grammar, taken in zip(grammars, side, strict=True) for one in taken
                ),
                2,
            )
            for name, side in (("model", read), ("sampler", drawn))
        },
        "distinct_share": {
            name: round(statistics.fmean(len(set(taken[:half])) / half for taken in side), 3)
            for name, side in (("model", read), ("sampler", drawn))
        },
    }


def _quartiles(values: Sequence[float]) -> list[float]:
    return [round(value, 1) for value in statistics.quantiles(values, n=4)]


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=FULL_REQUESTS, help="generation requests, of ten queries each")
    parser.add_argument("--grammars", type=int, default=12, help="queries that are answered several times")
    parser.add_argument("--samples", type=int, default=16, help="answers to each of those")
    parser.add_argument("--data-dir", help="where the packaged model is unpacked")
    arguments = parser.parse_args()
    overrides = ["+benchmark=tpcds", "models=vllm_cpu", "models.self_correction=false", "run_dir=unused"]
    if arguments.data_dir:
        overrides.append(f"data_dir={arguments.data_dir}")
    # What vLLM prints to the standard output is not part of the result.
    with os.fdopen(os.dup(1), "w") as result:
        os.dup2(2, 1)
        begun = time.monotonic()
        report = measure(compose(overrides), arguments.requests, arguments.grammars, arguments.samples)
        report = {"benchmark": "constrained", **report, "wall_s": round(time.monotonic() - begun, 1)}
        print(json.dumps(report, indent=2), file=result)
    executability = report["with_grammar"]["executability"]
    if arguments.requests >= FULL_REQUESTS and executability < MIN_EXECUTABILITY:
        sys.exit(f"executability {executability} is less than {MIN_EXECUTABILITY}")


if __name__ == "__main__":
    main()
