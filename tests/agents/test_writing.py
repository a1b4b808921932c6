"""Authors that a model plays: what they ask, what becomes of the replies, and what stands in when there is none."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from random import Random

import pytest

from rayfactory.agents import expansion, generation
from rayfactory.agents.player import player_of
from rayfactory.agents.writing import CALLS_PER_REQUEST, Desk, write
from rayfactory.config import Config, ExecutionConfig, ModelConfig
from rayfactory.errors import BudgetReachedError, CompletionError, ConfigError, EndpointError
from rayfactory.models.grammar import draw_grammar
from rayfactory.models.prompts import Prompts
from rayfactory.records import Request, Seed
from rayfactory.tools.execution import Connections, ExecutionTool
from tests.agents.scripted_model import COST_USD, ScriptedModel, costed, says
from tests.models.store import make_store

TABLES = ("sale", "customer", "product")
GENERATION = Request(3, 5, "generation", "store", TABLES, (), (), 4, 99)
SEEDS = (Seed(11, "SELECT city, COUNT(*) AS n FROM customer GROUP BY city"), Seed(12, "SELECT color FROM product"))
EXPANSION = Request(3, 6, "expansion", "store", ("customer", "product"), SEEDS, (), 3, 98)
GOOD = [
    "SELECT c.city, SUM(s.quantity) AS units FROM sale AS s JOIN customer AS c ON c.customer_id = s.customer_id GROUP BY c.city",
    "SELECT COUNT(*) AS n FROM sale",
    "SELECT color FROM product",
    "SELECT name FROM customer",
]


@pytest.fixture(scope="module", params=["duckdb", "sqlite"])
def store(request, tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store"), request.param)


def make_desk(store, limits):
    database, schema = store
    databases, schemas = {"store": database}, {"store": schema}
    return Desk(
        schemas, Connections(databases, limits), ExecutionTool(databases, schemas, limits), ThreadPoolExecutor(1)
    )


def close(desk):
    desk.thread.submit(desk.connections.close).result()
    desk.thread.submit(desk.execution.close).result()
    desk.thread.shutdown()


@pytest.fixture(scope="module")
def desk(store):
    desk = make_desk(store, ExecutionConfig())
    yield desk
    close(desk)


def craft_of(request):
    return generation.CRAFT if request.origin == "generation" else expansion.CRAFT


def rule_candidates(desk, request):
    rule = craft_of(request).rule
    return desk.thread.submit(lambda: rule(request, desk.schemas["store"], desk.connections.get("store"))).result()


def answer(request, model, desk, config=None, *, self_correction=False):
    return asyncio.run(write(request, craft_of(request), model.player(config), desk, self_correction=self_correction))


def tagged(*queries):
    return "\n".join(f"<start-sql>\n{sql};\n<end-sql>" for sql in queries)


def test_one_call_answers_a_request(desk):
    """Surplus queries are dropped, equal ones kept once and counted, and the cost is shared."""
    model = says(tagged(GOOD[0], GOOD[1], GOOD[0], GOOD[2], GOOD[3], "SELECT 1 AS surplus"))
    found = answer(GENERATION, model, desk)
    assert [candidate.sql for candidate in found.candidates] == GOOD
    assert found.tallies == (costed("generation", replies=1, repeated=1),)
    ((slot, key, prompt),) = model.calls
    assert (slot, key.seed, key.agent, key.round, key.ordinal, key.attempt) == ("strong", 7, "generation", 3, 5, 0)
    assert "Generate 4 complex and diverse SQL queries." in prompt.user
    for ordinal, candidate in enumerate(found.candidates):
        assert (candidate.round, candidate.request, candidate.ordinal) == (3, 5, ordinal)
        assert (candidate.origin, candidate.database, candidate.num_request_tables) == ("generation", "store", 3)
        assert candidate.dialect == desk.schemas["store"].dialect
        assert candidate.model == "scripted-1"
        assert candidate.prompt_sha256 == prompt.sha256("scripted")
    assert found.cost_usd == COST_USD


@pytest.mark.parametrize("request_", [GENERATION, EXPANSION], ids=["generation", "expansion"])
@pytest.mark.parametrize(
    ("reply", "replies", "cost_usd"),
    [("I am sorry, I cannot do that.", 1, COST_USD), ("", 1, COST_USD), (CompletionError("too long"), 0, 0.0)],
    ids=["prose", "empty", "none"],
)
def test_rule_answers_where_the_model_does_not(desk, request_, reply, replies, cost_usd):
    """With what it would have written alone, and under its own name; what the reply cost is booked all the same."""
    found = answer(request_, says(reply), desk)
    own = rule_candidates(desk, request_)
    assert [(c.sql, c.model, c.ordinal) for c in found.candidates] == [(c.sql, c.model, c.ordinal) for c in own]
    assert found.tallies == (costed(request_.origin, replies=replies, unusable=replies, fallbacks=1),)
    assert found.cost_usd == cost_usd
    assert not found.out_of_budget


def test_budget_ends_an_answer(desk):
    found = answer(GENERATION, says(BudgetReachedError("spent")), desk, self_correction=True)
    assert found.candidates == ()
    assert found.out_of_budget


def test_endpoint_that_refuses_ends_the_run(desk):
    """No rule hides a wrong key."""
    with pytest.raises(EndpointError, match="key"):
        answer(GENERATION, says(EndpointError("the key is wrong")), desk)


def test_reply_that_was_cut_off_gives_its_whole_queries(desk):
    model = says(tagged(*GOOD[:2]) + "\n<start-sql>\nSELECT name FROM custo")
    model.finish_reason = "length"
    assert [candidate.sql for candidate in answer(GENERATION, model, desk).candidates] == GOOD[:2]


def test_advice_and_seeds_are_in_the_prompt(desk):
    """The seeds as they are, where nothing in them could be taken for a tag, and quoted where something could."""
    model = says(tagged(GOOD[0]))
    seeds = (*SEEDS, Seed(13, "SELECT '<end-sql>' AS x FROM product"))
    found = answer(replace(EXPANSION, seeds=seeds, advice="Use JULIANDAY."), model, desk)
    user = model.calls[0][2].user
    assert "Query 1: SELECT city, COUNT(*) AS n FROM customer GROUP BY city\n" in user
    assert "<end-sql>" not in user
    assert "Query 3: " in user
    assert "Use JULIANDAY." in user
    assert "Generate 3 diverse SQL queries based on the reference queries." in user
    assert found.candidates[0].seed_ids == (11, 12, 13)


def test_seeds_are_left_out_until_the_prompt_fits(desk, caplog):
    """Down to one, and it is told how many; for a window that is too small for that there is no prompt."""
    long_seeds = tuple(Seed(i, "SELECT " + ", ".join(f"{i} AS a{j}" for j in range(150))) for i in range(3))
    request = replace(EXPANSION, seeds=long_seeds)
    sizes = set()
    for context_tokens in range(6_400, 1_400, -200):
        player = says().player(ModelConfig(name="m", context_tokens=context_tokens, max_output_tokens=1_000))
        try:
            prompt = expansion.expansion_prompt(request, player, desk.schemas)
        except ConfigError:
            sizes.add(0)
            break
        shown = prompt.user.count("Query ")
        sizes.add(shown)
        assert (f"without {3 - shown} of 3 seeds" in caplog.text) == (shown < 3)
        caplog.clear()
    assert sizes == {0, 1, 2, 3}


def test_rule_answers_what_the_model_has_no_room_for(desk, caplog):
    """A run does not end for one seed that is long; it is told, and counted."""
    long = (Seed(1, "SELECT " + ", ".join(f"1 AS a{j}" for j in range(400)) + " FROM customer"),)
    model, config = says(), ModelConfig(name="m", context_tokens=2_400, max_output_tokens=1_000)
    found = answer(replace(EXPANSION, seeds=long), model, desk, config)
    assert not model.calls
    assert {candidate.model for candidate in found.candidates} == {"offline-variation"}
    assert found.tallies == (costed("expansion", fallbacks=1),)
    assert "database 'store': the rule of expansion answers, because the expansion prompt" in caplog.text


def test_decoding_by_a_grammar_takes_one_call_a_query(desk):
    """Each with a grammar of its own, which the request's seed alone decides; what it derives runs."""
    schema, model_config = desk.schemas["store"], ModelConfig(name="m", constrained=True, max_output_tokens=700)

    def say(key, prompt):
        place = key.ordinal - GENERATION.index * CALLS_PER_REQUEST
        engine_free = desk.thread.submit(
            lambda: draw_grammar(schema, TABLES, Random(f"99/{place}"), desk.connections.get("store"), max_tokens=700)
        ).result()
        assert engine_free.ebnf() == prompt.grammar
        return engine_free.sample(Random(place))

    model = ScriptedModel(say)
    found = answer(GENERATION, model, desk, model_config, self_correction=True)
    assert sorted(key.ordinal for _, key, _ in model.calls) == [5_000, 5_001, 5_002, 5_003]
    assert len({prompt.grammar for _, _, prompt in model.calls}) == 4
    assert all("one SQL statement and nothing else" in prompt.system for _, _, prompt in model.calls)
    assert found.tallies == (costed("generation", replies=4),)
    assert len(found.candidates) == 4
    assert len({candidate.prompt_sha256 for candidate in found.candidates}) == 4
    assert found.cost_usd == 4 * COST_USD


