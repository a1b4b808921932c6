"""An encoder through sentence-transformers: on a GPU, and for what OpenVINO does not take. Only this module knows it.

Importing the library takes seconds; what is done once (`converted`) is kept, so that most processes never do.
"""

from __future__ import annotations

import ctypes
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rayfactory.config import EmbeddingConfig
from rayfactory.errors import ConfigError
from rayfactory.tools.openvino_encoder import Network, OpenVINOEncoder, convert

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

GPU_BATCH_SIZE = 128
"""Texts of similar length that a GPU encodes together."""

_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

_PROBES = (
    "",
    "select 1",
    "SELECT c_last_name, count(*) FROM Customer WHERE c_birth_year BETWEEN 1960 AND 1970 GROUP BY c_last_name",
    f"select {', '.join(f'column_{i}' for i in range(200))} from wide",
)
"""Texts that tell whether a converted network is the same one: nothing, little, capitals, and more than fits."""

_LEAST_COSINE = 0.99999


class UnconvertibleError(Exception):
    """OpenVINO does not take a model, or gives other vectors for it."""


class SentenceEncoder:
    """A model of sentence-transformers that is ready to encode. Any thread may use it, and several at once.

    Args:
        config: with device and precision decided.
        source: folder or name of the model.
        num_streams: texts at work at a time on the CPU, each alone and on one thread.

    Raises:
        ConfigError: the model cannot be loaded, or there is no GPU.
    """

    def __init__(self, config: EmbeddingConfig, source: str, num_streams: int) -> None:
        import torch

        self._on_gpu = config.device == "gpu"
        if self._on_gpu and not has_gpu():
            raise ConfigError("embedding.device is 'gpu', and torch finds no GPU here; set embedding.device=cpu")
        if not self._on_gpu:
            # With one, a vector does not depend on how many there are.
            torch.set_num_threads(1)
        self._model = load(config, source).to(
            device="cuda" if self._on_gpu else "cpu", dtype=getattr(torch, _DTYPES[config.precision])
        )
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(num_streams, thread_name_prefix="encode")
        dimension = self._model.get_embedding_dimension()
        assert dimension is not None
        self.dimension = dimension

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return float32[N, D], one unit vector for each text."""
        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        if self._on_gpu:
            with self._lock:
                vectors_ND = _encode(self._model, texts, GPU_BATCH_SIZE)
        else:
            vectors_ND = np.stack(list(self._threads.map(self._encode_one, texts)))
        vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
        return vectors_ND

    def _encode_one(self, text: str) -> npt.NDArray[np.float32]:
        import torch

        with self._lock:  # a tokenizer is for one thread at a time
            features = self._model.preprocess([text], prompt=_prompt(self._model) or None)
        with torch.inference_mode():
            vector: npt.NDArray[np.float32] = self._model(features)["sentence_embedding"][0].float().numpy()
        return vector


def has_gpu() -> bool:
    """Return whether torch can use a GPU here; it is imported only where there is a driver for one."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    import torch

    return torch.cuda.is_available()


def load(config: EmbeddingConfig, source: str) -> SentenceTransformer:
    """Load a model on the CPU, in the precision that it is stored in.

    Raises:
        ConfigError: it cannot be loaded, or is not for so many tokens.
    """
    from huggingface_hub.utils.logging import set_verbosity_error
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        model = _load(source)
    except Exception as error:  # the loaders below it raise whatever their parsers and HTTP clients do
        raise ConfigError(
            f"embedding.model {config.model!r} cannot be loaded ({_first_line(error)}); give a folder that holds a "
            f"sentence-transformers model, the name of one that can be downloaded, or {EmbeddingConfig().model!r}"
        ) from error
    network = getattr(model[0], "auto_model", None)
    longest = getattr(getattr(network, "config", None), "max_position_embeddings", None)
    if isinstance(longest, int) and config.max_tokens > longest:
        raise ConfigError(
            f"embedding.max_tokens={config.max_tokens} is more than {config.model!r} takes: {longest} tokens; "
            f"set embedding.max_tokens={longest} or less"
        )
    with suppress(AttributeError):  # word vectors take a text of any length
        model.max_seq_length = config.max_tokens
    return model.eval()


def converted(config: EmbeddingConfig, source: str) -> Network:
    """Return the whole pipeline of a model (transformer, pooling, dense, normalisation) for OpenVINO.

    Raises:
        ConfigError: the model cannot be loaded.
        UnconvertibleError: OpenVINO does not take it, or gives other vectors than sentence-transformers.
    """
    import torch

    model = load(config, source).to(dtype=torch.float32)
    with _quiet(), torch.no_grad():
        try:
            tokenizer = model.tokenizer.backend_tokenizer
            # This sets how the tokenizer truncates. Two lengths, so that nothing is taken for the same in every batch.
            features = model.preprocess(list(_PROBES[1:3]))
            example = {name: each for name, each in features.items() if isinstance(each, torch.Tensor)}
            tokenizer.no_padding()
            network = Network(
                convert(_pipeline(model), example),
                tokenizer.to_str(),
                _prompt(model),
                getattr(model.tokenizer, "pad_token_id", None) or 0,
            )
            ours_ND = OpenVINOEncoder(network, "fp32", 1).encode(_PROBES)
        except (MemoryError, OSError):  # the machine's fault, not the model's
            raise
        except Exception as error:
            raise UnconvertibleError(_first_line(error)) from error
        reference_ND = _encode(model, _PROBES, 1)
    least = float((ours_ND * reference_ND).sum(axis=1).min())
    if not least >= _LEAST_COSINE:
        raise UnconvertibleError(f"its vectors would differ: cosine {least:.5f}")
    return network


def _pipeline(model: SentenceTransformer) -> torch.nn.Module:
    import torch

    class Pipeline(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.steps = torch.nn.ModuleList(model.children())

        def forward(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
        ) -> torch.Tensor:
            features: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
            if token_type_ids is not None:
                features["token_type_ids"] = token_type_ids
            for step in self.steps:
                features = step(features)
            vectors_ND: torch.Tensor = features["sentence_embedding"]
            return vectors_ND

    return Pipeline().eval()


def _encode(model: SentenceTransformer, texts: Sequence[str], batch_size: int) -> npt.NDArray[np.float32]:
    vectors_ND = model.encode(
        list(texts), batch_size=batch_size, show_progress_bar=False, convert_to_numpy=True, normalize_embeddings=True
    )
    return np.ascontiguousarray(vectors_ND, dtype=np.float32)


def _prompt(model: SentenceTransformer) -> str:
    """Return what a model wants in front of each text."""
    name = model.default_prompt_name
    return "" if name is None else str(model.prompts[name])


def _load(source: str) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(source, device="cpu", local_files_only=True)
    except Exception:
        # Only what the user names, and what is neither a folder nor downloaded already, is asked of the network.
        if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", source) or Path(source).exists():
            raise
    return SentenceTransformer(source, device="cpu")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what tracing has to say of other people's code off the terminal."""
    from transformers.utils.logging import get_verbosity, set_verbosity, set_verbosity_error

    before = get_verbosity()
    set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        set_verbosity(before)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
