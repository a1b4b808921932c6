"""A run of its own for what looks at one: over the shop, with some candidates that were rejected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rayfactory.analysis import outline
from rayfactory.config import Config
from rayfactory.pool import opened, read_manifests
from rayfactory.reports.summary import summarise
from rayfactory.runs import open_databases, run_identity, with_encoder, with_round_size
from tests.local_crew import grow
from tests.shop import make_shop

ROWS = 130


@pytest.fixture(scope="session")
def shop_config(tmp_path_factory: pytest.TempPathFactory, make_data_dir: Callable[[Path], Path]) -> Config:
    """Return the settings of the run."""
    folder = tmp_path_factory.mktemp("analysis")
    config = Config(target=ROWS, run_dir=str(folder / "shop run"), data_dir=str(make_data_dir(folder / "cache")))
    config.benchmark.name = "custom"
    config.benchmark.root = str(make_shop(folder / "shop.sqlite"))
    config.round.requests = 4
    config.round.queries_per_request = 5
    config.critic.max_similarity = 0.75  # so that some are too similar
    config.display.mode = "none"
    return config


@pytest.fixture(scope="session")
def run_dir(shop_config: Config) -> Path:
    """Return the folder of the run. Not to be written to."""
    reason = grow(shop_config)
    config = with_encoder(with_round_size(shop_config))
    _, schemas = open_databases(config)
    identity = run_identity(config, schemas)
    run_dir = Path(config.run_dir)
    with opened(run_dir, identity) as pool:
        pool.write_schema(outline.to_json(schemas.values()))
        pool.write_summary(summarise(run_dir, identity, schemas, pool.manifests, ROWS, reason, 12.5))
    assert sum(manifest.num_rows for manifest in read_manifests(run_dir)) == ROWS
    return run_dir
