"""Conversion of an encoder for OpenVINO, in a process of its own: `python -m rayfactory.tools.conversion FOLDER ABOUT`.

What converts takes half a gigabyte, and some of it complains when its process ends: a run has no use for either.

ABOUT is JSON: the settings of the encoder and the source of the model. FOLDER, there and empty, has the network
afterwards, or a file that says why there is none: `UNCONVERTIBLE` is for the reader of the folder, `REFUSED` for who
wrote the settings.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from rayfactory.config import EmbeddingConfig
from rayfactory.errors import ConfigError, EngineError
from rayfactory.tools.sentence_encoder import UnconvertibleError, converted

UNCONVERTIBLE = "unconvertible.json"
REFUSED = "refused.json"


def convert_into(folder: Path, config: EmbeddingConfig, source: str) -> None:
    """Have a process convert a model into a folder.

    Args:
        folder: there, and empty.
        config: of the encoder.
        source: what sentence-transformers loads the model from.

    Raises:
        ConfigError: the model cannot be loaded.
        EngineError: the process ended otherwise, as where memory or the disk is full.
    """
    command = [sys.executable, "-P", "-m", __name__, str(folder), json.dumps([asdict(config), source])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
    # Of a group of its own, so that Ctrl-C is for this process alone, which ends the other.
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False, process_group=0
    )
    if (folder / REFUSED).exists():
        raise ConfigError(json.loads((folder / REFUSED).read_text(encoding="utf-8"))["message"])
    if done.returncode:
        raise EngineError(
            f"converting embedding.model {config.model!r} for OpenVINO ended its process (code {done.returncode}); "
            "see that 1 GB of memory and of disk is free, or set embedding.backend=sentence-transformers"
        )


def _main() -> None:
    folder, (settings, source) = Path(sys.argv[1]), json.loads(sys.argv[2])
    try:
        converted(EmbeddingConfig(**settings), source).write(folder)
    except UnconvertibleError as error:
        (folder / UNCONVERTIBLE).write_text(json.dumps({"reason": str(error)}), encoding="utf-8")
    except ConfigError as error:
        (folder / REFUSED).write_text(json.dumps({"message": str(error)}), encoding="utf-8")


if __name__ == "__main__":
    _main()
    sys.stderr.flush()
    os._exit(0)  # without what libraries have to say at an exit
