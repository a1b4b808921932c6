"""What is asked of the models that find questions for queries, and what they replied, read.

Source: SQL-Factory, section 5.3.1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rayfactory.config import AgentConfig, ModelConfig
from rayfactory.databases.schema import Schema
from rayfactory.downstream.questions import Question
from rayfactory.downstream.realiser import Wording
from rayfactory.errors import ConfigError
from rayfactory.models import replies
from rayfactory.models.completion import Prompt
from rayfactory.models.prompts import Prompts
from rayfactory.models.schema_text import query_text, quoted
from rayfactory.shown import is_seen

Verdict = Literal["yes", "no", "unclear"]
"""Whether a question and a query belong together, as a verifier says."""

MAX_QUESTION_CHARACTERS = 2_000
MAX_EVIDENCE_CHARACTERS = 2_000
MAX_SQL_CHARACTERS = 8_000
MAX_REVIEW_CHARACTERS = 1_000

_QUESTION = re.compile(r"<question>(.*?)(?:</question>|(?=<evidence>)|\Z)", re.IGNORECASE | re.DOTALL)
_EVIDENCE = re.compile(r"<evidence>(.*?)(?:</evidence>|\Z)", re.IGNORECASE | re.DOTALL)
_WHOLE = re.compile(r"</question>\s*(?:<evidence>.*?</evidence>|\Z)", re.IGNORECASE | re.DOTALL)
_NAMED = re.compile(r"^[\s*#_>-]*(question|evidence|external knowledge)[\s*_]*:[\s*_]*", re.IGNORECASE | re.MULTILINE)
_VERDICT = re.compile(
    r"\bverdict\b[\s*_`\"'>]*(?:is\b)?\s*[:：=-]?[\s*_`\"'<\[(]*(yes|no)\b(?!\s*(?:or|/|\|)\s*(?:yes|no)\b)",
    re.IGNORECASE,
)
_OTHERWISE = re.compile(
    r"\b(?:answer|decision|conclusion|judge?ment)\b(?:\s+is\b)?\s*[:：=-]?[\s*_`\"'{]*(?:\\boxed\{)?(yes|no)[\s*_`\"'.!}]*$",
    re.IGNORECASE | re.MULTILINE,
)
_ALONE = re.compile(r"[\s*_`\"'>.\[(]*(yes|no)[\s*_`\"'<.!\])]*", re.IGNORECASE)
_NOTHING = re.compile(
    r"\W*(?:none|nothing|n/?a|empty|no external knowledge(?: is)?(?: needed| required)?)?\W*", re.IGNORECASE
)
_IS_QUERY = re.compile(r"\s*(?:SELECT\b.*\bFROM\b|WITH\b.*\bAS\s*\()", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Asking:
    """How one model is asked.

    Attributes:
        model: its settings.
        prompts: the templates.
        temperature: of the sampling of questions.
    """

    model: ModelConfig
    prompts: Prompts
    temperature: float

    def question(self, schema: Schema, tables: Sequence[str], sql: str, examples: Sequence[Question]) -> Prompt:
        """Return the prompt for the question that a query answers, with as many of the examples as there is room for.

        Raises:
            ConfigError: it does not fit into the context window without any.
        """
        shown = [
            {
                "sql": query_text(example.gold, MAX_SQL_CHARACTERS),
                "question": quoted(example.text, MAX_QUESTION_CHARACTERS),
                "evidence": quoted(example.evidence, MAX_EVIDENCE_CHARACTERS) if example.evidence else "",
            }
            for example in examples
        ]
        while True:
            try:
                return self._prompt(
                    "translation", schema, tables, self.temperature, {"sql": _sql(sql), "examples": shown}
                )
            except ConfigError:
                if not shown:
                    raise
                shown.pop()

    def verdict(self, schema: Schema, tables: Sequence[str], sql: str, wording: Wording) -> Prompt:
        """Return the prompt for whether a question and a query belong together.

        Raises:
            ConfigError: it does not fit into the context window.
        """
        return self._prompt("verification", schema, tables, 0.0, {"sql": _sql(sql), **_texts(wording)})

    def simpler(self, schema: Schema, tables: Sequence[str], sql: str, wording: Wording, review: str) -> Prompt:
        """Return the prompt for a query that does what a question asks and no more.

        Raises:
            ConfigError: it does not fit into the context window.
        """
        about = {"sql": _sql(sql), **_texts(wording), "review": quoted(review, MAX_REVIEW_CHARACTERS)}
        return self._prompt("simplification", schema, tables, 0.0, about)

    def _prompt(
        self, name: str, schema: Schema, tables: Sequence[str], temperature: float, values: dict[str, object]
    ) -> Prompt:
        agent = AgentConfig(temperature=temperature)
        return self.prompts.about_tables(f"downstream/{name}", schema, tables, self.model, agent, values)


def _sql(sql: str) -> str:
    # Of half a query nobody can say what it does.
    if len(sql) > MAX_SQL_CHARACTERS:
        raise ConfigError(f"a query of {len(sql)} characters is not asked about, but those of {MAX_SQL_CHARACTERS}")
    return query_text(sql, MAX_SQL_CHARACTERS)


def _texts(wording: Wording) -> dict[str, object]:
    if max(len(wording.text), len(wording.evidence)) > MAX_QUESTION_CHARACTERS:
        raise ConfigError(f"a question of more than {MAX_QUESTION_CHARACTERS} characters is not asked about")
    evidence = quoted(wording.evidence, MAX_EVIDENCE_CHARACTERS) if wording.evidence else ""
    return {"question": quoted(wording.text, MAX_QUESTION_CHARACTERS), "evidence": evidence}


def wording_in(reply: str, *, truncated: bool = False) -> Wording | None:
    """Return the question in a reply, with its evidence; None where there is none, or a part of it may be missing.

    Read are the tags that were asked for, and lines that begin with their names. What a model thought aloud is none.
    """
    text = replies.spoken(reply)
    if truncated and not _WHOLE.search(text):
        return None
    if found := _QUESTION.search(text):
        noted = _EVIDENCE.search(text)
        question, evidence = found[1], noted[1] if noted else ""
    else:
        parts = {"question": "", "evidence": ""}
        names = list(_NAMED.finditer(text))
        for name, after in zip(names, [*names[1:], None], strict=False):
            which = "question" if name[1].lower() == "question" else "evidence"
            parts[which] = parts[which] or text[name.end() : after.start() if after else None].partition("\n\n")[0]
        question, evidence = parts["question"], parts["evidence"]
    question, evidence = _line(question), _line(evidence)
    if not re.search(r"[^\W\d_]{2}", question) or len(question) > MAX_QUESTION_CHARACTERS or _IS_QUERY.match(question):
        return None
    if _NOTHING.fullmatch(evidence) or len(evidence) > MAX_EVIDENCE_CHARACTERS:
        evidence = ""
    return Wording(question, evidence)


def verdict_in(reply: str) -> Verdict:
    """Return what a verifier decided: the last time in the form that was asked for, or in a last line of one word."""
    text = replies.spoken(reply).strip()
    named = _VERDICT.findall(text) or _OTHERWISE.findall(text)
    if named:
        return "yes" if named[-1].lower() == "yes" else "no"
    alone = _ALONE.fullmatch(text.rpartition("\n")[2])
    if alone is None:
        return "unclear"
    return "yes" if alone[1].lower() == "yes" else "no"


def review_in(reply: str) -> str:
    """Return what a verifier said before its verdict: the end of it, on one line."""
    text = _line(_VERDICT.sub("", replies.spoken(reply)))
    return text[-MAX_REVIEW_CHARACTERS:]


def _line(text: str) -> str:
    """Return a text on one line, as far as it can be seen, without the quotes and marks around it."""
    line = " ".join("".join(c if is_seen(c) else " " for c in text).split()).strip("*` ")
    return line[1:-1].strip() if len(line) > 1 and line[0] == line[-1] == '"' and '"' not in line[1:-1] else line
