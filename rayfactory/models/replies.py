"""From what a model wrote to what was asked for, however it is dressed.

Nothing here raises, whatever the text, and everything takes time linear in its length: patterns are bounded or
advance, and no scan starts again from the same place. A reply without anything usable gives an empty result.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from rayfactory.records import State
from rayfactory.shown import is_seen

T = TypeVar("T", int, str)

MAX_ADVICE_CHARACTERS = 400
MAX_ADVICE_SENTENCES = 3

# What chat templates leave behind when a server does not cut it off.
_TURN_MARKS = re.compile(
    r"<[|｜][A-Za-z_▁]{1,24}[|｜]>|</?s>|<(?:end|start)_of_turn>|<(?:eos|bos|pad)>|\[/?INST\]|<</?SYS>>"
)

# <start-sql>, <END_SQL>, <end-sqgl>, </start-sql>, <start-sql id="2">, <sql>, and the longer ones without last bracket.
_TAG = (
    r"(?:<|&lt;)\s{0,3}(?P<slash>[/\\]?)\s{0,3}(?:sql\s?(?:>|&gt;)|(?P<word>start|begin|end)[-_ ]{0,2}"
    r"(?:sqgl|sqll|ssql|sql|sq1|sqi|qsl|sl)"
    r"(?:[\s_:=#-]{0,3}(?:id|no|nr|number|query)?[\s_:=#\"'-]{0,3}(?P<number>\d{1,4})[\"']?)?"
    r"\s{0,3}(?:>|&gt;|(?=\n)|\Z))"
)
_TAG_ALONE = re.compile(_TAG, re.IGNORECASE)
# An apostrophe after a letter is none of SQL's quotes, but for those of E'..' and its like. A literal ends with its
# line, so that one which is not closed spoils no more than that line; or further down, where what follows can follow a
# literal and there is no tag in it.
_QUOTE = r"(?:(?<!\w)|(?<=\b[EBXN])|(?<=\bdate)|(?<=\btime)|(?<=\btimestamp)|(?<=\binterval))'"
_AFTER_LITERAL = (
    r"\s{0,100}(?:[,);|=<>+*/:-]|\Z|(?:from|where|and|or|not|as|then|else|end|group|order|limit|union|in|is)\b)"
)
_LITERAL = rf"{_QUOTE}(?:[^'\n]*'|[^'<&]*+'(?={_AFTER_LITERAL}))|\"[^\"\n]*\""
# What stands in a name or a constant is no thought.
_THINKING = re.compile(
    rf"(?P<literal>{_QUOTE}[^'\n]*'|\"[^\"\n]*\")|<(?P<slash>/?)(?:think|thinking|thought|reasoning)>", re.IGNORECASE
)
_MARK = re.compile(
    rf"(?P<literal>{_LITERAL})|(?P<line_comment>--)|(?P<block_comment>/\*)|(?P<tag>{_TAG})|(?P<semicolon>;)",
    re.IGNORECASE,
)
# Stands for a line break in a literal or a comment; no text keeps such a character.
_INNER_BREAK = "\v"
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
_INLINE = re.compile(rf"(?:[:：]\s{{0,3}}[`*]{{0,3}}|`)\s{{0,3}}(?={_SELECT})", re.IGNORECASE)
# 1.  2)  -  *  **Query 3:**  ### Query 4  `
_MARKER = re.compile(
    r"(?:[-*+•>]\s{1,4}|#{1,6}\s{1,4}|[*_`]{1,3}|\(?\d{1,4}[.):](?!\d)\s{0,4}|(?:SQL\s)?(?:query|question|example|statement|sql)\s?#?\d{0,4}\s?[:.)-]{1,2}\s{0,4})",
    re.IGNORECASE,
)
_CONTINUES = re.compile(
    r"[),.=<>+/%]|\|\||[*-]\s|::|--|/\*|(?:select|from|where|group|order|having|limit|offset|union|intersect|except|minus|join"
    r"|left|right|inner|full|cross|natural|asof|anti|semi|lateral|on|using|and|or|not|case|when|then|else|end|with|as|window"
    r"|qualify|over|filter|partition|rows|range|fetch|values|in|is|like|ilike|between|asc|desc|nulls|pivot|unpivot)\b",
    re.IGNORECASE,
)
_PROSE = re.compile(
    r"(?:#{1,6}\s|={3,}|\*\*|\|(?!\|)"
    r"|(?:This|These|The|Here|Note|It|We|I|Query|Explanation|Let|Each|In this|Hope)\b[,:’' a-z]"
    r"|[A-Z][A-Za-z ]{2,40}:(?!:))"
)
_OPEN_END = re.compile(
    r"(?:[,(.=<>+*/%-]|\|\||\b(?:union|all|any|some|distinct|name|intersect|except|minus|as|materialized|recursive|from|lateral"
    r"|select|where|having|qualify|and|or|not|exists|in|is|like|ilike|between|case|when|then|else|on|by|join|limit|offset))\s*$",
    re.IGNORECASE,
)
_LANGUAGE = re.compile(
    r"[^\S\n]{0,20}([A-Za-z0-9+_-]{0,20})[^\S\n]{0,20}\n|[^\S\n]{0,20}(?:sql|sqlite|duckdb|postgres(?:ql)?|mysql|mariadb)\s",
    re.IGNORECASE,
)
# A backslash outside a text is passed over with what follows, so that no quote after it is tried as a beginning.
_JSON_TEXT = re.compile(r'\\.|"(?:[^"\\\n]|\\.)*+"', re.DOTALL)
_BLANKS = re.compile(r"\s*")
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
_ENTITY = re.compile(r"&(lt|gt|amp|quot|apos|#39|#x27);", re.IGNORECASE)
_ENTITIES = {"lt": "<", "gt": ">", "amp": "&", "quot": '"', "apos": "'", "#39": "'", "#x27": "'"}
_TAG_LIKE = re.compile(r"(?:<|&lt;)[A-Za-z/\\|｜!?][^<>\n]{0,60}>?|~{3,}")
_MARK_LIKE = re.compile(
    r"<(?=\s*[/\\|｜]|\s*(?:start|end|begin|sql)|<SYS>>)|&(?=lt|gt|amp|quot|apos|#)|\[(?=/?INST\])", re.IGNORECASE
)
"""What is left of tags that were cut, spaced or written as entities: without its first character it means nothing."""
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`\"'])")


def queries(reply: str, *, truncated: bool = False) -> list[str]:
    """Return the SQL statements of a reply, in order, without final semicolons; equal ones are kept.

    Read are tags as the prompts ask for them, in the spellings that models give them; where there are none, markdown
    fences, a JSON array, or a plain or numbered list. What a model thought aloud is left out.

    Args:
        truncated: whether the reply was cut off; a last statement that nothing ends is then left out.
    """
    text = spoken(reply)
    found = [statement for _, statement in _tagged(text)]
    if not found:
        plain = _TAG_ALONE.sub("\n", text)
        found = _fenced(plain) if "```" in plain else _untagged(plain)
    if truncated and found and any(map(_ends_with(found[-1]), (text, _unescaped(text)))):
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
    numbered = _tagged(spoken(reply))
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
    text = spoken(reply)
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
    # As they are, where they are quoted: two may differ in blanks alone.
    known = {" ".join(name.casefold().split()): name for name in names} | {name: name for name in names}
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
    text = _MARK_LIKE.sub(" ", _TAG_LIKE.sub(" ", spoken(reply))).replace("```", " ")
    lines = [_strip_marker(line.strip()) for line in text.splitlines()]
    words = "".join(c if is_seen(c) else " " for c in " ".join(lines)).replace("**", "").split()
    # Once more: what stood between the parts of a mark may have gone meanwhile.
    sentences = _SENTENCE_END.split(" ".join(_MARK_LIKE.sub(" ", " ".join(words)).split()))
    text = " ".join(sentences[:MAX_ADVICE_SENTENCES])
    if len(text) > MAX_ADVICE_CHARACTERS:
        text = text[: MAX_ADVICE_CHARACTERS - 1].rpartition(" ")[0] or text[: MAX_ADVICE_CHARACTERS - 1]
        text += "…"
    return text


# -- the parts of a reply -----------------------------------------------------


def spoken(reply: str) -> str:
    """Return a reply without what the model thought aloud and without marks of its chat template."""
    pieces: list[str] = []
    start, thinking = 0, False
    for mark in _THINKING.finditer(reply):
        if mark["literal"]:
            continue
        if mark["slash"]:
            if not thinking:
                # The prompt ended inside the thought, so that only its end is in the reply.
                pieces.clear()
            start, thinking = mark.end(), False
        elif not thinking:
            pieces.append(reply[start : mark.start()])
            thinking = True
    if not thinking:
        pieces.append(reply[start:])
    elif tag := _TAG_ALONE.search(reply, start):
        # The end of the thought was forgotten, or cut off: tags are there to be read all the same.
        pieces.append(reply[tag.start() :])
    text = "\n".join(pieces).replace("\r\n", "\n").replace("\r", "\n").replace("\ufeff", "")
    return _TURN_MARKS.sub("\n", text)


def _marks(text: str, start: int, last_comment_end: int) -> Iterator[tuple[str, re.Match[str], int]]:
    """Yield what no scan may look into or past: its kind, where it begins (as a match), and where it ends.

    The kinds are ``literal``, ``comment``, ``tag`` and ``semicolon``; the latter two stand outside the former.

    Args:
        last_comment_end: where the last block comment of the text ends; -1 where there is none.
    """
    position = start
    while mark := _MARK.search(text, position):
        position, kind = mark.end(), "comment"
        if mark["line_comment"]:
            # A tag ends a comment too: models close a query on its last line.
            end = _LINE_COMMENT_END.search(text, position)
            position = len(text) if end is None else end.start()
        elif mark["block_comment"]:
            if position > last_comment_end:
                continue
            position = text.index("*/", position) + 2
        else:
            kind = "literal" if mark["literal"] else "tag" if mark["tag"] else "semicolon"
        yield kind, mark, position


def _tagged(text: str) -> list[tuple[int | None, str]]:
    """Return the statements between tags, each with the number in its tag."""
    found: list[tuple[int | None, str]] = []
    position, last_comment_end = 0, text.rfind("*/")
    while tag := _TAG_ALONE.search(text, position):
        # Whoever escapes a tag escapes what is in it.
        plain = _unescaped if tag[0].startswith("&") else str
        if _is_end(tag):
            # The beginning was left out, or was in the prompt.
            found.extend((None, statement) for statement in _loose(plain(text[position : tag.start()])))
            position = tag.end()
            continue
        number = int(tag["number"]) if tag["number"] else None
        tags = (mark for kind, mark, _ in _marks(text, tag.end(), last_comment_end) if kind == "tag")
        closing = next(tags, None)
        closed = closing is not None and _is_end(closing)
        position = len(text) if closing is None else closing.end() if closed else closing.start()
        inside = plain(text[tag.end() : len(text) if closing is None else closing.start()])
        read = _fenced if "```" in inside else _meant if closed else _loose
        found.extend((number, statement) for statement in read(inside))
    return found


def _is_end(tag: re.Match[str]) -> bool:
    return bool(tag["slash"]) or (tag["word"] or "").lower() == "end"


def _unescaped(text: str) -> str:
    """Return a text with the signs that HTML escapes as they are."""
    return _ENTITY.sub(lambda entity: _ENTITIES[entity[1].lower()], text)


def _ends_with(statement: str) -> Callable[[str], bool]:
    """Return whether a text ends with a statement, blanks aside."""
    end = "".join(statement.split())
    return lambda text: "".join(text.split()).endswith(end)


class _Part(NamedTuple):
    """What stands between two semicolons.

    Attributes:
        text: as written, with `_INNER_BREAK` for line breaks in literals and comments.
        code: the same, sign by sign, without what is in literals and with blanks for comments.
    """

    text: str
    code: str


def _split(text: str) -> list[_Part]:
    """Return the parts of a text between semicolons; those in literals and comments separate nothing."""
    parts: list[_Part] = []
    written: list[str] = []
    code: list[str] = []
    start = 0
    for kind, mark, end in _marks(text, 0, text.rfind("*/")):
        if kind == "tag":
            continue
        between, inner = text[start : mark.start()], text[mark.start() : end]
        written.append(between)
        code.append(between)
        start = end
        if kind == "semicolon":
            parts.append(_Part("".join(written), "".join(code)))
            written, code = [], []
            continue
        written.append(inner.replace("\n", _INNER_BREAK))
        code.append(" " * len(inner) if kind == "comment" else f"'{'x' * (len(inner) - 2)}'")
    parts.append(_Part("".join([*written, text[start:]]), "".join([*code, text[start:]])))
    return parts


def _meant(text: str) -> list[str]:
    """Return the statements of a text that is meant to be nothing else, as that between tags is."""
    found: list[str] = []
    for part in _split(text):
        start = _after_markers(part.code, 0)
        if _TAGGED_STATEMENT.match(part.code, start) and not _STATEMENT.match(part.code, start):
            # What may not run, or begins with FROM: all of it is one.
            found.append(_strip_end(_unhidden(part.text[start:])))
        else:
            found.extend(_statements_by_line(part))
    return found


def _unhidden(text: str) -> str:
    return text.replace(_INNER_BREAK, "\n")


def _strip_marker(text: str) -> str:
    """Return a line without list markers, labels and emphasis before its first word."""
    return text[_after_markers(text, 0) :]


def _after_markers(text: str, position: int) -> int:
    """Return where the first word begins, after blanks, list markers, labels and emphasis."""
    position = _after_blanks(text, position)
    for _ in range(4):
        marker = _MARKER.match(text, position)
        if marker is None:
            break
        position = marker.end()
    return _after_blanks(text, position)


def _after_blanks(text: str, position: int) -> int:
    blanks = _BLANKS.match(text, position)
    assert blanks is not None
    return blanks.end()


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
            found.extend(_meant(value))
    return found


def _loose(text: str) -> list[str]:
    """Return the statements in plain text, numbered or not, with prose around them."""
    return [statement for part in _split(text) for statement in _statements_by_line(part)]


def _statements_by_line(part: _Part) -> list[str]:
    """Return the statements in what stands between two semicolons: a line begins one, goes on with it, or is prose."""
    found: list[str] = []
    current: list[str] = []
    # Blank lines and comments, which are part of a statement only if it goes on after them.
    passed: list[str] = []
    depth, after_blank, awaits_select, last = 0, False, False, ""
    for line, code in zip(part.text.split("\n"), part.code.split("\n"), strict=True):
        stripped = code.strip()
        if not stripped:
            after_blank = after_blank or not line.strip()
            passed.append(line.rstrip())
            continue
        start = _after_markers(code, 0)
        begins = _STATEMENT.match(code, start) is not None
        complete = depth <= 0 and not awaits_select and not _OPEN_END.search(last[-40:])
        if current and (
            (begins and complete)
            or (complete and after_blank and not _CONTINUES.match(stripped))
            or (complete and not begins and _PROSE.match(stripped))
            or (complete and stripped[0].isdigit() and start > code.index(stripped[0]))
        ):
            found.append("\n".join(current))
            current = []
        if current:
            current += [*passed, line.rstrip()]
        else:
            inline = None if begins else _INLINE.search(code)
            end = len(code)
            if inline is not None:
                start = inline.end()
                if inline[0].strip().endswith("`"):
                    end = (code + "`").index("`", start)
            elif not begins:
                passed = []
                continue
            current = [line[start:end].rstrip()]
            code = code[start:end]
            depth, awaits_select = 0, code[:4].lower() == "with"
        passed, after_blank, last = [], False, code.rstrip()
        if awaits_select and _has_outer_select(code, depth):
            awaits_select = False
        depth += code.count("(") - code.count(")")
    if current:
        # Where the text ends with a comment, so does the statement: it may have been cut off there.
        found.append("\n".join([*current, *passed]))
    return [cleaned for statement in found if (cleaned := _strip_end(_unhidden(statement)))]


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
    text = spoken(reply)
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
    """Return the names in a list, as the database spells them; words around them are passed over.

    A name in double quotes, as prompts show those that are no plain words, is one whatever stands in it.
    """
    names: list[str] = []
    position = 0
    for quoted in _JSON_TEXT.finditer(line):
        name = _read_name(quoted[0]) if quoted[0].startswith('"') else ""
        found = known.get(name) or known.get(" ".join(name.casefold().split()))
        if found:
            names += [*_plain_names(line[position : quoted.start()], known), found]
            position = quoted.end()
    return names + _plain_names(line[position:], known)


def _read_name(text: str) -> str:
    """Return the name that a JSON string stands for; empty where it is none."""
    try:
        value: str = json.loads(text, strict=False)
    except ValueError:
        return ""
    return value


def _plain_names(line: str, known: Mapping[str, str]) -> list[str]:
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
