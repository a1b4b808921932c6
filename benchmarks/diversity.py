"""Our table 2: how diverse are queries by our method, and by those of others that need no model?

    python -m benchmarks.diversity [--target 1000] [--folder runs/diversity] [--encoders all-MiniLM-L6-v2,PATH]

Each method (`models=`) writes as many rows over TPC-DS at scale 0.01 in a run of its own, which goes on where it is
there already; then `task=compare` puts them side by side, at the same n, and beside the 99 official queries at n = 99.
A low mean similarity alone rewards nonsense, so it stands beside Vendi score, executability and the share of queries
that return something. Prints one JSON object.

Our method (`offline`) has to beat each of the others on the Vendi score of every encoder, and at least equal it on
executability and on the share of results with rows; else the script ends with exit code 1. Methods that need a model
are compared in the same way: task=compare runs=[...].
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.corpus import official_tpcds
from benchmarks.growing import PROJECT, compared, grown, line

OURS = "offline"
OTHERS = ("sqlsmith", "templates", "learnedsqlgen")
OFFICIAL = "official"


def misses(table: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return in words where another method does better than ours."""
    ours, found = table[OURS], []
    for name in OTHERS:
        other = table[name]
        both = zip(ours["vendi"], other["vendi"], strict=True)
        pairs = [(f"Vendi ({own['encoder']})", own["score"], its["score"]) for own, its in both]
        found += [f"{what} {own} is not above {its} of {name}" for what, own, its in pairs if own <= its]
        rates = [(rate, ours[rate], other[rate]) for rate in ("executability", "non_empty_rate")]
        found += [f"{what} {own} is below {its} of {name}" for what, own, its in rates if own < its]
    return found


def main() -> None:
    """Grow, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=int, default=1000, help="rows of each run")
    parser.add_argument("--folder", type=Path, default=PROJECT / "runs" / "diversity", help="of the runs")
    parser.add_argument("--encoders", default="all-MiniLM-L6-v2", help="for the Vendi score, with commas between them")
    arguments = parser.parse_args()
    encoders = f"encoders=[{arguments.encoders}]"
    folder: Path = arguments.folder.absolute()
    names = (OURS, *OTHERS)
    runs = [grown(folder / name, [f"models={name}", f"target={arguments.target}"]) for name in names]
    table = dict(zip(names, map(line, compared(runs, folder / "compare", [encoders])), strict=True))
    with tempfile.TemporaryDirectory() as place:
        official = Path(place) / f"{OFFICIAL}.json"
        official.write_text(json.dumps(official_tpcds()), encoding="utf-8")
        columns = compared([*runs, official], folder / "compare_99", [encoders, "dialect=duckdb"])
    at_99 = dict(zip((*names, OFFICIAL), map(line, columns), strict=True))
    missed = misses(table)
    print(json.dumps({"benchmark": "diversity", "methods": table, "beside_official": at_99, "missed": missed}))
    if missed:
        sys.exit("; ".join(missed))


if __name__ == "__main__":
    main()
