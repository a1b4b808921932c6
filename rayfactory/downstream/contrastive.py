"""Fine-tuning of an encoder with pairs of similar queries; the others of a batch are what they are told apart from.

Source: SQL-Factory, section 5.4: contrastive learning with in-batch negatives.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rayfactory.config import ClusteringConfig
from rayfactory.downstream.pairs import Pair
from rayfactory.errors import ConfigError
from rayfactory.reports.working import Say
from rayfactory.tools.embedding import source_of

_CHECKPOINTS = 10
"""Of a training: after so many parts of it, it can be gone on with."""

_LAYER = re.compile(r"\.layers?\.(\d+)\.")
"""In the name of a parameter: which layer it is of."""


def tune(config: ClusteringConfig, model: str, pairs: Sequence[Pair], folder: Path, seed: int, say: Say) -> None:
    """Tune an encoder, and save it. Where this was interrupted, it goes on from its last checkpoint.

    Args:
        config: how.
        model: to begin with, as `embedding.model`.
        pairs: that it learns from.
        folder: for the model; checkpoints are beside it until it is done.
        seed: of what chance decides.
        say: told how far it is.

    Raises:
        ConfigError: a package is missing, or the encoder has not as many layers as are to learn.
    """
    try:
        from datasets import Dataset
        from sentence_transformers import (
            SentenceTransformer,
            SentenceTransformerTrainer,
            SentenceTransformerTrainingArguments,
        )
        from sentence_transformers.base.sampler import BatchSamplers
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
        from transformers import TrainerCallback
    except ImportError as error:
        raise ConfigError(f"tuning an encoder needs the package {error.name}: pip install '.[downstream]'") from None
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

    class Told(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **told: Any) -> None:  # noqa: ARG002
            if "loss" in (told.get("logs") or {}):
                say(f"step {state.global_step} of {state.max_steps}, loss {told['logs']['loss']:.3f}")

    encoder = SentenceTransformer(source_of(model))
    reads = encoder.max_seq_length
    encoder.max_seq_length = config.max_tokens
    if config.layers:
        learn_with_last(encoder, config.layers)
    checkpoints = folder.with_name(f"{folder.name}-checkpoints")
    num_steps = max(1, config.epochs * len(pairs) // config.batch_size)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        warmup_steps=int(config.warmup_share * num_steps),
        lr_scheduler_type="linear",
        weight_decay=0.01,
        max_grad_norm=1.0,
        # A query that is there twice would be told apart from itself.
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        save_steps=max(1, num_steps // _CHECKPOINTS),
        save_total_limit=2,
        logging_steps=max(1, num_steps // 100),
        seed=seed % 2**32,
        report_to="none",
        disable_tqdm=True,
    )
    data = Dataset.from_dict({"anchor": [pair.anchor for pair in pairs], "positive": [pair.positive for pair in pairs]})
    trainer = SentenceTransformerTrainer(
        model=encoder,
        args=arguments,
        train_dataset=data,
        loss=MultipleNegativesRankingLoss(encoder, scale=config.scale),
        callbacks=[Told()],
    )
    trainer.train(resume_from_checkpoint=any(checkpoints.glob("checkpoint-*")) or None)
    encoder.max_seq_length = reads
    beside = folder.with_name(f"{folder.name}-being-written")
    shutil.rmtree(beside, ignore_errors=True)
    encoder.save(str(beside))
    beside.rename(folder)
    shutil.rmtree(checkpoints)


def learn_with_last(encoder: Any, num_layers: int) -> None:
    """Let the last layers of an encoder learn, and nothing else.

    Raises:
        ConfigError: it has not as many.
    """
    layer_of = {name: int(found[1]) for name, _ in encoder.named_parameters() if (found := _LAYER.search(name))}
    there = max(layer_of.values(), default=-1) + 1
    if num_layers > there:
        raise ConfigError(
            f"clustering.layers={num_layers} is more than the {there} layers that there are; set it smaller"
        )
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(layer_of.get(name, -1) >= there - num_layers)
