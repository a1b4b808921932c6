"""LearnedSQLGen: a policy over a finite-state automaton of queries, trained towards results of a wanted size.

Source: Zhang, Chai, Zhou and Li, "LearnedSQLGen: Constraint-aware SQL Generation using Reinforcement Learning", SIGMOD
2022. Left out are the meta-critic, which carries over what was learnt from one constraint to another, since there is
one; and rewards for parts of queries, which take several times as many statements and taught no more here.
"""

from __future__ import annotations

from rayfactory.models.baselines.learnedsqlgen.policy import Policy, trained

__all__ = ["Policy", "trained"]
