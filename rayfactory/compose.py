"""From the words of a command line to one `Config`: the only module that knows Hydra.

Hydra merges `conf/` over the typed settings of `config.py`. It is used as a library, not as the
program's main: it then leaves the working directory, the log files and the exit code alone.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Iterable, MutableMapping, Sequence
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints
from urllib.parse import unquote

from rayfactory.config import SLOTS, BenchmarkConfig, Config, ModelConfig
from rayfactory.errors import ConfigError
from rayfactory.shown import HIDDEN, KEY_NAMES, has_key, hidden_address, url_parts

# Settings that hold a path: `~` is expanded, and a relative one is made absolute, since workers may run elsewhere.
PATHS = ("run_dir", "data_dir", "benchmark.root", "output")

# Groups of which a run names one itself; Hydra has these added with `+`.
WITHOUT_DEFAULT = frozenset({"benchmark"})

# Groups that are put in more than one place: the name of an override says which, as in `model@models.strong`.
PLACES = {"model": tuple(f"models.{slot}" for slot in SLOTS)}

READING_TASKS = ("export", "report", "compare", "cluster_queries")
"""Tasks that read a run as it is, and need no benchmark for it."""

_ADDRESS = re.compile(rf"(\+{{0,2}}models\.({'|'.join(SLOTS)})\.base_url=)(.*)", re.DOTALL)
_DATABASE = re.compile(r"(\+{0,2}benchmark\.url=)(['\"]?)(.*)\2", re.DOTALL)
_LIKE_A_KEY = re.compile(r"(?=[\w-]*\d)(?=[\w-]*[A-Za-z])[\w-]{20,}")


def config_dir() -> Path:
    """Return the folder with the config groups: beside the package when installed, at the root of a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


@cache
def groups() -> dict[str, dict[str, str]]:
    """Return each config group's choices with what they are: the first comment of the choice's file."""
    return {
        folder.name: {path.stem: _first_comment(path) for path in sorted(folder.glob("*.yaml"))}
        for folder in sorted(config_dir().iterdir())
        if folder.is_dir()
    }


def _first_comment(path: Path) -> str:
    lines = (line.removeprefix("#").strip() for line in path.read_text(encoding="utf-8").splitlines())
    # One that sets more than its own group begins with where it belongs, for Hydra.
    return next(line for line in lines if not line.startswith("@"))


@cache
def settings() -> dict[str, type]:
    """Return the type of every setting by its dotted name, sections (dataclasses) included."""
    return dict(_walk(Config, ""))


def _walk(section: Any, prefix: str) -> Iterable[tuple[str, type]]:
    for name, hint in get_type_hints(section).items():
        yield prefix + name, hint
        if dataclasses.is_dataclass(hint):
            yield from _walk(hint, f"{prefix}{name}.")


def compose(overrides: Sequence[str]) -> Config:
    """Return the settings that the overrides ask for, such as ``["+benchmark=tpcds", "target=100"]``.

    What an address holds of a key is not in the settings (see `shown.hidden_address`).

    Raises:
        ConfigError: an override is malformed, names no setting or group, or has a value of the wrong type; or no
            benchmark is named.
    """
    words = [_prepare(override) for override in without_keys(overrides, os.environ)]
    named = [word for word in words if word.startswith("+benchmark=")]
    if not named and any(_has(overrides, "task", task) for task in READING_TASKS):
        if not _has(overrides, "run_dir") and not _has(overrides, "task", "compare"):
            raise ConfigError("no run is named. Add run_dir=FOLDER, or the +benchmark=NAME of a run in runs/NAME")
        words.append("benchmark.name=''")
    elif not named:
        raise ConfigError(f"no benchmark is named. Add one of: {_choices('benchmark')}")
    if len(named) > 1:
        raise ConfigError(f"a run works on one benchmark, not on {' and '.join(named)}. Start one run for each")
    config = _merge(words)
    config.data_dir = config.data_dir or default_data_dir()
    return absolute(with_hidden_keys(config))


def _has(overrides: Sequence[str], name: str, value: str | None = None) -> bool:
    """Return whether the overrides set something, to a value or to any."""
    given = [word.lstrip("+").partition("=") for word in overrides]
    return any(own == name and value in (None, other.strip("'\"")) for own, _, other in given)


def without_keys(overrides: Sequence[str], environment: MutableMapping[str, str]) -> list[str]:
    """Return overrides with stars for the keys in addresses, which go to the environment."""

    def hide(match: re.Match[str]) -> str:
        start, slot, value = match.groups()
        quoted = re.fullmatch(r"(['\"])(.*)\1", value, flags=re.DOTALL)
        url = quoted[2] if quoted else value
        # What is put together of variables is known when all settings are.
        return start + hidden_address(slot, url, environment) if has_key(url) and "${" not in url else match[0]

    def hide_password(match: re.Match[str]) -> str:
        start, quote, url = match.groups()
        return f"{start}{quote}{_without_password(url, variable, environment)}{quote}"

    named = [word.rpartition("=")[2] for word in overrides if "benchmark.password_env=" in word]
    variable = named[-1].strip("'\"") if named else BenchmarkConfig.password_env
    return [_DATABASE.sub(hide_password, _ADDRESS.sub(hide, override)) for override in overrides]


