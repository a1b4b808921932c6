"""The same training for LLaMA-Factory: a folder with the questions, the recipe, and the command that starts it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rayfactory.analysis.report import write
from rayfactory.config import TrainingConfig
from rayfactory.downstream.rows import Turns
from rayfactory.errors import ConfigError, RunDirError

DATASET = "text2sql"

_ZERO_3 = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "bf16": {"enabled": "auto"},
    "zero_optimization": {"stage": 3, "overlap_comm": True, "stage3_gather_16bit_weights_on_model_save": True},
}
"""DeepSpeed's settings for weights that are divided among the GPUs."""


def write_folder(
    out: Path, turns: Sequence[Turns], weights: str, training: TrainingConfig, seed: int, told: Mapping[str, Any]
) -> None:
    """Write the folder.

    Args:
        out: the folder, which must not be there, or be one of this kind.
        turns: the questions.
        weights: folder or name of the model.
        training: the recipe.
        seed: of what chance decides.
        told: for the README: what was left out, and whether by length too.

    Raises:
        ConfigError: the batch cannot be divided among the workers.
        RunDirError: the folder has something else.
    """
    if out.exists() and any(out.iterdir()) and not (out / "train.yaml").is_file():
        raise RunDirError(f"{str(out)!r} is there, and no folder of this task; name another with output=")
    workers = training.workers or 1
    if training.batch_size % workers:
        raise ConfigError(
            f"training.batch_size={training.batch_size} cannot be divided among training.workers={workers}; choose "
            "another number of either"
        )
    files = {
        f"{DATASET}.json": json.dumps([_conversation(each) for each in turns], indent=1, ensure_ascii=False) + "\n",
        "dataset_info.json": json.dumps(_INFO, indent=2) + "\n",
        "train.yaml": "".join(f"{name}: {_yaml(value)}\n" for name, value in recipe(weights, training, seed).items()),
        "README.md": readme(training, told),
    }
    if training.shard:
        files["deepspeed.json"] = json.dumps(_ZERO_3, indent=2) + "\n"
    write(out, files)


_INFO = {
    DATASET: {
        "file_name": f"{DATASET}.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }
}
"""What LLaMA-Factory has to know of the file."""


def _conversation(turns: Turns) -> dict[str, Any]:
    assert not isinstance(turns.asked, str), "a text is no chat"
    return {"messages": [*turns.asked, {"role": "assistant", "content": turns.completion}]}


def recipe(weights: str, training: TrainingConfig, seed: int) -> dict[str, Any]:
    """Return LLaMA-Factory's settings.

    It names no template: LLaMA-Factory then goes by the chat template of the model's own tokenizer, as vLLM does.
    """
    settings: dict[str, Any] = {
        "model_name_or_path": weights,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "dataset_dir": ".",
        "dataset": DATASET,
        "cutoff_len": training.max_tokens,
        "output_dir": "model",
        "logging_steps": 1,
        "save_strategy": "epoch",
        "plot_loss": True,
        "report_to": "none",
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": training.batch_size // (training.workers or 1),
        "num_train_epochs": float(training.epochs),
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": training.warmup_share,
        "optim": "adamw_torch",
        "weight_decay": training.weight_decay,
        "adam_beta1": training.adam_beta1,
        "adam_beta2": training.adam_beta2,
        "adam_epsilon": training.adam_epsilon,
        "max_grad_norm": training.max_grad_norm,
        "bf16": training.precision != "fp32",
        # LLaMA-Factory has layers work out again what they gave unless it is told not to.
        "disable_gradient_checkpointing": not training.recompute,
        "seed": seed % 2**32,
    }
    return settings | ({"deepspeed": "deepspeed.json"} if training.shard else {})


def readme(training: TrainingConfig, told: Mapping[str, Any]) -> str:
    """Return what is told of the folder."""
    workers = training.workers or 1
    lines = [
        "# A text-to-SQL model, tuned with LLaMA-Factory",
        "",
        f"In this folder, on {workers} GPU{'s' if workers > 1 else ''}: `llamafactory-cli train train.yaml`",
        "",
        f"On another number of GPUs, divide the batch: gradient_accumulation_steps={training.batch_size} / GPUs.",
        f"The model is then in `model`; ask it as it was trained, with evaluation.prompt={training.prompt}.",
        "",
        f"{told['questions']:,} questions about {told['databases']:,} databases.",
    ]
    if told["left_out"]:
        counts = ", ".join(f"{count:,} {why}" for why, count in told["left_out"].items())
        lines.append(f"Left out: {counts}.")
    if not told["is_measured"]:
        lines.append(
            f"How many tokens they have is not known here: LLaMA-Factory cuts those of more than {training.max_tokens}."
        )
    return "\n".join([*lines, ""])


def _yaml(value: Any) -> str:
    """Return a value as YAML has it; 3e-05 without a point would be a text."""
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("e", ".0e") if isinstance(value, float) and "e" in text and "." not in text else text
