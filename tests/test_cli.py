"""The command line: what it prints, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import rayfactory
from rayfactory.__main__ import help_text, main
from rayfactory.compose import groups, settings
from rayfactory.validate import FORMATS, TASKS

HEAVY = {"ray", "duckdb", "torch", "sqlglot", "numpy", "pyarrow", "hydra", "sentence_transformers", "faiss", "numba"}

# Words of a command line, and what its message has to name: what was wrong, and the way out.
BAD_LINES = [
    ([], ["no benchmark", *(f"+benchmark={name}" for name in groups()["benchmark"])]),
    (["target=5"], ["no benchmark", "+benchmark=tpcds"]),
    (["+benchmark=birdd"], ["'birdd'", "Did you mean 'bird'?", "+benchmark=spider"]),
    (["benchmark="], ["''", "+benchmark=tpcds"]),
    (["+benchmark=tpcds", "+benchmark=bird"], ["one benchmark", "tpcds", "bird"]),
    (["+benchmark=tpcds", "models=gpt"], ["'gpt'", "models=offline"]),
    (["+benchmark=tpcds", "cluster=locl"], ["'locl'", "Did you mean 'local'?"]),
    (["+benchmark=tpcds", "critic.max_similariy=1"], ["critic.max_similariy", "Did you mean 'critic.max_similarity'?"]),
    (["+benchmark=tpcds", "+critic.max_similariy=1"], ["critic.max_similariy", "Did you mean"]),
    (["+benchmark=tpcds", "++execution.timeouts=1"], ["execution.timeouts", "Did you mean 'execution.timeout_s'?"]),
    (["+benchmark=tpcds", "hydra.run.dir=/tmp"], ["hydra.run.dir", "--cfg job"]),
    (["+benchmark=tpcds", "critic=3"], ["'critic'", "critic.k"]),
    (["+benchmark=tpcds", "~target"], ["'~target'", "NAME=VALUE"]),
    (["+benchmark=tpcds", "100"], ["'100'", "NAME=VALUE"]),
    (["+benchmark=tpcds", "target"], ["'target'", "NAME=VALUE"]),
    (["+benchmark=tpcds", "target =5"], ["'target =5'", "NAME=VALUE"]),
    (["+benchmark=tpcds", "target=abc"], ["target is a whole number or null", "'abc'"]),
    (["+benchmark=tpcds", "target=5.5"], ["target is a whole number or null", "'5.5'"]),
    (["+benchmark=tpcds", "target=1,2"], ["target is a whole number or null", "'1,2'"]),
    (["+benchmark=tpcds", "target=1", "target=1,2"], ["target is a whole number or null", "'1,2'"]),
    (["+benchmark=tpcds", "target=(1"], ["target is a whole number or null", "'(1'"]),
    (["+benchmark=tpcds", "target="], ["target is a whole number or null", "''"]),
    (["+benchmark=tpcds", "target=true"], ["target is a whole number or null", "'true'"]),
    (["+benchmark=tpcds", "seed=null"], ["seed is a whole number", "'null'"]),
    (["+benchmark=tpcds", "seed=x"], ["seed is a whole number", "'x'"]),
    (["+benchmark=tpcds", "cluster.dashboard=maybe"], ["cluster.dashboard is true or false", "'maybe'"]),
    (["+benchmark=tpcds", "benchmark.databases=[a,b"], ["benchmark.databases is a list", "'[a,b'"]),
    (["+benchmark=tpcds", "benchmark.databases=a"], ["benchmark.databases is a list", "'a'"]),
    (["+benchmark=tpcds", "run_dir=${nowhere}"], ["nowhere"]),
    (["+benchmark=tpcds", "target=0"], ["target has to be greater than 0", "target=1000"]),
    (["+benchmark=tpcds", "target=-5"], ["target has to be greater than 0", "-5"]),
    (["+benchmark=tpcds", "max_candidates=0"], ["max_candidates has to be greater than 0", "leave max_candidates out"]),
    (["+benchmark=tpcds", "max_cost_usd=-1"], ["max_cost_usd has to be 0 or more", "-1"]),
    (["+benchmark=tpcds", "run_dir="], ["run_dir has to be filled in", "run_dir=runs/"]),
    (["+benchmark=tpcds", "execution.timeout_s=nan"], ["execution.timeout_s has to be greater than 0", "nan"]),
    (["+benchmark=tpcds", "critic.token_weight=0.5"], ["sum to 1", "0.9", "Set all three"]),
    (["+benchmark=tpcds", "task=dowload"], ["task has to be one of", "download", "'dowload'"]),
    (["-m", "+benchmark=tpcds"], ["-m", "Start one run"]),
    (
        [
            "+benchmark=tpcds",
            "models=endpoint",
            "models.strong.name=m",
            "models.strong.base_url=http://h/v1",
            "models.strong.api_key_env=KEY",
            "max_cost_usd=5",
        ],
        ["models.strong.usd_per_million_in", "max_cost_usd"],
    ),
    (["--multirun", "+benchmark=tpcds"], ["--multirun", "Start one run"]),
    (["+benchmark=tpcds", "--verbose"], ["'--verbose'", "--help"]),
    (["+benchmark=tpcds", "--cfg"], ["'--cfg'", "--cfg job"]),
    (["+benchmark=tpcds", "--cfg", "hydra"], ["'--cfg'", "--cfg job"]),
]


def run(*words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command in its own process, as a person does."""
    environment = {**os.environ, "PYTHONPATH": str(Path(rayfactory.__file__).parents[1]), **env}
    return subprocess.run(
        [sys.executable, "-m", "rayfactory", *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("words", "named"), BAD_LINES, ids=[" ".join(words) for words, _ in BAD_LINES])
def test_bad_line_ends_with_2_and_names_the_way_out(words, named, capsys, tmp_path, monkeypatch):
    """One message on standard error, nothing on standard output, nothing written."""
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("rayfactory: ")
    assert "Traceback" not in err
    for part in named:
        assert part in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [[], ["+benchmark=birdd"], ["+benchmark=tpcds", "target=abc"]])
