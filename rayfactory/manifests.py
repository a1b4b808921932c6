"""What a pool consists of, as its manifests say: rounds, and segments with the rows of many rounds (see `pool`)."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, overload

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

    What a part says of each of its rounds stays on the disk, where `read_part` finds it: a long run has thousands.

    Attributes:
        span: its first and its last round.
        next_query_id: the query_id that follows its rows of R.
        wall_s: seconds of work on the run up to the commit of its last round.
        files: file name -> sha256 hex digest.
    """

    span: tuple[int, int]
    next_query_id: int
    wall_s: float
    files: dict[str, str]

    @property
    def name(self) -> str:
        """That of its folder, and of its manifest."""
        return part_name(*self.span)


@dataclass(frozen=True, slots=True)
class Content:
    """What the manifest of a part says of its rounds.

    Attributes:
        rounds: their manifests, in order.
        num_rejects: rejects of each of them; None: the files are those of one round.
    """

    rounds: tuple[Manifest, ...]
    num_rejects: tuple[int, ...] | None

    def counts(self, table: str) -> tuple[int, ...] | None:
        """Return how many rows each round has in a table; None: the file has one round."""
        if self.num_rejects is None or table == "rejects":
            return self.num_rejects
        return tuple(manifest.num_rows for manifest in self.rounds)


def part_of(rounds: Sequence[Manifest], files: dict[str, str]) -> Part:
    """Return the part that consecutive rounds make, whose rows are in these files."""
    last = rounds[-1]
    return Part((rounds[0].round, last.round), last.next_query_id, last.wall_s, files)


class Manifests(Sequence[Manifest]):
    """The manifests of committed rounds, in order: each part is read when one of its rounds is asked for.

    So the memory of a run does not grow with its rounds. What was read last is kept, for who asks for its neighbour.

    Args:
        run_dir: of the run.
        parts: what the pool consists of; whoever changes it has it changed here, but not while somebody iterates.
    """

    def __init__(self, run_dir: Path, parts: list[Part]) -> None:
        self._run_dir = run_dir
        self._parts = parts
        self._newest: tuple[Part, Content] | None = None

    def __len__(self) -> int:
        return self._parts[-1].span[1] + 1 if self._parts else 0

    @overload
    def __getitem__(self, place: int) -> Manifest: ...

    @overload
    def __getitem__(self, place: slice) -> list[Manifest]: ...

    def __getitem__(self, place: int | slice) -> Manifest | list[Manifest]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        number = range(len(self))[place]
        part = self._parts[bisect_left(self._parts, number, key=lambda part: part.span[1])]
        return self.content(part).rounds[number - part.span[0]]

    def __iter__(self) -> Iterator[Manifest]:
        for part in tuple(self._parts):
            yield from self.content(part).rounds

    def content(self, part: Part) -> Content:
        """Return what a part says of its rounds.

        Raises:
            RunDirError: as `read_part`; or it is not what it was when it was committed, or opened.
        """
        if self._newest is None or self._newest[0] is not part:
            found, content = read_part(self._run_dir, *part.span)
            if found != part:
                path = self._run_dir / "rounds" / f"{part.name}.json"
                raise RunDirError(f"{path} has changed while the run was going on; restore it from a backup")
            self._newest = part, content
        return self._newest[1]


def read_parts(run_dir: Path) -> Iterator[tuple[Part, Content]]:
    """Yield what the pool consists of, in order; nothing of it may be removed meanwhile.

    Raises:
        RunDirError: a manifest is damaged, or a committed file is missing.
    """
    for first, last in list_parts(run_dir):
        part, content = read_part(run_dir, first, last)
        folder = run_dir / "rounds" / part.name
        missing = [name for name in part.files if not (folder / name).is_file()]
        if missing:
            raise RunDirError(f"{folder / missing[0]} is missing; restore it from a backup")
        yield part, content


def list_parts(run_dir: Path) -> list[tuple[int, int]]:
    """Return the first and last round of each part of a pool, in order.

    Raises:
        RunDirError: a part among others is missing.
    """
    names = list[str]()
    with suppress(FileNotFoundError):
        names = [path.name for path in (run_dir / "rounds").iterdir()]
    return spans(names, str(run_dir / "rounds"))


def read_part(run_dir: Path, first_round: int, last_round: int) -> tuple[Part, Content]:
    """Return a part, and what it says of its rounds.

    Raises:
        RunDirError: its manifest cannot be read.
    """
    path = run_dir / "rounds" / f"{part_name(first_round, last_round)}.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        part, content = _segment_from_json(data) if last_round > first_round else _round_from_json(data)
        if part.span != (first_round, last_round):
            raise ValueError(f"it is of rounds {part.span}")
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise RunDirError(f"{path} cannot be read ({error!r}); restore it from a backup") from None
    return part, content


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


def _round_from_json(data: dict[str, Any]) -> tuple[Part, Content]:
    manifest = _manifest_from_json(data)
    return part_of([manifest], manifest.files), Content((manifest,), None)


def segment_to_json(segment: Content, files: dict[str, str]) -> dict[str, Any]:
    return {
        "num_rejects": segment.num_rejects,
        "files": files,
        "rounds": [manifest_to_json(manifest) for manifest in segment.rounds],
    }


def _segment_from_json(data: dict[str, Any]) -> tuple[Part, Content]:
    rounds = tuple(_manifest_from_json(each) for each in data["rounds"])
    num_rejects = tuple(data["num_rejects"])
    if [manifest.round for manifest in rounds] != list(range(rounds[0].round, rounds[0].round + len(num_rejects))):
        raise ValueError("its rounds do not follow each other")
    return part_of(rounds, dict(data["files"])), Content(rounds, num_rejects)
