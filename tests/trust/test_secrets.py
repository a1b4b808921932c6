"""No key is written, shown or kept anywhere: a whole run and runs that fail, with keys in every place that may hold one.

Each key is searched for whole, in the spellings of addresses and of Basic auth, and by its first and last characters.
"""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote
from urllib.request import Request, urlopen
from uuid import uuid4

import pyarrow.parquet as pq
import pytest

from rayfactory.__main__ import main
from rayfactory.models.journal import FILE_NAME
from rayfactory.shown import HIDDEN
from tests.models.endpoint_server import EndpointServer, running
from tests.models.http_messages import HttpReply, HttpRequest, error_reply
from tests.shop import make_shop

ROOT = Path(__file__).resolve().parents[2]

STRONG_KEY = "sk-canary1/strong+0123456789abcdefXYZ"
PASSWORD = "pw-canary2-9876543210fedcba"
QUERY_KEY = "qk-canary3-13579bdf02468ace"
HUB_TOKEN = "hf_canary4AbCdEfGhIjKlMnOpQrStUv"
OTHER_KEY = "sk-canary5-other-0011223344556677"
BASIC = base64.b64encode(f"me:{PASSWORD}".encode()).decode()

SECRETS = (STRONG_KEY, PASSWORD, QUERY_KEY, HUB_TOKEN, OTHER_KEY, BASIC)

NEEDLES = sorted(
    {
        form.encode()
        for secret in SECRETS
        for form in (
            secret[:12],
            secret[-12:],
            quote(secret, safe="")[:16],
            base64.b64encode(secret.encode()).decode()[:14],
        )
    }
)

KEYS = {"SHOP_ACCESS": STRONG_KEY, "HF_TOKEN": HUB_TOKEN, "OPENAI_API_KEY": OTHER_KEY}
"""In the environment of whoever starts a run; the first name does not speak for itself."""


def found_in(text: str | bytes) -> list[bytes]:
    content = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return [needle for needle in NEEDLES if needle in content]


