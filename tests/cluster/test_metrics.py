"""What a scrape of a live run has, and that its documentation, its dashboard and Prometheus's settings are about that."""

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from rayfactory.cluster.metrics import COUNTERS, GAUGES, STAGE, STAGES
from rayfactory.records import REJECT_REASONS
from tests.cluster.test_models import command, environment, folder, server  # noqa: F401 - two of them are fixtures

RUN = "watched é"
LAUNCH = Path(__file__).resolve().parents[2] / "launch"
NAMES = [f"ray_{name}" for name in (*GAUGES, *COUNTERS, STAGE)]

PORTS = """
import sys
import ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(*[f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in ray.nodes()], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def scrape(folder, server, elsewhere):  # noqa: F811 - fixtures
    """Return the samples and the help texts that a run with models exports while it lasts."""
    address = elsewhere.overrides[-1].partition("=")[2]
    env = {**environment(), **elsewhere.variables}
    looking = subprocess.Popen(
        [sys.executable, "-c", PORTS, address], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert looking.stdout is not None
    where = looking.stdout.readline().split()
    looking.communicate()
    assert where
    words = command(folder, server, RUN, *elsewhere.overrides, "display.mode=none", "target=60")
    running = subprocess.Popen(words, cwd=LAUNCH.parent, env=env)
    samples: dict[str, str] = {}
    about: dict[tuple[str, str], str] = {}
    while running.poll() is None:
        time.sleep(1)
        for place in where:
            with urllib.request.urlopen(f"http://{place}/metrics", timeout=30) as answer:
                text = answer.read().decode()
            about.update(((m[1], m[2]), m[3]) for m in re.finditer(r"^# (HELP|TYPE) (\S+) (.*)$", text, re.MULTILINE))
            found = re.findall(r"^(ray_rayfactory\S+\{.*\}) (\S+)$", text, re.MULTILINE)
            # The cluster has had other runs.
            run = str(folder / RUN).replace("é", "%C3%A9")
            samples.update((sample, value) for sample, value in found if f'run="{run}"' in sample)
    assert running.returncode == 0
    return {name: float(value) for name, value in samples.items()}, about


def labelled(samples, name, label):
    """Return the values of one label among the samples of a metric."""
    found = (re.search(rf'[{{,]{label}="([^"]*)"', sample) for sample in samples if sample.startswith(f"{name}{{"))
    return {match[1] for match in found if match}


@pytest.mark.parametrize("name", NAMES)
def test_every_documented_metric_is_there_with_help_and_type(scrape, name):
    samples, about = scrape
    kind = "histogram" if name.endswith(STAGE) else "counter" if name.endswith("_total") else "gauge"
    assert about["TYPE", name] == kind
    assert len(about["HELP", name]) > 10
    assert any(sample.startswith(name) for sample in samples)
    line = next(line for line in (LAUNCH / "README.md").read_text().splitlines() if f"`{name}`" in line)
    assert line.split("|")[2].strip() == kind
    assert about["HELP", name] in line


def test_labels_say_what_they_are_documented_to(scrape):
    samples, _ = scrape
    assert labelled(samples, f"ray_{STAGE}_count", "stage") == set(STAGES)
    assert labelled(samples, "ray_rayfactory_state", "state") == {"GEN", "EXP"}
    assert (
        {"admitted"} < labelled(samples, "ray_rayfactory_candidates_total", "outcome") <= {"admitted", *REJECT_REASONS}
    )
    assert labelled(samples, "ray_rayfactory_model_tokens_total", "model") == {"test-model"}
    assert {"in", "out"} <= labelled(samples, "ray_rayfactory_model_tokens_total", "kind")
    assert {"generation", "expansion"} <= labelled(samples, "ray_rayfactory_model_cost_dollars_total", "agent")


def test_nothing_of_ours_is_undocumented(scrape):
    _, about = scrape
    assert {name for kind, name in about if kind == "TYPE" and "rayfactory" in name} == set(NAMES)


def test_numbers_are_those_of_the_run(scrape, folder):  # noqa: F811 - a fixture
    """As they were at the last export, which is some seconds before the end: never more than the run came to."""
    samples, _ = scrape
    summary = json.loads((folder / RUN / "summary.json").read_text())

    def total(name):
        return sum(value for sample, value in samples.items() if sample.startswith(f"{name}{{"))

    assert total("ray_rayfactory_target_rows") == 60
    assert 0 < total("ray_rayfactory_rows") <= summary["admitted"]
    assert 0 < total("ray_rayfactory_candidates_total") <= summary["candidates"]
    assert 0 < total("ray_rayfactory_model_cost_dollars_total") <= summary["cost_usd"] + 1e-9


def test_dashboard_asks_for_nothing_that_does_not_exist():
    dashboard = json.loads((LAUNCH / "grafana" / "dashboards" / "rayfactory.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked = {re.sub("_bucket$", "", name) for query in queries for name in re.findall(r"ray_rayfactory_\w+", query)}
    assert asked <= set(NAMES)
    shown = set(NAMES) - asked
    assert shown <= {"ray_rayfactory_round"}, "a metric that no panel shows"
    assert all('run="$run"' in query for query in queries if "ray_rayfactory" in query)
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus is not installed; make servers installs it")
def test_prometheus_takes_its_settings_and_the_dashboards_queries(tmp_path):
    # Not whether the file is there that Ray writes while a cluster with the usual folder for its files lasts.
    words = ["promtool", "check", "config", "--syntax-only", str(LAUNCH / "prometheus.yml")]
    checked = subprocess.run(words, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    dashboard = json.loads((LAUNCH / "grafana" / "dashboards" / "rayfactory.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = [{"record": f"panel:query_{i}:last", "expr": query} for i, query in enumerate(queries)]
    (tmp_path / "rules.json").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    checked = subprocess.run(
        ["promtool", "check", "rules", str(tmp_path / "rules.json")], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
