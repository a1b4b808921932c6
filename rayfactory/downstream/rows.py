"""What a text-to-SQL model learns from, as tokens: exactly those that it is shown, and has to write, when it is asked.

Questions about one database begin with the same prompt. What they have in common is kept once, and several of them go
through the model in one row, which has the common beginning once and behind it one question after the other; each sees
the beginning and itself (`Row`). The model computes for each what it would alone, in a fraction of the time.

Letters for shapes: T tokens of a row, C of them before one of a completion.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rayfactory.config import ModelConfig
from rayfactory.databases.schema import Schema
from rayfactory.downstream.questions import Question
from rayfactory.downstream.text_to_sql import completion_of, prompt_of
from rayfactory.errors import ConfigError
from rayfactory.models.prompts import Prompts
from rayfactory.models.protocol import messages_of, text_of
from rayfactory.reports.working import Say

Tokens = npt.NDArray[np.int32]

TOO_LONG = "too long"
LONG_REPLY = "with a longer query than is wanted"
OTHER_DATABASE = "of a database that is not there"
UNREADABLE = "the query would not be read"
"""Why a question is left out."""

_WRITTEN = 4
"""What a token of a completion takes of a row's room: it has a logit for each word of the vocabulary."""

_AT_ONCE = 256
"""Prompts that become tokens together."""


@dataclass(frozen=True, slots=True)
class Example:
    """One question with the query that answers it.

    Attributes:
        beginning: number of what its prompt begins with.
        tokens: what follows: the rest of the prompt, and the completion.
        num_asked: of these that are the prompt's; one at least.
    """

    beginning: int
    tokens: Tokens
    num_asked: int

    @property
    def num_written(self) -> int:
        """Tokens of the completion."""
        return len(self.tokens) - self.num_asked


@dataclass(frozen=True, slots=True)
class Examples:
    """What is learnt from.

    Attributes:
        beginnings: what prompts have in common, by number.
        each: the examples.
    """

    beginnings: tuple[Tokens, ...]
    each: tuple[Example, ...]

    def num_tokens(self, example: Example) -> int:
        """Return the length of prompt and completion together."""
        return len(self.beginnings[example.beginning]) + len(example.tokens)


@dataclass(frozen=True, slots=True)
class Turns:
    """One question as it is asked and answered.

    Attributes:
        database: that it is about.
        asked: the messages that the chat template gets, or the text that a model without one goes on from.
        completion: that follows, without the token that ends it.
    """

    database: str
    asked: list[dict[str, str]] | str
    completion: str


def turns_of(
    questions: Sequence[Question], schemas: Mapping[str, Schema], prompt: str, model: ModelConfig
) -> tuple[list[Turns], Counter[str]]:
    """Return the questions as they are asked and answered, and how many are left out for what reason.

    Args:
        questions: with their texts.
        schemas: of the databases that are there.
        prompt: one of `validate.TEXT_TO_SQL_PROMPTS`.
        model: that will be asked; the prompt is made for its context window.
    """
    prompts = Prompts()
    found, left_out = [], Counter[str]()
    for question in questions:
        schema = schemas.get(question.database)
        if schema is None:
            left_out[OTHER_DATABASE] += 1
            continue
        completion = completion_of(prompt, question.gold, schema.dialect)
        if completion is None:
            left_out[UNREADABLE] += 1
            continue
        try:
            shown = prompt_of(prompt, schema, question, model, prompts)
        except ConfigError:  # not even the window of the model that will be asked has room
            left_out[TOO_LONG] += 1
            continue
        found.append(Turns(question.database, messages_of(shown) if model.chat else text_of(shown), completion))
    return found, left_out


