"""How fast is the encoder? Ours beside sentence-transformers as it comes. Prints one JSON object.

    python -m benchmarks.embedding [--run runs/tpcds | --corpus FILE --dialect duckdb] [--limit 1000] [--timed 200]

Both sides use every core, in turns, several times; the least time of each counts, and `ratio` is that of the least.
The reference is `SentenceTransformer.encode` with batches of 32 in fp32. To the queries of a run over TPC-DS the 99
official ones are added; without a corpus, they are all. Whether the neighbours are the same is looked at on the whole
corpus, how fast it is on `--timed` queries of it. `arithmetic_ms` is what the network's matrix products take by
themselves in fp32, which no encoder in fp32 goes below. A limit that is missed (3.5 times as fast in bf16, twice in
fp32; mean cosine 0.999; recall 0.98) makes the exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sentence_transformers import SentenceTransformer

from benchmarks.corpus import add_arguments, add_run_argument, chosen_queries, official_tpcds, parse_each
from rayfactory.config import EmbeddingConfig
from rayfactory.sql import normalise
from rayfactory.tools.embedding import Embedder, packaged_model_dir

NEIGHBOURS = 200
"""Candidates that retrieval draws by cosine for each query."""

MIN_RATIOS = {"bf16": 3.5, "fp32": 2.0}
MIN_COSINE = 0.999
MIN_RECALL = 0.98


def measure(encode: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds that a call takes, and the CPU seconds of this process."""
    started, started_cpu = time.perf_counter(), time.process_time()
    encode()
    return time.perf_counter() - started, time.process_time() - started_cpu


def recall(ours_ND: npt.NDArray[np.float32], reference_ND: npt.NDArray[np.float32], k: int) -> float:
    """Return the mean share of each text's k nearest others by the reference that ours finds among its k nearest."""
    nearest = []
    for vectors_ND in (ours_ND, reference_ND):
        cosines_NN = vectors_ND @ vectors_ND.T
        np.fill_diagonal(cosines_NN, -np.inf)
        nearest.append(np.argpartition(-cosines_NN, k, axis=1)[:, :k])
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(*nearest, strict=True)]))


def arithmetic_s(plain: SentenceTransformer, num_tokens: Sequence[int]) -> float:
    """Return how long the matrix products of the network take for texts, at this machine's rate for such products.

    That is torch's, in fp32, with matrices of the network's own widths: what an encoder in fp32 cannot go below.
    """
    import torch

    about: Any = plain[0].auto_model.config  # type: ignore[union-attr]
    layers, width, inner = about.num_hidden_layers, about.hidden_size, about.intermediate_size
    weights = 4 * width * width + 2 * width * inner
    operations = sum(layers * (2 * n * weights + 4 * n * n * width) for n in num_tokens)
    left, right = torch.rand(4096, width), torch.rand(width, inner)
    with torch.inference_mode():
        best_s = min(measure(lambda: left @ right)[0] for _ in range(50))
    return float(operations * best_s / (2 * 4096 * width * inner))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.set_defaults(limit=1000)
    add_run_argument(parser)
    parser.add_argument("--timed", type=int, default=200, help="queries that are timed")
    parser.add_argument("--repetitions", type=int, default=5, help="of each side")
    parser.add_argument("--precision", default="auto", help="of ours: auto, fp32 or bf16")
    arguments = parser.parse_args()
    queries = chosen_queries(arguments)
    if arguments.run is not None:
        queries = [*official_tpcds(), *queries]
    trees = parse_each(queries[: arguments.limit], arguments.dialect)
    texts = [normalise(tree, arguments.dialect) for tree in trees]
    random.Random(0).shuffle(texts)
    timed = texts[: arguments.timed]
    threads = os.cpu_count() or 1
    config = EmbeddingConfig(device="cpu", precision=arguments.precision)
    plain = SentenceTransformer(str(packaged_model_dir()), device="cpu", local_files_only=True)
    plain.max_seq_length = config.max_tokens

    def reference(some: list[str]) -> npt.NDArray[np.float32]:
        return np.asarray(plain.encode(some, batch_size=32, normalize_embeddings=True, show_progress_bar=False))

    with tempfile.TemporaryDirectory() as cache:
        convert_s, _ = measure(lambda: Embedder(config, Path(cache), threads))
        load_s, load_cpu_s = measure(lambda: Embedder(config, Path(cache), threads))
        embedder = Embedder(config, Path(cache), threads)
    ours_ND, reference_ND = embedder.encode(texts), reference(texts)
    times = [
        (measure(lambda: reference(timed)), measure(lambda: embedder.encode(timed)))
        for _ in range(arguments.repetitions)
    ]
    reference_s, reference_cpu_s = (min(times_of) for times_of in zip(*(each[0] for each in times), strict=True))
    ours_s, ours_cpu_s = (min(times_of) for times_of in zip(*(each[1] for each in times), strict=True))
    cosines = (ours_ND * reference_ND).sum(axis=1)
    num_tokens = [min(len(plain.tokenizer(text)["input_ids"]), config.max_tokens) for text in timed]
    per_text = 1e3 / len(timed)
    report: dict[str, Any] = {
        "benchmark": "embedding",
        "reference": "SentenceTransformer.encode, batch 32, fp32",
        "encoder": f"{embedder.config.backend} {embedder.config.precision}, texts of one padded length together",
        "precision": embedder.config.precision,
        "threads": threads,
        "texts": len(texts),
        "timed": len(timed),
        "repetitions": len(times),
        "median_tokens": statistics.median(num_tokens),
        "reference_ms": round(reference_s * per_text, 2),
        "ours": round(ours_s * per_text, 2),
        "ratio": round(reference_s / ours_s, 2),
        "ratios": [round(each[0][0] / each[1][0], 2) for each in times],
        "reference_cpu_ms": round(reference_cpu_s * per_text, 2),
        "ours_cpu_ms": round(ours_cpu_s * per_text, 2),
        "cpu_ratio": round(reference_cpu_s / ours_cpu_s, 2),
        "arithmetic_ms": round(arithmetic_s(plain, num_tokens) * per_text, 2),
        "exact": None,  # another precision, or another order of sums
        "mean_cosine": round(float(cosines.mean()), 7),
        "least_cosine": round(float(cosines.min()), 7),
        f"recall_at_{NEIGHBOURS}": round(recall(ours_ND, reference_ND, NEIGHBOURS), 4)
        if len(texts) > NEIGHBOURS
        else None,
        "convert_s_without_imports": round(convert_s, 2),
        "load_s_without_imports": round(load_s, 2),
        "load_cpu_s_without_imports": round(load_cpu_s, 2),
    }
    print(json.dumps(report))
    missed = [
        f"{name} {report[name]} is less than {least}"
        for name, least in (
            ("ratio", MIN_RATIOS[embedder.config.precision]),
            ("mean_cosine", MIN_COSINE),
            (f"recall_at_{NEIGHBOURS}", MIN_RECALL if len(texts) > NEIGHBOURS else None),
        )
        if least is not None and report[name] < least
    ]
    if missed:
        raise SystemExit("; ".join(missed))


if __name__ == "__main__":
    main()