def test_query_that_may_not_end_in_time_is_left_to_the_rule(desk, caplog):
    """No grammar is short enough for replies of so few tokens: nothing is paid, it is told, and counted."""
    model = says()
    found = answer(GENERATION, model, desk, ModelConfig(name="m", constrained=True, max_output_tokens=20))
    assert not model.calls
    assert {candidate.model for candidate in found.candidates} == {"offline-grammar"}
    assert found.tallies == (costed("generation", fallbacks=4),)
    assert "the rule of generation answers, because no query over" in caplog.text


def test_single_gaps_are_filled_by_the_rule(desk):
    """One reply of four is empty and one cannot be had: the other two keep their places."""
    said: dict[int, str | Exception] = {5_000: GOOD[0], 5_001: "", 5_002: CompletionError("no"), 5_003: GOOD[1]}
    model = ScriptedModel(lambda key, prompt: said[key.ordinal])
    found = answer(GENERATION, model, desk, ModelConfig(name="m", constrained=True))
    assert [candidate.model for candidate in found.candidates] == [
        "scripted-1", "offline-grammar", "offline-grammar", "scripted-1"
    ]  # fmt: skip
    assert (found.candidates[0].sql, found.candidates[3].sql) == (GOOD[0], GOOD[1])
    assert found.tallies == (costed("generation", replies=3, unusable=1, fallbacks=2),)


