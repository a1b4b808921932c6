from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from sentence_transformers import SentenceTransformer
from sqlglot import exp

from rayfactory.config import EmbeddingConfig
from rayfactory.errors import ConfigError
from rayfactory.sql import normalise
from rayfactory.tools import embedding
from rayfactory.tools.embedding import Embedder, decided, packaged_model_dir
from rayfactory.tools.openvino_encoder import OpenVINOEncoder, cpu_has_bf16, read_network
from rayfactory.tools.sentence_encoder import SentenceEncoder, has_gpu

PROJECT = Path(__file__).resolve().parents[2]

TEXTS = [
    "select sum(ss_net_paid) from store_sales group by ss_store_sk",
    "select sum(ss_net_profit) from store_sales group by ss_store_sk",
    "select c_last_name from customer where c_birth_year between 1960 and 1970",
    "",
    "  SELECT 'Ünïcode — 中文', \t\n [MASK] FROM \"Some Table\"  ",
    "select " + ", ".join(f"column_{i}" for i in range(200)) + " from wide",
]

needs_bf16 = pytest.mark.skipif(not cpu_has_bf16(), reason="this CPU has no bf16")

PRECISIONS = ["fp32", pytest.param("bf16", marks=needs_bf16)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, encoders: Path) -> Path:
    """Return a folder with the packaged model, converted."""
    return Path(shutil.copytree(encoders, tmp_path_factory.mktemp("cache") / "encoders"))


@pytest.fixture(scope="module")
def embedder(cache: Path) -> Embedder:
    return Embedder(EmbeddingConfig(device="cpu"), cache)


@pytest.fixture(scope="module")
def queries(official_trees: list[exp.Expr]) -> list[str]:
    """Return texts as candidates are: the official queries of TPC-DS, and each of their subqueries and CTEs."""
    inner = [select for tree in official_trees for select in tree.find_all(exp.Select)]
    texts = [normalise(tree.copy(), "duckdb") for tree in [*official_trees, *inner]]
    return list(dict.fromkeys(texts))


@pytest.fixture(scope="module")
def reference_vectors(queries: list[str]) -> npt.NDArray[np.float32]:
    """Return the vectors that sentence-transformers gives as it comes."""
    model = SentenceTransformer(str(packaged_model_dir()), device="cpu", local_files_only=True)
    model.max_seq_length = EmbeddingConfig().max_tokens
    return np.asarray(model.encode(queries, batch_size=32, normalize_embeddings=True, show_progress_bar=False))


def test_vectors_are_of_unit_length(embedder: Embedder):
    vectors_ND = embedder.encode(TEXTS)
    assert vectors_ND.dtype == np.float32
    assert vectors_ND.shape == (len(TEXTS), embedder.dimension) == (6, 384)
    assert np.linalg.norm(vectors_ND, axis=1) == pytest.approx(1, abs=1e-6)


def test_alike_queries_have_near_vectors(embedder: Embedder):
    cosines = embedder.encode(TEXTS) @ embedder.encode(TEXTS).T
    assert cosines[0, 1] > cosines[0, 2] + 0.2


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_vector_depends_on_its_text_alone(cache: Path, precision: str):
    """The same bits in any list, in any order, on any number of streams, with any number of callers at once."""
    config = EmbeddingConfig(device="cpu", precision=precision)
    texts = [f"{text} limit {i}" for i in range(4) for text in TEXTS]
    alone = Embedder(config, cache)
    expected = [alone.encode([text])[0].tobytes() for text in texts]
    for num_streams in (1, 2, 5):
        embedder = Embedder(config, cache, num_streams)
        assert [vector.tobytes() for vector in embedder.encode(texts)] == expected
        assert [vector.tobytes() for vector in embedder.encode(texts[::-1])] == expected[::-1]
        with ThreadPoolExecutor(3) as callers:
            for vectors_ND in callers.map(embedder.encode, [texts] * 3):
                assert [vector.tobytes() for vector in vectors_ND] == expected


def test_fp32_gives_the_vectors_of_sentence_transformers(
    cache: Path, queries: list[str], reference_vectors: npt.NDArray[np.float32]
):
    ours_ND = Embedder(EmbeddingConfig(device="cpu", precision="fp32"), cache).encode(queries)
    assert (ours_ND * reference_vectors).sum(axis=1).min() >= 0.999999
    assert ours_ND == pytest.approx(reference_vectors, abs=1e-6)


