"""How fast is the encoder? Ours beside sentence-transformers as it comes. Prints one JSON object.

python benchmarks/embedding.py [--corpus FILE --dialect duckdb] [--limit 100]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
from sentence_transformers import SentenceTransformer

from benchmarks.corpus import add_arguments, chosen_trees
from rayfactory.config import EmbeddingConfig
from rayfactory.sql import normalise
from rayfactory.tools.embedding import Embedder, packaged_model_dir


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.set_defaults(limit=100)
    arguments = parser.parse_args()
    config = EmbeddingConfig()
    texts = [normalise(tree, arguments.dialect) for tree in chosen_trees(arguments)]
    # The reference first: it uses every core, until ours settles on one.
    plain = SentenceTransformer(str(packaged_model_dir()), device="cpu", local_files_only=True)
    plain.max_seq_length = config.max_tokens
    plain.encode(texts[:2], show_progress_bar=False)
    started = time.perf_counter()
    reference_ND = plain.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    reference_ms = (time.perf_counter() - started) / len(texts) * 1e3
    started = time.perf_counter()
    embedder = Embedder(config)
    load_s = time.perf_counter() - started
    embedder.encode(texts[:2])
    started = time.perf_counter()
    ours_ND = embedder.encode(texts)
    ours_ms = (time.perf_counter() - started) / len(texts) * 1e3
    num_tokens = [min(len(plain.tokenizer(text)["input_ids"]), config.max_tokens) for text in texts]
    report = {
        "texts": len(texts),
        "median_tokens": statistics.median(num_tokens),
        "load_s_without_imports": round(load_s, 3),
        "ours_ms_per_text": round(ours_ms, 2),
        "ours_threads": 1,
        "reference_ms_per_text": round(reference_ms, 2),
        "ratio": round(reference_ms / ours_ms, 2),
        "exact": bool(np.array_equal(ours_ND, reference_ND)),
        "least_cosine": round(float((ours_ND * reference_ND).sum(axis=1).min()), 7),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
