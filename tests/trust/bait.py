"""What hostile statements are after."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Bait:
    """What the statements are after.

    Attributes:
        folder: with `secret.csv`, and where files would be written.
        port: of a listener on this machine.
    """

    folder: Path
    port: int

    @property
    def secret(self) -> Path:
        return self.folder / "secret.csv"

    @property
    def loot(self) -> Path:
        return self.folder / "loot"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/loot"
