"""`task=compare`: runs, and files of queries from anywhere, side by side: `compare.html`, `.json` and `.md`."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rayfactory.analysis import charts, measures
from rayfactory.analysis.alike import mean_similarity
from rayfactory.analysis.corpus import Corpus, of_file, of_run
from rayfactory.analysis.coverage import constructs, coverage
from rayfactory.analysis.diversity import distinct_ngrams, effective_number, vendi_score
from rayfactory.analysis.draw import Taken, take_apart
from rayfactory.analysis.encoding import Encoders
from rayfactory.analysis.markdown import plain
from rayfactory.analysis.page import chart, figure, render, rounded
from rayfactory.analysis.report import write
from rayfactory.analysis.structure import CONSTRUCTS
from rayfactory.bucket.store import is_url
from rayfactory.config import Config
from rayfactory.errors import ConfigError
from rayfactory.pool_copy import local, name_of
from rayfactory.reports.working import console, working
from rayfactory.shown import shown

COMPARE = "compare"

NUM_DRAWS = 5
"""Draws of the same number of queries from each corpus that the measures which depend on it are the mean of."""

MAX_QUERIES = 10_000
"""Queries of one draw, where the smallest corpus has more."""


def run(config: Config) -> None:
    """Compare what `runs` names, showing progress on standard error.

    Raises:
        UserError: fewer than two are named, one cannot be read, or the folder cannot be written.
    """
    with working("the queries are read", config.display) as say:
        out, found = compare(config, say)
    console().print(shown(table_of(found)))
    console().print(
        shown(f"{out / (COMPARE + '.html')} has them side by side; compare.json and compare.md the same figures")
    )


def compare(config: Config, say: Callable[[str], None]) -> tuple[Path, Mapping[str, Any]]:
    """Write the comparison; return its folder and its figures. What a comparison before it left there is replaced.

    Args:
        config: its `runs`, `output`, `seed`, `dialect`, `encoders`, `embedding` and `critic` count.
        say: told what is being worked out.
    """
    if len(config.runs) < 2:
        raise ConfigError(
            "task=compare needs two corpora; name run directories, or files of queries: runs=[runs/a,peer.jsonl]"
        )
    encoders = Encoders(config)
    corpora: list[Corpus] = []
    try:
        for name in config.runs:
            corpora.append(_opened(name, config, say))  # noqa: PERF401 - those before one that fails are closed
        for corpus, name in zip(corpora, distinct_names([corpus.path for corpus in corpora]), strict=True):
            corpus.name = name
        n = min(MAX_QUERIES, *(corpus.num_queries for corpus in corpora))
        columns = [_column(corpus, n, config.seed, encoders, say) for corpus in corpora]
    finally:
        for corpus in corpora:
            corpus.close()
    found = rounded({"n": n, "draws": NUM_DRAWS, "seed": config.seed, "corpora": columns})
    out = Path(config.output) if config.output else Path(COMPARE).absolute()
    write(
        out,
        {
            f"{COMPARE}.json": shown(json.dumps(found, indent=1) + "\n"),
            f"{COMPARE}.md": shown(markdown(found)),
            f"{COMPARE}.html": page(found),
        },
    )
    return out, found


def _opened(name: str, config: Config, say: Callable[[str], None]) -> Corpus:
    if is_url(name):
        return of_run(local(name, Path(config.data_dir)), name_of(name))
    path = Path(name).expanduser().absolute()
    if path.is_dir():
        return of_run(path)
    return of_file(path, config, lambda number: say(f"{path.name}: {number:,} queries are parsed"))


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each path: its last part, with as much of what precedes it as tells them apart."""
    names = [path.name for path in paths]
    for depth in range(2, max(len(path.parts) for path in paths) + 1):
        counts = Counter(names)
        names = [
            "/".join(path.parts[-depth:]) if counts[name] > 1 else name for path, name in zip(paths, names, strict=True)
        ]
    return [f"{name} ({number})" if names.count(name) > 1 else name for number, name in enumerate(names, start=1)]


def _column(corpus: Corpus, n: int, seed: int, encoders: Encoders, say: Callable[[str], None]) -> dict[str, Any]:
    say(f"{corpus.name}: the queries are parsed")
    taken = take_apart(corpus, seed)
    say(f"{corpus.name}: contents and similarity")
    figure_6, figure_7 = measures.figure_6(corpus), measures.figure_7(corpus)
    cost, work, found = measures.cost(corpus), measures.work(corpus), constructs(taken)
    say(f"{corpus.name}: {NUM_DRAWS} draws of {n:,}")
    return {
        "name": corpus.name,
        "corpus": measures.about(corpus, taken),
        "shares": figure_6["shares"],
        "figure_6": figure_6,
        "tables": {name: figure_7[name] for name in ("populated", "used", "gini")},
        "similarity": mean_similarity(corpus, seed),
        "similarity_of": f"{corpus.weights.token_weight:g} words, {corpus.weights.ast_weight:g} structure, "
        f"{corpus.weights.embedding_weight:g} meaning ({corpus.encoder})",
        "cost_usd_per_1000": None if cost is None else cost["cost_usd_per_1000"],
        "queries_per_second": None if work is None else work["queries_per_second"],
        "coverage": _coverage(coverage(corpus, taken)),
        "missing": found["missing"],
        "constructs": found["counts"],
        "at_n": at_equal_number(corpus, taken, n, seed, encoders),
    }


