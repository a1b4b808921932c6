"""The offline Expansion Agent: new queries from seeds, by rewriting and recombining their syntax trees."""

from __future__ import annotations

from rayfactory.models.variation.author import write_variations

__all__ = ["write_variations"]
