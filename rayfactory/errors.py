"""The exceptions of rayfactory, one tree.

::

    RayfactoryError
    ├── UserError               something outside the code has to change; exit code 2
    │   ├── ConfigError         a setting is unknown, has the wrong type or an impossible value
    │   ├── BenchmarkError      the databases of a benchmark are missing or cannot be used
    │   ├── DatabaseError       one database file cannot be opened or read
    │   ├── RunDirError         the run directory is another run's, not writable, or damaged
    │   └── EndpointError       a model endpoint refuses: key, model, quota, address
    ├── CompletionError         one completion could not be had; the agent's rule answers instead
    ├── BudgetReachedError      a completion could cost more than max_cost_usd leaves; the run stops
    ├── StatementError          one statement did not run; a verdict, never shown to a person as an error
    └── EngineError             the engine itself failed; exit code 1

A message names what was wrong, with its value, and the remedy. A rejected query is a value
(`records.Verdict`), not an exception.
"""

from __future__ import annotations


class RayfactoryError(Exception):
    """Base of every exception that rayfactory raises on purpose."""

    exit_code = 1


class UserError(RayfactoryError):
    """Something that the user can change is wrong. The message names the remedy."""

    exit_code = 2


class ConfigError(UserError):
    """A setting is unknown, has the wrong type or an impossible value."""


class BenchmarkError(UserError):
    """The databases of a benchmark are missing or cannot be used."""


class DatabaseError(UserError):
    """One database cannot be opened or read."""


class RunDirError(UserError):
    """The run directory belongs to another run, is not writable, or is damaged."""


class EndpointError(UserError):
    """A model endpoint refuses for a reason that the user can change: the key, the model, the quota, the address."""


class CompletionError(RayfactoryError):
    """One completion could not be had. The agent that wanted it falls back on its rule."""


class BudgetReachedError(RayfactoryError):
    """What a completion could cost at worst is more than `max_cost_usd` leaves."""


class StatementError(RayfactoryError):
    """One statement did not run.

    Attributes:
        reason: one of `records.REJECT_REASONS`, for instance ``"error"`` or ``"timeout"``; or ``"unsupported"``, where
            `downstream.realiser` has no words for it.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[StatementError], tuple[str, str]]:
        return (type(self), (self.reason, str(self)))


class EngineError(RayfactoryError):
    """The engine failed in a way that no setting mends. What is committed stays."""
