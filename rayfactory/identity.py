"""Whose run directory it is: what `run.json` says of a run, and whether another command may go on with it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayfactory.config import SLOTS
from rayfactory.errors import RunDirError

FORMAT = 3
"""Version of the layout of a run directory (see `pool`); a run of another one is refused, never converted in place."""

FORMAT_WITHOUT_SEGMENTS = 2
"""The one before, which goes on as it is: it knows everything but segments."""

_FILES_BEFORE_A_RUN = frozenset({"lock", "rounds", "run.json.partial"})
"""What a process that died at its very start may have left in a run directory."""

_DIFFERENCES_SHOWN = 6
"""Differences between two runs that a message names."""


def check_run_dir(run_dir: Path, identity: dict[str, Any]) -> None:
    """Return if a run with that identity may start or go on in `run_dir`. Changes nothing.

    Raises:
        RunDirError: the directory is a file, not a run directory, or another run's.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise RunDirError(f"run_dir {str(run_dir)!r} is a file; choose a directory")
    parent = next(path for path in [run_dir, *run_dir.absolute().parents] if path.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
        raise RunDirError(
            f"run_dir {str(run_dir)!r} cannot be written ({parent} is not writable); choose another run_dir"
        )
    known = read_identity(run_dir)
    if known is None:
        if run_dir.exists() and any(path.name not in _FILES_BEFORE_A_RUN for path in run_dir.iterdir()):
            raise RunDirError(f"run_dir {str(run_dir)!r} holds other files and no run; choose a new or empty directory")
        return
    if known.get("format") not in (FORMAT_WITHOUT_SEGMENTS, FORMAT):
        raise RunDirError(
            f"run_dir {str(run_dir)!r} was written in format {known.get('format')!r}, this version reads {FORMAT}; "
            "choose another run_dir or the version that wrote it"
        )
    if not any((run_dir / "rounds").glob("*.json")):
        return  # nothing is committed yet, so it may still become any run
    # `config_sha256` stands for what has members.
    if any(known.get(name) != value for name, value in identity.items() if not isinstance(value, dict)):
        raise RunDirError(
            f"run_dir {str(run_dir)!r} belongs to another run ({_differences(known, identity)}); "
            "repeat that run's settings, or choose another run_dir"
        )


def setting_of(run_dir: Path, name: str) -> Any:
    """Return a setting, by its dotted name, of the run in a directory; None where it has none or committed nothing.

    Raises:
        RunDirError: the directory is damaged.
    """
    if not any((run_dir / "rounds").glob("*.json")):
        return None
    return _members(read_identity(run_dir) or {}, "settings").get(name)


def differing(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return the names, in order, of settings that are others than those in a file, which has them as JSON."""
    as_kept = json.loads(json.dumps(wanted))
    return sorted(name for name in {*known, *as_kept} if known.get(name) != as_kept.get(name))


def _differences(known: dict[str, Any], identity: dict[str, Any]) -> str:
    """Return in words what sets a run apart from the one in its directory."""
    before, now = _members(known, "settings"), _members(identity, "settings")
    settings = [name for name in before | now if before and before.get(name) != now.get(name)]
    words = list(dict.fromkeys(filter(None, (_difference(name, before, now) for name in settings))))
    words += [
        f"{name} was {known.get(name)!r}, now {value!r}"
        for name, value in identity.items()
        if not isinstance(value, dict) and name not in ("config_sha256", *settings) and known.get(name) != value
    ]
    before, now = _members(known, "fingerprints"), _members(identity, "fingerprints")
    words += [f"database {name!r} was not in it" for name in now if before and name not in before]
    words += [f"database {name!r} is not in it any more" for name in before if name not in now]
    words += [f"database {name!r} has changed since" for name in now if before.get(name, now[name]) != now[name]]
    if len(words) > _DIFFERENCES_SHOWN:
        words[_DIFFERENCES_SHOWN:] = [f"and {len(words) - _DIFFERENCES_SHOWN} more"]
    return ", ".join(words) or "its settings were others"


def _difference(name: str, before: dict[str, Any], now: dict[str, Any]) -> str:
    """Return in words how one setting differs; any of a model that only one of the runs uses gives the same words."""
    if name == "prompts":
        # Where only one of the two has models, that is told of the models.
        return "the prompt templates have changed" if name in before and name in now else ""
    for slot in SLOTS:
        prefix = f"models.{slot}."
        if name.startswith(prefix):
            if not any(other.startswith(prefix) for other in now):
                return f"models.{slot} is no longer used"
            if not any(other.startswith(prefix) for other in before):
                return f"models.{slot} was not used before"
    return f"{name} was {before.get(name)!r}, now {now.get(name)!r}"


def _members(identity: dict[str, Any], name: str) -> dict[str, Any]:
    """Return nested values of an identity by their dotted names; none where it has none."""
    value = identity.get(name)
    return _flat(value) if isinstance(value, dict) else {}


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= {f"{name}.{key}": leaf for key, leaf in _flat(value).items()}
        else:
            found[name] = value
    return found


def read_identity(run_dir: Path) -> dict[str, Any] | None:
    """Return what `run.json` says, or None where there is no run.

    Raises:
        RunDirError: the file is damaged.
    """
    try:
        data = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunDirError(
            f"{run_dir / 'run.json'} cannot be read ({error}); restore it or choose another run_dir"
        ) from None
    if not isinstance(data, dict):
        raise RunDirError(f"{run_dir / 'run.json'} is not what rayfactory wrote; restore it or choose another run_dir")
    return data