@needs_bf16
def test_bf16_keeps_the_neighbours(cache: Path, queries: list[str], reference_vectors: npt.NDArray[np.float32]):
    """The mean cosine is at least 0.999; of the 200 nearest in fp32 at least 98 % are among the 200 nearest, of 20 95 %."""
    ours_ND = Embedder(EmbeddingConfig(device="cpu", precision="bf16"), cache).encode(queries)
    assert len(queries) > 300
    assert (ours_ND * reference_vectors).sum(axis=1).mean() >= 0.999
    ours, expected = (np.argsort(-(each @ each.T), axis=1) for each in (ours_ND, reference_vectors))
    for k, least in ((200, 0.98), (20, 0.95)):
        assert np.mean([np.isin(a[:k], b[:k]).mean() for a, b in zip(ours, expected, strict=True)]) >= least


@pytest.mark.parametrize("max_tokens", [8, 256, 512])
def test_tokens_are_those_of_the_model(cache: Path, queries: list[str], max_tokens: int):
    """With the special tokens, and cut at the same place."""
    config = EmbeddingConfig(device="cpu", max_tokens=max_tokens)
    decided(config, cache)
    ours = OpenVINOEncoder(read_network(cache / embedding._key(str(packaged_model_dir()), max_tokens)), "fp32", 1)
    model = SentenceTransformer(str(packaged_model_dir()), device="cpu", local_files_only=True)
    model.max_seq_length = max_tokens
    texts = [*TEXTS, *queries[:40]]
    expected = [model.preprocess([text])["input_ids"][0].tolist() for text in texts]
    assert [ours.token_ids(text) for text in texts] == expected
    assert max(map(len, expected)) == max_tokens


def test_texts_are_padded_to_a_few_lengths_and_never_beyond_what_the_model_takes(cache: Path):
    """Filling up changes nothing: texts of every length have the vectors that sentence-transformers gives."""
    config = EmbeddingConfig(device="cpu", precision="fp32", max_tokens=40)
    decided(config, cache)
    ours = OpenVINOEncoder(read_network(cache / embedding._key(str(packaged_model_dir()), 40)), "fp32", 1)
    lengths = [ours._padded(num_tokens) for num_tokens in range(1, 41)]
    assert set(lengths) == {32, 40}
    assert all(length >= num_tokens for num_tokens, length in enumerate(lengths, 1))
    model = SentenceTransformer(str(packaged_model_dir()), device="cpu", local_files_only=True)
    model.max_seq_length = 40
    texts = ["", *(" ".join(["select"] * count) for count in range(1, 41))]
    assert {len(ours.token_ids(text)) for text in texts} == set(range(2, 41))
    expected = model.encode(texts, batch_size=1, normalize_embeddings=True, show_progress_bar=False)
    assert ours.encode(texts) == pytest.approx(expected, abs=1e-6)


def test_no_texts_give_no_vectors(embedder: Embedder):
    assert embedder.encode([]).shape == (0, 384)


def test_a_folder_is_taken_and_max_tokens_cuts(cache: Path):
    short = Embedder(EmbeddingConfig(device="cpu", model=str(packaged_model_dir()), max_tokens=8), cache)
    long_texts = [f"select a, b, c, d, e, f from {table}" for table in ("store", "customer")]
    first, second = short.encode(long_texts)
    assert first.tolist() == second.tolist()


def test_loading_and_encoding_print_nothing(capfd: pytest.CaptureFixture[str]):
    Embedder(EmbeddingConfig(device="cpu")).encode(TEXTS)
    assert capfd.readouterr() == ("", "")


# -- what it runs on ------------------------------------------------------------


def test_what_is_left_open_is_decided_by_the_machine(cache: Path):
    known = decided(EmbeddingConfig(device="cpu"), cache)
    assert (known.device, known.backend) == ("cpu", "openvino")
    assert known.precision == ("bf16" if cpu_has_bf16() else "fp32")
    assert decided(known, cache) == known


