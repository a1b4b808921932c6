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


@dataclass(frozen=True, slots=True)
class Network:
    """A sentence encoder from token ids to vectors, as OpenVINO reads it, with what turns texts into token ids.

    Attributes:
        model: inputs int64[1, T] for T tokens, output float32[1, D].
        tokenizer: as JSON; it adds special tokens and truncates, and does not pad.
        prompt: what the model wants in front of each text.
    """

    model: openvino.Model
    tokenizer: str
    prompt: str

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
        (folder / _ABOUT).write_text(json.dumps({"prompt": self.prompt}), encoding="utf-8")


def read_network(folder: Path) -> Network:
    """Read what `Network.write` wrote.

    Raises:
        OSError, ValueError, KeyError, RuntimeError: the files are not there or damaged.
    """
    openvino = _openvino()

    about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
    tokenizer = (folder / _TOKENIZER).read_text(encoding="utf-8")
    json.loads(tokenizer)  # the library that reads it raises nothing of its own where it is damaged
    return Network(openvino.Core().read_model(folder / _MODEL), tokenizer, about["prompt"])


def convert(module: torch.nn.Module, example: Mapping[str, torch.Tensor], tokenizer: str, prompt: str) -> Network:
    """Convert a traced torch module.

    Args:
        module: takes the tensors of `example` by position and gives float32[N, D].
        example: int64[N, T] each, by the name of the input.
        tokenizer: see `Network`.
        prompt: see `Network`.

    Raises:
        Exception: whatever the tracer or the front end raises on what it does not know.
    """
    openvino = _openvino()
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    # Not by `openvino.convert_model`, which works through a package that reports its use.
    frontend = openvino.frontend.FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(module, example_input=dict(example))
    model = frontend.convert(frontend.load(decoder))
    model.reshape({each: openvino.PartialShape([1, -1]) for each in model.inputs})
    return Network(model, tokenizer, prompt)


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

    Each text is a request of its own, without padding, on one thread: a vector depends on its text, the network and
    the precision, and on nothing else.

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
        self.dimension = int(self._compiled.output(0).partial_shape[1].get_length())
        self._threads = ThreadPoolExecutor(num_streams, thread_name_prefix="encode")
        self._own = threading.local()
        # What OpenVINO makes on its first use it makes under a lock of C++, in which it gives up Python's and takes it
        # again: two threads that come first together wait for each other for ever.
        self._encode_one("")

    def token_ids(self, text: str) -> list[int]:
        """Return the ids of what the network sees of a text, special tokens included."""
        return list(self._tokenizer.encode(self._prompt + text).ids)

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return float32[N, D], one unit vector for each text."""
        vectors_ND = np.empty((len(texts), self.dimension), dtype=np.float32)
        # The longest first, so that no thread is left with a long one at the end.
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        for i, vector in zip(order, self._threads.map(self._encode_one, [texts[i] for i in order]), strict=True):
            vectors_ND[i] = vector
        return vectors_ND

    def _encode_one(self, text: str) -> npt.NDArray[np.float32]:
        encoding = self._tokenizer.encode(self._prompt + text)
        columns = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
        }
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        tensors = {name: np.array([columns[name]], dtype=np.int64) for name in self._inputs}
        vector: npt.NDArray[np.float32] = self._own.request.infer(tensors, share_inputs=True)[0][0].astype(np.float32)
        return vector / np.float32(np.linalg.norm(vector))
