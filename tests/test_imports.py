"""The import law, read off the source of every module."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "rayfactory"

# Each room may import itself and what stands left of it.
LAW = (
    "shown", "errors", "files", "bucket", "records", "sql", "config", "validate", "compose", "databases", "tools", "models", "agents", "identity",
    "segments", "manifests", "pool_copy", "pool", "translation",
    "reports", "analysis", "cluster", "rounds", "standing", "factory", "runs", "exports", "downstream", "__main__",
)  # fmt: skip

# The only modules that may import a heavy library, as patterns over the dotted name.
OWNERS = {
    "ray": r"cluster(\..*)?",
    "vllm": r"cluster\.serving",
    "faiss": r"tools\.vector_store",
    "sentence_transformers": r"tools\.sentence_encoder|downstream(\..*)?",
    "openvino": r"tools\.openvino_encoder",
    "openvino_telemetry": r"(?!)",  # nobody: it reports to the network
    "tokenizers": r"tools\.openvino_encoder",
    "obstore": r"bucket\.store",
    "openai": r"models\.endpoint",
    "hydra": r"compose",
    "vl_convert": r"analysis\.charts",
}

MODULES = sorted(set(PACKAGE.rglob("*.py")) - {PACKAGE / "__init__.py"})


def dotted(path: Path) -> str:
    """Return a module's name below `rayfactory`; the package itself is the empty string."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(path: Path) -> Iterator[str]:
    """Yield the full dotted name of everything that a module imports, inside functions too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = ["rayfactory", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            origin = ".".join(part for part in (base, node.module) if part)
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def room(name: str) -> str:
    return name.partition(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_module_imports_only_what_stands_left_of_it(path):
    """No module imports a room that stands right of its own in the import law."""
    here = room(dotted(path))
    assert here in LAW, f"{here} has no place in the import law: give it one here and in CONTRIBUTING.md"
    for name in imports(path):
        if name.startswith("rayfactory."):
            there = room(name.removeprefix("rayfactory."))
            assert there not in LAW or LAW.index(there) <= LAW.index(here), f"{dotted(path)} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_heavy_library_has_one_owner(path):
    """Ray, FAISS, sentence-transformers, OpenVINO, OpenAI's client, vLLM and Hydra are each imported in one place only."""
    for name in imports(path):
        owner = OWNERS.get(name.partition(".")[0])
        if owner is not None:
            assert re.fullmatch(owner, dotted(path)), f"{dotted(path)} imports {name}, which only {owner} may"


def test_law_sees_imports_of_every_form(tmp_path, monkeypatch):
    """Plain, renamed, relative and nested imports are all read."""
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    module = tmp_path / "tools" / "x.py"
    module.parent.mkdir()
    module.write_text(
        "import ray.data as rd\nfrom rayfactory import pool\nfrom . import similarity\nfrom ..agents.critical import f\n"
        "def g():\n    from faiss import IndexFlatIP\n"
    )
    assert set(imports(module)) == {
        "ray.data",
        "rayfactory.pool",
        "rayfactory.tools.similarity",
        "rayfactory.agents.critical.f",
        "faiss.IndexFlatIP",
    }