def test_budget_keeps_what_was_written(desk):
    """Two queries were paid for when the budget ended; nothing is put in for the others."""
    said: dict[int, str | Exception] = {
        5_000: GOOD[0],
        5_001: GOOD[1],
        5_002: BudgetReachedError("spent"),
        5_003: BudgetReachedError("spent"),
    }
    model = ScriptedModel(lambda key, prompt: said[key.ordinal])
    found = answer(GENERATION, model, desk, ModelConfig(name="m", constrained=True), self_correction=True)
    assert [candidate.sql for candidate in found.candidates] == GOOD[:2]
    assert found.out_of_budget
    assert {key.agent for _, key, _ in model.calls} == {"generation"}


def test_failed_queries_go_back_once_with_their_errors(desk):
    """Only those that failed, together; a corrected one takes the place of its original where it runs."""
    bad = ["SELECT nonsense FROM sale", "DROP TABLE sale", "SELECT name FROM nowhere"]
    model = says(
        tagged(GOOD[0], *bad),
        "<start-sql 3>\nSELECT name FROM customer\n<end-sql>\n<start-sql 1>\nSELECT quantity FROM sale\n<end-sql>\n"
        "<start-sql 2>\nDELETE FROM sale\n<end-sql>",
    )
    found = answer(GENERATION, model, desk, self_correction=True)
    assert [candidate.sql for candidate in found.candidates] == [
        GOOD[0], "SELECT quantity FROM sale", "DROP TABLE sale", "SELECT name FROM customer"
    ]  # fmt: skip
    assert [candidate.ordinal for candidate in found.candidates] == [0, 1, 2, 3]
    assert found.tallies == (costed("generation", replies=1), costed("correction", replies=1, corrected=3, mended=2))
    (_, _, asked), (slot, key, prompt) = model.calls
    assert (slot, key.agent, key.round, key.ordinal) == ("strong", "correction", 3, 5)
    assert "Query 1: SELECT nonsense FROM sale" in prompt.user
    assert "no such column" in prompt.user or "not found" in prompt.user
    assert "is not a SELECT" in prompt.user
    assert "no such table: nowhere" in prompt.user
    assert GOOD[0] not in prompt.user
    assert prompt.temperature == 0.3
    assert found.candidates[0].prompt_sha256 == asked.sha256("scripted")
    assert found.candidates[1].prompt_sha256 == prompt.sha256("scripted")
    assert found.cost_usd == 2 * COST_USD