def test_bf16_on_a_cpu_without_it_is_refused_with_the_remedy(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(embedding, "cpu_has_bf16", lambda: False)
    assert decided(EmbeddingConfig(device="cpu"), cache).precision == "fp32"
    with pytest.raises(ConfigError, match=r"embedding\.precision is 'bf16'.* set embedding\.precision=fp32"):
        decided(EmbeddingConfig(device="cpu", precision="bf16"), cache)


@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_with_the_remedy(cache: Path):
    with pytest.raises(ConfigError, match=r"embedding\.device is 'gpu'.* set embedding\.device=cpu"):
        decided(EmbeddingConfig(device="gpu"), cache)
    with pytest.raises(ConfigError, match=r"embedding\.device is 'gpu'.* set embedding\.device=cpu"):
        SentenceEncoder(EmbeddingConfig(device="gpu", precision="fp32"), str(packaged_model_dir()), 1)
    assert decided(EmbeddingConfig(device="gpu"), cache, gpu_elsewhere=True) == EmbeddingConfig(
        device="gpu", backend="sentence-transformers", precision="fp32"
    )


def test_sentence_transformers_on_a_cpu_is_of_fp32(cache: Path, embedder: Embedder):
    plain = EmbeddingConfig(device="cpu", backend="sentence-transformers")
    for precision in ("bf16", "fp16"):
        with pytest.raises(
            ConfigError, match=rf"embedding\.precision is '{precision}'.* set embedding\.precision=fp32"
        ):
            decided(EmbeddingConfig(device="cpu", backend="sentence-transformers", precision=precision), cache)
    one, two = Embedder(plain, cache), Embedder(plain, cache, num_streams=2)
    assert one.config.precision == "fp32"
    assert one.encode(TEXTS).tobytes() == two.encode(TEXTS).tobytes()
    assert one.encode(TEXTS[::-1]).tobytes() == one.encode(TEXTS)[::-1].tobytes()
    assert (one.encode(TEXTS) * embedder.encode(TEXTS)).sum(axis=1).min() > 0.999
    assert one.encode([]).shape == (0, 384)


@pytest.fixture(scope="module")
def unconvertible_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model of word vectors: it has no network that takes token ids."""
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(packaged_model_dir() / "tokenizer.json"))
    tokenizer.no_padding()
    folder = tmp_path_factory.mktemp("model") / "static"
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=16)], device="cpu").save(str(folder))
    return folder


def test_a_model_that_openvino_does_not_take_is_encoded_by_sentence_transformers(
    tmp_path: Path, unconvertible_model: Path, caplog: pytest.LogCaptureFixture
):
    """In fp32; the next one knows at once, and who insists on OpenVINO is told."""
    config = EmbeddingConfig(model=str(unconvertible_model), device="cpu")
    texts = TEXTS[:3]
    for _ in range(2):
        embedder = Embedder(config, tmp_path)
        assert (embedder.config.backend, embedder.config.precision) == ("sentence-transformers", "fp32")
        assert "OpenVINO does not take" in caplog.text
    expected = SentenceTransformer(str(unconvertible_model), device="cpu").encode(texts, normalize_embeddings=True)
    assert embedder.encode(texts) == pytest.approx(np.asarray(expected), abs=1e-6)
    with pytest.raises(ConfigError, match=r"does not take .* set embedding\.backend=sentence-transformers"):
        decided(EmbeddingConfig(model=str(unconvertible_model), device="cpu", backend="openvino"), tmp_path)


@pytest.mark.gpu
def test_a_gpu_encodes_in_the_models_own_precision(tmp_path: Path, queries: list[str]):
    on_gpu = Embedder(EmbeddingConfig(device="gpu"), tmp_path)
    on_cpu = Embedder(EmbeddingConfig(device="cpu", precision="fp32"), tmp_path)
    assert on_gpu.config.precision == "fp32"
    assert (on_gpu.encode(queries) * on_cpu.encode(queries)).sum(axis=1).min() > 0.9999


# -- converted models -----------------------------------------------------------


def in_a_process(code: str, *arguments: object, home: Path) -> str:
    """Return what Python code prints in a process of its own, whose home is empty."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=PROJECT,
        env={**os.environ, "HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


ENCODE = """
import sys
from pathlib import Path
from rayfactory.config import EmbeddingConfig
from rayfactory.tools.embedding import Embedder
print(Embedder(EmbeddingConfig(device="cpu"), Path(sys.argv[1])).encode(["select 1"]).tobytes().hex())
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""

CONVERT = """
import sys
from rayfactory.config import EmbeddingConfig
from rayfactory.tools.sentence_encoder import converted
converted(EmbeddingConfig(), sys.argv[1])
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_a_model_that_was_converted_once_needs_no_torch(cache: Path, tmp_path: Path, embedder: Embedder):
    """Nor transformers or sentence-transformers, whose import takes most of a start."""
    vector, modules = in_a_process(ENCODE, cache, home=tmp_path).splitlines()
    assert vector == embedder.encode(["select 1"]).tobytes().hex()
    assert "openvino" in modules.split()
    assert not {"torch", "transformers", "sentence_transformers"} & set(modules.split())


@dataclass(frozen=True)
class AtOnce:
    """What two processes left that converted a model at the same time, and what each of them printed."""

    home: Path
    cache: Path
    printed: list[list[str]]


@pytest.fixture(scope="module")
def at_once(tmp_path_factory: pytest.TempPathFactory) -> AtOnce:
    home = tmp_path_factory.mktemp("home")
    cache = tmp_path_factory.mktemp("data") / "cache"
    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(in_a_process, ENCODE, cache, home=home) for _ in range(2)]
        return AtOnce(home, cache, [call.result().splitlines() for call in calls])


def test_nothing_is_told_to_the_network(at_once: AtOnce):
    """OpenVINO's reporter, which keeps a number for each user in their home, is not loaded, to convert neither."""
    modules = set(in_a_process(CONVERT, packaged_model_dir(), home=at_once.home).split())
    assert {"openvino", "torch"} <= modules
    assert "openvino_telemetry" not in modules
    assert not (at_once.home / "intel").exists()


def test_who_has_a_model_converted_needs_no_torch(at_once: AtOnce):
    for _, modules in at_once.printed:
        assert "openvino" in modules.split()
        assert not {"torch", "transformers", "sentence_transformers"} & set(modules.split())


def test_conversion_leaves_one_whole_folder(at_once: AtOnce, embedder: Embedder):
    """Also where several processes convert at once."""
    assert {vector for vector, _ in at_once.printed} == {embedder.encode(["select 1"]).tobytes().hex()}
    (folder,) = at_once.cache.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["about.json", "model.bin", "model.xml", "tokenizer.json"]


@pytest.mark.parametrize("name", ["about.json", "model.bin", "model.xml", "tokenizer.json"])
def test_a_damaged_file_is_seen(tmp_path: Path, cache: Path, name: str):
    kept = cache / embedding._key(str(packaged_model_dir()), EmbeddingConfig().max_tokens)
    for path in kept.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[: 9 if path.name == name else None])
    with pytest.raises((OSError, ValueError, KeyError, RuntimeError)):
        read_network(tmp_path)


