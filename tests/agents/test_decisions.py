"""Planning and advising agents that a model plays: computed numbers go in, and only what is valid comes out."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayfactory.agents.critical import MAX_EXAMPLES, advise
from rayfactory.agents.management import MAX_ROUNDS_SHOWN, History, ManagementAgent, Situation, decide_with_model
from rayfactory.agents.seed_selection import PoolSeed, SeedSelectionAgent, select_seeds_with_model, shortlist
from rayfactory.agents.table_selection import (
    REQUESTS_PER_CALL,
    TableSelectionAgent,
    connected,
    select_tables_with_model,
)
from rayfactory.config import (
    ManagementConfig,
    ModelConfig,
    RoundConfig,
    SeedSelectionConfig,
    TableSelectionConfig,
)
from rayfactory.databases.schema import Column, ColumnProfile, ForeignKey, Schema, Table
from rayfactory.errors import BudgetReachedError, CompletionError, ConfigError, EndpointError
from rayfactory.records import Evaluation, Failure, State
from tests.agents.scripted_model import ScriptedModel, costed, says

PROFILE = ColumnProfile(num_sampled=10, null_fraction=0.0, num_distinct=5)


def table(name, num_columns=3, num_rows=10):
    columns = tuple(Column(f"c{i}", "INTEGER", "integer", "measure", True, PROFILE) for i in range(num_columns))
    return Table(name, columns, ("c0",), num_rows)


def key(child, parent):
    return ForeignKey(child, ("c1",), parent, ("c0",))


STAR = Schema(
    "star",
    "duckdb",
    (table("fact", 12), table("a"), table("b"), table("c"), table("d"), table("empty", num_rows=0), table("island")),
    (key("fact", "a"), key("fact", "b"), key("fact", "c"), key("c", "d"), key("fact", "empty")),
)
SCHEMAS = {"star": STAR}
ASKS = [("star", 10, 1), ("star", 10, 2), ("star", 10, 3)]
USE = {"star": {"fact": 30.0, "a": 4.0}}


# -- management ---------------------------------------------------------------


def evaluation(number, state, similarity, reasons=None):
    return Evaluation(number, state, 10, 0.875, 0.625, similarity, reasons or {}, {"d": 1}, {"d": 6})


def situation(num_rounds, num_judged):
    planned: list[State] = ["GEN", "GEN", "EXP", "EXP", "EXP", "EXP", "EXP", "EXP"]
    return judged_situation(planned[:num_rounds], [0.4 + i / 100 for i in range(num_judged)])


def judged_situation(states, similarities):
    """Return rounds of these states, of which the first are judged, with these similarities."""
    history = History(ManagementConfig().warmup_rounds)
    for state in states:
        history.plan(state)
    for number, similarity in enumerate(similarities):
        history.judge(evaluation(number, states[number], similarity, {"error": 3, "duplicate": 1}))
    return Situation(history.past(), {"d": 3}, {"d": 6 * len(similarities)}, {"d": 10 * len(states)})


def decide(model, state_of_things, config=None):
    rounds = RoundConfig()
    return asyncio.run(decide_with_model(2, state_of_things, ManagementConfig(), rounds, model.player(config)))


def test_manager_decides_on_computed_numbers():
    """Each judged round is a row; what is under way is named; the rule's own proposal is not shown."""
    model = says("STATE: GEN\nREASON: similarity rises")
    (state, databases), tally = decide(model, situation(6, 4))
    assert (state, databases, tally) == ("GEN", ["d", "d"], costed("management", replies=1))
    ((slot, call, prompt),) = model.calls
    assert (slot, call.agent, call.round, call.ordinal) == ("strong", "management", 6, 0)
    assert "3 | EXP | 0.875 | 0.430 | 0.625 | error 3, duplicate 1\n" in prompt.user
    assert "Mean similarity of the first rounds of GEN: 0.405" in prompt.user
    assert "Under way, not judged yet: round 4 EXP, round 5 EXP" in prompt.user
    assert prompt.user.endswith("Choose the state of round 6.")
    rule_state, _ = ManagementAgent(ManagementConfig(), RoundConfig()).decide(2, situation(6, 4))
    assert rule_state == "EXP"


def test_warm_up_is_not_asked_about():
    for number in range(2):
        (state, _), tally = decide(says(), situation(number, 0))
        assert (state, tally) == ("GEN", costed("management"))


