"""`task=train_text2sql`: what a model learns from, how its steps are made, and whole trainings on Ray Train."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rayfactory.__main__ import main
from rayfactory.compose import compose
from rayfactory.config import ModelConfig, TrainingConfig
from rayfactory.downstream import train_text2sql
from rayfactory.downstream.questions import Question, query_in
from rayfactory.downstream.rows import (
    LONG_REPLY,
    OTHER_DATABASE,
    TOO_LONG,
    UNREADABLE,
    Example,
    Examples,
    Plan,
    Row,
    Turns,
    examples_of,
    laid,
    steps_of,
    turns_of,
)
from rayfactory.downstream.text_to_sql import completion_of
from rayfactory.models.completion import CallKey, Prompt
from rayfactory.models.protocol import request_body
from tests.downstream.tiny_model import make_model, make_tokenizer
from tests.shop import make_shop

pytestmark = pytest.mark.filterwarnings("ignore")

QUESTIONS = [
    (f"Which products cost more than {n}?", f"SELECT title FROM product WHERE list_price > {n}") for n in range(24)
]
LIMITS = Plan(epochs=1, batch_size=4, together=4, max_tokens=10**6, workers=1, seed=0)


def told(text):
    del text


def asked(number, database="shop", gold="SELECT 1"):
    messages = [
        {
            "role": "system",
            "content": f"The schema of the database {database}, which is longer than a window of the model",
        },
        {"role": "user", "content": f"Question {'!' * number}{number}?"},
    ]
    return Turns(database, messages, f"```sql\n{gold}\n```")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with a database, questions about it and a model."""
    folder = tmp_path_factory.mktemp("training")
    make_shop(folder / "shop.sqlite")
    make_model(folder / "tiny")
    entries = [{"db_id": "shop", "question": text, "evidence": "", "SQL": gold} for text, gold in QUESTIONS]
    entries.append({"db_id": "elsewhere", "question": "?", "SQL": "SELECT 1"})
    entries.append({"db_id": "shop", "question": "Make it empty.", "SQL": "DELETE FROM product"})
    entries.append({"db_id": "shop", "question": "long " * 3000, "SQL": "SELECT 1"})
    (folder / "pairs.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder


def words(place, *more, out="model"):
    return [
        "task=train_text2sql", "+benchmark=custom", f"benchmark.root={place / 'shop.sqlite'}", f"data_dir={place / 'cache'}",
        f"run_dir={place / 'run'}", f"output={place / out}", f"training.questions=[{place / 'pairs.json'}]",
        f"training.model={place / 'tiny'}", "training.max_tokens=8192", "training.epochs=4", "training.batch_size=4",
        "training.learning_rate=0.01", "training.workers=2", "cluster.num_cpus=2", "cluster.dashboard=false", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(place):
    """Return the folder of a model that two workers have tuned."""
    assert main(words(place)) == 0
    return place / "model"


def weights_of(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


# -- what is learnt from ------------------------------------------------------


def test_tokens_are_those_of_the_server():
    """A prompt is what the chat template makes of a request's messages; a completion ends where a reply ends."""
    tokenizer = make_tokenizer()
    prompt = Prompt("The schema is\nthis.", "Question: how many?", 10, 0.0, 1.0)
    messages = request_body(ModelConfig(name="m"), CallKey(0, "text2sql", 0, 0), prompt)["messages"]
    turns = [Turns("a", messages, completion_of("plain", "SELECT 'é' ;", "sqlite") or ""), asked(1)]
    examples, why = examples_of(turns, tokenizer, 1_000, None, told)
    assert why == ["", ""]
    for each, example in zip(turns, examples.each, strict=True):
        whole = [*examples.beginnings[example.beginning], *example.tokens]
        num_prompt = len(whole) - example.num_written
        server = tokenizer.apply_chat_template(each.asked, tokenize=False, add_generation_prompt=True)
        assert whole[:num_prompt] == tokenizer(server, add_special_tokens=False)["input_ids"]
        assert whole[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(whole[num_prompt:-1]) == each.completion
    assert query_in(turns[0].completion) == "SELECT 'é'"


def test_tokens_of_a_model_that_is_no_chat_are_those_of_the_server():
    """The text begins as the tokenizer begins one, and the query follows bare."""
    tokenizer = make_tokenizer()
    turns = [Turns("a", "the schema\nHow many?\n", completion_of("codes", "SELECT\n'é' ;", "sqlite") or "")]
    examples, _ = examples_of(turns, tokenizer, 1_000, None, told)
    (example,) = examples.each
    whole = [*examples.beginnings[0], *example.tokens]
    num_prompt = len(whole) - example.num_written
    assert whole[:num_prompt] == tokenizer("the schema\nHow many?\n")["input_ids"]
    assert tokenizer.decode(whole[num_prompt:-1]) == "SELECT 'é'"


def test_questions_of_a_database_have_their_beginning_once():
    examples, _ = examples_of([asked(1), asked(2), asked(1, "other"), asked(3)], make_tokenizer(), 1_000, None, told)
    assert [example.beginning for example in examples.each] == [0, 0, 0, 1]
    assert len(examples.beginnings[0]) > 60
    assert all(example.num_asked >= 1 for example in examples.each)


def test_what_cannot_be_learnt_from_is_counted(place):
    from rayfactory.runs import open_databases

    _, schemas = open_databases(compose(words(place)))
    questions = [
        Question("shop", "How many?", "", "SELECT count(*) FROM product;", ""),
        Question("nowhere", "How many?", "", "SELECT 1", ""),
        Question("shop", "How many?", "", "VALUES (1)", ""),
    ]
    turns, left_out = turns_of(questions, schemas, "plain", ModelConfig(name="m"))
    assert [each.completion for each in turns] == ["```sql\nSELECT count(*) FROM product\n```"]
    assert left_out == Counter({OTHER_DATABASE: 1, UNREADABLE: 1})
    as_text = ModelConfig(name="m", chat=False)
    more = [
        *questions,
        *(Question("shop", "?", "", gold, "") for gold in ("SELECT ';'", "SELECT title\n\nFROM product")),
    ]
    turns, left_out = turns_of(more, schemas, "codes", as_text)
    assert [each.completion for each in turns] == ["SELECT count(*) FROM product", "SELECT title FROM product"]
    assert left_out == Counter({OTHER_DATABASE: 1, UNREADABLE: 2})
    _, left_out = turns_of(
        questions[:1], schemas, "plain", ModelConfig(name="m", context_tokens=200, max_output_tokens=100)
    )
    assert left_out == Counter({TOO_LONG: 1})
    long = asked(1, gold="SELECT title FROM product")
    examples, why = examples_of([asked(1), asked(200), long], make_tokenizer(), 200, None, told)
    assert (len(examples.each), why) == (2, ["", TOO_LONG, ""])
    num_written = examples.each[1].num_written
    for most, reason in ((num_written, ""), (num_written - 1, LONG_REPLY)):
        examples, why = examples_of([asked(1), asked(200), long], make_tokenizer(), 200, most, told)
        assert (len(examples.each), why) == (2 - bool(reason), ["", TOO_LONG, reason])


@st.composite
def some_examples(draw):
    lengths = draw(st.lists(st.integers(0, 30), min_size=1, max_size=4))
    beginnings = tuple(np.arange(length, dtype=np.int32) for length in lengths)
    sizes = st.tuples(st.integers(0, len(lengths) - 1), st.integers(1, 9), st.integers(1, 9))
    each = [
        Example(beginning, np.arange(num_asked + num_written, dtype=np.int32), num_asked)
        for beginning, num_asked, num_written in draw(st.lists(sizes, min_size=1, max_size=40))
    ]
    return Examples(beginnings, tuple(each))


@given(some_examples(), st.integers(1, 3), st.integers(1, 9), st.integers(1, 5), st.integers(8, 200), st.integers(1, 4))
def test_steps_have_every_example_once_an_epoch(examples, epochs, batch_size, together, max_tokens, workers):
    """Whatever the number of workers, with as many rows for each, and none longer than it may be."""
    plan = Plan(epochs, batch_size, together, max_tokens, workers, seed=3)
    steps = list(steps_of(examples, plan))
    assert len(steps) == plan.num_steps(len(examples.each))
    alone = list(steps_of(examples, Plan(epochs, batch_size, together, max_tokens, 1, seed=3)))
    count: Counter[int] = Counter()
    for step, same in zip(steps, alone, strict=True):
        rows = [row for share in step.rows for row in share]
        numbers = [number for row in rows if row.counts for number in row.examples]
        assert sorted(numbers) == sorted(number for row in same.rows[0] for number in row.examples)
        assert len({len(share) for share in step.rows}) == 1
        assert step.num_written == sum(examples.each[number].num_written for number in numbers)
        count.update(numbers)
        for row in rows:
            assert len({examples.each[number].beginning for number in row.examples}) == 1
            whole = len(examples.beginnings[examples.each[row.examples[0]].beginning])
            whole += sum(len(examples.each[number].tokens) for number in row.examples)
            assert whole <= max_tokens or len(row.examples) == 1
    assert all(sum(len(row.examples) for row in step.rows[0]) == batch_size for step in alone[:-1])
    assert count == dict.fromkeys(range(len(examples.each)), epochs)


@given(some_examples())
def test_a_row_asks_for_the_completions_and_nothing_else(examples):
    numbers = tuple(n for n, each in enumerate(examples.each) if each.beginning == examples.each[0].beginning)
    arrays = laid(examples, Row(numbers))
    written = [token for n in numbers for token in examples.each[n].tokens[examples.each[n].num_asked :]]
    assert arrays.following.tolist() == written
    assert len(arrays.tokens) == len(arrays.places) == len(arrays.parts)
    beginning = len(examples.beginnings[examples.each[0].beginning])
    for part, number in enumerate(numbers, start=1):
        own = np.flatnonzero(arrays.parts == part)
        assert arrays.tokens[own].tolist() == examples.each[number].tokens[:-1].tolist()
        assert arrays.places[own].tolist() == list(range(beginning, beginning + len(own)))
    # What stands before a token of a completion, in its own example.
    assert all(arrays.parts[place] > 0 for place in arrays.before)


# -- what a step costs --------------------------------------------------------


@pytest.mark.parametrize("kind", ["gemma3_text", "llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_row_costs_what_its_examples_cost_alone(tmp_path, kind, on_gpu):
    """Loss and gradients are those that transformers has for each example by itself, where its prompt has no labels."""
    import torch
    from transformers import AutoModelForCausalLM

    from rayfactory.downstream.tuning import SHARING, load, loss_of

    assert kind in SHARING
    turns = [asked(number, gold=f"SELECT {number}") for number in range(1, 5)]
    examples, _ = examples_of(turns, make_tokenizer(), 1_000, None, told)
    folder = make_model(tmp_path / kind, kind)
    alone = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    reference = torch.zeros(())
    for example in examples.each:
        tokens = torch.tensor([[*examples.beginnings[example.beginning], *example.tokens]], dtype=torch.long)
        labels = tokens.clone()
        labels[0, : -example.num_written] = -100
        reference = reference + alone(input_ids=tokens, labels=labels).loss * example.num_written
    reference.backward()
    model = load(str(folder), on_gpu=on_gpu)
    loss = loss_of(model, examples, Row((0, 1, 2, 3)))
    loss.backward()
    assert math.isclose(loss.item(), reference.item(), rel_tol=1e-5)
    for (name, found), wanted in zip(model.named_parameters(), alone.parameters(), strict=True):
        assert found.grad is not None
        assert wanted.grad is not None
        assert torch.allclose(found.grad, wanted.grad, rtol=1e-3, atol=1e-4 * float(wanted.grad.abs().max())), name
    spare = loss_of(model, examples, Row((0,), counts=False))
    assert spare.item() == 0


def test_rate_rises_and_falls_by_steps_or_by_time():
    from rayfactory.downstream.tuning import Schedule

    schedule = Schedule(100, 0.05, None)
    rates = [schedule(step) for step in range(100)]
    top = rates.index(max(rates))
    assert top == pytest.approx(5, abs=1)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert 0 < rates[0] < 0.25
    assert 0 < rates[-1] < 0.01
    by_time = Schedule(10**9, 0.05, 3600.0)
    by_time.elapsed_s = 1800.0
    assert by_time(7) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.45 / 0.95)))
    by_time.elapsed_s = 4000.0
    assert by_time(8) == 0


# -- whole trainings ----------------------------------------------------------


def test_a_model_is_tuned_once(place, undisturbed, capsys):
    """On Ray Train with two workers; the folder is a model that is served, with what is told of it."""
    from transformers import AutoTokenizer

    found = json.loads((undisturbed / "training.json").read_text(encoding="utf-8"))
    assert (found["questions"], found["databases"], found["workers"]) == (24, 1, 2)
    assert found["left_out"] == {OTHER_DATABASE: 1, UNREADABLE: 1, TOO_LONG: 1}
    assert found["steps"] == found["planned_steps"] == 24
    losses = [each["loss"] for each in found["loss"]]
    assert len(losses) == 24
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert AutoTokenizer.from_pretrained(undisturbed).chat_template == make_tokenizer().chat_template
    before, after = weights_of(place / "tiny"), weights_of(undisturbed)
    assert before.keys() == after.keys()
    assert not (place / "model-training").exists()
    times = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    assert main(words(place)) == 0
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")} == times
    printed = capsys.readouterr()
    assert "24 questions about 1 databases; 24 steps of 4, of 24" in printed.out
    assert re.search(r"evaluate_text2sql .*serving\.weights=\S*model", printed.err)
    assert main(words(place, "training.epochs=5")) == 2
    assert "tuned with another setting (epochs=4); remove" in capsys.readouterr().err


def test_a_killed_training_goes_on_and_ends_the_same(place, undisturbed):
    """The driver is killed; the same command goes on from the last checkpoint, to the same weights bit for bit."""
    command = words(place, out="again")
    folder = place / "again-training"
    environment = {**os.environ, "PYTHONPATH": str(Path(train_text2sql.__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "-m", "rayfactory", *command],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    ) as driver:  # fmt: skip
        while not any(folder.glob("checkpoint-*/whole")):
            assert driver.poll() is None, driver.stderr and driver.stderr.read().decode()
            time.sleep(0.01)
        driver.send_signal(signal.SIGKILL)
    assert not (folder / "model").exists()
    assert main(words(place, "training.epochs=3", out="again")) == 2
    assert main(command) == 0
    found, wanted = (json.loads((each / "training.json").read_text("utf-8")) for each in (place / "again", undisturbed))
    assert found["steps"] == wanted["steps"]
    assert [each["loss"] for each in found["loss"]] == [each["loss"] for each in wanted["loss"]]
    again, once = weights_of(place / "again"), weights_of(undisturbed)
    assert all(np.array_equal(again[name], once[name]) for name in once)


def test_a_training_ends_with_its_time(tmp_path):
    """On one worker, without Ray: it has made fewer steps than it was to, and the model is there."""
    from rayfactory.downstream.tuning import FIGURES, MODEL, Tuning, tune

    examples, _ = examples_of([asked(number) for number in range(4)], make_tokenizer(), 1_000, None, told)
    config = TrainingConfig(max_hours=2 / 3600)
    plan = Plan(epochs=100_000, batch_size=4, together=4, max_tokens=1_000, workers=1, seed=0)
    weights = str(make_model(tmp_path / "tiny"))
    folder = tmp_path / "training"
    folder.mkdir()
    tune({"tuning": Tuning(config, weights, examples, plan, folder, on_gpu=False, bf16=False, threads=1)})
    figures = json.loads((folder / FIGURES).read_text(encoding="utf-8"))
    assert 0 < figures["steps"] < figures["planned_steps"] == 100_000
    assert figures["curve"][-1]["learning_rate"] < 0.3 * max(each["learning_rate"] for each in figures["curve"])
    assert (folder / MODEL / "model.safetensors").is_file()


# -- what is refused ----------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["training.questions=[]"],
            r"translation/pairs\.json' is not there.*task=translate.*training\.questions=\[FILE\]",
        ),
        (["training.questions=[absent.json]"], "absent.json.*cannot be read"),
        (["training.model=absent"], r"training\.model='absent' cannot be had.*training\.model=packaged"),
        (["training.max_tokens=20"], "no question is left to learn from.*too long.*raise training.max_tokens"),
        (["training.prompt=nice"], "has to be one of plain, qwen2.5-coder, codes"),
        (["training.prompt=codes"], r"asked as a chat; set models\.local\.chat=false, or training\.prompt=plain"),
        (["models.local.chat=false", "training.trainer=llamafactory"], "is handed chats.*use training.trainer=ray"),
        (["training.trainer=trl"], "has to be one of ray, llamafactory"),
        (["training.warmup_share=2"], "has to be between 0 and 1"),
        (["training.adam_beta2=1"], "has to be 0 or more and less than 1"),
        (["training.max_hours=0"], "has to be greater than 0"),
    ],
)
def test_what_is_wrong_is_said(place, capsys, monkeypatch, more, message):
    # Where there is no network, the hub is asked again and again.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(words(place, *more, out="none")) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (place / "none").exists()


def test_queries_without_questions_are_refused(place, tmp_path, capsys):
    (tmp_path / "gold.sql").write_text("SELECT 1\tshop\n", encoding="utf-8")
    assert main(words(place, f"training.questions=[{tmp_path / 'gold.sql'}]")) == 2
    assert "has 1 gold queries without a question" in capsys.readouterr().err


def test_a_folder_with_something_else_is_left_alone(place, capsys):
    (place / "full").mkdir()
    (place / "full" / "letter.txt").write_text("mine", encoding="utf-8")
    assert main(words(place, out="full")) == 2
    assert "no model of this task; name another folder with output=" in capsys.readouterr().err


def test_a_model_without_a_chat_template_is_refused(place, capsys):
    shutil.copytree(place / "tiny", place / "mute")
    (place / "mute" / "chat_template.jinja").unlink()
    assert main(words(place, f"training.model={place / 'mute'}", out="none")) == 2
    assert "has no chat template" in capsys.readouterr().err


# -- LLaMA-Factory ------------------------------------------------------------


def test_folder_for_llamafactory(place, capsys):
    """The questions as they are asked here, and the recipe by the names that LLaMA-Factory documents."""
    recipe = ["training.epochs=3", "training.batch_size=256", "training.learning_rate=3e-5", "training.workers=4"]
    assert main(words(place, "training.trainer=llamafactory", *recipe, out="factory")) == 0
    folder = place / "factory"
    settings = yaml.safe_load((folder / "train.yaml").read_text(encoding="utf-8"))
    assert settings == {
        "model_name_or_path": str(place / "tiny"), "stage": "sft", "do_train": True, "finetuning_type": "full",
        "dataset_dir": ".", "dataset": "text2sql", "cutoff_len": 8192, "output_dir": "model", "logging_steps": 1,
        "save_strategy": "epoch", "plot_loss": True, "report_to": "none", "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 64, "num_train_epochs": 3.0, "learning_rate": 3e-5, "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.05, "optim": "adamw_torch", "weight_decay": 0.01, "adam_beta1": 0.9, "adam_beta2": 0.95,
        "adam_epsilon": 1e-8, "max_grad_norm": 1.0, "bf16": True, "disable_gradient_checkpointing": True, "seed": 0,
    }  # fmt: skip
    info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))["text2sql"]
    assert (info["formatting"], info["columns"], info["tags"]["role_tag"]) == (
        "sharegpt",
        {"messages": "messages"},
        "role",
    )
    examples = json.loads((folder / info["file_name"]).read_text(encoding="utf-8"))
    assert len(examples) == len(QUESTIONS)
    system, user, assistant = examples[0]["messages"]
    assert [each["role"] for each in (system, user, assistant)] == ["system", "user", "assistant"]
    assert "list_price" in system["content"]
    assert user["content"] == f"Question: {QUESTIONS[0][0]}"
    assert assistant["content"] == completion_of("plain", QUESTIONS[0][1], "sqlite")
    assert "llamafactory-cli train train.yaml" in capsys.readouterr().out
    assert main(words(place, "training.trainer=llamafactory", "training.shard=true", out="factory")) == 0
    assert yaml.safe_load((folder / "train.yaml").read_text(encoding="utf-8"))["deepspeed"] == "deepspeed.json"
    assert json.loads((folder / "deepspeed.json").read_text(encoding="utf-8"))["zero_optimization"]["stage"] == 3


def test_batch_that_cannot_be_divided_for_llamafactory(place, capsys):
    assert main(words(place, "training.trainer=llamafactory", "training.workers=3", out="none")) == 2
    assert "cannot be divided among training.workers=3" in capsys.readouterr().err
