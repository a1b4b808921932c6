"""`report.html`: the figures of a corpus and a sample of it as one page, in words and charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayfactory.analysis import charts
from rayfactory.analysis.page import COLUMNS, asset, chart, figure, for_script, render
from rayfactory.reports.figures import dollars

TABLES_SHOWN = 30
"""Bars of the tables; a benchmark of many databases has hundreds."""

NAMES_SHOWN = 400
"""Columns that no query reads, and foreign keys, that the page lists; `report.json` has all."""


TABLE_1: COLUMNS = (
    ("benchmark", "benchmark", ""),
    ("databases", "databases", "n"),
    ("tables", "tables", "n"),
    ("columns_per_database", "columns a database", "1"),
    ("queries", "queries", "n"),
    ("price_usd", "price", "$"),
)
LEDGER: COLUMNS = (
    ("model", "model", ""),
    ("agent", "agent", ""),
    ("requests", "replies", "n"),
    ("tokens_in", "tokens in", "n"),
    ("tokens_cached", "of them cached", "n"),
    ("tokens_out", "tokens out", "n"),
    ("cost_usd", "cost", "$"),
    ("unconfirmed_usd", "may be billed too", "$"),
)
MODELS: COLUMNS = (
    ("model", "written by", ""),
    ("origin", "team", ""),
    ("candidates", "candidates", "n"),
    ("executability", "executability", "%"),
    ("admitted", "admitted", "n"),
    ("admission_rate", "admission rate", "%"),
)
REJECTS: COLUMNS = (("reason", "reason", ""), ("candidates", "candidates", "n"))
DIVERSITY: COLUMNS = (("what", "measure", ""), ("value", "value", "3"), ("of", "of what", ""))


def report_page(measures: Mapping[str, Any], sample: Sequence[Mapping[str, Any]]) -> str:
    """Return the report of one corpus.

    Args:
        measures: of `measures.measure`, with the pairs formatted.
        sample: of `measures.sample`.
    """
    corpus, coverage = measures["corpus"], measures["coverage"]
    is_run = measures["cost"] is not None
    sections = [
        ("contents", "Contents"),
        ("tables", "Tables"),
        ("coverage", "What is left out"),
        ("diversity", "Diversity"),
        ("pairs", "Nearest pairs"),
        *([("cost", "Cost and time"), ("rejects", "Rejected")] if is_run else []),
        ("browse", "Browse"),
    ]
    return render(
        "report.html.j2",
        title=f"{corpus['name']}: {corpus['queries']:,} queries",
        subtitle=subtitle(corpus),
        sections=sections,
        m=measures,
        tiles_shown=tiles(measures),
        table_1_columns=TABLE_1,
        contents_text=contents_text(measures["figure_6"]),
        contents=contents(measures),
        tables_text=tables_text(measures["figure_7"]),
        tables=tables(measures["figure_7"]),
        unused_columns=[] if coverage is None else coverage["unused_columns"][:NAMES_SHOWN],
        unused_columns_titles=(("database", "database", ""), ("table", "table", ""), ("column", "column", "")),
        paths=[] if coverage is None else coverage["paths"][:NAMES_SHOWN],
        paths_titles=(("database", "database", ""), ("path", "foreign key", ""), ("queries", "queries", "n")),
        coverage_remedy=(
            "Start the run's command once more, with this release: it writes the schema beside the pool."
            if is_run
            else ""
        ),
        diversity_text=DIVERSITY_TEXT,
        diversity_rows=diversity_rows(measures),
        diversity_columns=DIVERSITY,
        growth=growth(measures["figure_8"]),
        cost_text=cost_text(measures),
        ledger_columns=LEDGER,
        models_columns=MODELS,
        phases=phases(measures),
        rejects_columns=REJECTS,
        sample_size=f"{len(sample):,}",
        sample_text=(
            "All queries of the corpus."
            if len(sample) == corpus["queries"]
            else f"Drawn at random from the {corpus['queries']:,} of the corpus."
        )
        + " Open one for its text over several lines, its counts and what is nearest to it.",
        sample_json=for_script(sample),
        script=asset("browse.js"),
    )


DIVERSITY_TEXT = (
    "The similarity is the mean over pairs of queries, words, structure and meaning together; lower is more "
    "diverse, but "
    "nonsense has a low one too. The Vendi score is how many queries that have nothing in common would be as diverse; "
    "higher is more diverse. All but the similarity grow or shrink with the number of queries, so compare them "
    "only with "
    "a corpus of the same size."
)


def subtitle(corpus: Mapping[str, Any]) -> str:
    """Return what the corpus is, in a line."""
    words = []
    if corpus["benchmark"]:
        words.append(f"benchmark {corpus['benchmark']}, seed {corpus['seed']}, models {corpus['models']}")
    words.append(f"{corpus['databases']:,} database" + "s" * (corpus["databases"] != 1))
    if corpus["unparsed"]:
        words.append(f"{corpus['unparsed']:,} more queries do not parse and are left out")
    if corpus["taken_apart"] < corpus["queries"]:
        words.append(f"constructs, coverage and skeletons are of {corpus['taken_apart']:,} queries drawn from it")
    if corpus["config_sha256"]:
        words.append(f"settings {corpus['config_sha256'][:12]}, rayfactory {corpus['rayfactory']}")
    return "; ".join(words)


def tiles(measures: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the figures at the head: name, value, note."""
    corpus, diversity, cost, work = (measures[name] for name in ("corpus", "diversity", "cost", "work"))
    found = [("queries", figure(corpus["queries"], "n"), "")]
    if corpus["candidates"] is not None:
        found[0] = ("queries", figure(corpus["queries"], "n"), f"of {corpus['candidates']:,} candidates")
        found.append(("executability", figure(corpus["executability"], "%"), "of all candidates"))
    if corpus["non_empty_rate"] is not None:
        found.append(("return rows", figure(corpus["non_empty_rate"], "%"), ""))
    use = measures["figure_7"]
    if use["populated"] is not None:
        found.append(("tables used", f"{use['used']} of {use['populated']}", f"Gini {use['gini']:.2f}"))
    if diversity["similarity"] is not None:
        similar = diversity["similarity"]
        found.append(("mean similarity", f"{similar['mean']:.3f}", f"{similar['low']:.3f} to {similar['high']:.3f}"))
    vendi = diversity["vendi"]
    found.append(("Vendi score", f"{vendi['score']:.2f}", f"n = {vendi['n']:,}"))
    skeletons = diversity["skeletons"]
    found.append(("different skeletons", figure(skeletons["distinct_share"], "%"), f"n = {skeletons['n']:,}"))
    if cost is not None and cost["cost_usd"] is not None:
        found.append(("cost", dollars(cost["cost_usd"]), f"{dollars(cost['cost_usd_per_1000'])} for 1,000"))
    if work is not None:
        found.append(("time", f"{work['wall_s']:,.0f} s", f"{work['queries_per_second']:.1f} queries a second"))
    return found