@pytest.mark.parametrize(
    ("reply", "tally"),
    [
        ("let me think", costed("management", replies=1, unusable=1, fallbacks=1)),
        ("STATE: Explore (EXP)", costed("management", replies=1, unusable=1, fallbacks=1)),
        (CompletionError("no"), costed("management", fallbacks=1)),
        (BudgetReachedError("spent"), costed("management", fallbacks=1)),
    ],
)
def test_rule_manages_where_the_model_does_not(reply, tally):
    assert decide(says(reply), situation(6, 4)) == (("EXP", ["d", "d"]), tally)


def test_person_learns_that_rules_decide_once_the_budget_is_reached(caplog):
    """In the same words each time, of which the gateway tells the first: where rules write, the run goes on."""
    for _ in range(2):
        decide(says(BudgetReachedError("spent")), situation(6, 4))
    (told,) = {record.getMessage() for record in caplog.records if record.levelname == "WARNING"}
    assert "max_cost_usd is reached" in told
    assert "decided by rules" in told


def test_rounds_are_cut_to_the_window(caplog):
    """And it is told by how much; that only so many are shown in the first place is no cut."""
    state_of_things = judged_situation(["EXP"] * 22, [0.4] * 20)
    shown = []
    for context_tokens in (20_000, 1_650):
        model = says("STATE: GEN\nREASON: x")
        decide(model, state_of_things, ModelConfig(name="m", context_tokens=context_tokens, max_output_tokens=1_000))
        shown.append(model.calls[0][2].user.count(" | EXP | "))
        told = [record for record in caplog.records if record.levelname == "WARNING"]
        assert bool(told) == (len(shown) == 2)
    assert shown[0] == MAX_ROUNDS_SHOWN
    assert 1 <= shown[1] < MAX_ROUNDS_SHOWN
    assert f"m: without {MAX_ROUNDS_SHOWN - shown[1]} of the last {MAX_ROUNDS_SHOWN} rounds" in caplog.text


def test_manager_whose_window_is_too_small_is_the_users_to_change():
    with pytest.raises(ConfigError, match="context_tokens=300"):
        decide(says(), situation(6, 4), ModelConfig(name="m", context_tokens=300))


# -- table selection ----------------------------------------------------------


def select_tables(model, asks=ASKS, config=None, schemas=None):
    settings = TableSelectionConfig(max_tables=3)
    player = model.player(config)
    return asyncio.run(select_tables_with_model(4, asks, USE, settings, schemas or SCHEMAS, player))


def test_tables_are_chosen_from_columns_keys_rows_and_use():
    """What is chosen is mended: unknown and empty tables go, what no key connects is dropped, no more than allowed."""
    model = says("1: a, fact\n2: FACT, empty, nowhere, b, c, d\n3: d, fact, b")
    chosen, tally = select_tables(model)
    assert chosen == [("a", "fact"), ("fact", "b", "c"), ("d", "c", "fact")]
    assert tally == costed("table_selection", replies=1)
    ((_, call, prompt),) = model.calls
    assert (call.agent, call.round, call.ordinal) == ("table_selection", 4, 0)
    assert "fact: 10 rows; 12 columns (c0, c1, " in prompt.system
    assert "keys with a, b, c, empty; used by 30 queries" in prompt.system
    assert "empty: " not in prompt.system
    assert "3 requests: 3 lines, which begin with 1: to 3:" in prompt.user
    shown = [line.partition(":")[0] for line in prompt.system.splitlines() if "; used by" in line]
    assert shown[-2:] == ["a", "fact"], "those furthest behind come first"


@pytest.mark.parametrize(
    ("reply", "replies"), [("no idea", 1), (CompletionError("no"), 0), (BudgetReachedError("spent"), 0)]
)
def test_rule_selects_tables_where_the_model_does_not(reply, replies):
    chosen, tally = select_tables(says(reply))
    assert chosen == TableSelectionAgent(TableSelectionConfig(max_tables=3), SCHEMAS).select(ASKS, USE)
    assert tally == costed("table_selection", replies=replies, unusable=replies, fallbacks=3)


