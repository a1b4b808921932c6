"""Room for served models: a real Ray cluster whose account has four GPUs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rayfactory.cluster.servable import check_room
from rayfactory.cluster.session import check_gpu_room
from rayfactory.cluster.vector_actor import check_index_gpu
from rayfactory.config import ClusterConfig, ModelConfig, ServingConfig
from rayfactory.errors import ConfigError
from tests.models.endpoint_server import serving
from tests.shop import make_shop

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cluster():
    """Return the address of the cluster."""
    import ray

    ray.init(address="local", num_cpus=2, num_gpus=4, include_dashboard=False, log_to_driver=False)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


def model(name, **settings):
    return ModelConfig(name=name, serving=replace(ServingConfig(weights="weights"), **settings))


def test_models_that_fit_are_not_spoken_of(cluster):
    """Two replicas of one rank and one of two are four GPUs."""
    check_room([model("a", min_replicas=2, max_replicas=3), model("b", tensor_parallel_size=2)], pytest.fail)
    check_room([], pytest.fail)


def test_models_share_what_the_cluster_has(cluster):
    """Each would fit alone; together they do not, and the message has both, their sum and the remedy."""
    strong, local = model("strong", tensor_parallel_size=4), model("local", pipeline_parallel_size=2, max_replicas=2)
    for alone in (strong, local):
        check_room([alone], pytest.fail)
    message = (
        "model 'strong' needs 4 GPUs (serving: tensor_parallel_size=4 x pipeline_parallel_size=1 x min_replicas=1), "
        "model 'local' needs 2 GPUs (serving: tensor_parallel_size=1 x pipeline_parallel_size=2 x min_replicas=1), "
        "together 6, and the cluster has 4; set a smaller tensor_parallel_size, use models=vllm_cpu, or set its base_url"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_room([strong, local], pytest.fail)


def test_share_of_a_gpu_that_is_not_there_is_refused_with_the_remedy(cluster):
    """Ray itself would wait for one without a word."""
    check_gpu_room(4, "what", "do without")
    with pytest.raises(
        ConfigError, match=r"what needs 4.5 GPU, and 4 of the cluster's are free; free one, or do without"
    ):
        check_gpu_room(4.5, "what", "do without")
    with pytest.raises(ConfigError, match=r"needs the package faiss-gpu .*, or set cluster.index_gpu_memory_gb=0"):
        check_index_gpu(ClusterConfig(index_gpu_memory_gb=2))


def test_replicas_count(cluster):
    with pytest.raises(ConfigError, match=r"'a' needs 6 GPUs .*=2 x .*min_replicas=3\), and the cluster has 4; "):
        check_room([model("a", tensor_parallel_size=2, min_replicas=3, max_replicas=3)], pytest.fail)


def test_gpus_that_others_hold_are_said(cluster):
    """They may be given back while the model waits, so it is no error."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    others = placement_group([{"GPU": 1}] * 3)
    ray.get(others.ready())
    said: list[str] = []
    check_room([model("a"), model("b", tensor_parallel_size=2)], said.append)
    remove_placement_group(others)
    assert len(said) == 1
    assert re.match("Note: 3 GPUs are needed for a and b, and 1 of the cluster's 4 are free; .* waits", said[0])


def test_cpus_of_one_node_are_looked_for(cluster):
    """Each model for itself: replicas on CPUs share them with everything else."""
    config = model("a", device="cpu", tensor_parallel_size=2, min_replicas=5, max_replicas=5)
    check_room([config, config], pytest.fail)
    with pytest.raises(ConfigError, match=r"needs 6 CPUs of one node .* largest node has 2; set a smaller"):
        check_room([model("a", device="cpu", tensor_parallel_size=2, pipeline_parallel_size=3)], pytest.fail)


def run(tmp_path, data_dir, cluster, *words):
    """Run `models=paper` from the command line, with the GPU build of vLLM on the path by name alone."""
    build = tmp_path / "path" / "vllm-0.29.0.dist-info"
    build.mkdir(parents=True)
    (build / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.29.0\n")
    (tmp_path / "weights").mkdir()
    make_shop(tmp_path / "shop.sqlite")
    return subprocess.run(
        [
            sys.executable, "-m", "rayfactory", "+benchmark=custom", f"benchmark.root={tmp_path / 'shop.sqlite'}",
            f"run_dir={tmp_path / 'run'}", f"data_dir={data_dir}", "target=10", "display.mode=lines",
            f"cluster.address={cluster}", "models=paper", f"models.local.serving.weights={tmp_path / 'weights'}", *words,
        ],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{build.parent}{os.pathsep}{ROOT}"},
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip


def test_room_is_known_before_another_model_is_paid_for(cluster, tmp_path, make_data_dir):
    """The question whether an endpoint keeps to a grammar has a price; what is missing here is found for nothing."""
    with serving() as server:
        done = run(
            tmp_path, make_data_dir(tmp_path / "cache"), cluster, "models.local.serving.tensor_parallel_size=8", "models.strong.name=test-model",
            f"models.strong.base_url={server.base_url}", "models.strong.api_key_env=", "models.strong.constrained=true",
            "models.strong.context_tokens=32768",
        )  # fmt: skip
        assert server.num_requests == 0
    assert done.returncode == 2, done.stdout + done.stderr
    assert "needs 8 GPUs (" in done.stderr


def test_run_that_does_not_fit_ends_before_a_model_starts(cluster, tmp_path, make_data_dir):
    """From the command line: exit code 2 and the message."""
    done = run(
        tmp_path, make_data_dir(tmp_path / "cache"), cluster, "model@models.strong=qwen2.5-coder-14b", "models.strong.name=Explorer",
        "models.strong.serving.tensor_parallel_size=2", f"models.strong.serving.weights={tmp_path / 'weights'}",
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert "model 'Explorer' needs 2 GPUs (" in done.stderr
    assert "model 'Qwen2.5-Coder-14B-Instruct' needs 4 GPUs (" in done.stderr
    assert "together 6, and the cluster has 4; set a smaller tensor_parallel_size" in done.stderr
    assert "Traceback" not in done.stderr
    assert "starting" not in done.stdout
