"""The settings: every choice in conf/ composes, and every value that cannot be is refused with its name."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from rayfactory.compose import PLACES, compose, config_dir, default_data_dir, groups, settings, without_keys
from rayfactory.config import Config
from rayfactory.errors import ConfigError
from rayfactory.shown import address_variable, full_address
from rayfactory.validate import RULES, TASKS, validate


def test_a_password_in_an_address_is_put_away(monkeypatch):
    """No file and no message has it; it is where passwords are looked for, whatever is in it."""
    monkeypatch.delenv("RAYFACTORY_DATABASE_PASSWORD", raising=False)
    config = compose(["+benchmark=custom", "benchmark.url=postgresql://ann:p%40s%3As@host:5433/shop?schema=s"])
    assert config.benchmark.url == "postgresql://ann@host:5433/shop?schema=s"
    assert os.environ["RAYFACTORY_DATABASE_PASSWORD"] == "p@s:s"
    words = without_keys(["+benchmark=custom", "benchmark.url='mysql://ann:se@cret@host/shop?ssl=true'"], os.environ)
    assert words[1] == "benchmark.url='mysql://ann@host/shop?ssl=true'"
    assert os.environ["RAYFACTORY_DATABASE_PASSWORD"] == "se@cret"
    env: dict[str, str] = {}
    words = without_keys(["benchmark.password_env=SHOP", "benchmark.url=postgresql://host/shop?user=a&password=b"], env)
    assert (words[1], env) == ("benchmark.url=postgresql://host/shop?user=a", {"SHOP": "b"})
    compose(["+benchmark=custom", "benchmark.url=postgresql://ann:p%40s%3As@host:5433/shop?schema=s"])
    compose(["+benchmark=custom", "benchmark.url=mysql://ann@host/shop"])
    assert os.environ["RAYFACTORY_DATABASE_PASSWORD"] == "p@s:s"


CHOICES = [(group, choice) for group, choices in groups().items() for choice in choices]


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_composes_and_is_valid(group, choice):
    """Each file of conf/ is a set of settings that a run can start from."""
    names = [f"{group}@{place}" for place in PLACES[group]] if group in PLACES else [group]
    for name in names:
        words = [f"+{name}={choice}"] if group == "benchmark" else ["+benchmark=tpcds", f"{name}={choice}"]
        if "endpoint" in choice or choice == "omnisql":
            words += ["models.strong.base_url=http://host:8000/v1", "models.strong.name=a-model"]
        validate(compose(words))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["models=endpoint", "models.strong.base_url=http://host/v1"], "models.strong.name"),
        (["models=endpoint", "models.strong.name=m"], "models.strong.base_url"),
        (["models=endpoint", "models.strong.name=m", "models.strong.base_url=host:8000"], "such as http://"),
        (["models.generation.model=local"], "models.local.name"),
        (["models.generation.model=gpt-4o"], "rule, strong, local"),
        (["models=paper", "models.strong.context_tokens=4096"], "models.strong.max_output_tokens=8192"),
        (["models=paper", "models.local.serving.min_replicas=3"], "max_replicas=1"),
        (["models=paper", "models.local.serving.device=tpu"], "gpu, cpu"),
        (
            ["models=paper", "models.strong.omit=[seed,max_tokens]"],
            "models.strong.omit, each of its members, has to be one of seed, temperature, top_p, not 'max_tokens'",
        ),
        (
            ["models=paper", "models.local.serving.max_ongoing_requests=32"],
            "target_ongoing_requests=64 is more than a replica ever answers at once, max_ongoing_requests=32; lower",
        ),
        (
            ["models=paper", "models.local.serving.max_replicas=3", "models.local.max_in_flight=64"],
            "target_ongoing_requests=64 each; set models.local.max_in_flight=192, which reaches max_replicas=3",
        ),
    ],
)
def test_a_model_that_cannot_be_asked_is_refused_before_anything_starts(words, message):
    """The message names the setting that is missing or wrong."""
    with pytest.raises(ConfigError, match=re.escape(message)):
        validate(compose(["+benchmark=tpcds", *words]))


@pytest.mark.parametrize(
    "words",
    [
        ["models.local.serving.max_replicas=3", "models.local.max_in_flight=65"],
        ["models.local.max_in_flight=1"],
        [
            "models.local.serving.weights=",
            "models.local.base_url=http://host/v1",
            "models.local.serving.max_replicas=3",
            "models.local.max_in_flight=1",
        ],
    ],
)
def test_requests_that_call_for_another_replica_are_asked_for_only_where_there_may_be_one(words):
    """One request more than the first replica's is enough; a fixed number of replicas, or none of ours, needs none."""
    validate(compose(["+benchmark=tpcds", "models=vllm", *words]))