def test_tables_that_a_request_has_already_are_the_rules_to_choose():
    """Small models give every request the same tables; where there are no others, that is right."""
    chosen, tally = select_tables(says("1: a, fact\n2: fact, a\n3: b, fact"))
    assert chosen[0] == ("a", "fact")
    assert set(chosen[1]) != {"a", "fact"}
    assert chosen[2] == ("b", "fact")
    assert tally == costed("table_selection", replies=1, fallbacks=1)
    pair = Schema("pair", "duckdb", (table("x"), table("y")), (key("x", "y"),))
    asks = [("pair", 10, 1), ("pair", 10, 2)]
    chosen, tally = select_tables(says("1: x, y\n2: x, y"), asks, schemas={"pair": pair})
    assert chosen == [("x", "y")] * 2
    assert tally == costed("table_selection", replies=1)


def test_request_without_a_line_gets_the_rules_choice():
    chosen, tally = select_tables(says("2: a, fact"))
    assert chosen[1] == ("a", "fact")
    assert all(chosen)
    assert tally == costed("table_selection", replies=1, fallbacks=2)


def test_each_database_is_one_call():
    """In the order of the requests, which the answers follow."""
    other = Schema("other", "duckdb", (table("x"), table("y")), (key("x", "y"),))
    asks = [("star", 10, 1), ("other", 10, 2), ("star", 10, 3)]
    model = says("1: a, fact\n2: b, fact", "1: y, x")
    chosen, _ = select_tables(model, asks, schemas={**SCHEMAS, "other": other})
    assert chosen == [("a", "fact"), ("y", "x"), ("b", "fact")]
    assert [call.ordinal for _, call, _ in model.calls] == [0, 1]


def test_many_requests_are_decided_on_in_parts():
    """Each part is shown what the rule would choose for those before it; a place that it leaves open is the rule's."""
    asks = [("star", 10, seed) for seed in range(2 * REQUESTS_PER_CALL + 5)]
    model = says(*["\n".join(f"{i + 1}: c, d" for i in range(REQUESTS_PER_CALL))] * 3)
    chosen, tally = select_tables(model, asks)
    assert len(chosen) == len(asks)
    assert chosen[0] == ("c", "d")
    assert [call.ordinal for _, call, _ in model.calls] == [0, 1, 2]
    parts = [prompt for _, _, prompt in model.calls]
    assert ["d: 10 rows; 3 columns (c0, c1, c2); keys with c; used by 0 queries" in prompt.system for prompt in parts] == [
        True, False, False
    ]  # fmt: skip
    assert [f"for {count} requests" in prompt.user for prompt, count in zip(parts, (20, 20, 5), strict=True)] == [
        True
    ] * 3
    assert (tally.replies, tally.fallbacks) == (3, len(asks) - 1)


def test_overview_is_cut_to_the_window(caplog):
    """Names of columns go, then keys, then the tables that are used most, and it is told; what is left is asked."""
    wide = Schema("star", "duckdb", tuple(table(f"t{i}", 40) for i in range(60)), (key("t0", "t1"),))
    sizes, told = [], []
    for context_tokens in (20_000, 4_000, 1_500):
        caplog.clear()
        model = says("1: t0")
        config = ModelConfig(name="m", context_tokens=context_tokens, max_output_tokens=500)
        select_tables(model, ASKS[:1], config, {"star": wide})
        prompt = model.calls[0][2]
        sizes.append(("c39" in prompt.system, prompt.system.count(" rows; ")))
        told.append([record.getMessage() for record in caplog.records])
    assert sizes[0] == (True, 60)
    assert sizes[1] == (False, 60)
    assert 1 <= sizes[2][1] < 60
    assert told[0] == []
    cut = "database 'star': the table_selection prompt is cut to the {} tokens of m: without "
    assert told[1] == [cut.format(4_000) + "the names of columns"]
    left_out = f"{60 - sizes[2][1]} of 60 tables"
    assert told[2] == [cut.format(1_500) + what for what in ("the names of columns", "keys", left_out)]


def test_what_is_cut_is_told_once(caplog):
    """Not for each round; and where nothing fits it is the rule's part that is told."""
    wide = Schema("star", "duckdb", tuple(table(f"t{i}", 40) for i in range(60)), (key("t0", "t1"),))
    player = says("1: t0", "1: t1").player(ModelConfig(name="m", context_tokens=4_000, max_output_tokens=500))
    for number in (4, 5):
        asyncio.run(select_tables_with_model(number, ASKS[:1], USE, TableSelectionConfig(), {"star": wide}, player))
    assert len(caplog.records) == 1
    caplog.clear()
    small = ModelConfig(name="m", context_tokens=300, max_output_tokens=200)
    assert select_tables(says(), config=small)[1].fallbacks == 3
    assert select_seeds(says(), config=small)[1].fallbacks == 3
    assert give_advice(says(), [Failure("star", "SELECT", "parse", "x")], small)[1].fallbacks == 1
    told = [record.getMessage() for record in caplog.records]
    assert [text.partition(", because ")[0] for text in told] == [
        "database 'star': the rule of table_selection answers",
        "database 'star': the rule of seed_selection answers",
        "the rule of critical answers",
    ]
    assert all("context_tokens=300 of model 'm'" in text for text in told)


