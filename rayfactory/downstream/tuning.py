"""The loop that tunes a model, on one worker or on each of several, with the trainer of transformers.

It is given the steps of a training (`rows.steps_of`), each with the rows of this worker, and goes through those.
What it has done is kept in checkpoints beside the model until that is there.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed
import torch.nn.functional as F  # noqa: N812  its usual name
from torch.utils.data import DataLoader
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    AutoTokenizer,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from rayfactory.config import TrainingConfig
from rayfactory.downstream.rows import Examples, Plan, Row, Step, laid, steps_of
from rayfactory.errors import EngineError
from rayfactory.files import replace_file, write_durably

MODEL, FIGURES, PROGRESS = "model", "figures.json", "progress"
"""Of the folder of a training: the tuned model, what is told of its training, and how far it is."""

_CHECKPOINTS = 20
"""Of a training: after so many parts of it, it can be gone on with."""

_TELL_EVERY_S = 15.0
"""Where a step takes long, a person hears of its rows as often as this."""

_WHOLE = "whole"
"""Is in a checkpoint that is complete."""

_ORPHAN_S = 60.0
"""Ray takes some seconds to end what a killed training has left."""

_BY_BLOCKS, _BLOCK = "rayfactory_by_blocks", 256
"""What the attention of a row is called, and how many tokens it works out at a time."""

SHARING = ("gemma3_text", "llama", "mistral", "qwen2", "qwen3")
"""Kinds of model, as their settings name them, of which it is tested that a row gives what its examples give alone."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """What a worker is told.

    Attributes:
        config: how.
        weights: folder or name of the model.
        examples: that it learns from.
        plan: how they are divided.
        folder: of the training, which all workers share.
        on_gpu: whether a worker has a GPU.
        bf16: whether it multiplies in bf16.
        threads: of a worker without a GPU.
    """

    config: TrainingConfig
    weights: str
    examples: Examples
    plan: Plan
    folder: Path
    on_gpu: bool
    bf16: bool
    threads: int


class Schedule:
    """The learning rate over a training, as a factor: it rises linearly, and falls as a cosine does, to 0.

    How far a training is, is the larger of two shares: of its steps, and of its time where that is limited. So a
    training that is ended by its time has gone through the whole schedule.

    Args:
        num_steps: of the training.
        warmup_share: of it in which the rate rises.
        limit_s: seconds that it may take; None: no limit.
    """

    def __init__(self, num_steps: int, warmup_share: float, limit_s: float | None) -> None:
        self.num_steps, self.warmup_share, self.limit_s = num_steps, warmup_share, limit_s
        # Kept in a checkpoint too: seconds until the step that is under way, and what was learnt from until then.
        self.elapsed_s = 0.0
        self.num_tokens = 0
        self.num_written = 0

    def share(self, step: int) -> float:
        """Return how far a training is in a step, between 0 and 1."""
        by_steps = (step + 1) / (self.num_steps + 1)
        by_time = self.elapsed_s / self.limit_s if self.limit_s else 0.0
        return min(1.0, max(by_steps, by_time))

    def __call__(self, step: int) -> float:
        """Return the factor for a step, as torch's scheduler asks for it."""
        share = self.share(step)
        if share < self.warmup_share:
            return share / self.warmup_share
        return 0.5 * (1 + math.cos(math.pi * (share - self.warmup_share) / max(1e-9, 1 - self.warmup_share)))


def tune(settings: dict[str, Any]) -> None:
    """Tune a model; the first of the workers writes it.

    Args:
        settings: with the `Tuning` as ``tuning``.
    """
    tuning: Tuning = settings["tuning"]
    rank = int(os.environ.get("RANK", "0"))
    logging.getLogger("transformers").setLevel(logging.ERROR)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if not tuning.on_gpu:
        torch.set_num_threads(tuning.threads)
    with _alone(tuning.folder) if rank == 0 else nullcontext():
        if rank == 0:
            _remove_parts(tuning.folder)
        _barrier()
        last = last_checkpoint(tuning.folder)
        _barrier()
        model = load(tuning.weights, on_gpu=tuning.on_gpu)
        saved_as = model.config.get_text_config().dtype if hasattr(model.config, "get_text_config") else None
        trainer = _Tuner(tuning, model, rank)
        trainer.train(resume_from_checkpoint=str(last) if last else None)
        _save(trainer, tuning, saved_as, rank)
        _barrier()