def examples_of(
    turns: Sequence[Turns], tokenizer: Any, max_tokens: int, max_reply_tokens: int | None, say: Say
) -> tuple[Examples, list[str]]:
    """Return the questions as tokens, but for those that are too long; and of each why it is left out, or nothing.

    Prompts are made by the chat template, without special tokens of the tokenizer's own, or are a text, with those, as
    vLLM makes them; a completion ends with the token at which vLLM ends a reply.

    Args:
        turns: the questions, all asked in one of the two ways.
        tokenizer: of the model, from transformers.
        max_tokens: of prompt and completion.
        max_reply_tokens: of the completion; None: no limit of its own.
        say: told how far it is.
    """
    by_database: dict[str, list[tuple[list[int], list[int]]]] = {}
    why: list[str] = []
    longest = max_tokens if max_reply_tokens is None else max_reply_tokens
    for start in range(0, len(turns), _AT_ONCE):
        some = turns[start : start + _AT_ONCE]
        texts = [
            each.asked
            if isinstance(each.asked, str)
            else tokenizer.apply_chat_template(each.asked, tokenize=False, add_generation_prompt=True)
            for each in some
        ]
        asked = tokenizer(texts, add_special_tokens=isinstance(some[0].asked, str))["input_ids"]
        written = tokenizer([each.completion for each in some], add_special_tokens=False)["input_ids"]
        for each, prompt, completion in zip(some, asked, written, strict=True):
            # The token that ends it is one more.
            is_long = len(prompt) + len(completion) >= max_tokens
            why.append(TOO_LONG if is_long else LONG_REPLY if len(completion) >= longest else "")
            if not why[-1]:
                by_database.setdefault(each.database, []).append((prompt, [*completion, tokenizer.eos_token_id]))
        say(f"{start + len(some):,} of {len(turns):,} questions are tokens")
    beginnings, examples = [], []
    for pairs in by_database.values():
        length = _common_length([prompt for prompt, _ in pairs])
        beginnings.append(np.array(pairs[0][0][:length], np.int32))
        examples += [
            Example(len(beginnings) - 1, np.array(prompt[length:] + completion, np.int32), len(prompt) - length)
            for prompt, completion in pairs
        ]
    return Examples(tuple(beginnings), tuple(examples)), why


def _common_length(prompts: Sequence[list[int]]) -> int:
    """Return how many tokens all prompts begin with, leaving each one at least."""
    # What the least and the greatest of them have in common, all have.
    first, last = min(prompts), max(prompts)
    longest = min(map(len, prompts)) - 1
    return next((place for place in range(longest) if first[place] != last[place]), longest)


@dataclass(frozen=True, slots=True)
class Row:
    """Examples with one beginning that go through the model together.

    Attributes:
        examples: their numbers.
        counts: whether what it costs is learnt from. A worker that has fewer rows than the others repeats one.
    """

    examples: tuple[int, ...]
    counts: bool = True