@pytest.mark.parametrize(
    ("reply", "tally"),
    [
        ("I would not know how.", costed("correction", replies=1, unusable=1, corrected=1)),
        (CompletionError("no"), costed("correction", corrected=1)),
        (tagged("SELECT still_nonsense FROM sale"), costed("correction", replies=1, corrected=1)),
    ],
)
def test_query_that_is_not_mended_stays_as_it_was(desk, reply, tally):
    found = answer(GENERATION, says(tagged("SELECT nonsense FROM sale"), reply), desk, self_correction=True)
    assert [candidate.sql for candidate in found.candidates] == ["SELECT nonsense FROM sale"]
    assert found.tallies[1:] == (tally,)


def test_failed_queries_that_do_not_fit_stay_behind_and_are_told(desk, caplog):
    """As many go back as there is room for."""
    bad = [f"SELECT {i} AS nonsense, " + "no_such_column, " * 150 + "name FROM customer" for i in range(4)]
    model = says(tagged(*bad), "I would not know how.")
    answer(
        GENERATION,
        model,
        desk,
        ModelConfig(name="m", context_tokens=6_000, max_output_tokens=1_000),
        self_correction=True,
    )
    shown = model.calls[1][2].user.count("Query ")
    assert 1 <= shown < 4
    assert (
        f"database 'store': the correction prompt is cut to the 6000 tokens of m: without {4 - shown} of 4 failed"
        in caplog.text
    )


def test_nothing_goes_back_where_all_is_well_or_nobody_asked(desk):
    model = says(tagged(*GOOD), tagged("SELECT nonsense FROM sale"))
    assert len(answer(GENERATION, model, desk, self_correction=True).tallies) == 1
    assert len(answer(GENERATION, model, desk, self_correction=False).tallies) == 1


def test_budget_that_ends_before_the_correction_keeps_the_originals(desk):
    model = says(tagged(GOOD[0], "SELECT nonsense FROM sale"), BudgetReachedError("spent"))
    found = answer(GENERATION, model, desk, self_correction=True)
    assert len(found.candidates) == 2
    assert found.out_of_budget


def test_expensive_query_is_to_be_made_cheaper(store):
    """One that ran into the time limit is not sent back to be repeated."""
    desk = make_desk(store, ExecutionConfig(timeout_s=0.3))
    slow = "SELECT COUNT(*) FROM sale AS a, sale AS b, sale AS c, sale AS d WHERE a.quantity + b.quantity + c.quantity * d.quantity > 7.5"
    model = says(tagged(slow), tagged("SELECT COUNT(*) FROM sale"))
    found = answer(GENERATION, model, desk, self_correction=True)
    close(desk)
    assert "make it cheaper" in model.calls[1][2].user
    assert "ran longer than 0.3 s" in model.calls[1][2].user
    assert [candidate.sql for candidate in found.candidates] == ["SELECT COUNT(*) FROM sale"]


def test_what_is_not_to_run_again_says_so(store):
    """A query that ran into the time limit, and that nobody could mend, comes with what became of it."""
    desk = make_desk(store, ExecutionConfig(timeout_s=0.3))
    slow = "SELECT COUNT(*) FROM sale AS a, sale AS b, sale AS c, sale AS d WHERE a.quantity + b.quantity + c.quantity * d.quantity > 7.5"
    model = says(tagged(slow, "SELECT nonsense FROM sale", GOOD[1]), "I cannot.")
    found = answer(GENERATION, model, desk, self_correction=True)
    close(desk)
    expensive, wrong, good = found.candidates[:3]
    assert expensive.ended == ("timeout", "ran longer than 0.3 s")
    assert (wrong.ended, good.ended) == (None, None)


def test_equal_requests_get_equal_prompts(desk):
    """The prompt follows the request alone; requests with another seed are nudged elsewhere."""
    model = says(*[tagged(GOOD[0])] * 3)
    for request in (GENERATION, GENERATION, replace(GENERATION, rng_seed=1)):
        answer(request, model, desk)
    first, again, other = (prompt for _, _, prompt in model.calls)
    assert first == again
    assert first.system == other.system
    assert first.user != other.user


def test_player_follows_the_settings():
    """Rule, strong or local, with the agent's own sampling."""
    config = Config(seed=4)
    config.models.generation.model = "strong"
    config.models.expansion.model = "local"
    config.models.local = ModelConfig(name="small")
    model = says()
    prompts = Prompts()
    expansion = player_of(config, "expansion", model, prompts)
    assert expansion is not None
    assert (expansion.slot, expansion.model.name, expansion.seed) == ("local", "small", 4)
    assert expansion.agent.temperature == 0.8
    generation = player_of(config, "generation", model, prompts)
    assert generation is not None
    assert generation.slot == "strong"
    assert player_of(config, "critical", model, prompts) is None