def load(weights: str, *, on_gpu: bool) -> Any:
    """Return a model with the weights in fp32, which small steps change too."""
    model = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32)
    if not on_gpu and model.config.model_type in SHARING:
        AttentionInterface.register(_BY_BLOCKS, _attended_by_blocks)
        model.set_attn_implementation(_BY_BLOCKS)
    return model


def last_checkpoint(folder: Path) -> Path | None:
    """Return the last checkpoint that is complete."""
    found = [path for path in folder.glob("checkpoint-*") if (path / _WHOLE).exists()]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


class _Tuner(Trainer):
    """The trainer of transformers, over steps of rows."""

    def __init__(self, tuning: Tuning, model: Any, rank: int) -> None:
        config, self.tuning = tuning.config, tuning
        steps = list(steps_of(tuning.examples, tuning.plan))
        self.schedule = Schedule(len(steps), config.warmup_share, config.max_hours and config.max_hours * 3600)
        self._steps, self._rank = steps, rank
        self._begun = 0.0
        self._told_at = 0.0
        arguments = TrainingArguments(
            output_dir=str(tuning.folder),
            max_steps=len(steps),
            per_device_train_batch_size=1,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            adam_beta1=config.adam_beta1,
            adam_beta2=config.adam_beta2,
            adam_epsilon=config.adam_epsilon,
            max_grad_norm=config.max_grad_norm,
            optim="adamw_torch_fused",
            bf16=tuning.bf16,
            use_cpu=not tuning.on_gpu,
            gradient_checkpointing=config.recompute,
            ddp_find_unused_parameters=False,
            # The type that it has is that of an older form.
            fsdp=cast("Any", True if config.shard else None),
            save_strategy="no",
            save_total_limit=2,
            logging_steps=1,
            logging_nan_inf_filter=False,
            seed=tuning.plan.seed % 2**32,
            report_to="none",
            disable_tqdm=True,
        )
        super().__init__(model=model, args=arguments, train_dataset=steps, callbacks=[_Keeper(self)])

    def get_train_dataloader(self) -> DataLoader[Step]:
        """Return the steps, in order."""
        return DataLoader(self._steps, batch_size=1, collate_fn=lambda steps: {"step": steps[0]})  # type: ignore[arg-type]

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Return what sets the learning rate of each step."""
        del num_training_steps
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(cast("Any", optimizer or self.optimizer), self.schedule)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Return the loss of a step, and leave its gradient: the mean over the tokens of all completions."""
        del num_items_in_batch
        step: Step = inputs["step"]
        self._look_at_the_clock()
        model.train()
        rows = step.rows[self._rank]
        total = torch.zeros((), device=self.args.device)
        for number, row in enumerate(rows):
            # What workers have is put together once, behind the last row; a model that is in parts does it each time.
            is_apart = number < len(rows) - 1 and not self.is_fsdp_enabled
            with self.accelerator.no_sync(model) if is_apart else nullcontext():
                with self.compute_loss_context_manager():
                    # Gradients of workers are averaged: each gives as many times its part as there are.
                    loss = loss_of(model, self.tuning.examples, row) * (self.args.world_size / step.num_written)
                self.accelerator.backward(loss)
            total += loss.detach()
            if self._told_at + _TELL_EVERY_S < time.monotonic():
                self.tell(f"step {self.state.global_step + 1}: {number + 1} of its {len(rows)} rows are read")
        self.schedule.num_tokens += step.num_tokens
        self.schedule.num_written += step.num_written
        return total

    def floating_point_ops(self, inputs: Any) -> int:
        """Return 0: nobody asks."""
        del inputs
        return 0

    def tell(self, text: str) -> None:
        """Let a person know how far the training is."""
        if self._rank == 0:
            self._told_at = time.monotonic()
            replace_file(self.tuning.folder / PROGRESS, text.encode())

    def start_the_clock(self) -> None:
        """Go on from the seconds that a checkpoint has."""
        self._begun = time.monotonic() - self.schedule.elapsed_s

    def _look_at_the_clock(self) -> None:
        elapsed = torch.tensor([time.monotonic() - self._begun], dtype=torch.float64, device=self.args.device)
        if self.schedule.limit_s is not None and self.args.world_size > 1:
            # Rate and end hang on it, and have to be the same everywhere.
            torch.distributed.broadcast(elapsed, src=0)
        self.schedule.elapsed_s = float(elapsed)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint, and last what says that it is complete."""
        super()._save_checkpoint(model, trial)
        _barrier()
        if self._rank == 0:
            write_durably(self.tuning.folder / f"checkpoint-{self.state.global_step}" / _WHOLE, b"")


class _Keeper(TrainerCallback):
    """Keeps checkpoints and time, and tells how far a training is."""

    def __init__(self, tuner: _Tuner) -> None:
        self._tuner = tuner
        self._parts = 0
        self._first = 0
        self._first_s = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **about: Any) -> None:
        del args, control, about
        schedule = self._tuner.schedule
        self._tuner.start_the_clock()
        self._parts = int(schedule.share(state.global_step - 1) * _CHECKPOINTS)
        self._first, self._first_s = state.global_step, schedule.elapsed_s

    def on_step_end(self, args: Any, state: Any, control: Any, **about: Any) -> Any:
        del args, about
        schedule = self._tuner.schedule
        parts = int(schedule.share(state.global_step - 1) * _CHECKPOINTS)
        # The clock was looked at when the step began that is done now; another one may take as long.
        num_before = state.global_step - 1 - self._first
        if schedule.limit_s is not None and num_before > 0:
            step_s = (schedule.elapsed_s - self._first_s) / num_before
            if schedule.elapsed_s + 2 * step_s > schedule.limit_s:
                control.should_training_stop = True
        if parts > self._parts:
            self._parts = parts
            # What ends is written as a model.
            control.should_save = not control.should_training_stop and state.global_step < state.max_steps
        return control

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **about: Any) -> None:
        del args, control, about
        tuner, schedule = self._tuner, self._tuner.schedule
        if tuner.is_world_process_zero() and "loss" in (logs or {}):
            share, elapsed = schedule.share(state.global_step - 1), max(schedule.elapsed_s, 1e-9)
            text = f"step {state.global_step} of {state.max_steps}, loss {logs['loss']:.3f}, {share:.0%}"
            if state.global_step > self._first + 1:
                text += f", {elapsed * (1 - share) / share / 60:,.0f} min to go"
            tuner.tell(text)


def loss_of(model: Any, examples: Examples, row: Row) -> torch.Tensor:
    """Return the sum of the losses over the tokens of a row's completions; 0, with a gradient of 0, of a spare row.

    Logits are worked out where a token of a completion follows, and nowhere else.
    """
    settings = model.module.config if hasattr(model, "module") else model.config
    device = next(model.parameters()).device
    arrays = laid(examples, row)
    tokens_T, places_T, parts_T, before_C, next_C = (
        torch.from_numpy(array).to(device)
        for array in (arrays.tokens, arrays.places, arrays.parts, arrays.before, arrays.following)
    )
    logits_CV = model(
        input_ids=tokens_T[None],
        position_ids=places_T[None],
        # Without one, a model makes its own, for one example.
        attention_mask=_masks(settings, places_T, parts_T) if settings.model_type in SHARING else None,
        logits_to_keep=before_C,
        use_cache=False,
    ).logits[0]
    loss = F.cross_entropy(logits_CV.float(), next_C, reduction="sum")
    return loss if row.counts else loss * 0


def _masks(settings: Any, places_T: torch.Tensor, parts_T: torch.Tensor) -> Any:
    """Return which tokens see which, as a model of this kind takes it: the common beginning, and their own example."""
    size = len(places_T)
    order_T = torch.arange(size, device=places_T.device)
    sees_TT = (order_T[None] <= order_T[:, None]) & ((parts_T[None] == 0) | (parts_T[None] == parts_T[:, None]))
    window = getattr(settings, "sliding_window", None)
    # A window is of places in the example, wherever in the row they are.
    near_TT = sees_TT if window is None else sees_TT & (places_T[:, None] - places_T[None] < window)
    kinds = getattr(settings, "layer_types", None)
    if kinds is None:
        return near_TT[None, None]
    return {kind: (near_TT if kind == "sliding_attention" else sees_TT)[None, None] for kind in set(kinds)}


def _attended_by_blocks(
    module: Any,
    query_BHTD: torch.Tensor,
    key_BGTD: torch.Tensor,
    value_BGTD: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float | None = None,
    **about: Any,
) -> tuple[torch.Tensor, None]:
    """Return what each token attends to, as transformers' attentions do, for some tokens after the other.

    Most tokens of a row do not see most others. For a block of tokens, those that none of them sees are left out, which
    on a CPU takes half the time and gives the same.
    """
    del module, about
    per_group = query_BHTD.shape[1] // key_BGTD.shape[1]
    found = []
    for block, sees in zip(torch.split(query_BHTD, _BLOCK, 2), torch.split(attention_mask[0, 0], _BLOCK), strict=True):
        seen = sees.any(0).nonzero()[:, 0]
        key, value = (each[:, :, seen].repeat_interleave(per_group, 1) for each in (key_BGTD, value_BGTD))
        found.append(F.scaled_dot_product_attention(block, key, value, sees[:, seen][None, None], scale=scaling))
    return torch.cat(found, 2).transpose(1, 2).contiguous(), None


def _save(trainer: _Tuner, tuning: Tuning, dtype: torch.dtype | None, rank: int) -> None:
    """Write the model as the one that it was begun with was written, with its tokenizer and chat template."""
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if rank != 0:
        return
    model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    # Weights that two names have in common stay one.
    casts = {tensor.data_ptr(): tensor.detach().to("cpu", dtype) for tensor in state.values()}
    beside = tuning.folder / f"{MODEL}-being-written"
    shutil.rmtree(beside, ignore_errors=True)
    model.config.dtype = dtype
    model.save_pretrained(beside, state_dict={name: casts[tensor.data_ptr()] for name, tensor in state.items()})
    AutoTokenizer.from_pretrained(tuning.weights).save_pretrained(beside)
    schedule = trainer.schedule
    curve = [
        {name: round(float(each[name]), 8) for name in ("step", "loss", "learning_rate", "grad_norm")}
        for each in trainer.state.log_history
        if "loss" in each
    ]
    figures = {
        "steps": trainer.state.global_step,
        "planned_steps": schedule.num_steps,
        "seconds": round(time.monotonic() - trainer._begun, 1),  # noqa: SLF001
        "num_tokens": schedule.num_tokens,
        "num_written": schedule.num_written,
        "workers": tuning.plan.workers,
        "device": "gpu" if tuning.on_gpu else "cpu",
        "bf16": tuning.bf16,
        "curve": curve,
    }
    write_durably(tuning.folder / FIGURES, (json.dumps(figures) + "\n").encode())
    beside.rename(tuning.folder / MODEL)


def _remove_parts(folder: Path) -> None:
    for path in folder.glob("checkpoint-*"):
        if not (path / _WHOLE).exists():
            shutil.rmtree(path)


def _barrier() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Have no other training in the folder for the length of a with statement; what ends is waited for.

    Raises:
        EngineError: there is one.
    """
    deadline = time.monotonic() + _ORPHAN_S
    with (folder / "lock").open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise EngineError(f"another process trains in {str(folder)!r}; wait for it, or end it") from None
                time.sleep(0.2)
        yield