@dataclass(frozen=True, slots=True)
class Step:
    """What the weights are changed by once.

    Attributes:
        rows: of each worker; every worker has as many.
        num_written: tokens of all completions, by which the loss is divided.
        num_tokens: of all examples, each with its whole prompt.
    """

    rows: tuple[tuple[Row, ...], ...]
    num_written: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How examples are divided.

    Attributes:
        epochs: times that each of them is learnt from.
        batch_size: of a step, over all workers.
        together: examples with one beginning that a step has together, at most; 1: chance alone decides.
        max_tokens: of a row.
        workers: that share a step.
        seed: of what chance decides.
    """

    epochs: int
    batch_size: int
    together: int
    max_tokens: int
    workers: int
    seed: int

    def num_steps(self, num_examples: int) -> int:
        """Return the steps of a training."""
        return -(-self.epochs * num_examples // self.batch_size)


def steps_of(examples: Examples, plan: Plan) -> Iterator[Step]:
    """Yield the steps of a training. Which examples a step has does not depend on the number of workers.

    An epoch shuffles the examples of each beginning, takes as many of them at a time as are kept together, and shuffles
    these. What is left at the end of the last epoch is a smaller step.
    """
    batch: list[int] = []
    for number in _in_order(examples, plan):
        batch.append(number)
        if len(batch) == plan.batch_size:
            yield _step(examples, plan, batch)
            batch = []
    if batch:
        yield _step(examples, plan, batch)


def _in_order(examples: Examples, plan: Plan) -> Iterator[int]:
    rng = random.Random(plan.seed)
    by_beginning: dict[int, list[int]] = {}
    for number, example in enumerate(examples.each):
        by_beginning.setdefault(example.beginning, []).append(number)
    for _ in range(plan.epochs):
        groups = []
        for numbers in by_beginning.values():
            shuffled = rng.sample(numbers, len(numbers))
            groups += [shuffled[start : start + plan.together] for start in range(0, len(numbers), plan.together)]
        rng.shuffle(groups)
        for group in groups:
            yield from group


def _step(examples: Examples, plan: Plan, numbers: Sequence[int]) -> Step:
    rows = _rows(examples, plan, numbers)
    # The longest first, each to who has least so far.
    lengths = {row: _length(examples, row) for row in rows}
    shares: list[list[Row]] = [[] for _ in range(plan.workers)]
    load = [0] * plan.workers
    for row in sorted(rows, key=lambda row: -lengths[row]):
        least = load.index(min(load))
        shares[least].append(row)
        load[least] += lengths[row]
    most = max(map(len, shares))
    spare = Row(min(rows, key=lambda row: lengths[row]).examples, counts=False)
    each = [examples.each[number] for number in numbers]
    return Step(
        tuple((*share, *[spare] * (most - len(share))) for share in shares),
        sum(example.num_written for example in each),
        sum(map(examples.num_tokens, each)),
    )


def _rows(examples: Examples, plan: Plan, numbers: Sequence[int]) -> list[Row]:
    """Put the examples of a step into rows, with one beginning each, as full as they may be."""
    if plan.together == 1:
        return [Row((number,)) for number in numbers]
    open_rows: dict[int, list[int]] = {}
    rows = []
    for number in numbers:
        beginning = examples.each[number].beginning
        row = Row((*open_rows.get(beginning, ()), number))
        num_written = sum(examples.each[each].num_written for each in row.examples)
        is_full = _length(examples, row) > plan.max_tokens or num_written > plan.max_tokens // _WRITTEN
        if beginning in open_rows and is_full:
            rows.append(Row(tuple(open_rows.pop(beginning))))
        open_rows.setdefault(beginning, []).append(number)
    return rows + [Row(tuple(each)) for each in open_rows.values()]


def _length(examples: Examples, row: Row) -> int:
    beginning = examples.beginnings[examples.each[row.examples[0]].beginning]
    return len(beginning) + sum(len(examples.each[number].tokens) for number in row.examples)


@dataclass(frozen=True, slots=True)
class Laid:
    """A row as arrays: the first three of T, the others of C.

    Attributes:
        tokens: that the model reads.
        places: the place of each in its own example.
        parts: which example each belongs to, from 1 on; 0 is the common beginning.
        before: of each token of a completion, where the one before it is.
        following: the tokens of the completions.
    """

    tokens: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    parts: npt.NDArray[np.int64]
    before: npt.NDArray[np.int64]
    following: npt.NDArray[np.int64]


def laid(examples: Examples, row: Row) -> Laid:
    """Return a row as arrays. The last token of a completion is written, and never read."""
    each = [examples.each[number] for number in row.examples]
    beginning = examples.beginnings[each[0].beginning]
    tokens, places, parts = [beginning], [np.arange(len(beginning))], [np.zeros(len(beginning), np.int64)]
    before, following = [], []
    start = len(beginning)
    for number, example in enumerate(each, start=1):
        read = example.tokens[:-1]
        tokens.append(read)
        places.append(np.arange(len(read)) + len(beginning))
        parts.append(np.full(len(read), number))
        before.append(np.arange(start + example.num_asked - 1, start + len(read)))
        following.append(example.tokens[example.num_asked :])
        start += len(read)
    return Laid(*(np.concatenate(some).astype(np.int64) for some in (tokens, places, parts, before, following)))
