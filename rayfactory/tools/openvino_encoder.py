"""An encoder on the CPU through OpenVINO. The only module that knows OpenVINO and tokenizers."""

from __future__ import annotations

import importlib
import json
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import openvino
    import torch

Precision = Literal["fp32", "bf16"]

_MODEL, _TOKENIZER, _ABOUT = "model.xml", "tokenizer.json", "about.json"

_MASK = "attention_mask"

_LENGTH_STEP = 32
"""Texts are padded to a multiple of so many tokens."""

_BATCH_SIZE = 4
"""Texts of one length that are encoded together, at most; more of them are no faster."""


@dataclass(frozen=True, slots=True)
class Network:
    """A sentence encoder from token ids to vectors, as OpenVINO reads it, with what turns texts into token ids.

    Attributes:
        model: inputs int64[N, T] for N texts of T tokens, output float32[N, D].
        tokenizer: as JSON; it adds special tokens and truncates, and does not pad.
        prompt: what the model wants in front of each text.
        pad_id: of the token that fills a text up, where the model takes a mask of what it is to look at.
    """

    model: openvino.Model
    tokenizer: str
    prompt: str
    pad_id: int

    def write(self, folder: Path) -> None:
        """Write the files that `read_network` reads into an existing folder.

        Raises:
            OSError: they cannot be written.
        """
        openvino = _openvino()

        try:
            openvino.save_model(self.model, folder / _MODEL, compress_to_fp16=False)
        except RuntimeError as error:
            raise OSError(str(error)) from error
        (folder / _TOKENIZER).write_text(self.tokenizer, encoding="utf-8")
        (folder / _ABOUT).write_text(json.dumps({"prompt": self.prompt, "pad_id": self.pad_id}), encoding="utf-8")


def read_network(folder: Path) -> Network:
    """Read what `Network.write` wrote.

    Raises:
        OSError, ValueError, KeyError, RuntimeError: the files are not there or damaged.
    """
    openvino = _openvino()

    about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
    tokenizer = (folder / _TOKENIZER).read_text(encoding="utf-8")
    json.loads(tokenizer)  # the library that reads it raises nothing of its own where it is damaged
    return Network(openvino.Core().read_model(folder / _MODEL), tokenizer, about["prompt"], int(about["pad_id"]))


def convert(module: torch.nn.Module, example: Mapping[str, torch.Tensor]) -> openvino.Model:
    """Convert a traced torch module to the model of a `Network`.

    Args:
        module: takes the tensors of `example` by position and gives float32[N, D].
        example: int64[N, T] each, by the name of the input.

    Raises:
        Exception: whatever the tracer or the front end raises on what it does not know.
    """
    openvino = _openvino()
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    # Not by `openvino.convert_model`, which works through a package that reports its use.
    frontend = openvino.frontend.FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(module, example_input=dict(example))
    model = frontend.convert(frontend.load(decoder))
    model.reshape({each: openvino.PartialShape([-1, -1]) for each in model.inputs})
    return model


def cpu_has_bf16() -> bool:
    """Return whether this CPU multiplies bf16 itself (AVX512-BF16 or AMX), so that it is the quicker for it."""
    openvino = _openvino()

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _openvino() -> Any:
    """Import OpenVINO without the package by which it tells the network that it was imported."""
    reporter = "openvino_telemetry"
    if "openvino" in sys.modules or reporter in sys.modules:
        return importlib.import_module("openvino")
    sys.modules[reporter] = None  # type: ignore[assignment] # OpenVINO does without what cannot be imported
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules[reporter]


class OpenVINOEncoder:
    """A network that is ready to encode. Any thread may use it, and several at once.

    A text is padded to one of a few lengths, and goes through the network with a few others of that length, on one
    thread: so its vector has the same bits whatever it is encoded with, and OpenVINO has few shapes to prepare kernels
    for.

    Args:
        network: what `convert` or `read_network` gave.
        precision: of what the CPU multiplies; sums are of fp32.
        num_streams: texts at work at a time, each on a thread.
    """

    def __init__(self, network: Network, precision: Precision, num_streams: int) -> None:
        openvino = _openvino()
        from tokenizers import Tokenizer

        self._tokenizer: Any = Tokenizer.from_str(network.tokenizer)
        self._prompt = network.prompt
        self._pad_id = network.pad_id
        self._compiled = openvino.Core().compile_model(
            network.model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
                "NUM_STREAMS": num_streams,
                "INFERENCE_NUM_THREADS": num_streams,
                # The cores are shared with other processes, which a pinned thread could not make way for.
                "ENABLE_CPU_PINNING": False,
            },
        )
        self._inputs = [each.get_any_name() for each in self._compiled.inputs]
        truncation = self._tokenizer.truncation
        # A model takes no more than its longest, and without a mask it would look at the filling.
        self._longest_padded = truncation["max_length"] if truncation and _MASK in self._inputs else 0
        self.dimension = int(self._compiled.output(0).partial_shape[1].get_length())
        self._threads = ThreadPoolExecutor(num_streams, thread_name_prefix="encode")
        self._own = threading.local()
        # What OpenVINO makes on its first use it makes under a lock of C++, in which it gives up Python's and takes it
        # again: two threads that come first together wait for each other for ever.
        self._infer([self._tokenizer.encode("")])

    def token_ids(self, text: str) -> list[int]:
        """Return the ids of what the network sees of a text, special tokens included."""
        return list(self._tokenizer.encode(self._prompt + text).ids)

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return float32[N, D], one unit vector for each text."""
        encodings = self._tokenizer.encode_batch([self._prompt + text for text in texts])
        by_length: dict[int, list[int]] = {}
        for i, encoding in enumerate(encodings):
            by_length.setdefault(self._padded(len(encoding.ids)), []).append(i)
        # The longest first, so that no thread is left with them at the end.
        batches = [
            alike[start : start + _BATCH_SIZE]
            for _, alike in sorted(by_length.items(), reverse=True)
            for start in range(0, len(alike), _BATCH_SIZE)
        ]
        vectors_ND = np.empty((len(texts), self.dimension), dtype=np.float32)
        found = self._threads.map(self._infer, [[encodings[i] for i in batch] for batch in batches])
        for batch, vectors_BD in zip(batches, found, strict=True):
            vectors_ND[batch] = vectors_BD
        return vectors_ND

    def _infer(self, encodings: Sequence[Any]) -> npt.NDArray[np.float32]:
        """Return float32[B, D] for texts of one padded length."""
        longest = self._padded(max(len(encoding.ids) for encoding in encodings))
        columns = {
            "input_ids": ([encoding.ids for encoding in encodings], self._pad_id),
            _MASK: ([encoding.attention_mask for encoding in encodings], 0),
            "token_type_ids": ([encoding.type_ids for encoding in encodings], 0),
        }
        tensors = {}
        for name in self._inputs:
            rows, filler = columns[name]
            tensors[name] = np.full((len(rows), longest), filler, dtype=np.int64)
            for place, row in enumerate(rows):
                tensors[name][place, : len(row)] = row
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        vectors_BD: npt.NDArray[np.float32] = self._own.request.infer(tensors, share_inputs=True)[0].astype(np.float32)
        vectors_BD /= np.linalg.norm(vectors_BD, axis=1, keepdims=True)
        return vectors_BD

    def _padded(self, num_tokens: int) -> int:
        """Return the length to which a text of so many tokens is filled up."""
        return max(num_tokens, min(-(-num_tokens // _LENGTH_STEP) * _LENGTH_STEP, self._longest_padded))