def _coverage(coverage: Mapping[str, Any] | None) -> dict[str, Any] | None:
    names = ("columns", "columns_used", "join_paths", "join_paths_used")
    return None if coverage is None else {name: coverage[name] for name in names}


def at_equal_number(corpus: Corpus, taken: Taken, n: int, seed: int, encoders: Encoders) -> dict[str, Any]:
    """Return what depends on the number of queries, at n of them: means over draws without replacement.

    Of a corpus with n queries every draw is the corpus.
    """
    structures = dict(zip(taken.query_ids, taken.structures, strict=True))
    num_draws = NUM_DRAWS if corpus.num_queries > n else 1
    # Of a large corpus not all queries were parsed, but more than are drawn.
    draws = [sorted(random.Random(f"{seed} {draw}").sample(taken.query_ids, n)) for draw in range(num_draws)]
    drawn = sorted(set().union(*draws))
    vendi = []
    for name in encoders.names:
        vectors_ND = encoders.vectors(corpus, drawn, name)
        scores = [vendi_score(vectors_ND[np.searchsorted(drawn, draw)]) for draw in draws]
        vendi.append(
            {
                "encoder": encoders.description(name),
                "score": sum(scores) / len(scores),
                "low": min(scores),
                "high": max(scores),
            }
        )
    parsed = [[s for s in map(structures.get, draw) if s is not None] for draw in draws]
    return {
        "n": n,
        "draws": num_draws,
        "vendi": vendi,
        # Of a draw, at least.
        "parsed": min(map(len, parsed)),
        "distinct_skeletons_share": _mean([_distinct(one) for one in parsed]),
        "effective_skeletons": _mean([effective_number(s.skeleton for s in one) for one in parsed]),
        "distinct_ngrams": {
            str(length): _mean(values)
            for length, values in _by_length([distinct_ngrams(s.tokens for s in one) for one in parsed]).items()
        },
    }


def _distinct(structures: Sequence[Any]) -> float:
    return len({s.skeleton for s in structures}) / len(structures) if structures else 0.0


def _by_length(found: Sequence[Mapping[int, float]]) -> dict[int, list[float]]:
    return {length: [each[length] for each in found] for length in found[0]}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# -- what a person reads -------------------------------------------------------


