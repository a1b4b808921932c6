"""`task=cluster_queries`: does a corpus teach an encoder which queries belong together? BetaCV on labelled sets.

An encoder is tuned with pairs of the corpus (`contrastive`), and judged, with the one that it was and three measures
that the literature compares with, on sets of queries whose clusters are known.

Source: SQL-Factory, section 5.4 and table 4.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from rayfactory.analysis.corpus import Corpus, of_file, of_run
from rayfactory.analysis.report import write
from rayfactory.bucket.store import is_url
from rayfactory.config import Config, EmbeddingConfig
from rayfactory.downstream.betacv import betacv
from rayfactory.downstream.contrastive import tune
from rayfactory.downstream.pairs import pairs_of, rewritten_pairs
from rayfactory.downstream.query_features import Measure, distances, read
from rayfactory.downstream.query_sets import QuerySet, canonical_of, read_sets, text_of
from rayfactory.errors import ConfigError, RunDirError, StatementError, UserError
from rayfactory.files import sha256_of
from rayfactory.identity import differing
from rayfactory.pool import count_rows
from rayfactory.pool_copy import local
from rayfactory.reports.working import Say, console, working
from rayfactory.shown import shown
from rayfactory.tools.embedding import ENCODERS, Embedder, decided

CLUSTERING = "clustering"
ENCODER = "encoder"

PUBLISHED = {
    "Aouiche": (0.577, 0.923, 0.893),
    "Aligon": (0.535, 0.799, 0.898),
    "Makiyama": (0.665, 0.897, 0.879),
    "BERT-Base": (0.524, 0.769, 0.773),
    "BERT-Large": (0.637, 0.846, 0.777),
    "PreQR": (0.387, 0.622, 0.710),
    "BERT-Base + SQL-Factory": (0.376, 0.558, 0.656),
    "BERT-Large + SQL-Factory": (0.350, 0.549, 0.638),
}
"""Table 4 of the paper: BetaCV on IIT Bombay, UB Exam and PocketData."""

PUBLISHED_SETS = ("bombay", "ub", "googleplus")
"""What the three are called in EttuBench's files; PocketData's queries are those of the Google+ app."""


def run(config: Config) -> str:
    """Tune and judge, showing progress on standard error; return the table.

    Raises:
        UserError: the corpus or the sets are missing or cannot be used, or a package is missing.
    """
    with working("the queries are read", config.display) as say:
        out, found = cluster_queries(config, say)
    console().print(shown(f"{out / ENCODER} is the encoder (embedding.model=FOLDER); clustering.json has the figures"))
    return markdown(found)


def cluster_queries(config: Config, say: Say) -> tuple[Path, dict[str, Any]]:
    """Tune an encoder where there is none yet in the folder, and write how it does; return the folder and the figures.

    Args:
        config: its `run_dir` (or `runs`, with one corpus), `clustering`, `embedding`, `output` and `seed` count.
        say: told what is being done.
    """
    if not config.clustering.sets:
        raise ConfigError(
            "there is nothing to judge by; name a file or folder of labelled queries (label and query in each row): "
            "clustering.sets=DIR"
        )
    sets = read_sets(Path(config.clustering.sets).expanduser())
    out = Path(config.output) if config.output else Path(CLUSTERING).absolute()
    embedding = decided(config.embedding, Path(config.data_dir) / ENCODERS)
    tuned = out / ENCODER
    about = _settings(config, sets)
    known = _read(out / "encoder.json")
    if known and differing(known.get("settings", {}), about):
        raise RunDirError(
            f"the encoder in {str(out)!r} was tuned with other settings, another corpus or other sets; remove the "
            "folder, or name another with output="
        )
    rows: dict[str, dict[str, float]] = {}
    dialect = config.clustering.dialect
    # Before an hour goes into tuning: sets that cannot be judged by are found here.
    for measure in get_args(Measure):
        say(f"{measure.capitalize()}'s measure")
        rows[measure.capitalize()] = {each.name: _of_measure(each, measure, dialect) for each in sets}
    if "pairs" not in known or not tuned.exists():
        write(out, {"encoder.json": json.dumps({"settings": about}, indent=1) + "\n"})
        known = {"settings": about, **_tuned(config, sets, tuned, say)}
        write(out, {"encoder.json": json.dumps(known, indent=1) + "\n"})
    for name, model in ((embedding.model, embedding), ("tuned", replace(embedding, model=str(tuned)))):
        say(f"{name} encodes")
        rows[name] = _of_encoder(model, Path(config.data_dir), sets, dialect)
    found = {
        "sets": {each.name: {"queries": len(each.queries), "labels": len(set(each.labels))} for each in sets},
        "betacv": {name: {each: round(value, 4) for each, value in row.items()} for name, row in rows.items()},
        **known,
    }
    write(out, {"clustering.json": json.dumps(found, indent=1) + "\n", "clustering.md": markdown(found)})
    return out, found


def _tuned(config: Config, sets: Sequence[QuerySet], tuned: Path, say: Say) -> dict[str, Any]:
    """Tune the encoder; return what it learnt from."""
    clustering = config.clustering
    texts = {text_of(query, clustering.dialect) for each in sets for query in each.queries}
    judged = texts | {canonical_of(query, clustering.dialect) for each in sets for query in each.queries}
    corpus = _corpus(config, say)
    try:
        say(f"pairs of {clustering.pairs} queries are looked for")
        if clustering.pairs == "similar":
            pairs, left_out = pairs_of(corpus, clustering.max_pairs, clustering.positives, config.seed, judged)
        else:
            pairs, left_out = rewritten_pairs(corpus, clustering.max_pairs, config.seed, judged)
        num_queries = corpus.num_queries
    finally:
        corpus.close()
    if len(pairs) < clustering.batch_size:
        raise ConfigError(
            f"the corpus gives {len(pairs)} pairs, less than a batch (clustering.batch_size={clustering.batch_size}); "
            "take a larger corpus, or set it smaller"
        )
    similarities = [pair.similarity for pair in pairs if pair.similarity is not None]
    learnt = {text for pair in pairs for text in (pair.anchor, pair.positive)}
    if not tuned.exists():
        tune(clustering, config.embedding.model, pairs, tuned, config.seed, say)
    return {
        "queries": num_queries,
        "pairs": len(pairs),
        "mean_similarity_of_pairs": round(float(np.mean(similarities)), 4) if similarities else None,
        "left_out_as_judged": left_out,
        "learnt_texts": len(learnt),
        "judged_texts": len(texts),
        "judged_texts_learnt": len(learnt & texts),
    }


def _corpus_path(config: Config) -> Path:
    """Return the run directory, or the file of queries, that is learnt from."""
    if len(config.runs) > 1:
        raise ConfigError("an encoder is tuned with one corpus; name one: run_dir=DIR, or runs=[FILE]")
    if config.runs:
        return Path(config.runs[0]).expanduser().absolute()
    return local(config.run_dir, Path(config.data_dir)) if is_url(config.run_dir) else Path(config.run_dir)


def _corpus(config: Config, say: Say) -> Corpus:
    path = _corpus_path(config)
    return of_file(path, config, lambda done: say(f"{done:,} are parsed")) if path.is_file() else of_run(path)


def _of_measure(each: QuerySet, measure: Measure, dialect: str) -> float:
    try:
        return betacv(distances([read(query, dialect) for query in each.queries], measure), each.labels)
    except (StatementError, ValueError) as error:
        raise UserError(f"set {each.name!r} is not one that can be judged by: {error}; mend or leave it out") from None


def _settings(config: Config, sets: Sequence[QuerySet]) -> dict[str, Any]:
    """Return what makes a tuned encoder another: what it learns from, and what it must not."""
    clustering, path = config.clustering, _corpus_path(config)
    judged = sorted({canonical_of(query, clustering.dialect) for each in sets for query in each.queries})
    names = ("positives", "max_pairs", "epochs", "batch_size", "learning_rate", "warmup_share", "scale", "max_tokens")
    return {
        "corpus": config.runs[0] if config.runs else config.run_dir,
        # A pool that has grown is another corpus.
        "corpus_is": sha256_of(path) if path.is_file() else f"{count_rows(path)} rows",
        "model": config.embedding.model,
        "seed": config.seed,
        "judged_by": hashlib.sha256("\0".join(judged).encode()).hexdigest(),
        **{name: getattr(clustering, name) for name in (*names, "layers")},
        # Encoders from before this was a setting are found again.
        **({"pairs": clustering.pairs} if clustering.pairs != "similar" else {}),
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _of_encoder(model: EmbeddingConfig, data_dir: Path, sets: Sequence[QuerySet], dialect: str) -> dict[str, float]:
    embedder = Embedder(model, data_dir / ENCODERS)
    found = {}
    for each in sets:
        vectors_ND = embedder.encode([text_of(query, dialect) for query in each.queries]).astype(np.float64)
        distances_NN = np.clip(1.0 - vectors_ND @ vectors_ND.T, 0.0, 2.0)
        distances_NN = (distances_NN + distances_NN.T) / 2
        found[each.name] = betacv(distances_NN, each.labels)
    return found


def markdown(found: Mapping[str, Any]) -> str:
    """Return the figures as a page of Markdown, with the published ones where the sets are those."""
    names = list(found["sets"])
    is_published = set(PUBLISHED_SETS) <= set(names)
    if is_published:
        names = [*PUBLISHED_SETS, *(name for name in names if name not in PUBLISHED_SETS)]
    heads = [f"{name} ({found['sets'][name]['queries']})" for name in names]
    lines = ["# BetaCV: the smaller, the better", "", f"| | {' | '.join(heads)} | |", f"|---|{'---|' * len(names)}---|"]
    for name, row in found["betacv"].items():
        lines.append(f"| {name} | {' | '.join(f'{row[each]:.4f}' for each in names)} | measured |")
    if is_published:
        for name, values in PUBLISHED.items():
            cells = [f"{value:.3f}" for value in values] + [""] * (len(names) - 3)
            lines.append(f"| {name} | {' | '.join(cells)} | published |")
    learnt = f"Tuned with {found['pairs']:,} pairs of {found['queries']:,} queries"
    left_out = found["left_out_as_judged"]
    if left_out:
        learnt += f"; {left_out} were left out because they are among those that it is judged by"
    if "learnt_texts" in found:
        learnt += (
            f". Of the {found['judged_texts']:,} different texts that it is judged by, {found['judged_texts_learnt']} "
            f"are among the {found['learnt_texts']:,} that it learnt"
        )
    return "\n".join([*lines, "", f"{learnt}.", ""])