def test_bad_line_of_a_real_process(words, tmp_path):
    """The same from outside: exit code 2, a message, no traceback, an untouched folder."""
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("rayfactory: ")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_needs_no_benchmark(option, capsys):
    """--help answers whatever else the line says."""
    assert main([option]) == main(["nonsense", option]) == 0
    out, err = capsys.readouterr()
    assert out == help_text() * 2
    assert err == ""


def test_help_names_every_choice_and_only_real_settings():
    """What --help tells is what there is."""
    text = help_text()
    for choices in groups().values():
        assert all(choice in text for choice in choices)
    assert all(name in text for name in (*TASKS, *FORMATS))
    section = text.partition("Settings you may want\n")[2].partition("\n\n")[0]
    names = {line.split("=")[0].strip() for line in section.splitlines()}
    assert len(names) > 5
    assert names <= set(settings()) | set(groups())
    assert max(len(line) for line in text.splitlines()) <= 110


def test_help_imports_nothing_heavy(tmp_path):
    """--help, --version and a bad line answer at once: the libraries that take seconds are not loaded."""
    for words in (["--help"], ["--version"], ["+benchmark=birdd"]):
        code = f"import sys; from rayfactory.__main__ import main; main({words}); print(sorted(sys.modules), file=sys.stderr)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        loaded = set(eval(done.stderr.splitlines()[-1]))
        assert not loaded & HEAVY


def test_version(capsys):
    """--version prints the version of the package."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rayfactory {rayfactory.__version__}\n"


@pytest.mark.parametrize("option", [["--cfg", "job"], ["--cfg=job"]])
def test_cfg_job_prints_every_setting_as_yaml(option, capsys):
    """The print can be read back, and holds what the line says."""
    from omegaconf import OmegaConf

    assert main(["+benchmark=tpcds", *option, "target=7"]) == 0
    printed = OmegaConf.create(capsys.readouterr().out)
    assert printed.target == 7
    for name in settings():
        OmegaConf.select(printed, name, throw_on_missing=True)


def test_message_is_plain_where_nobody_reads_colour(tmp_path):
    """No escape codes in a log file."""
    assert "\x1b" not in run(cwd=tmp_path).stderr


def test_reader_that_leaves_early_is_no_error(tmp_path):
    """`... --help | head -1` ends without a traceback."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from rayfactory.__main__ import main; import sys; sys.exit(main(['--help']))"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(rayfactory.__file__).parents[1],
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    process.wait()


def test_python_without_the_packages_is_told_of_the_one_that_has_them(tmp_path):
    """Who forgets the environment hears of it, and not of an internal error."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "rayfactory", "+benchmark=tpcds"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(rayfactory.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert ".venv/bin/python" in done.stderr
    assert "should not happen" not in done.stderr


def test_unexpected_error_ends_with_1_and_keeps_its_traceback(capsys, tmp_path, monkeypatch):
    """A person gets a sentence and the name of a file; the file has the traceback."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    # No shell can pass this character, so nobody is told how to mend it.
    assert main(["+benchmark=tpcds", f"data_dir={tmp_path}/\0"]) == 1
    err = capsys.readouterr().err
    assert "ValueError" in err
    assert "Traceback" not in err
    (log,) = tmp_path.glob("rayfactory-*.log")
    assert str(log) in err
    assert "Traceback (most recent call last)" in log.read_text(encoding="utf-8")
