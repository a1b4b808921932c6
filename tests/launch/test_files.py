"""What is in `launch/` is what its readers take: Ray, KubeRay, Kubernetes, Docker, a shell; and of the versions that we test."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve.schema import ServeDeploySchema

import rayfactory
from rayfactory.__main__ import main
from rayfactory.compose import compose

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
CLUSTERS = sorted((LAUNCH / "ray").glob("*.yaml"))
RESOURCES = sorted((LAUNCH / "kubernetes").glob("*.yaml"))
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
KUBERNETES = "1.32"
BIN = Path(sys.executable).parent

TEXT: dict[str, Any] = {"type": "string"}
NUMBER: dict[str, Any] = {"type": "integer", "minimum": 0}
TRUTH: dict[str, Any] = {"type": "boolean"}
TEXTS: dict[str, Any] = {"type": "object", "additionalProperties": TEXT}
ANY: dict[str, Any] = {"type": "object"}


def fields(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """Return the schema of an object that has nothing but these."""
    return {
        "type": "object",
        "properties": {**required, **optional},
        "required": list(required),
        "additionalProperties": False,
    }


WORKERS = fields(
    {"groupName": TEXT, "template": ANY, "minReplicas": NUMBER, "maxReplicas": NUMBER},
    replicas=NUMBER, numOfHosts=NUMBER, idleTimeoutSeconds=NUMBER, rayStartParams=TEXTS, resources=TEXTS, labels=TEXTS,
)  # fmt: skip
HEAD = fields(
    {"template": ANY}, rayStartParams=TEXTS, serviceType=TEXT, headService=ANY, enableIngress=TRUTH, resources=TEXTS,
    labels=TEXTS,
)  # fmt: skip
CLUSTER = fields(
    {"headGroupSpec": HEAD},
    rayVersion=TEXT,
    authOptions=fields({"mode": {"enum": ["token", "disabled"]}}),
    enableInTreeAutoscaling=TRUTH,
    autoscalerOptions=fields(
        {}, idleTimeoutSeconds=NUMBER, upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]}, version=TEXT,
        image=TEXT, imagePullPolicy=TEXT, resources=ANY, env={"type": "array"},
    ),
    gcsFaultToleranceOptions=ANY,
    headServiceAnnotations=TEXTS,
    suspend=TRUTH,
    workerGroupSpecs={"type": "array", "items": WORKERS},
)  # fmt: skip
SPECS = {
    "RayCluster": CLUSTER,
    "RayJob": fields(
        {"entrypoint": TEXT, "rayClusterSpec": CLUSTER},
        entrypointResources=TEXT, entrypointNumCpus={"type": "number"}, backoffLimit=NUMBER, runtimeEnvYAML=TEXT,
        activeDeadlineSeconds=NUMBER, shutdownAfterJobFinishes=TRUTH, ttlSecondsAfterFinished=NUMBER, suspend=TRUTH,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]}, metadata=TEXTS,
    ),
    "RayService": fields({"serveConfigV2": TEXT, "rayClusterConfig": CLUSTER}, serveService=ANY),
}  # fmt: skip
"""KubeRay's own fields, as the types of its API have them; pods are for Kubernetes's schema."""


def constraint(package: str) -> str:
    """Return the version of a package that is tested."""
    (line,) = [
        line for line in (LAUNCH.parent / "constraints.txt").read_text().splitlines() if line.startswith(f"{package}==")
    ]
    return line.partition("==")[2]


def clusters_of(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the cluster of a RayCluster, RayJob or RayService."""
    found: dict[str, Any] = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    return found


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_ray_takes_the_cluster(path: Path):
    config = yaml.safe_load(path.read_text())
    validate_config(prepare_config(config))
    assert all(Path(source).expanduser() for source in config["file_mounts"].values())


@pytest.mark.parametrize("path", RESOURCES, ids=lambda path: path.stem)
def test_kubernetes_and_kuberay_take_the_resource(path: Path):
    resource = yaml.safe_load(path.read_text())
    assert resource["apiVersion"] == "ray.io/v1"
    assert set(resource) == {"apiVersion", "kind", "metadata", "spec"}
    jsonschema.validate(resource["spec"], SPECS[resource["kind"]])
    cluster = clusters_of(resource["spec"])
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": group["template"]["spec"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        (container,) = group["template"]["spec"]["containers"]
        # Ray takes from the limits what a pod has.
        assert container["resources"]["limits"] == container["resources"]["requests"]
        volumes = {volume["name"] for volume in group["template"]["spec"].get("volumes", [])}
        assert {mount["name"] for mount in container.get("volumeMounts", [])} == volumes