def contents_text(figure_6: Mapping[str, Any]) -> str:
    """Return figure 6 in two sentences."""
    shares = figure_6["shares"]
    least, _, middle, _, most = figure_6["token_quartiles"]
    return (
        f"{shares['join']:.1%} have a join, {shares['joins_2_or_more']:.1%} two or more; "
        f"{shares['predicates_2_or_more']:.1%} "
        f"have two predicates or more, {shares['predicates_4_or_more']:.1%} four; {shares['subquery']:.1%} a "
        "nested query, "
        f"{shares['aggregate']:.1%} an aggregate, {shares['window']:.1%} a window. They are {least:.0f} to "
        f"{most:.0f} tokens "
        f"long, half of them at most {middle:.0f}."
    )


def contents(measures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the charts of figure 6, and of the constructs."""
    figure_6 = measures["figure_6"]
    titles = {
        "joins": "Joins",
        "predicates": "Predicates",
        "subqueries": "Nested queries",
        "aggregates": "Aggregates",
        "windows": "Windows",
    }
    columns: COLUMNS = (("count", "how many", ""), ("queries", "queries", "n"))
    found = [
        chart(
            title,
            charts.bars(figure_6[name], "count", "queries", f"{title.lower()} in a query", "queries"),
            figure_6[name],
            columns,
        )
        for name, title in titles.items()
    ]
    tokens = [row | {"tokens": token_range(row)} for row in figure_6["tokens"]]
    by_start = [row | {"start": str(row["from"])} for row in tokens]
    found.append(
        chart(
            "Tokens", charts.bars(by_start, "start", "queries", "tokens, from", "queries"), tokens,
            (("tokens", "tokens", ""), ("queries", "queries", "n")),
        )
    )  # fmt: skip
    counts = sorted(measures["constructs"]["counts"], key=lambda row: -row["queries"])
    found.append(
        chart(
            "Constructs", charts.lying_bars(counts, "share", "construct", "share of the queries"), counts,
            (("construct", "construct", ""), ("queries", "queries", "n"), ("share", "share", "%")),
        )
    )  # fmt: skip
    return found


def token_range(row: Mapping[str, Any]) -> str:
    return f"{row['from']} or more" if row["to"] is None else f"{row['from']} to {row['to']}"


def tables_text(figure_7: Mapping[str, Any]) -> str:
    """Return figure 7 in a sentence."""
    if figure_7["populated"] is None:
        return f"{figure_7['used']} tables are read; which are not is not known here."
    return (
        f"{figure_7['used']} of {figure_7['populated']} tables with rows are read. The Gini coefficient of the "
        "queries that "
        f"read each is {figure_7['gini']:.2f}: 0 where all are read alike, near 1 where one is read by all."
    )


def tables(figure_7: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the charts of figure 7."""
    histogram = [row | {"start": str(row["from"])} for row in figure_7["histogram"]]
    every = figure_7["tables"]
    named = [row | {"name": _table_name(row, every)} for row in every[:TABLES_SHOWN]]
    columns: COLUMNS = (
        ("database", "database", ""), ("table", "table", ""), ("queries", "queries", "n"), ("rows", "rows in it", "n"),
    )  # fmt: skip
    note = f"the {TABLES_SHOWN} most read of {len(every)}" if len(every) > TABLES_SHOWN else ""
    return [
        chart(
            "Tables by how many queries read them",
            charts.bars(histogram, "start", "tables", "queries, from", "tables"),
            histogram,
            (("from", "from", "n"), ("to", "to", "n"), ("tables", "tables", "n")),
        ),
        chart(
            "Queries of each table", charts.lying_bars(named, "queries", "name", "queries"), every[:NAMES_SHOWN],
            columns, note,
        ),
    ]  # fmt: skip


def _table_name(row: Mapping[str, Any], every: Sequence[Mapping[str, Any]]) -> str:
    several = len({each["database"] for each in every}) > 1
    return f"{row['database']}.{row['table']}" if several else str(row["table"])


def diversity_rows(measures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what `measures.diversity` has as rows of a table."""
    diversity = measures["diversity"]
    similar, vendi, skeletons, ngrams = (
        diversity[name] for name in ("similarity", "vendi", "skeletons", "distinct_ngrams")
    )
    found = []
    if similar is not None:
        interval = f"95 % interval {similar['low']:.4f} to {similar['high']:.4f}, {similar['num_pairs']:,} pairs"
        found.append({"what": "mean similarity of pairs", "value": similar["mean"], "of": interval})
    for each in (vendi, *diversity["vendi_by_encoder"]):
        of = f"n = {each['n']:,}, d = {each['d']}, {each['kernel']} kernel, order {each['order']}, {each['encoder']}"
        found.append({"what": "Vendi score", "value": each["score"], "of": of})
    n = f"n = {skeletons['n']:,}"
    found += [
        {"what": "share of different skeletons", "value": skeletons["distinct_share"], "of": n},
        {"what": "share of queries whose skeleton occurs once", "value": skeletons["occur_once_share"], "of": n},
        {"what": "effective number of skeletons", "value": skeletons["effective_number"], "of": n},
    ]
    found += [
        {"what": f"share of different sequences of {length} token" + "s" * (length != "1"), "value": share, "of": n}
        for length, share in ngrams.items()
        if length != "n"
    ]
    return found


def growth(figure_8: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the chart of figure 8."""
    if not figure_8:
        return None
    columns: COLUMNS = (
        ("queries", "queries", "n"), ("state", "phase", ""), ("expansion_ratio", "expansion ratio", "3"),
        ("similarity", "mean similarity of pairs", "3"), ("low", "from", "3"), ("high", "to", "3"),
    )  # fmt: skip
    note = "the whole pool after each round; the band is the 95 % interval"
    return chart("As the pool grew (figure 8)", charts.growth(figure_8), figure_8, columns, note, wide=True)


def cost_text(measures: Mapping[str, Any]) -> str:
    """Return cost and time in some sentences."""
    cost, work = measures["cost"], measures["work"]
    if cost is None:
        return ""
    if cost["cost_usd"] is None:
        return "What it cost is in the summary that the end of the run writes, and there is none, or it is damaged."
    text = f"When the pool had {cost['as_of_rows']:,} queries, replies of models had cost {dollars(cost['cost_usd'])}"
    if cost["unconfirmed_usd"]:
        text += f", and up to {dollars(cost['unconfirmed_usd'])} for requests without a reply may be billed"
    text += f": {dollars(cost['cost_usd_per_1000'])} for 1,000 queries."
    if cost["strong_model_alone_usd"] is not None:
        text += (
            f" From the model of the Generation Team alone the same number would have cost about "
            f"{dollars(cost['strong_model_alone_usd'])}, by what a row of that team has cost; "
            f"{cost['saved_share']:.0%} is saved."
        )
    if work is not None:
        text += f" It took {work['wall_s']:,.0f} s in {work['rounds']} rounds; phases overlap, so they add up to more."
    return text


def phases(measures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the charts of time: seconds of each phase, and the pool by time."""
    work = measures["work"]
    if work is None:
        return []
    seconds = [{"phase": phase, "seconds": value} for phase, value in work["phase_s"].items()]
    found = [
        chart(
            "Seconds of each phase", charts.bars(seconds, "phase", "seconds", "", "seconds"), seconds,
            (("phase", "phase", ""), ("seconds", "seconds", "1")),
        )
    ]  # fmt: skip
    points = measures["figure_8"]
    found.append(
        chart(
            "The pool by time", charts.curve(points, "wall_s", "queries", "seconds", "queries"), points,
            (("wall_s", "seconds", "1"), ("queries", "queries", "n")),
        )
    )  # fmt: skip
    return found