def with_hidden_keys(config: Config) -> Config:
    """Return the settings without keys in addresses; they go to the environment of this process.

    What is shown from now on leaves out the keys that these settings name.
    """
    models = dataclasses.replace(config.models)
    names = set(os.environ.get(KEY_NAMES, "").split(","))
    for slot in SLOTS:
        model: ModelConfig = getattr(models, slot)
        url = hidden_address(slot, model.base_url, os.environ)
        setattr(models, slot, dataclasses.replace(model, base_url=url))
        names.add(model.api_key_env)
    variable = config.benchmark.password_env
    url = _without_password(config.benchmark.url, variable, os.environ)
    os.environ[KEY_NAMES] = ",".join(sorted(names - {""} | {variable}))
    return dataclasses.replace(config, models=models, benchmark=dataclasses.replace(config.benchmark, url=url))


def _without_password(url: str, variable: str, environment: MutableMapping[str, str]) -> str:
    """Return a database's address without the password, which goes to a variable of the environment."""
    scheme, user, place, query = url_parts(url)
    name, colon, password = (user or "").partition(":")
    kept = []
    for option in query.split("&") if query else ():
        if option.startswith("password="):
            colon, password = "&", option.removeprefix("password=")
        else:
            kept.append(option)
    if not colon:
        return url
    if password != HIDDEN:
        environment[variable] = unquote(password)
    at = f"{name}@" if user is not None else ""
    return f"{scheme}{at}{place}" + "?" * bool(kept) + "&".join(kept)


def default_data_dir() -> str:
    """Return the folder for databases that are made or downloaded, as the XDG base directory specification has it."""
    cache_home = os.environ.get("XDG_CACHE_HOME", "")
    # The specification has a relative path ignored.
    root = Path(cache_home) if Path(cache_home).is_absolute() else Path.home() / ".cache"
    return str(root / "rayfactory")


def absolute(config: Config) -> Config:
    """Return the settings with every local path absolute. Empty ones and addresses (``s3://...``) stay as they are."""
    for name in PATHS:
        *sections, key = name.split(".")
        owner: Any = config
        for section in sections:
            owner = getattr(owner, section)
        value: str = getattr(owner, key)
        if value.strip() and "://" not in value:
            # Unlike pathlib, these take an unknown ~user for a name and fold "..".
            setattr(owner, key, os.path.abspath(os.path.expanduser(value)))  # noqa: PTH100, PTH111
    return config


def _prepare(text: str) -> str:
    """Return an override as Hydra is to read it; refuse what names nothing, whatever its prefix.

    Hydra wants ``+`` for a group without a default and no ``+`` for one with a default, and takes any new key with
    ``+``: here the name alone decides. A text setting's value is quoted, so that a path may hold any character.
    """
    sign, name, value = _split(text)
    group, _, place = name.partition("@")
    if group in groups():
        places = PLACES.get(group, ("",))
        if place not in places:
            forms = " or ".join(f"{group}@{known}={value}" for known in places)
            raise ConfigError(f"there is no setting {sign + name!r}. Write {forms}")
        if value not in groups()[group]:
            raise ConfigError(
                f"there is no {group} {value!r}.{_near(value, groups()[group])} There are: {_choices(group, name)}"
            )
        return f"+{name}={value}" if group in WITHOUT_DEFAULT else f"{name}={value}"
    if name not in settings():
        raise ConfigError(
            f"there is no setting {sign + name!r}.{_near(name, settings())} +benchmark=tpcds --cfg job prints all"
        )
    if dataclasses.is_dataclass(settings()[name]):
        raise ConfigError(f"{name!r} is a group of settings. Set one of them: {', '.join(_members(name))}")
    if settings()[name] is str and not re.fullmatch(r"'.*'|\".*\"", value, flags=re.DOTALL):
        # Hydra unescapes a quote, and backslashes only where they stand before one.
        value = "'" + re.sub(r"(\\*)('|$)", lambda run: run[1] * 2 + ("\\'" if run[2] else ""), value) + "'"
    return f"{name}={value}"


def _split(text: str) -> tuple[str, str, str]:
    match = re.fullmatch(r"(\+{0,2})([^\s=+~]+)=(.*)", text, flags=re.DOTALL)
    if match is None:
        # A key that stands alone would be shown whole.
        text = HIDDEN if _LIKE_A_KEY.fullmatch(text) else text
        raise ConfigError(f"{text!r} is no setting. Write NAME=VALUE without spaces, for instance target=100")
    return match[1], match[2], match[3]


def _merge(words: Sequence[str]) -> Config:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    ConfigStore.instance().store(name="settings", node=Config)
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            composed = hydra_compose("config", overrides=list(words))
        config = OmegaConf.to_object(composed)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(error, words)) from error
    assert isinstance(config, Config)
    return config


def _explain(error: Exception, words: Sequence[str]) -> str:
    """Return Hydra's message in the words of a setting: which one, what it is, what it was given."""
    summary = str(error).partition("\n")[0]
    culprits = [word for word in words if word in summary or word.partition("=")[2] in summary]
    name, _, value = max(culprits, key=len, default="").partition("=")
    if name in settings():
        return f"{name} is {_kind(settings()[name])}, not {value!r}"
    return summary


def _kind(hint: Any) -> str:
    """Return what a setting of that type takes, in words."""
    if isinstance(hint, UnionType):
        return " or ".join(_kind(member) for member in get_args(hint))
    if get_origin(hint) is list:
        return "a list, such as [one,two]"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "null"}[hint]


def _choices(group: str, name: str = "") -> str:
    sign = "+" if group in WITHOUT_DEFAULT else ""
    return ", ".join(f"{sign}{name or group}={choice}" for choice in groups()[group])


def _members(section: str) -> list[str]:
    depth = section.count(".") + 1
    return [name for name in settings() if name.startswith(f"{section}.") and name.count(".") == depth]


def _near(word: str, words: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(word, list(words), n=1)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""
