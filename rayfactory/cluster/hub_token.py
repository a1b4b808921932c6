"""Keeps the key to the model hub out of what Ray shows of a model that it serves."""

from __future__ import annotations

from typing import Any

from ray.llm._internal.common.callbacks.base import CallbackBase

from rayfactory.shown import TOKENS


class HubTokenStays(CallbackBase):
    """Takes back what a replica has just copied from its environment into the runtime environment of its tasks.

    The dashboard shows runtime environments, and logs have them. The tasks do not need it: like the replica itself they
    have the environment of the Ray process of their node. Ray makes one of these before it starts a task of a replica.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        variables = (self.ctx.runtime_env or {}).get("env_vars", {})
        for name in TOKENS:
            variables.pop(name, None)