def holding(*places: Path) -> dict[str, list[bytes]]:
    """Return the files below some places that hold a key, with what they hold; Parquet by its values."""
    found = {}
    for path in (path for place in places for path in place.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".parquet":
            content += json.dumps(pq.read_table(path).to_pylist(), default=str).encode()
        if hits := found_in(content) or found_in(str(path)):
            found[str(path)] = hits
    return found


class EchoingServer(EndpointServer):
    """Takes a key as a bearer, or a password with a key in the query; says back what it was given, whenever it can."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.taken: set[str] = set()

    async def _route(self, request: HttpRequest) -> HttpReply:
        given = request.headers.get("authorization", "")
        if given == f"Basic {BASIC}" and f"key={QUERY_KEY}" in request.path:
            self.taken.add("address")
        elif given == f"Bearer {STRONG_KEY}" and "?" not in request.path:
            self.taken.add("bearer")
        else:
            told = given.partition(" ")[2]
            return error_reply(401, f"Incorrect API key provided: {told[:8]}****{told[-4:]} ({given}, {request.path})")
        path, _, _ = request.path.partition("?")
        return await super()._route(HttpRequest(request.method, path, request.headers, request.body))


def reply(messages):
    """Be a model that has read what it must not know, and writes it into queries."""
    text = "\n".join(message["content"] for message in messages)
    if "<start-sql>" not in text:
        return f"STATE: GEN\nREASON: {STRONG_KEY} and {PASSWORD}"
    start = random.Random(text).randrange(1_000)
    queries = [
        f"SELECT c.name, '{secret}' AS told, {start + i} AS n FROM customer c JOIN region r ON c.region_id = r.region_id"
        for i, secret in enumerate((STRONG_KEY, PASSWORD, QUERY_KEY))
    ]
    queries.append(f"SELECT '{STRONG_KEY}' FROM nowhere")
    return "\n".join(f"<start-sql>\n{sql}\n<end-sql>" for sql in queries)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rf-") as name:
        make_shop(Path(name) / "shop.sqlite")
        (Path(name) / "tmp").mkdir()
        yield Path(name)


@pytest.fixture(scope="module")
def server() -> Iterator[EchoingServer]:
    with running(EchoingServer(reply=reply)) as server:
        yield server


def words(folder: Path, server: EndpointServer, name: str, *more: str) -> list[str]:
    """Return the overrides of a run with two models: one with a key of its own, one with keys in its address."""
    return [
        "+benchmark=custom", f"benchmark.root={folder / 'shop.sqlite'}", f"run_dir={folder / name}",
        f"data_dir={folder / 'cache'}", "target=10", "round.requests=2", "round.queries_per_request=5",
        "round.requests_after_warmup=2", "display.mode=lines", "models=endpoint",
        "models.strong.name=test-model", f"models.strong.base_url={server.base_url}",
        "models.strong.api_key_env=SHOP_ACCESS", "models.strong.usd_per_million_in=1",
        "models.local.name=test-model",
        f"models.local.base_url=http://me:{PASSWORD}@127.0.0.1:{server.port}/v1?key={QUERY_KEY}",
        "models.table_selection.model=local", "models.expansion.model=local", *more,
    ]  # fmt: skip


@dataclass
class Watch:
    """What the processes of this machine show of themselves, looked at again and again while a run goes on."""

    server: EndpointServer
    commands: set[bytes] = field(default_factory=set)
    environments: set[bytes] = field(default_factory=set)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join(30)

    def _look(self) -> None:
        while not self._over.wait(0.2):
            # Before the first question the command may not have had the time to leave keys off its line.
            if not self.server.num_requests:
                continue
            for place in Path("/proc").glob("[0-9]*"):
                try:
                    command = (place / "cmdline").read_bytes()
                    self.commands.add(command)
                    if b"rayfactory.databases.sandboxed" in command:
                        self.environments.add((place / "environ").read_bytes())
                except OSError:
                    continue


PAGES = (
    "api/v0/actors?limit=1000&detail=true", "api/v0/tasks?limit=5000&detail=true", "api/v0/jobs?limit=1000&detail=true",
    "api/v0/workers?limit=1000&detail=true", "api/v0/runtime_envs?limit=1000&detail=true", "api/v0/objects?limit=1000",
    "api/v0/nodes?detail=true", "api/jobs/", "logical/actors", "nodes?view=summary", "api/cluster_status",
    "api/component_activities", "api/v0/logs?node_ip=127.0.0.1",
)  # fmt: skip
"""What Ray's dashboard, and `ray.util.state`, tell of a cluster."""


def pages(url: str, token: str) -> dict[str, str]:
    told = {}
    for page in PAGES:
        request = Request(f"{url}/{page}", headers={"Authorization": f"Bearer {token}"})
        try:
            with urlopen(request, timeout=60) as answer:
                told[page] = answer.read().decode()
        except OSError as error:
            told[page] = f"{error}"
    return told


@dataclass
class Ended:
    """A run that has ended, on a cluster of somebody else that has not."""

    done: subprocess.CompletedProcess[str]
    watch: Watch
    session: Path
    told: dict[str, str]


@pytest.fixture(scope="module")
def ended(folder: Path, server: EchoingServer) -> Iterator[Ended]:
    """Return a run that has ended as it should, after an endpoint that failed now and then."""
    token = uuid4().hex
    cluster = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    clean = {name: value for name, value in os.environ.items() if name not in KEYS} | {"SHOP_ACCESS": "another-key"}
    code = (
        "import ray, sys; info = ray.init(address='local', num_cpus=2, include_dashboard=True, dashboard_port=0);"
        "print(info.address_info['gcs_address'], info.address_info['session_dir'], info.dashboard_url, flush=True);"
        "sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code], env={**clean, **cluster},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert other.stdout
    try:
        address, session, dashboard = other.stdout.readline().split()
        server.enqueue("ok", "500", "429", "500", "ok", "malformed")
        command = [sys.executable, "-m", "rayfactory", *words(folder, server, "run", "cluster=existing")]
        with Watch(server) as watch:
            done = subprocess.run(
                [*command, f"cluster.address={address}"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600,
                env={**os.environ, **KEYS, **cluster, "TMPDIR": str(folder / "tmp"), "OPENAI_LOG": "debug"},
            )  # fmt: skip
        told = pages(f"http://{dashboard}", token)
        yield Ended(done, watch, Path(session), told)
    finally:
        other.communicate()
    shutil.rmtree(session, ignore_errors=True)


def test_run_with_keys_everywhere_works(ended, folder, server):
    """Both ways to give a key are taken, though Ray's processes have another in their environment."""
    assert ended.done.returncode == 0, ended.done.stdout + ended.done.stderr
    assert server.taken == {"bearer", "address"}
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert summary["admitted"] == 10
    assert {row["agent"] for row in summary["ledger"]} >= {"generation", "table_selection"}


def test_run_leaves_no_key_in_any_file(ended, folder):
    """The run directory with its journal and its Parquet files, the data directory, temporary files, Ray's session.

    What the endpoint said back stands there with stars.
    """
    assert not holding(folder, ended.session)
    told = (folder / "run" / "journal" / FILE_NAME).read_text()
    assert f"fault 500 of Bearer {HIDDEN}" in told
    rows = [
        row
        for path in (folder / "run").rglob("*.parquet")
        if path.name in ("R.parquet", "rejects.parquet")
        for row in pq.read_table(path).to_pylist()
    ]
    assert any(f"'{HIDDEN}'" in row["sql"] for row in rows)
    assert list(ended.session.rglob("*.log"))


def test_run_says_no_key(ended):
    """Standard output and error."""
    assert ended.done.stdout
    assert not found_in(ended.done.stdout + ended.done.stderr)


def test_processes_show_no_key(ended):
    """No command line has one, not the run's own either; no sandbox has one in its environment."""
    assert any(b"models.local.base_url=http://***@127.0.0.1" in command for command in ended.watch.commands)
    assert any(b"ray::" in command for command in ended.watch.commands)
    assert not [command for command in ended.watch.commands if found_in(command)]
    assert ended.watch.environments
    assert not [environment for environment in ended.watch.environments if found_in(environment)]


def test_ray_shows_no_key(ended):
    """Jobs with their command, actors, tasks with their errors, workers, runtime environments."""
    assert "models.local.base_url=http://***@127.0.0.1" in ended.told["api/v0/jobs?limit=1000&detail=true"]
    assert "Gateway" in ended.told["api/v0/actors?limit=1000&detail=true"]
    assert "status" in ended.told["api/v0/tasks?limit=5000&detail=true"]
    assert not {page: found_in(text) for page, text in ended.told.items() if found_in(text)}


BAD: Mapping[str, tuple[list[str], int]] = {
    "wrong key": (["SHOP_ACCESS=sk-canary5-other-0011223344556677"], 2),
    "wrong password": ([f"models.local.base_url=http://you:{PASSWORD}@127.0.0.1:PORT/v1?key={QUERY_KEY}"], 2),
    "nobody there": ([f"models.local.base_url=http://me:{PASSWORD}@127.0.0.1:9/v1?key={QUERY_KEY}"], 2),
    "no such host": ([f"models.local.base_url=http://me:{PASSWORD}@host.invalid/v1?key={QUERY_KEY}"], 2),
    "no such path": ([f"models.local.base_url=http://me:{PASSWORD}@127.0.0.1:PORT/v9?key={QUERY_KEY}"], 2),
    "odd signs": ([f"models.local.base_url=http://me:?/#{PASSWORD}@127.0.0.1:PORT:x/v1"], 2),
    "no scheme": ([f"models.local.base_url=me:{PASSWORD}@127.0.0.1/v1?{QUERY_KEY}"], 2),
    "key for a name": ([f"models.strong.api_key_env={STRONG_KEY}"], 2),
    "key for another's name": ([f"models.strong.api_key_env={HUB_TOKEN}"], 2),
    "key for a setting": ([f"models.strong.api_key={STRONG_KEY}"], 2),
    "key for an option": ([f"--api-key={QUERY_KEY}"], 2),
    "key alone": ([QUERY_KEY], 2),
    "key for a number": ([f"seed={OTHER_KEY}"], 2),
    "key for a choice": ([f"task={OTHER_KEY}"], 2),
    "variable after the command": ([f"OPENAI_API_KEY={OTHER_KEY}"], 2),
    "not Hydra's": ([f"models.local.base_url=http://me:{PASSWORD}@h/v1", "target=(1"], 2),
    "settings": (["--cfg", "job"], 0),
    "preview": (["task=preview"], 0),
}


@pytest.mark.parametrize("name", BAD)
def test_run_that_fails_says_and_writes_no_key(name, folder, server, capfd, monkeypatch):
    """Whatever is wrong, the message is without the key that may be part of it."""
    for variable, value in KEYS.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "tmp"))
    changes, code = BAD[name]
    if changes[0].startswith("SHOP_ACCESS="):
        monkeypatch.setenv(*changes[0].split("=", 1))
        changes = []
    changes = [change.replace("PORT", str(server.port)) for change in changes]
    run = "preview" if name == "preview" else "failed"
    assert main(words(folder, server, run, *changes)) == code
    out, err = capfd.readouterr()
    assert out or err
    assert "Traceback" not in err
    assert not found_in(out + err), out + err
    assert not holding(folder)


def test_crash_leaves_a_traceback_without_keys(folder, server, capfd, monkeypatch):
    """An error of somebody else's code that names every key there is: neither the message nor the file has one."""
    for variable, value in KEYS.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "tmp"))

    def connect(*_args: object, **_options: object) -> None:
        raise RuntimeError(f"{dict(os.environ)} http://me:{PASSWORD}@h/v1?key={QUERY_KEY}\x1b[2J")

    shutil.rmtree(folder / "cache", ignore_errors=True)
    monkeypatch.setattr(sqlite3, "connect", connect)
    assert main(words(folder, server, "crashed")) == 1
    out, err = capfd.readouterr()
    (written,) = (folder / "tmp").glob("rayfactory-*.log")
    told = written.read_text()
    assert "RuntimeError" in told
    assert HIDDEN in told
    assert str(written) in err
    assert not found_in(out + err + told)
    assert "\x1b" not in err + told
    assert written.stat().st_mode & 0o077 == 0