@settings(deadline=None)
@given(st.permutations(["fact", "a", "b", "c", "d", "island"]), st.integers(0, 6), st.integers(1, 8))
def test_mended_tables_are_connected(names, num_names, max_tables):
    """They keep the first, are no more than allowed, and have rows; a first one without keys keeps one for company."""
    chosen = connected(STAR, names[:num_names], max_tables)
    assert len(set(chosen)) == len(chosen) <= max_tables
    assert chosen[:1] == tuple(names[:num_names][:1])
    assert "empty" not in chosen
    if chosen and chosen[0] != "island":
        linked = {chosen[0]}
        for name in chosen[1:]:
            assert any({k.table, k.referenced_table} == {name, other} for k in STAR.foreign_keys for other in linked)
            linked.add(name)
    else:
        assert len(chosen) <= 2


# -- seed selection -----------------------------------------------------------

SHELF = [
    PoolSeed(i, f"SELECT {i} FROM {'a' if i % 2 else 'b'}", ("a" if i % 2 else "b",), (i % 3 == 0, True, False, False, i % 10 == 0))
    for i in range(200)
]  # fmt: skip


def select_seeds(model, asks=ASKS, config=None, shelf=SHELF):
    settings = SeedSelectionConfig(num_seeds=2)
    return asyncio.run(select_seeds_with_model(4, asks, {"star": shelf}, USE, settings, SCHEMAS, model.player(config)))


def shown_ids(prompt):
    return [int(line.split(" | ")[0]) for line in prompt.user.splitlines() if line.count(" | ") == 3]


def test_seeds_are_chosen_from_a_shortlist():
    """Four times what is needed is shown; ids that are not on it, or were given away, are passed over and filled in."""
    probe = says("")
    select_seeds(probe)
    shown = shown_ids(probe.calls[0][2])
    assert len(shown) == len(set(shown)) == 4 * 2 * 3
    hidden = next(i for i in range(200) if i not in shown)
    model = says(f"1: {shown[0]}, {shown[1]}, {shown[2]}\n2: {shown[1]}, {hidden}, {shown[3]}\n3: 999999")
    chosen, tally = select_seeds(model)
    ids = [[seed.query_id for seed in seeds] for seeds in chosen]
    assert ids[0] == [shown[0], shown[1]]
    assert ids[1][0] == shown[3]
    assert [len(row) for row in ids] == [2, 2, 2]
    assert len({i for row in ids for i in row}) == 6
    assert tally == costed("seed_selection", replies=1, fallbacks=1)
    prompt = model.calls[0][2]
    assert "c (0), d (0)" in prompt.user or "d (0)" in prompt.user
    assert "windows 0.10" in prompt.user
    assert f"{shown[0]} | " in prompt.user


@pytest.mark.parametrize(("reply", "replies"), [("none", 1), (CompletionError("no"), 0), (BudgetReachedError("x"), 0)])
def test_rule_selects_seeds_where_the_model_does_not(reply, replies):
    """With the same choices as alone."""
    chosen, tally = select_seeds(says(reply))
    assert chosen == SeedSelectionAgent(SeedSelectionConfig(num_seeds=2), SCHEMAS).select(ASKS, {"star": SHELF}, USE)
    assert tally == costed("seed_selection", replies=replies, unusable=replies, fallbacks=3)


