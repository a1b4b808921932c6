from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rayfactory.config import EmbeddingConfig
from rayfactory.errors import ConfigError
from rayfactory.tools.embedding import Embedder, packaged_model_dir

TEXTS = [
    "select sum(ss_net_paid) from store_sales group by ss_store_sk",
    "select sum(ss_net_profit) from store_sales group by ss_store_sk",
    "select c_last_name from customer where c_birth_year between 1960 and 1970",
    "",
]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(EmbeddingConfig())


def test_vectors_are_of_unit_length(embedder: Embedder):
    vectors_ND = embedder.encode(TEXTS)
    assert vectors_ND.dtype == np.float32
    assert vectors_ND.shape == (len(TEXTS), embedder.dimension) == (4, 384)
    assert np.linalg.norm(vectors_ND, axis=1) == pytest.approx(1, abs=1e-6)


def test_alike_queries_have_near_vectors(embedder: Embedder):
    cosines = embedder.encode(TEXTS) @ embedder.encode(TEXTS).T
    assert cosines[0, 1] > cosines[0, 2] + 0.2


def test_the_same_list_gives_the_same_bits(embedder: Embedder):
    texts = [f"{text} limit {i}" for i in range(12) for text in TEXTS]
    assert embedder.encode(texts).tobytes() == embedder.encode(texts).tobytes()


def test_the_company_of_a_text_moves_its_vector_by_rounding_alone(embedder: Embedder):
    together = embedder.encode([*TEXTS, "select " + ", ".join(f"column_{i}" for i in range(60)) + " from wide"])
    alone = np.concatenate([embedder.encode([text]) for text in TEXTS])
    assert together[: len(TEXTS)] == pytest.approx(alone, abs=1e-5)


def test_no_texts_give_no_vectors(embedder: Embedder):
    assert embedder.encode([]).shape == (0, 384)


def test_a_folder_is_taken_and_max_tokens_cuts():
    short = Embedder(EmbeddingConfig(model=str(packaged_model_dir()), max_tokens=8))
    long_texts = [f"select a, b, c, d, e, f from {table}" for table in ("store", "customer")]
    first, second = short.encode(long_texts)
    assert first.tolist() == second.tolist()


def test_loading_and_encoding_print_nothing(capfd: pytest.CaptureFixture[str]):
    Embedder(EmbeddingConfig()).encode(TEXTS)
    assert capfd.readouterr() == ("", "")


def test_a_folder_without_a_model_is_refused_with_the_remedy(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"embedding\.model .* cannot be loaded .* give a folder"):
        Embedder(EmbeddingConfig(model=str(tmp_path)))


def test_a_folder_that_is_not_there_is_refused_with_the_remedy(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"embedding\.model .* cannot be loaded .* give a folder"):
        Embedder(EmbeddingConfig(model=str(tmp_path / "missing")))


def test_more_tokens_than_the_model_has_positions_for_are_refused():
    with pytest.raises(ConfigError, match=r"embedding\.max_tokens=513 is more than .* 512"):
        Embedder(EmbeddingConfig(max_tokens=513))
