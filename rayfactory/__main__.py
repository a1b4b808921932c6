"""The command line: compose the settings, run one task, turn errors into messages and exit codes.

Exit codes: 0 the run ended as it should (a budget may have stopped it); 1 the engine failed; 2 something that the
user can change is wrong; 130 interrupted.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import rayfactory
from rayfactory.compose import compose, groups, without_keys
from rayfactory.config import Config
from rayfactory.errors import ConfigError, RayfactoryError
from rayfactory.shown import shown
from rayfactory.validate import FORMATS, TASKS, validate

HELP = """\
rayfactory grows large corpora of diverse, executable SQL for the databases that you point it at.

    python -m rayfactory +benchmark=NAME [SETTING=VALUE ...]

Try it
    python -m rayfactory +benchmark=tpcds target=100
    python -m rayfactory +benchmark=custom benchmark.root=shop.sqlite target=500

Benchmarks (+benchmark=...)
{benchmarks}

Tasks (task=...)
{tasks}

Exports (task=export format=...)
{formats}

Who writes and decides (models=...)
{models}

Its two models (model@models.strong=..., model@models.local=...)
  {model}

Settings you may want
  target=1000             rows that the pool ends with, exactly; null: until new queries only repeat old ones
  run_dir=runs/NAME       where the pool is kept; the same command on the same folder goes on where it stopped
  benchmark.root=PATH     the folder or file that holds the databases
  benchmark.databases=[A] use only these databases of the benchmark
  seed=0                  the same seed writes the same pool
  max_candidates=N        stop before judging more queries than this
  max_cost_usd=X          stop before spending more than this on models
  cluster=...             where it runs: {clusters}
  execution.timeout_s=5   seconds that one query may run