def test_a_model_that_no_agent_asks_needs_nothing():
    """Slots that stay empty are no fault."""
    validate(compose(["+benchmark=tpcds", "model@models.strong=endpoint"]))


@pytest.mark.parametrize("word", ["model=gpt-4o", "model@models=gpt-4o", "model@models.weak=gpt-4o"])
def test_a_model_is_put_in_one_of_two_places(word):
    """The message has both."""
    with pytest.raises(ConfigError, match=r"model@models\.strong=gpt-4o or model@models\.local=gpt-4o"):
        compose(["+benchmark=tpcds", word])


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_says_what_it_is(group, choice):
    """The first comment of each choice is what --help shows."""
    text = (config_dir() / group / f"{choice}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert groups()[group][choice].endswith(".")
    assert groups()[group][choice][0].isupper()


@pytest.mark.parametrize("benchmark", groups()["benchmark"])
def test_a_benchmark_keeps_its_name_and_run_dir(benchmark):
    """The choice decides the benchmark's name, and the pool goes to runs/<benchmark>."""
    config = compose([f"+benchmark={benchmark}"])
    assert config.benchmark.name == benchmark
    assert Path(config.run_dir) == Path.cwd() / "runs" / benchmark


def test_defaults_are_those_of_the_dataclasses():
    """conf/ adds nothing to the defaults but the choice of groups and the two folders."""
    config = dataclasses.asdict(compose(["+benchmark=tpcds"]))
    expected = dataclasses.asdict(Config())
    expected["benchmark"]["name"] = "tpcds"
    for folder in ("run_dir", "data_dir"):
        del config[folder], expected[folder]
    assert config == expected


@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_a_prefix_changes_nothing(prefix):
    """Hydra's three ways to write an override mean the same here, for groups and for settings."""
    config = compose([f"{prefix}benchmark=spider", f"{prefix}target=7", f"{prefix}cluster=existing"])
    assert (config.benchmark.name, config.target, config.cluster.address) == ("spider", 7, "auto")


@examples(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1))
def test_any_path_arrives_as_it_was_written(name):
    """A folder may be called anything: spaces, quotes, commas, brackets, backslashes, any script.

    Only Hydra's own interpolation (``${``) keeps its meaning.
    """
    assume("${" not in name)
    root = f"/data/{name}"
    assert compose(["+benchmark=custom", f"benchmark.root={root}"]).benchmark.root == os.path.normpath(root)