def test_a_schema_finds_what_is_misspelled():
    resource = yaml.safe_load((LAUNCH / "kubernetes" / "raycluster.yaml").read_text())
    resource["spec"]["workerGroupSpecs"][0]["minReplica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="minReplica"):
        jsonschema.validate(resource["spec"], SPECS["RayCluster"])
    pod = resource["spec"]["headGroupSpec"]["template"]["spec"]
    pod["containers"][0]["imagee"] = "x"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": pod}, KUBERNETES, strict=True
        )


def test_serve_takes_the_model():
    """And the model is the one that `models=vllm` starts."""
    llm = pytest.importorskip("ray.serve.llm", reason="vLLM is not installed")
    resource = yaml.safe_load((LAUNCH / "kubernetes" / "rayservice.yaml").read_text())
    (application,) = ServeDeploySchema.model_validate(yaml.safe_load(resource["spec"]["serveConfigV2"])).applications
    assert application.import_path == f"{llm.__name__}:{llm.build_openai_app.__name__}"
    (config,) = [llm.LLMConfig(**each) for each in application.args["llm_configs"]]
    model = compose(["+benchmark=tpcds", "models=vllm"]).models.local
    assert config.model_loading_config.model_id == model.name
    assert config.model_loading_config.model_source == model.serving.weights
    assert config.engine_kwargs["tensor_parallel_size"] == model.serving.tensor_parallel_size
    assert config.engine_kwargs["max_model_len"] == model.context_tokens
    group = resource["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    (container,) = group["template"]["spec"]["containers"]
    assert int(container["resources"]["limits"]["nvidia.com/gpu"]) == model.serving.tensor_parallel_size
    assert group["maxReplicas"] == config.deployment_config["autoscaling_config"]["max_replicas"]


def test_versions_are_those_that_are_tested():
    ray = constraint("ray")
    seen = set()
    for path in [*CLUSTERS, *RESOURCES, LAUNCH / "Dockerfile"]:
        text = path.read_text()
        assert set(re.findall(r"rayproject/[\w-]+:([\d.]+)-", text)) <= {ray}, path
        assert set(re.findall(r"rayVersion: \"(.*)\"", text)) <= {ray}, path
        assert set(re.findall(r"rayfactory:(\d[\d.]*\d)", text)) <= {rayfactory.__version__}, path
        seen |= set(re.findall(r"-py(\d)(\d+)", text))
    ((major, minor),) = seen
    project = (LAUNCH.parent / "pyproject.toml").read_text()
    assert f'requires-python = ">={major}.{minor},' in project


@pytest.mark.parametrize("path", [*CLUSTERS, *RESOURCES, *SCRIPTS, LAUNCH / "README.md"], ids=lambda path: path.name)
def test_every_command_line_in_it_is_one(path: Path, capsys: pytest.CaptureFixture[str]):
    """Settings that a command of these files names exist."""
    text = re.sub(r"\\?\n#? *(?=[a-z._]+=)", " ", path.read_text())
    commands = re.findall(r"(?:-m rayfactory|submit\.sh|slurm\.sh) (\+benchmark=[^`'\n]*)", text)
    for command in commands:
        words = [word.rstrip(",.;") for word in command.split() if "=" in word and "$" not in word]
        assert main([*words, "--cfg", "job"]) == 0, capsys.readouterr().err
    assert commands or path.parent.name == "ray" or path.name == "raycluster.yaml"


def test_container_file_lints():
    done = subprocess.run([f"{BIN}/hadolint", str(LAUNCH / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_container_gets_all_that_the_package_is_made_of():
    """What is let into the image are the files that the package is built from."""
    allowed = {line[1:] for line in (LAUNCH.parent / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    project = (LAUNCH.parent / "pyproject.toml").read_text()
    built_from = set(re.findall(r'^"?(conf|prompts)"? = ', project, re.MULTILINE)) | {"rayfactory", "README.md"}
    assert built_from | {"pyproject.toml", "constraints.txt"} <= allowed


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_lints(path: Path):
    done = subprocess.run([f"{BIN}/shellcheck", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert path.stat().st_mode & 0o111


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name where the pool is to be"),
        (["+benchmark=tpcds"], "name where the pool is to be"),
        (["+benchmark=tpcds", "run_dir=runs/a"], "give a path that begins with /"),
        (["+benchmark=tpcds", "run_dir=s3://bucket/a"], "give a path that begins with /"),
        (["run_dir=/pool/a", "OPENAI_API_KEY=secret"], "OPENAI_API_KEY would be shown"),
        (["run_dir=/pool/a", "benchmark.url=postgresql://me:secret@host/shop"], "name the variable that has it"),
        (
            ["run_dir=/pool/a", "benchmark.url=postgresql://me@host/shop?password=secret"],
            "name the variable that has it",
        ),
    ],
)
def test_what_would_be_lost_or_shown_is_not_submitted(words: list[str], message: str):
    done = subprocess.run(["bash", str(LAUNCH / "submit.sh"), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert "secret" not in done.stderr
