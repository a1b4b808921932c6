"""From a query to the English question that it answers, by rules.

`realise` walks the syntax tree and says everything that changes the result: each column, condition and value, how
tables hang together, groups, order, limit, and the queries inside of the query; results that a later part uses come
first, as steps. What there are no words for is refused, and so is a query of which any column or value was left unsaid.

The rules stand by subject: `words` (names, plurals), `sources` (whose a column is, what keys link), `opening` (FROM and
WHERE), `keys` (equalities that follow one), `values` with `calculations`, `functions`, `aggregates` and `windows`,
`ordering`, `conditions` with `nested` and `clauses`; `queries` has the parts of a whole query (with `grouping` and
`set_operations`), which `phrases` and `questions` put together. `telling` is what they pass to each other.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlglot import exp

from rayfactory import sql as statements
from rayfactory.databases.schema import Schema
from rayfactory.downstream.realiser import conditions, opening, phrases, queries, questions, set_operations, values
from rayfactory.downstream.realiser.sources import Derived, Output, Scope
from rayfactory.downstream.realiser.telling import PLAIN, Clause, Phrase, Style, only, style, unsupported
from rayfactory.downstream.realiser.words import ordinal, sentence
from rayfactory.errors import StatementError

__all__ = ["Wording", "realise"]


@dataclass(frozen=True, slots=True)
class Wording:
    """A query in words: the question that it answers.

    Attributes:
        text: one or more English sentences.
        evidence: which columns the words of `text` mean, where they are not the columns' names; may be empty.
            Laid out as BIRD's: "marital status refers to `cd_marital_status`; ..".
    """

    text: str
    evidence: str


def realise(sql: str, schema: Schema, seed: int = 0) -> Wording:
    """Return the question that a query answers.

    Args:
        sql: one SELECT, or a set operation, in the dialect of the schema.
        seed: chooses among equal ways of saying it. The same three arguments give the same question.

    Raises:
        StatementError: reason ``parse``: not one statement of the dialect; ``unsupported``: a column or table that the
            schema does not have, or a construction that the rules have no words for.
    """
    tree = statements.parse(sql, schema.dialect)
    teller = _Teller(schema, style(seed) if seed else PLAIN)
    try:
        text = teller.asked(tree)
    except RecursionError:
        raise StatementError("unsupported", "the statement is nested too deeply") from None
    for node in tree.find_all(exp.Column, exp.Literal, exp.Table):
        if id(node) not in teller.heard:
            raise unsupported(f"all of it: {node.sql()} was left out")
    evidence = "; ".join(f"{words} refers to {name}" for name, words in teller.notes.items())
    return Wording(text, evidence)


@dataclass(slots=True)
class _Teller:
    """One query being told."""

    schema: Schema
    style: Style
    heard: set[int] = field(default_factory=set)
    notes: dict[str, str] = field(default_factory=dict)
    results: dict[str, Derived] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)
    num_steps: int = 0

    def asked(self, tree: exp.Expr) -> str:
        """Return the whole question."""
        self.num_steps = sum(1 for _ in tree.find_all(exp.CTE)) + sum(
            isinstance(node.parent, (exp.From, exp.Join)) for node in tree.find_all(exp.Subquery)
        )
        node = tree.unnest() if isinstance(tree, exp.Subquery) else tree
        if not isinstance(node, exp.Query):
            raise unsupported(node)
        self._introduce(node, None)
        if isinstance(node, exp.Select):
            text = questions.question(self, queries.told(self, node, None, is_step=False))
        else:
            text = sentence(self._told(node, None, verb=self.style.opening.lower(), is_sentence=True)[0])
        if self.steps and text.startswith((self.style.opening, "For each ", "Among ")):
            text = f"Then{'' if text.startswith(self.style.opening) else ','} {text[0].lower()}{text[1:]}"
        return " ".join([*self.steps, text])

    def value(self, node: exp.Expr, scope: Scope) -> Phrase:
        return values.value(self, node, scope)

    def clause(self, node: exp.Expr, scope: Scope, *, negated: bool = False) -> Clause:
        return conditions.clause(self, node, scope, negated=negated)

    def query(self, node: exp.Expr, outer: Scope | None, form: phrases.Form = "all") -> str:
        return self._told(node, outer, form)[0]

    def opened(self, select: exp.Select, outer: Scope | None) -> Scope:
        return opening.opened(self, select, outer, self.results)

    def narrowed(self, scope: Scope) -> str:
        return opening.narrowed(self, scope)

    def derived(self, node: exp.Expr, outer: Scope | None, names: list[str]) -> Derived:
        text, outputs, noun = self._told(node, outer, verb="find", is_step=True)
        number = len(self.steps) + 1
        label = f"{ordinal(number)} result" if self.num_steps > 1 else ""
        self.steps.append(sentence(f"{ordinal(number)}, {text}"))
        return Derived(queries.named_outputs(outputs, names), noun, label)

    def _introduce(self, node: exp.Expr, outer: Scope | None) -> None:
        clause = node.args.get("with_")
        if clause is None:
            return
        only(clause, "expressions")
        for member in clause.expressions:
            only(member, "this", "alias")
            names = [column.name for column in member.args["alias"].columns]
            self.results[member.alias.casefold()] = self.derived(member.this, outer, names)

    def _told(
        self,
        node: exp.Expr,
        outer: Scope | None,
        form: phrases.Form = "each",
        *,
        verb: str = "",
        is_step: bool = False,
        is_sentence: bool = False,
    ) -> tuple[str, dict[str, Output], str]:
        """Return a query as a noun phrase, the columns of its result, and what one row of it is called."""
        if isinstance(node, (exp.Subquery, exp.Paren)):
            only(node, "this", "alias")
            return self._told(node.this, outer, form, verb=verb, is_step=is_step, is_sentence=is_sentence)
        if not isinstance(node, exp.Query):
            raise unsupported(node)
        if outer is not None or is_step:
            self._introduce(node, outer)
        if isinstance(node, exp.Select):
            found = queries.told(self, node, outer, is_step=is_step)
            text = phrases.phrase(found, form, verb=verb, is_sentence=is_sentence)
            return text, found.outputs, found.noun
        assert isinstance(node, exp.SetOperation)
        left, outputs, _ = self._told(node.this, outer, "all", verb=verb, is_step=is_step)
        right = self._told(node.expression, outer, "all", is_step=is_step)[0]
        text = set_operations.united(node, left, right)
        order = set_operations.order_of_set(self, node, outputs)
        limit, offset = (set_operations.number_of_set(self, node, name) for name in ("limit", "offset"))
        return text + phrases.tail(order, limit, offset, is_sentence=is_sentence), outputs, "result"