def test_seeds_of_one_part_are_not_on_the_next_shortlist():
    """So long as there are others; with 45 requests for 2 of 200 seeds each, there are."""
    asks = [("star", 10, seed) for seed in range(2 * REQUESTS_PER_CALL + 5)]

    def say(_key, prompt):
        shown = shown_ids(prompt)
        return "\n".join(f"{i + 1}: {shown[2 * i]}, {shown[2 * i + 1]}" for i in range(len(shown) // 2))

    model = ScriptedModel(say)
    chosen, tally = select_seeds(model, asks)
    assert [call.ordinal for _, call, _ in model.calls] == [0, 1, 2]
    first, second, third = (shown_ids(prompt) for _, _, prompt in model.calls)
    taken = [seed.query_id for seeds in chosen for seed in seeds]
    assert len(taken) == len(set(taken)) == 2 * len(asks)
    assert not set(second) & set(taken[: 2 * REQUESTS_PER_CALL])
    assert not set(third) & set(taken[: 4 * REQUESTS_PER_CALL])
    assert taken[: 2 * REQUESTS_PER_CALL] == first[: 2 * REQUESTS_PER_CALL]
    assert tally == costed("seed_selection", replies=3)


def test_shelf_smaller_than_the_request():
    chosen, _ = select_seeds(says("1: 0\n2: 0\n3: 0"), shelf=SHELF[:1])
    assert chosen == [[SHELF[0]]] * 3


def test_shortlist_is_cut_to_the_window(caplog):
    """And it is told by how much."""
    model = says("")
    select_seeds(model, config=ModelConfig(name="m", context_tokens=1_000, max_output_tokens=200))
    shown = len(shown_ids(model.calls[0][2]))
    assert 2 <= shown < 24
    assert f"without {24 - shown} of the 24 queries of the shortlist" in caplog.text


def test_shortlist_follows_the_rules_weights():
    """Queries over the table that is used less come first far more often."""
    counts = [0, 0]
    for seed in range(100):
        for found in shortlist(STAR, SHELF, {"a": 100.0, "b": 5.0}, 5, random.Random(seed)):
            counts[found.tables == ("b",)] += 1
    assert counts[1] > 5 * counts[0]


# -- advice -------------------------------------------------------------------


def give_advice(model, failures, config=None):
    return asyncio.run(advise(4, failures, SCHEMAS, model.player(config)))


def test_no_failures_no_call():
    assert give_advice(says(), []) == ("", costed("critical"))


def test_advice_comes_from_reasons_and_examples():
    """Counts are computed, examples are quoted, few and of different kinds."""
    failures = [
        Failure("star", f"SELECT '<end-sql>' + {i}\nFROM a", "error", f'no column "x{i}" <think>') for i in range(30)
    ]
    failures += [Failure("star", "SELECT slow", "timeout", "ran longer than 5 s")]
    model = says("- Use <start-sql>DATE_DIFF.\n- Join fewer tables.")
    advice, tally = give_advice(model, failures)
    assert advice == "Use DATE_DIFF. Join fewer tables."
    assert tally == costed("critical", replies=1)
    prompt = model.calls[0][2]
    assert "error (the database refused the statement): 30\n" in prompt.user
    assert "timeout (the statement ran longer than execution.timeout_s): 1\n" in prompt.user
    assert '"SELECT slow"' in prompt.user
    assert prompt.user.count("\n  error: ") == MAX_EXAMPLES - 1
    assert "<end-sql>" not in prompt.user
    assert "<think>" not in prompt.user


@pytest.mark.parametrize(
    ("reply", "tally"),
    [
        ("<think>hm</think>", costed("critical", replies=1, unusable=1, fallbacks=1)),
        (CompletionError("no"), costed("critical", fallbacks=1)),
        (BudgetReachedError("spent"), costed("critical", fallbacks=1)),
    ],
)
def test_no_reply_is_no_advice(reply, tally):
    assert give_advice(says(reply), [Failure("star", "SELECT", "parse", "x")]) == ("", tally)


def test_endpoint_that_refuses_ends_the_run():
    with pytest.raises(EndpointError):
        give_advice(says(EndpointError("the key is wrong")), [Failure("star", "SELECT", "parse", "x")])


def test_examples_are_cut_to_the_window(caplog):
    """And it is told by how much; that only so many are shown in the first place is no cut."""
    failures = [Failure("star", f"SELECT {i} " + "x " * 300, "error", f"{i} is wrong") for i in range(20)]
    model = says("Do better.")
    give_advice(model, failures, ModelConfig(name="m", context_tokens=1_800, max_output_tokens=200))
    shown = model.calls[0][2].user.count("\n  error: ")
    assert 1 <= shown < MAX_EXAMPLES
    assert f"without {MAX_EXAMPLES - shown} of {MAX_EXAMPLES} examples" in caplog.text
    caplog.clear()
    give_advice(says("Do better."), failures)
    assert not caplog.records