def rows_of(found: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Return the comparison as rows: what is measured, and its value for each corpus."""
    columns: list[Mapping[str, Any]] = list(found["corpora"])

    def row(title: str, value: Callable[[Mapping[str, Any]], Any], kind: str) -> tuple[str, list[str]]:
        return title, [figure(value(column), kind) for column in columns]

    def interval(column: Mapping[str, Any]) -> str | None:
        similar = column["similarity"]
        return None if similar is None else f"{similar['mean']:.3f} ({similar['low']:.3f} to {similar['high']:.3f})"

    def part(column: Mapping[str, Any], used: str, total: str) -> str | None:
        coverage = column["coverage"]
        return None if coverage is None else f"{coverage[used]:,} of {coverage[total]:,}"

    def vendi_at(place: int) -> Callable[[Mapping[str, Any]], str]:
        return lambda column: _range(column["at_n"]["vendi"][place])

    def share_of(name: str) -> Callable[[Mapping[str, Any]], float]:
        return lambda column: column["shares"][name]

    def tables_read(column: Mapping[str, Any]) -> str:
        used, populated = column["tables"]["used"], column["tables"]["populated"]
        return f"{used} of {'an unknown number' if populated is None else populated}"

    n = f"n = {found['n']:,}"
    vendi = [
        row(f"Vendi score, {each['encoder']}, {n}", vendi_at(place), "")
        for place, each in enumerate(columns[0]["at_n"]["vendi"])
    ]
    shares = {
        "join": "have a join",
        "joins_2_or_more": "two joins or more",
        "predicates_2_or_more": "two predicates or more",
        "predicates_4_or_more": "four predicates or more",
        "subquery": "a nested query",
        "aggregate": "an aggregate",
        "window": "a window",
    }
    return [
        row("queries", lambda column: column["corpus"]["queries"], "n"),
        row("executability", lambda column: column["corpus"]["executability"], "%"),
        row("return rows", lambda column: column["corpus"]["non_empty_rate"], "%"),
        row("mean similarity of pairs", interval, ""),
        *vendi,
        row(f"different skeletons, {n}", lambda column: column["at_n"]["distinct_skeletons_share"], "%"),
        row(f"different sequences of 4 tokens, {n}", lambda column: column["at_n"]["distinct_ngrams"]["4"], "%"),
        row("tables read", tables_read, ""),
        row("Gini coefficient of tables", lambda column: column["tables"]["gini"], "2"),
        row("columns read", lambda column: part(column, "columns_used", "columns"), ""),
        row("foreign keys joined along", lambda column: part(column, "join_paths_used", "join_paths"), ""),
        *(row(title, share_of(name), "%") for name, title in shares.items()),
        row("median tokens", lambda column: column["figure_6"]["token_quartiles"][2], "1"),
        row(
            "constructs that occur",
            lambda column: f"{len(CONSTRUCTS) - len(column['missing'])} of {len(CONSTRUCTS)}",
            "",
        ),
        row("cost of 1,000 queries", lambda column: column["cost_usd_per_1000"], "$"),
        row("queries a second", lambda column: column["queries_per_second"], "1"),
    ]


def _range(vendi: Mapping[str, Any]) -> str:
    if vendi["low"] == vendi["high"]:
        return f"{vendi['score']:.2f}"
    return f"{vendi['score']:.2f} ({vendi['low']:.2f} to {vendi['high']:.2f})"


def table_of(found: Mapping[str, Any]) -> str:
    """Return the comparison for a terminal."""
    names = [column["name"] for column in found["corpora"]]
    lines = [("", names), *rows_of(found)]
    first = max(len(title) for title, _ in lines)
    widths = [max(len(values[place]) for _, values in lines) for place in range(len(names))]
    widths = [min(width, 40) for width in widths]
    return "\n".join(
        f"{title:<{first}}  "
        + "  ".join(f"{value:<{width}}" for value, width in zip(values, widths, strict=True)).rstrip()
        for title, values in lines
    )


def markdown(found: Mapping[str, Any]) -> str:
    """Return the comparison in Markdown."""
    names = [plain(column["name"]) for column in found["corpora"]]
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    lines += [f"| {plain(title)} | " + " | ".join(map(plain, values)) + " |" for title, values in rows_of(found)]
    return "\n".join([f"# {' and '.join(names)}", "", *lines, "", note(found), ""])


def note(found: Mapping[str, Any]) -> str:
    """Return how to read the comparison."""
    kinds = {column["similarity_of"] for column in found["corpora"]}
    unlike = f" The similarities are not of the same kind: {'; '.join(sorted(kinds))}." if len(kinds) > 1 else ""
    return (
        f"What depends on the number of queries is of {found['n']:,} from each corpus, the mean of "
        f"{found['draws']} draws where "
        "it has more, with the least and the greatest in brackets. A low similarity alone rewards nonsense; of "
        "a file it is "
        "not known which of its queries run." + unlike
    )


def page(found: Mapping[str, Any]) -> str:
    """Return the comparison as a page."""
    names = [column["name"] for column in found["corpora"]]
    rows = [
        {"what": title, **dict(zip(map(str, range(len(names))), values, strict=True))}
        for title, values in rows_of(found)
    ]
    columns = (("what", "", ""), *((str(place), name, "") for place, name in enumerate(names)))
    return render(
        "compare.html.j2",
        title=" and ".join(names) if len(names) < 4 else f"{len(names)} corpora",
        rows=rows,
        columns=columns,
        note=note(found),
        charts=[_shares_chart(found, name, title) for name, title in _CHARTS.items()] + [_tokens_chart(found)],
        missing=[(column["name"], column["missing"]) for column in found["corpora"]],
    )


_CHARTS = {
    "joins": "Joins",
    "predicates": "Predicates",
    "subqueries": "Nested queries",
    "aggregates": "Aggregates",
    "windows": "Windows",
}


def _shares_chart(found: Mapping[str, Any], name: str, title: str) -> dict[str, Any]:
    rows = [
        {"corpus": column["name"], "count": row["count"], "share": row["queries"] / column["corpus"]["queries"]}
        for column in found["corpora"]
        for row in column["figure_6"][name]
    ]
    drawn = charts.bars(rows, "count", "share", f"{title.lower()} in a query", "share of the queries", "corpus")
    return chart(title, drawn, rows, (("corpus", "corpus", ""), ("count", "how many", ""), ("share", "share", "%")))


def _tokens_chart(found: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        {"corpus": column["name"], "from": row["from"], "share": row["queries"] / column["corpus"]["queries"]}
        for column in found["corpora"]
        for row in column["figure_6"]["tokens"]
    ]
    drawn = charts.curve(rows, "from", "share", "tokens, from", "share of the queries", "corpus")
    return chart(
        "Tokens", drawn, rows, (("corpus", "corpus", ""), ("from", "tokens, from", "n"), ("share", "share", "%"))
    )