Options
  --cfg job               print every setting with its value, and stop
  --version               print the version, and stop
  --help                  print this, and stop
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. Messages for people go to standard error."""
    if argv is None:
        _leave_keys_off_the_command_line()
    words = sys.argv[1:] if argv is None else list(argv)
    typed = sys.orig_argv if argv is None else ["rayfactory", *without_keys(words, os.environ)]
    try:
        with _everything_shown():
            return _command(words, shlex.join(typed))
    except RayfactoryError as error:
        _complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _complain("interrupted. What was committed stays; the same command goes on from there")
        return 130
    except BrokenPipeError:
        # The reader of standard output has gone, as with `| head`: nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 - a person is told where the traceback is, not shown it
        if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("rayfactory"):
            _complain(
                f"{sys.executable} has no package {error.name}, which rayfactory needs. Use the Python that rayfactory "
                "is installed into (after `make` that is .venv/bin/python), or install it into this one"
            )
            return 2
        where = _write_traceback(error)
        _complain(
            f"something that should not happen: {type(error).__name__}: {error}\n"
            f"The details are in {where}. What was committed stays; the same command goes on from there"
        )
        return 1


def _command(words: Sequence[str], typed: str) -> int:
    if "--help" in words or "-h" in words:
        print(shown(help_text()), end="")
        return 0
    if "--version" in words:
        print(f"rayfactory {rayfactory.__version__}")
        return 0
    show, overrides = _options(words)
    config = compose(overrides)
    validate(config)
    if show:
        from omegaconf import OmegaConf

        print(shown(OmegaConf.to_yaml(OmegaConf.structured(config))), end="")
        return 0
    return run(config, typed)


def run(config: Config, command: str) -> int:
    """Do the task that the settings name; return the exit code.

    Args:
        config: validated settings.
        command: what the user typed, for the message that says how to go on after an interruption.

    Raises:
        RayfactoryError: as the task does.
    """
    match config.task:
        case "generate":
            from rayfactory import runs

            return runs.run(config, command)
        case "preview":
            from rayfactory import runs

            print(shown(runs.preview(config)), end="")
            return 0
        case "download":
            from rayfactory.databases import download

            download.run(config)
            return 0
        case "report":
            from rayfactory.analysis import report

            report.run(config)
            return 0
        case "compare":
            from rayfactory.analysis import compare

            compare.run(config)
            return 0
        case "export":
            from rayfactory.exports import export

            export.run(config)
            return 0
        case "translate":
            from rayfactory.downstream import translate

            print(shown(translate.run(config)))
            return 0
        case "evaluate_text2sql":
            from rayfactory.downstream import evaluate

            print(shown(evaluate.run(config)))
            return 0
        case "train_text2sql":
            from rayfactory.downstream import train_text2sql

            print(shown(train_text2sql.run(config)))
            return 0
        case "cluster_queries":
            from rayfactory.downstream import cluster_queries

            print(shown(cluster_queries.run(config)))
            return 0
        case task:
            raise AssertionError(f"task {task!r} passed the validation")


def help_text() -> str:
    """Return what `--help` prints."""
    choices = groups()
    return HELP.format(
        benchmarks=_table(choices["benchmark"]),
        tasks=_table(TASKS),
        formats=_table(FORMATS),
        models=_table(choices["models"]),
        model=", ".join(choices["model"]),
        clusters=", ".join(choices["cluster"]),
    )


def _table(meanings: Mapping[str, str]) -> str:
    width = max(10, *map(len, meanings))
    return "\n".join(f"  {name:<{width}} {meaning}" for name, meaning in meanings.items())


def _options(words: Sequence[str]) -> tuple[bool, list[str]]:
    """Return whether the settings are to be printed, and the words that are no options."""
    rest = list(words)
    show = False
    for form in (["--cfg", "job"], ["--cfg=job"]):
        for start in range(len(rest) - len(form), -1, -1):
            if rest[start : start + len(form)] == form:
                del rest[start : start + len(form)]
                show = True
    for word in rest:
        if word in {"-m", "--multirun"}:
            raise ConfigError(
                f"{word} (several runs at once) is not offered. Start one run for each choice of settings"
            )
        if word.startswith("-"):
            # What is given to it may be a key.
            name = word.partition("=")[0]
            raise ConfigError(f"there is no option {name!r}. There are --help, --version and --cfg job")
    return show, rest


def _leave_keys_off_the_command_line() -> None:
    """Begin again without the keys in addresses, where this command has some: in their place stand stars.

    A command line is read by everybody on the machine, and Ray shows it with the run. The environment is not.
    """
    environment = dict(os.environ)
    hidden = without_keys(sys.orig_argv, environment)
    if hidden != sys.orig_argv:
        os.execve(sys.executable, hidden, environment)  # noqa: S606 - the same command once more


class _ShownHandler(logging.Handler):
    """Writes what is logged to standard error, as `logging` does by itself, but as a terminal may have it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(shown(self.format(record)), file=sys.stderr)


@contextmanager
def _everything_shown() -> Iterator[None]:
    """Let nothing reach the terminal as it is for the length of a with statement: warnings, logs, threads' errors."""
    handler, log, before = _ShownHandler(logging.WARNING), logging.getLogger(), threading.excepthook

    def on_error(about: threading.ExceptHookArgs) -> None:
        if about.exc_value is not None and about.exc_type is not SystemExit:
            where = _write_traceback(about.exc_value)
            _complain(f"something that should not happen in a thread: {about.exc_value!r}\nThe details are in {where}")

    log.addHandler(handler)
    logging.captureWarnings(True)
    threading.excepthook = on_error
    try:
        yield
    finally:
        threading.excepthook = before
        logging.captureWarnings(False)
        log.removeHandler(handler)


def _complain(message: str) -> None:
    label = "rayfactory:"
    if sys.stderr.isatty() and "NO_COLOR" not in os.environ:
        label = f"\x1b[1;31m{label}\x1b[0m"
    print(label, shown(message), file=sys.stderr)


def _write_traceback(error: BaseException) -> str:
    """Return where the traceback of an error is; it is for its owner to read, and to send to others."""
    text = shown("".join(traceback.format_exception(error)))
    with (
        suppress(OSError),
        tempfile.NamedTemporaryFile("w", prefix="rayfactory-", suffix=".log", delete=False, encoding="utf-8") as file,
    ):
        file.write(text)
        return file.name
    return f"no file, since none can be written to a temporary folder:\n{text}"


if __name__ == "__main__":
    sys.exit(main())
