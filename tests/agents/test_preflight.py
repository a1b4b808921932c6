"""A context window that is too small is found before anybody is asked."""

from __future__ import annotations

import pytest

from rayfactory.agents.preflight import check_context_windows
from rayfactory.config import Config, ModelConfig
from rayfactory.errors import ConfigError
from tests.models.store import make_store


@pytest.fixture(scope="module")
def schemas(tmp_path_factory):
    return {"store": make_store(tmp_path_factory.mktemp("store"), "duckdb")[1]}


def config(agent, **model):
    settings = Config()
    settings.models.local = ModelConfig(name="small", **model)
    getattr(settings.models, agent).model = "local"
    return settings


@pytest.mark.parametrize("agent", ["generation", "expansion", "management"])
def test_window_that_is_too_small(agent, schemas):
    """For whoever a model plays; the same model is no concern of those on their rules."""
    check_context_windows(config(agent), schemas)
    check_context_windows(config(agent, context_tokens=4096, max_output_tokens=1000), schemas)
    with pytest.raises(ConfigError, match=rf"the {agent} prompt .*context_tokens=700 .*'small'"):
        check_context_windows(config(agent, context_tokens=700, max_output_tokens=600), schemas)
    check_context_windows(config("critical", context_tokens=700, max_output_tokens=600), schemas)
