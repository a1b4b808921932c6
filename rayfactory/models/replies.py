"""From what a model wrote to what was asked for, however it is dressed.

Nothing here raises, whatever the text, and everything takes time linear in its length: patterns are bounded or
advance, and no scan starts again from the same place. A reply without anything usable gives an empty result.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TypeVar

from rayfactory.records import State

T = TypeVar("T", int, str)

MAX_ADVICE_CHARACTERS = 400
MAX_ADVICE_SENTENCES = 3

_THINKING = re.compile(r"<(/?)(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
# What chat templates leave behind when a server does not cut it off.
_TURN_MARKS = re.compile(r"<\|[A-Za-z_]{1,24}\|>|</?s>|<(?:end|start)_of_turn>|<(?:eos|bos|pad)>")

# <start-sql>, <END_SQL>, <end-sqgl>, </start-sql>, <start-sql id="2">, <sql>, and the longer ones without last bracket.
_TAG = (
    r"(?:<|&lt;)\s{0,3}(?P<slash>[/\\]?)\s{0,3}(?:sql\s?(?:>|&gt;)|(?P<word>start|begin|end)[-_ ]{0,2}"
    r"(?:sqgl|sqll|ssql|sql|sq1|sqi|qsl|sl)"
    r"(?:[\s_:=#-]{0,3}(?:id|no|nr|number|query)?[\s_:=#\"'-]{0,3}(?P<number>\d{1,4})[\"']?)?"
    r"\s{0,3}(?:>|&gt;|(?=\n)|\Z))"
)
_TAG_ALONE = re.compile(_TAG, re.IGNORECASE)
# Literals end with their line: one that is not closed then spoils no more than that line.
_MARK = re.compile(
    rf"'[^'\n]*'|\"[^\"\n]*\"|(?P<line_comment>--)|(?P<block_comment>/\*)|(?P<tag>{_TAG})|(?P<semicolon>;)",
    re.IGNORECASE,
)
_LINE_COMMENT_END = re.compile(rf"\n|{_TAG}", re.IGNORECASE)

# "Select the customers who ..." is prose.
_SELECT = (
    r"(?:\(\s{0,20}){0,8}(?:SELECT\b(?!\s{1,4}(?:the|every|each|those|these|all\s(?:the|of))\s(?!from\b)[a-z])|VALUES\s{0,20}\("
    r"|WITH\s+(?:RECURSIVE\s+)?[^\s(]{1,100}\s{0,20}(?:\([^()]{0,300}\)\s{0,20})?AS\b)"
)
_STATEMENT = re.compile(_SELECT, re.IGNORECASE)
# Between tags, whatever the model meant for a query counts as one: what may not run is refused later, and counted.
_TAGGED_STATEMENT = re.compile(
    rf"{_SELECT}|(?-i:FROM|WITH)\s|INSERT\s+INTO|DELETE\s+FROM|(?:UPDATE|PRAGMA|ATTACH|COPY|EXPLAIN|INSTALL|LOAD|CALL|SET)\s"
    r"|(?:CREATE|DROP|ALTER)\s+(?:OR\s+REPLACE\s+)?(?:TEMP\w{0,6}\s+)?(?:TABLE|VIEW|INDEX|SCHEMA|TRIGGER|FUNCTION|MACRO)",
    re.IGNORECASE,
)
_LINE_WITH_STATEMENT = re.compile(rf"^[^\S\n]{{0,20}}(?={_SELECT})", re.IGNORECASE | re.MULTILINE)
_INLINE = re.compile(rf"(?:[:：]\s{{0,3}}[`*]{{0,3}}|`)\s{{0,3}}(?={_SELECT})", re.IGNORECASE)
_COMMENT_LINE = re.compile(r"\s*(?:--[^\n]*(?:\n|\Z)|#[^\n]*(?:\n|\Z)|/\*)")
# 1.  2)  -  *  **Query 3:**  ### Query 4  `
_MARKER = re.compile(
    r"(?:[-*+•>]\s{1,4}|#{1,6}\s{1,4}|[*_`]{1,3}|\(?\d{1,4}[.):]\s{0,4}|(?:SQL\s)?(?:query|question|example|statement|sql)\s?#?\d{0,4}\s?[:.)-]{1,2}\s{0,4})",
    re.IGNORECASE,
)
_CONTINUES = re.compile(
    r"[),]|--|/\*|(?:select|from|where|group|order|having|limit|offset|union|intersect|except|join|left|right|inner|full|cross"
    r"|natural|on|using|and|or|not|case|when|then|else|end|with|as|window|qualify|over|fetch|values|in|between|asc|desc)\b",
    re.IGNORECASE,
)
_PROSE = re.compile(
    r"(?:#{1,6}\s|={3,}|-{3,}\s*$|\*\*|\|"
    r"|(?:This|These|The|Here|Note|It|We|I|Query|Explanation|Let|Each|In this|Hope)\b[,:’' a-z]"
    r"|[A-Z][A-Za-z ]{2,40}:(?!:))"
)
_OPEN_END = re.compile(
    r"(?:[,(]|\b(?:union|all|intersect|except|as|from|select|where|and|or|on|by|join))\s*$", re.IGNORECASE
)
_LITERAL = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"|--[^\n]*")
_LANGUAGE = re.compile(
    r"[^\S\n]{0,20}([A-Za-z0-9+_-]{0,20})[^\S\n]{0,20}\n|[^\S\n]{0,20}(?:sql|sqlite|duckdb)\s", re.IGNORECASE
)
# A backslash outside a text is passed over with what follows, so that no quote after it is tried as a beginning.
_JSON_TEXT = re.compile(r'\\.|"(?:[^"\\\n]|\\.)*+"', re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

# GEN explores: what begins like EXP need not be EXP.
_STATE_NAME = r"(?:GEN(?:ERAT[A-Z]{1,4})?|EXP(?:LOR[A-Z]{1,7}|LOIT[A-Z]{0,6}|AN[A-Z]{1,6})?)\b"
# With a second name where one explains or offers it: "Explore (GEN)", "GEN or EXP".
_STATE = re.compile(
    rf"\bSTATE\b[\s*_`\"']{{0,8}}[:=\-–]?[\s*_`\"'<\[(]{{0,8}}({_STATE_NAME})"
    rf"(?:[\s*_`\"']{{0,8}}(?:[(\[][\s*_`\"']{{0,8}}({_STATE_NAME})(?=[\s*_`\"']{{0,8}}[)\]])"
    rf"|(?:[/|=]|\bor\b)[\s*_`\"']{{0,8}}({_STATE_NAME})))?",
    re.IGNORECASE,
)
_STATE_WORD = re.compile(rf"\b{_STATE_NAME}")
_NUMBERED = re.compile(
    r"\s{0,20}[-*•|{]?\s{0,4}[*_\"'`]{0,3}(?:(?:request|line|set|row)\s{0,4})?#?(\d{1,4})[*_\"'`]{0,3}\s{0,4}"
    r"(?:[:)|=]|[.-](?!\d))(.*)",
    re.IGNORECASE,
)
_ARRAY_END = re.compile(r"\]\s{0,10},(?=\s{0,10}\[)")
_LIST_SEPARATOR = re.compile(r"[,;|\[\]{}]")
_INTEGER = re.compile(r"\d{1,18}")
_TAG_LIKE = re.compile(r"(?:<|&lt;)[A-Za-z/\\|!?][^<>\n]{0,60}>?")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`\"'])")


def queries(reply: str, *, truncated: bool = False) -> list[str]:
    """Return the SQL statements of a reply, in order, without final semicolons; equal ones are kept.

    Read are tags as the prompts ask for them, in the spellings that models give them; where there are none, markdown
    fences, a JSON array, or a plain or numbered list. What a model thought aloud is left out.

    Args:
        truncated: whether the reply was cut off; a last statement that nothing ends is then left out.
    """
    text = _spoken(reply)
    found = [statement for _, statement in _tagged(text)]
    if not found:
        plain = _TAG_ALONE.sub("\n", text)
        found = _fenced(plain) if "```" in plain else _untagged(plain)
    if truncated and found and text.rstrip().endswith(found[-1]):
        found.pop()
    return [_clean(statement) for statement in found]


def one_query(reply: str, *, truncated: bool = False) -> str:
    """Return the one statement of a reply that was decoded by a grammar; empty where there is none."""
    text = reply.strip()
    if not truncated and "\n" not in text and _STATEMENT.match(text):
        # Nothing stands around it, and what looks like a tag in it is a constant.
        return _clean(_strip_end(text))
    return next(iter(queries(reply, truncated=truncated)), "")


def corrections(reply: str, num_queries: int, *, truncated: bool = False) -> dict[int, str]:
    """Return the corrected form of queries that were sent back, by position from 0.

    The number in a statement's tag says which it is; where not every tag has one, the order does.
    """
    numbered = _tagged(_spoken(reply))
    found = queries(reply, truncated=truncated)
    numbers = [number for number, _ in numbered][: len(found)]
    if len(numbers) == len(found) and all(number is not None for number in numbers):
        places = [number - 1 for number in numbers if number is not None]
    else:
        places = list(range(len(found)))
    by_place: dict[int, str] = {}
    for place, statement in zip(places, found, strict=True):
        if 0 <= place < num_queries:
            by_place.setdefault(place, statement)
    return by_place


def state(reply: str) -> State | None:
    """Return the state that a reply decides on, or None where it does not say or contradicts itself."""
    text = _spoken(reply)
    names = [name for match in _STATE.finditer(text) for name in match.groups() if name] or _STATE_WORD.findall(text)
    named = {_state_of(name) for name in names}
    return named.pop() if len(named) == 1 else None


def _state_of(name: str) -> State:
    return "GEN" if name.upper().startswith(("GEN", "EXPLOR")) else "EXP"


def table_sets(reply: str, names: Sequence[str], num_requests: int) -> list[tuple[str, ...]]:
    """Return the tables that a reply names for each request, as `names` spells them; none where it names none.

    Args:
        names: of the tables that may be chosen; others are passed over.
        num_requests: how many lines were asked for.
    """
    known = {" ".join(name.casefold().split()): name for name in names}
    return _sets(reply, num_requests, lambda line: _known_names(line, known))


def seed_sets(reply: str, ids: Collection[int], num_requests: int) -> list[tuple[int, ...]]:
    """Return the seeds that a reply names for each request; none where it names none.

    Args:
        ids: that may be chosen; others are passed over.
        num_requests: how many lines were asked for.
    """
    allowed = set(ids)

    def known_ids(line: str) -> list[int]:
        return [number for number in map(int, _INTEGER.findall(line)) if number in allowed]

    return _sets(reply, num_requests, known_ids)


def advice(reply: str) -> str:
    """Return a reply as a few plain sentences on one line: no markup, no control characters, at most 400 characters."""
    text = _TAG_LIKE.sub(" ", _spoken(reply)).replace("```", " ")
    lines = [_strip_marker(line.strip()) for line in text.splitlines()]
    words = "".join(c if c.isprintable() else " " for c in " ".join(lines)).replace("**", "").split()
    sentences = _SENTENCE_END.split(" ".join(words))
    text = " ".join(sentences[:MAX_ADVICE_SENTENCES])
    if len(text) > MAX_ADVICE_CHARACTERS:
        text = text[: MAX_ADVICE_CHARACTERS - 1].rpartition(" ")[0] or text[: MAX_ADVICE_CHARACTERS - 1]
        text += "…"
    return text


# -- the parts of a reply -----------------------------------------------------


def _spoken(reply: str) -> str:
    """Return a reply without what the model thought aloud and without marks of its chat template."""
    pieces: list[str] = []
    start, thinking = 0, False
    for mark in _THINKING.finditer(reply):
        if mark[1]:
            if not thinking:
                # The prompt ended inside the thought, so that only its end is in the reply.
                pieces.clear()
            start, thinking = mark.end(), False
        elif not thinking:
            pieces.append(reply[start : mark.start()])
            thinking = True
    if not thinking:
        pieces.append(reply[start:])
    text = "\n".join(pieces).replace("\r\n", "\n").replace("\r", "\n").replace("\ufeff", "")
    return _TURN_MARKS.sub("\n", text)


def _marks(text: str, start: int, last_comment_end: int) -> Iterator[re.Match[str]]:
    """Yield the tags and semicolons that stand outside literals and comments."""
    position = start
    while mark := _MARK.search(text, position):
        position = mark.end()
        if mark["line_comment"]:
            # A tag ends a comment too: models close a query on its last line.
            end = _LINE_COMMENT_END.search(text, position)
            position = len(text) if end is None else end.start()
        elif mark["block_comment"]:
            if position <= last_comment_end:
                position = text.index("*/", position) + 2
        elif mark["tag"] or mark["semicolon"]:
            yield mark


def _tagged(text: str) -> list[tuple[int | None, str]]:
    """Return the statements between tags, each with the number in its tag."""
    found: list[tuple[int | None, str]] = []
    position, last_comment_end = 0, text.rfind("*/")
    while tag := _TAG_ALONE.search(text, position):
        if _is_end(tag):
            # The beginning was left out, or was in the prompt.
            found.extend((None, statement) for statement in _loose(text[position : tag.start()]))
            position = tag.end()
            continue
        number = int(tag["number"]) if tag["number"] else None
        closing = next((mark for mark in _marks(text, tag.end(), last_comment_end) if mark["tag"]), None)
        closed = closing is not None and _is_end(closing)
        position = len(text) if closing is None else closing.end() if closed else closing.start()
        inside = text[tag.end() : len(text) if closing is None else closing.start()]
        if "```" in inside:
            statements = _fenced(inside)
        elif closed:
            statements = [s for part in _split(inside) if (s := _statement(part))]
        else:
            statements = _loose(inside)
        found.extend((number, statement) for statement in statements)
    return found


def _is_end(tag: re.Match[str]) -> bool:
    return bool(tag["slash"]) or (tag["word"] or "").lower() == "end"


def _split(text: str) -> list[str]:
    """Return the parts of a text between semicolons."""
    parts, start = [], 0
    for mark in _marks(text, 0, text.rfind("*/")):
        if mark["semicolon"]:
            parts.append(text[start : mark.start()])
            start = mark.end()
    parts.append(text[start:])
    return parts


def _statement(part: str) -> str:
    """Return the statement in what stands between two tags or semicolons, without what leads up to it; may be empty."""
    start = _skip_comments(part)
    text = _strip_marker(part[start:].strip())
    if _TAGGED_STATEMENT.match(text):
        return _strip_end(text)
    begin = _LINE_WITH_STATEMENT.search(text) or _INLINE.search(text)
    return _strip_end(text[begin.end() :]) if begin else ""


def _skip_comments(text: str) -> int:
    position = 0
    while comment := _COMMENT_LINE.match(text, position):
        if comment[0].endswith("/*"):
            end = text.find("*/", comment.end())
            if end < 0:
                break
            position = end + 2
        else:
            position = comment.end()
    return position


def _strip_marker(text: str) -> str:
    """Return a line without list markers, labels and emphasis before its first word."""
    position = 0
    for _ in range(4):
        marker = _MARKER.match(text, position)
        if marker is None:
            break
        position = marker.end()
    return text[position:].lstrip()


def _strip_end(text: str) -> str:
    return text.rstrip().rstrip(";`*").rstrip()


def _fenced(text: str) -> list[str]:
    """Return the statements in markdown fences."""
    found: list[str] = []
    for inside in text.split("```")[1::2]:
        language = _LANGUAGE.match(inside)
        found.extend(_untagged(inside[language.end() :] if language else inside))
    return found or _untagged(text.replace("```", "\n"))


def _untagged(text: str) -> list[str]:
    if text.lstrip()[:1] in ("[", "{"):
        return _json_texts(text)
    return _loose(text) or _json_texts(text)


def _json_texts(text: str) -> list[str]:
    """Return the texts of JSON, whole or cut off, that are statements."""
    found: list[str] = []
    for match in _JSON_TEXT.finditer(text):
        if match[0].startswith('"'):
            try:
                value = json.loads(match[0], strict=False)
            except ValueError:
                continue
            statement = _statement(value)
            if statement:
                found.extend(s for part in _split(statement) if (s := _statement(part)))
    return found


def _loose(text: str) -> list[str]:
    """Return the statements in plain text, numbered or not, with prose around them."""
    return [statement for part in _split(text) for statement in _statements_by_line(part)]


def _statements_by_line(text: str) -> list[str]:
    found: list[str] = []
    current: list[str] = []
    depth, after_blank, awaits_select = 0, False, False
    for line in text.split("\n"):
        stripped = line.strip()
        if not stripped:
            after_blank = True
            continue
        body = _strip_marker(stripped)
        begins = _STATEMENT.match(body) is not None
        complete = depth <= 0 and not awaits_select and not (current and _OPEN_END.search(current[-1][-40:]))
        marked = body != stripped
        if current and (
            (begins and complete)
            or (complete and after_blank and not _CONTINUES.match(stripped))
            or (complete and not begins and _PROSE.match(stripped))
            or (complete and marked and stripped[0].isdigit())
        ):
            found.append("\n".join(current))
            current = []
        if not current:
            inline = None if begins else _INLINE.search(stripped)
            if not begins and inline is None:
                continue
            if inline is not None:
                body = stripped[inline.end() :]
                if inline[0].strip().endswith("`"):
                    body = body.partition("`")[0]
            current = [body]
            depth, awaits_select = 0, body[:4].lower() == "with"
        else:
            current.append(line.rstrip())
        after_blank = False
        code = _LITERAL.sub("", body if len(current) == 1 else line)
        if awaits_select and _has_outer_select(code, depth):
            awaits_select = False
        depth += code.count("(") - code.count(")")
    if current:
        found.append("\n".join(current))
    return [cleaned for statement in found if (cleaned := _strip_end(statement))]


def _has_outer_select(code: str, depth: int) -> bool:
    """Return whether a line has a SELECT outside all parentheses, given how many are open before it."""
    for token in re.finditer(r"[()]|\bselect\b", code, re.IGNORECASE):
        if token[0] == "(":
            depth += 1
        elif token[0] == ")":
            depth -= 1
        elif depth <= 0:
            return True
    return False


def _clean(statement: str) -> str:
    """Return a statement that can be stored: no control characters, no halves of surrogate pairs."""
    return _CONTROL.sub(" ", statement).encode("utf-8", "replace").decode("utf-8").strip()


# -- lines of choices ---------------------------------------------------------


def _sets(reply: str, num_requests: int, read: Callable[[str], list[T]]) -> list[tuple[T, ...]]:
    """Return what each line of a reply chooses, by the number before it or else in order, each choice once."""
    chosen: dict[int, tuple[T, ...]] = {}
    unnumbered: list[tuple[T, ...]] = []
    text = _spoken(reply)
    for line in _ARRAY_END.split(text) if text.lstrip().startswith("[") else text.split("\n"):
        if not line or line.isspace():
            continue
        numbered = _NUMBERED.match(line)
        values = tuple(dict.fromkeys(read(numbered[2] if numbered else line)))
        if numbered and values:
            chosen.setdefault(int(numbered[1]) - 1, values)
        elif values:
            unnumbered.append(values)
    if not chosen:
        chosen = dict(enumerate(unnumbered))
    return [chosen.get(index, ()) for index in range(num_requests)]


def _known_names(line: str, known: Mapping[str, str]) -> list[str]:
    """Return the names in a list, as the database spells them; words around them are passed over."""
    names: list[str] = []
    for item in _LIST_SEPARATOR.split(line):
        if not item or item.isspace():
            continue
        word = " ".join(item.casefold().split()).strip("\"'`* ").removeprefix("main.")
        if word in known:
            names.append(known[word])
        else:
            names.extend(known[part] for part in re.findall(r"\w+", word) if part in known)
    return names
