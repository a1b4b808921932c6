"""What the values of an expression are."""

from __future__ import annotations

import re

from sqlglot import exp

from rayfactory.databases.schema import Kind
from rayfactory.downstream.realiser.sources import Output, Scope


def kind_of(node: exp.Expr, scope: Scope) -> Kind:
    """Return what the values of an expression are, as far as it is plain."""
    node = node.unnest() if isinstance(node, exp.Paren) else node
    if isinstance(node, exp.Column):
        found = scope.find(node)
        if found is not None:
            return _kind_of_text(found[2]) if found[2].kind == "text" else found[2].kind
        named = scope.names.get(node.name.casefold())
        return kind_of(named, scope) if named is not None and named is not node else "other"
    if isinstance(node, (exp.Alias, exp.Max, exp.Min, exp.Coalesce, exp.Filter, exp.FirstValue, exp.LastValue)):
        return kind_of(node.this, scope)
    if isinstance(node, (exp.Lag, exp.Lead)):
        return kind_of(node.this, scope)
    if isinstance(node, exp.Window):
        return kind_of(node.this, scope)
    if isinstance(node, (exp.TimestampTrunc, exp.DateTrunc, exp.Date, exp.CurrentDate)):
        return "date"
    if isinstance(node, exp.Cast):
        return "date" if node.args["to"].this.value in {"DATE", "TIMESTAMP"} else "real"
    if isinstance(node, (exp.Substring, exp.Upper, exp.Lower, exp.DPipe, exp.Concat, exp.GroupConcat)):
        return "text"
    if isinstance(node, exp.Case):
        results = {kind_of(branch.args["true"], scope) for branch in node.args["ifs"]}
        return results.pop() if len(results) == 1 else "other"
    if isinstance(node, exp.Subquery) and isinstance(node.this, exp.Select) and len(node.this.expressions) == 1:
        is_number = isinstance(node.this.expressions[0].unalias(), (exp.Count, exp.Sum, exp.Avg))
        return "real" if is_number else "other"
    if isinstance(node, exp.Literal):
        return "text" if node.is_string else "real"
    numbers = (exp.AggFunc, exp.Binary, exp.Round, exp.Neg, exp.Rank, exp.DenseRank, exp.RowNumber, exp.Ntile, exp.Abs)
    if isinstance(node, (*numbers, exp.Length, exp.Extract, exp.PercentRank, exp.CumeDist)):
        return "real"
    return "other"


def _kind_of_text(output: Output) -> Kind:
    """Return what a column of text holds: dates, whose order is the same as texts, or numbers, where it is another."""
    examples = [str(value) for value in output.column.profile.examples] if output.column is not None else []
    if examples and all(re.fullmatch(r"\d{4}-\d\d-\d\d([ T][\d:.]+)?", example) for example in examples):
        return "date"
    is_number = examples and all(re.fullmatch(r"[-+]?[\d.,:/%]+", example) for example in examples)
    return "other" if is_number else "text"