def test_paths_are_absolute_and_home_is_expanded(tmp_path, monkeypatch):
    """Workers may run in another folder, so a relative path is completed at once; an address is left alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    config = compose(["+benchmark=custom", "benchmark.root=~/shop.sqlite", "run_dir=here", "data_dir=s3://bucket/data"])
    assert config.benchmark.root == "/home/someone/shop.sqlite"
    assert config.run_dir == str(tmp_path / "here")
    assert config.data_dir == "s3://bucket/data"


@pytest.mark.parametrize(
    ("cache_home", "expected"),
    [
        ("/var/cache", "/var/cache/rayfactory"),
        ("", "/home/someone/.cache/rayfactory"),
        ("relative", "/home/someone/.cache/rayfactory"),
    ],
)
def test_data_dir_follows_the_xdg_specification(monkeypatch, cache_home, expected):
    """XDG_CACHE_HOME is honoured where it is absolute."""
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", cache_home)
    assert default_data_dir() == compose(["+benchmark=tpcds"]).data_dir == expected


def test_compose_leaves_no_trace(tmp_path, monkeypatch):
    """Composing changes neither the working directory nor its content."""
    monkeypatch.chdir(tmp_path)
    compose(["+benchmark=tpcds"])
    assert Path.cwd() == tmp_path
    assert not list(tmp_path.iterdir())


def test_compose_again_gives_the_same_and_shares_nothing():
    """Two calls give equal settings that can be changed apart."""
    first, second = compose(["+benchmark=tpcds"]), compose(["+benchmark=tpcds"])
    assert first == second
    first.benchmark.databases.append("x")
    assert second.benchmark.databases == []


@pytest.mark.parametrize(
    "name", [name for name, hint in settings().items() if hint in (int, float, int | None, float | None)]
)
def test_every_number_has_a_rule(name):
    """A number without a bound is a setting somebody forgot to think about."""
    assert name in RULES


def test_every_rule_has_a_setting():
    """No rule outlives its setting."""
    assert set(RULES) <= set(settings())


BAD_VALUES = [
    *[(name, value) for name in RULES for value in (-1, math.nan) if settings()[name] is not str],
    *[(name, 0) for name in ("target", "max_candidates", "critic.k", "execution.timeout_s", "round.requests")],
    *[(name, 1.1) for name in ("management.min_executability", "critic.max_similarity")],
    *[(name, math.inf) for name in ("execution.timeout_s", "max_cost_usd", "seed")],
    *[(name, value) for name in ("run_dir", "embedding.model") for value in ("", " ")],
    ("run_dir", "ftp://server/pool"),
    ("seed", 2**63),
    ("task", "generat"),
    ("display.mode", "loud"),
    ("embedding.device", "cuda"),
    ("embedding.backend", "onnx"),
    ("embedding.precision", "int8"),
    ("embedding.gpu_share", 1.5),
]


@pytest.mark.parametrize(("name", "value"), BAD_VALUES)
def test_impossible_value_is_refused_with_its_name_and_value(name, value):
    """The message holds the setting, the value and what to write instead."""
    config = Config(run_dir="runs/x")
    *sections, key = name.split(".")
    owner = config
    for section in sections:
        owner = getattr(owner, section)
    setattr(owner, key, value)
    with pytest.raises(ConfigError) as error:
        validate(config)
    assert name in str(error.value)
    assert repr(value) in str(error.value)


def weighted(token: float, ast: float, embedding: float) -> Config:
    config = Config(run_dir="runs/x")
    config.critic = dataclasses.replace(config.critic, token_weight=token, ast_weight=ast, embedding_weight=embedding)
    return config


@given(*[st.floats(0, 1)] * 2)
def test_weights_that_sum_to_one_are_valid(first, second):
    """However the whole is cut into three, it is accepted: rounding does not count."""
    low, high = sorted((first, second))
    validate(weighted(low, high - low, 1 - high))


@given(*[st.floats(0, 1)] * 3)
def test_weights_that_do_not_sum_to_one_are_refused(token, ast, embedding):
    """Weights are shares of one similarity."""
    assume(abs(token + ast + embedding - 1) > 1e-6)
    with pytest.raises(ConfigError, match="sum to 1"):
        validate(weighted(token, ast, embedding))


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["embedding.device=gpu", "embedding.backend=openvino"], r"set embedding\.device=cpu, or leave"),
        (["embedding.device=cpu", "embedding.precision=fp16"], r"set embedding\.precision=fp32, or leave"),
    ],
)
def test_an_encoder_that_cannot_be_is_refused_with_the_remedy(words, remedy):
    """Values that are each possible and not together."""
    with pytest.raises(ConfigError, match=remedy):
        validate(compose(["+benchmark=tpcds", *words]))


def test_no_limit_is_valid():
    """Settings that may be null take null."""
    validate(compose(["+benchmark=tpcds", "target=null", "max_candidates=null", "max_cost_usd=null"]))


def test_tasks_are_told():
    """Every task says what it does."""
    assert all(TASKS.values())


@pytest.mark.parametrize("way", ["typed", "from the environment"])
def test_settings_hold_no_key_of_an_address(way, monkeypatch):
    """Stars stand for it; the process has all of it, and whoever composes again keeps it."""
    monkeypatch.setenv("MY_PASSWORD", "s3cret, word")
    monkeypatch.delenv(address_variable("strong"), raising=False)
    password = "s3cret, word" if way == "typed" else "${oc.env:MY_PASSWORD}"
    words = ["+benchmark=tpcds", f"models.strong.base_url=http://me:{password}@host/v1?key=k"]
    config = compose(words)
    assert config.models.strong.base_url == "http://***@host/v1?key=***"
    assert full_address("strong", config.models.strong.base_url, os.environ) == "http://me:s3cret, word@host/v1?key=k"
    assert "s3cret" not in repr(config)
    again = compose(["+benchmark=tpcds", f"models.strong.base_url={config.models.strong.base_url}"])
    assert again.models.strong.base_url == config.models.strong.base_url
    assert full_address("strong", again.models.strong.base_url, os.environ).startswith("http://me:s3cret")


@pytest.mark.parametrize(
    ("name", "is_taken"),
    [("OPENAI_API_KEY", True), ("own_key_variable", True), ("not_set_variable", False), ("sk-abc", False), ("", True)],
)
def test_name_of_a_keys_variable_is_no_key(name, is_taken, monkeypatch):
    """By custom in capitals; another one has to be set. Of what may be a key itself nothing is shown."""
    monkeypatch.setenv("own_key_variable", "x")
    config = compose(["+benchmark=tpcds", f"models.local.api_key_env={name}"])
    if is_taken:
        validate(config)
        return
    with pytest.raises(ConfigError, match=r"models\.local\.api_key_env has to be the name") as caught:
        validate(config)
    assert name not in str(caught.value)
