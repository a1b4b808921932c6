"""What a pool consists of, as its manifests say: rounds, and segments with the rows of many rounds (see `pool`)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rayfactory.errors import RunDirError
from rayfactory.records import Evaluation, Origin, Tally

_MANIFEST = re.compile(r"(\d{6,})(?:-(\d{6,}))?\.json")


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """What a later plan needs to know of a request: whom it asked for what."""

    origin: Origin
    database: str
    tables: tuple[str, ...]
    num_queries: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """One committed round.

    Attributes:
        round: its number.
        first_query_id: query_id of its first row of R; the rows are numbered on from there.
        num_rows: rows of R.
        plan: the requests of the round.
        evaluation: E_t of the round.
        wall_s: seconds of work on the run up to this commit, over all its processes.
        phase_s: seconds of each phase of the round: ``plan``, ``produce``, ``write`` (either of the two), ``judge``;
            and ``start``, which a process took until its loop began, in the first round that it commits. Rounds are
            written beside each other and beside judging; where several are planned, or written, at a time, the seconds
            count once, for the round that is ready first.
        tallies: what happened between the agents and their models in planning and writing the round; empty where
            all of them kept to their rules.
        files: file name -> sha256 hex digest, of the round's own files.
    """

    round: int
    first_query_id: int
    num_rows: int
    plan: tuple[PlannedRequest, ...]
    evaluation: Evaluation
    wall_s: float
    phase_s: dict[str, float]
    tallies: tuple[Tally, ...]
    files: dict[str, str]

    @property
    def next_query_id(self) -> int:
        """The query_id that the next round starts with."""
        return self.first_query_id + self.num_rows


@dataclass(frozen=True, slots=True)
class Part:
    """Rounds whose rows share files: one as it was committed, or those of a segment.

    Attributes:
        rounds: their manifests, in order.
        num_rejects: rejects of each of them; None: the files are those of one round.
        files: file name -> sha256 hex digest.
    """

    rounds: tuple[Manifest, ...]
    num_rejects: tuple[int, ...] | None
    files: dict[str, str]

    @property
    def span(self) -> tuple[int, int]:
        """Its first and its last round."""
        return self.rounds[0].round, self.rounds[-1].round

    @property
    def name(self) -> str:
        """That of its folder, and of its manifest."""
        return part_name(*self.span)

    def counts(self, table: str) -> tuple[int, ...] | None:
        """Return how many rows each round has in a table; None: the file has one round."""
        if self.num_rejects is None or table == "rejects":
            return self.num_rejects
        return tuple(manifest.num_rows for manifest in self.rounds)


def manifests_of(parts: Iterable[Part]) -> list[Manifest]:
    return [manifest for part in parts for manifest in part.rounds]


def read_parts(run_dir: Path) -> list[Part]:
    """Return what the pool consists of, in order; nothing of it may be removed meanwhile.

    Raises:
        RunDirError: as `read_manifests`.
    """
    parts, names = list[Part](), list[str]()
    with suppress(FileNotFoundError):
        names = [path.name for path in (run_dir / "rounds").iterdir()]
    for first, last in spans(names, str(run_dir / "rounds")):
        path = run_dir / "rounds" / f"{part_name(first, last)}.json"
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            part = _segment_from_json(data) if last > first else _round_from_json(data)
            if part.span != (first, last):
                raise ValueError(f"it is of rounds {part.span}")
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise RunDirError(f"{path} cannot be read ({error!r}); restore it from a backup") from None
        missing = [name for name in part.files if not (path.with_suffix("") / name).is_file()]
        if missing:
            raise RunDirError(f"{path.with_suffix('') / missing[0]} is missing; restore it from a backup")
        parts.append(part)
    return parts


def spans(names: Iterable[str], folder: str) -> list[tuple[int, int]]:
    """Return the first and last round of each part, in order, by the names of what is in the folder of the rounds.

    Raises:
        RunDirError: one is missing; `folder` says where.
    """
    widest: dict[int, int] = {}
    for name in names:
        if match := _MANIFEST.fullmatch(name):
            first, last = int(match[1]), int(match[2] or match[1])
            widest[first] = max(last, widest.get(first, first))
    found, number = list[tuple[int, int]](), 0
    while number in widest:
        found.append((number, widest[number]))
        number = widest[number] + 1
    if max(widest.values(), default=-1) >= number:
        # Rounds are committed in order, so this is no crash's doing.
        raise RunDirError(f"{folder}/{part_name(number, number)}.json is missing; restore it from a backup")
    return found


def part_name(first_round: int, last_round: int) -> str:
    return f"{first_round:06d}" if first_round == last_round else f"{first_round:06d}-{last_round:06d}"


def manifest_to_json(manifest: Manifest) -> dict[str, Any]:
    return {
        "round": manifest.round,
        "first_query_id": manifest.first_query_id,
        "num_rows": manifest.num_rows,
        "plan": [[p.origin, p.database, list(p.tables), p.num_queries] for p in manifest.plan],
        "evaluation": manifest.evaluation.to_json(),
        "wall_s": manifest.wall_s,
        "phase_s": manifest.phase_s,
        "tallies": [asdict(tally) for tally in manifest.tallies],
        "files": manifest.files,
    }


def _manifest_from_json(data: dict[str, Any]) -> Manifest:
    return Manifest(
        round=data["round"],
        first_query_id=data["first_query_id"],
        num_rows=data["num_rows"],
        plan=tuple(PlannedRequest(origin, name, tuple(tables), n) for origin, name, tables, n in data["plan"]),
        evaluation=Evaluation.from_json(data["evaluation"]),
        wall_s=data["wall_s"],
        phase_s=data["phase_s"],
        tallies=tuple(Tally(**tally) for tally in data["tallies"]),
        files=dict(data["files"]),
    )


def _round_from_json(data: dict[str, Any]) -> Part:
    manifest = _manifest_from_json(data)
    return Part((manifest,), None, manifest.files)


def segment_to_json(segment: Part) -> dict[str, Any]:
    return {
        "num_rejects": segment.num_rejects,
        "files": segment.files,
        "rounds": [manifest_to_json(manifest) for manifest in segment.rounds],
    }


def _segment_from_json(data: dict[str, Any]) -> Part:
    rounds = tuple(_manifest_from_json(each) for each in data["rounds"])
    num_rejects = tuple(data["num_rejects"])
    if [manifest.round for manifest in rounds] != list(range(rounds[0].round, rounds[0].round + len(num_rejects))):
        raise ValueError("its rounds do not follow each other")
    return Part(rounds, num_rejects, dict(data["files"]))