def test_a_damaged_folder_is_made_again(tmp_path: Path, cache: Path, embedder: Embedder):
    key = embedding._key(str(packaged_model_dir()), EmbeddingConfig().max_tokens)
    (tmp_path / key).mkdir()
    (tmp_path / key / "about.json").write_text("{")
    again = Embedder(EmbeddingConfig(device="cpu"), tmp_path)
    assert again.encode(TEXTS).tobytes() == embedder.encode(TEXTS).tobytes()
    assert read_network(tmp_path / key).tokenizer == read_network(cache / key).tokenizer


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, embedder: Embedder, caplog: pytest.LogCaptureFixture
):
    """Below a file there is no folder for anybody; whom permissions stop may not be able to read the packages either."""
    (tmp_path / "file").touch()
    vectors_ND = Embedder(EmbeddingConfig(device="cpu"), tmp_path / "file" / "encoders").encode(TEXTS)
    assert vectors_ND.tobytes() == embedder.encode(TEXTS).tobytes()
    assert "cannot be kept" in caplog.text


def test_another_model_has_another_folder(tmp_path: Path):
    """By its content: two that only have the same path are two."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"hidden_size": 8}))
    before = embedding._key(str(model), 256)
    assert embedding._key(str(model), 128) != before
    (model / "config.json").write_text(json.dumps({"hidden_size": 9}))
    assert embedding._key(str(model), 256) != before


# -- what is refused ------------------------------------------------------------


def test_a_folder_without_a_model_is_refused_with_the_remedy(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"embedding\.model .* cannot be loaded .* give a folder"):
        Embedder(EmbeddingConfig(model=str(tmp_path)))


def test_a_folder_that_is_not_there_is_refused_with_the_remedy(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"embedding\.model .* cannot be loaded .* give a folder"):
        Embedder(EmbeddingConfig(model=str(tmp_path / "missing")))


def test_more_tokens_than_the_model_has_positions_for_are_refused():
    with pytest.raises(ConfigError, match=r"embedding\.max_tokens=513 is more than .* 512"):
        Embedder(EmbeddingConfig(max_tokens=513))
