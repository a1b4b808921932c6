"""What does each part of our method bring? Runs over TPC-DS with one part left out of each. Prints one JSON object.

    python -m benchmarks.ablations [--target 1000] [--folder runs/ablations] [--settings models=offline ...]

Each run (`--settings` are of all of them) goes on where it is there already; `task=compare` puts them side by side at
the same n. What is left out: the switch back to exploration, the choice of under-used tables, the similarity gate, what
is known of the content of columns, and the overlap of writing and judging. No limit is checked: what a part brings is
the result.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.growing import PROJECT, compared, grown, line

ABLATIONS = {
    "whole": [],
    "no_switch": ["management.switch=false"],
    "no_table_selection": ["table_selection.balanced=false"],
    "no_similarity_gate": ["critic.max_similarity=1"],
    "no_content": ["profile.content=false"],
    "no_overlap": ["round.overlap=false"],
}


def main() -> None:
    """Grow, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=int, default=1000, help="rows of each run")
    parser.add_argument("--folder", type=Path, default=PROJECT / "runs" / "ablations", help="of the runs")
    parser.add_argument("--settings", nargs="*", default=[], help="of every run, such as models=vllm")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.absolute()
    common = [f"target={arguments.target}", *arguments.settings]
    runs = [grown(folder / name, [*common, *settings]) for name, settings in ABLATIONS.items()]
    columns = compared(runs, folder / "compare", [])
    table = {
        name: {"settings": settings, **line(column)}
        for (name, settings), column in zip(ABLATIONS.items(), columns, strict=True)
    }
    print(json.dumps({"benchmark": "ablations", "runs": table}))


if __name__ == "__main__":
    main()
