"""The first wall: only a SELECT made of known-safe parts is ever run.

The lists below are of what is allowed. Anything that is not on them is refused, and the reason names it, so a new
version of sqlglot or of a database can add nothing silently. What is looked at is sqlglot's reading of a text: for a
server, which reads the text itself, the text has to be such that both divide it alike (`check_text`). The connection is
the second wall (`databases/engine.py`).
"""

from __future__ import annotations

import re

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from rayfactory.errors import StatementError


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_STRUCTURE = _words(
    """
    Add Alias Aliases All And Any Array ArrayAny AtTimeZone Between BitwiseAnd BitwiseLeftShift BitwiseNot
    BitwiseOr BitwiseRightShift BitwiseXor Boolean Bracket CTE Case Cast Collate CollateProperty Column
    ColumnDef Cube DPipe DataType DataTypeParam Distinct Div Dot EQ Escape Except Exists Fetch Filter From GT
    GTE Glob Group GroupingSets Having HexString ILike Identifier IgnoreNulls In IntDiv Intersect Interval Is
    Join Kwarg LT LTE Lambda Lateral Like Limit LimitOptions List Literal Mod Mul NEQ National Neg Not Null
    NullSafeEQ NullSafeNEQ Offset Or Order Ordered Paren Pivot Placeholder PropertyEQ Qualify RawString
    RespectNulls Rollup Select SimilarTo Slice Star Struct Sub Subquery Table TableAlias Tuple Union Values Var
    Where Window WindowSpec With WithinGroup
    """
)
"""Syntax that only combines other parts. (`Placeholder` never runs: the database asks for its value.)"""

_FUNCTIONS = _words(
    """
    Abs Acos Acosh AddMonths AnyValue ApproxDistinct ApproxQuantile ArgMax ArgMin ArrayAgg ArrayConcat
    ArrayContains ArrayDistinct ArrayLength ArrayMax ArrayMin ArrayOverlaps ArrayPosition ArraySize ArraySlice
    ArraySort ArraySum ArrayToString Ascii Asin Asinh Atan Atan2 Atanh Avg BitwiseAndAgg BitwiseCount
    BitwiseOrAgg BitwiseXorAgg Cbrt Ceil Chr Coalesce Concat ConcatWs Contains Corr Cos Cosh Cot Count CountIf
    CovarPop CovarSamp CumeDist CurrentDate CurrentDatetime CurrentTime CurrentTimestamp Date DateAdd DateBin
    DateDiff DateFromParts DateStrToDate DateSub DateToDateStr DateTrunc Datetime DatetimeAdd DatetimeDiff
    DatetimeSub DatetimeTrunc Day DayOfMonth DayOfWeek DayOfWeekIso DayOfYear Dayname Degrees DenseRank Elt
    EndsWith Exp Extract Factorial First FirstValue Floor Format Greatest GroupConcat Grouping GroupingId Hex
    Hour If Initcap IsInf IsNan JSONExtract JSONExtractScalar JSONPath JSONPathKey JSONPathRoot
    JSONPathSubscript JSONPathWildcard JSONType JustifyDays JustifyHours JustifyInterval Kurtosis Lag Last
    LastDay LastValue Lead Least Left Length Ln Localtime Localtimestamp Log LogicalAnd LogicalOr Lower MD5 Max
    Median Min Minute Mode Month Monthname MonthsBetween NthValue Ntile Nullif NumberToStr Nvl2 Overlaps Overlay
    Pad PercentRank PercentileCont PercentileDisc Pi Pow Quantile Quarter Radians Rank RegexpExtract
    RegexpFullMatch RegexpILike RegexpLike RegexpReplace RegrAvgx RegrAvgy RegrCount RegrIntercept RegrR2
    RegrSlope RegrSxx RegrSxy RegrSyy Replace Reverse Right Round RowNumber SafeDivide Second Sign Sin Sinh
    Skewness Soundex Split SplitPart Sqrt StartsWith Stddev StddevPop StddevSamp StrPosition StrToDate StrToTime
    StrToUnix String Substring SubstringIndex Sum Tan Tanh Time TimeAdd TimeDiff TimeFromParts TimeStrToDate
    TimeStrToTime TimeSub TimeToStr TimeToTimeStr TimeToUnix TimeTrunc Timestamp TimestampAdd TimestampDiff
    TimestampFromParts TimestampSub TimestampTrunc ToChar ToNumber Translate Trim Trunc TryCast TsOrDiToDi
    TsOrDsAdd TsOrDsDiff TsOrDsToDate TsOrDsToDateStr TsOrDsToDatetime TsOrDsToTime TsOrDsToTimestamp Typeof
    Unicode UnixToStr UnixToTime Upper Variance VariancePop Week WeekOfYear WidthBucket Xor Year YearOfWeek
    YearOfWeekIso
    """
)
"""Functions that read nothing but their arguments (and the clock), by sqlglot's class."""

_FUNCTIONS_BY_NAME: dict[str, frozenset[str]] = {
    "sqlite": _words(
        """
        acosh ceiling changes_never char concat concat_ws date datetime degrees format glob group_concat hex
        ifnull iif instr julianday like likelihood likely log10 log2 ltrim max min mod nullif octet_length
        printf quote radians rtrim sign strftime string_agg substr time timediff total trunc typeof unicode
        unixepoch unlikely
        """
    ),
    "duckdb": _words(
        """
        add approx_quantile arg_max arg_min array_extract array_length bar bit_count bit_length bool_and bool_or
        ceiling century contains date_part date_sub datepart datesub datetrunc dayname decade divide ends_with
        entropy epoch epoch_ms era even favg fdiv fmod format fsum gcd geomean histogram instr isfinite isodow
        isoyear julian kurtosis_pop last_day lcm len list_aggregate list_avg list_contains list_distinct
        list_extract list_sort list_sum list_value ltrim mad make_date make_time make_timestamp max_by
        millennium min_by monthname multiply nfc_normalize octet_length ord position prefix printf product
        quantile_cont quantile_disc regr_slope rtrim sem starts_with strip_accents strpos subtract suffix
        sumkahan weekday yearweek
        """
    ),
    "postgres": _words(
        """
        acosd age array_append array_cat array_length array_lower array_ndims array_position array_positions
        array_prepend array_remove array_replace array_to_string array_upper asind atan2d atand bit_and bit_length
        bit_or bit_xor bool_and bool_or btrim cardinality ceiling char_length character_length cosd cotd date_bin
        date_part div every gcd isfinite lcm log10 ltrim make_date
        make_interval make_time make_timestamp min_scale mod num_nonnulls num_nulls octet_length regexp_count
        regexp_instr regexp_match regexp_substr row rtrim scale sind starts_with string_to_array tand to_hex
        trim_scale
        """
    ),
    "mysql": _words(
        """
        adddate addtime bin bit_length char_length character_length conv crc32 date_format field find_in_set
        from_days instr isnull lcase localtime localtimestamp log10 log2 ltrim makedate maketime microsecond mid now
        oct octet_length ord period_add period_diff position quote row rtrim sec_to_time strcmp subdate subtime
        time_to_sec timediff timestamp to_days to_seconds truncate ucase unix_timestamp utc_date utc_time
        utc_timestamp weekday yearweek
        """
    ),
}
"""Further functions that sqlglot knows only by name."""

_TYPES = _words(
    """
    ARRAY BIGINT BINARY BOOLEAN CHAR DATE DATETIME DECIMAL DOUBLE FLOAT INT INTERVAL MEDIUMINT NCHAR NVARCHAR
    SMALLINT TEXT TIME TIMESTAMP TIMESTAMPNTZ TIMESTAMPTZ TIMETZ TINYINT UBIGINT UDECIMAL UDOUBLE UINT UMEDIUMINT
    USMALLINT UTINYINT UUID VARBINARY VARCHAR YEAR
    """
)
"""Types that a value may be turned into on a server. (PostgreSQL has some that look names up: ``'t'::regclass``.)"""

_OF_THE_DATABASE = {"postgres": ("pg_",), "mysql": ()}
_OF_SQLITE = ("sqlite_", "pragma_", "dbstat")
"""How the names of tables begin in which a database tells of itself."""

_SCHEMAS = {"postgres": ("", "public"), "mysql": ("",)}
"""What may stand before a table's name."""

_NOTES = _words("cmax cmin ctid tableoid xmax xmin")
"""What PostgreSQL notes beside each row."""

_SPEAKING_WORDS = {
    "postgres": _words("current_catalog current_role current_schema current_user session_user system_user user"),
    "mysql": _words(
        """
        current_role current_user high_priority sql_big_result sql_buffer_result sql_cache sql_calc_found_rows
        sql_no_cache sql_small_result straight_join
        """
    ),
}
"""Words that are no columns where they stand alone without quotation marks: functions without parentheses, hints."""

_COMMENT = r"/\*(?!M?!|\+)[^*/\0]*+(?:(?:\*(?!/)|/(?!\*))[^*/\0]*+)*+\*/"
_LINE = r"[^\r\n\0]*+(?=\r?\n|\Z)"


def _lexis(comment: str, quoted: str, signs: str) -> re.Pattern[str]:
    return re.compile(
        rf"""
        (?P<space> [ \t\r\n]++ )
        | (?P<comment> {comment}{_LINE} | {_COMMENT} )
        | (?P<quoted> (?:{quoted})(?!['"`]) )
        | (?P<number> (?:\d+(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?(?![\w$'"`]) )
        | (?P<word> (?:date|time|timestamp|interval)(?=') | [^\W\d]\w*+(?!['"`$]) )
        | (?P<sign> (?!--|/\*|\*/|&['"]) [{signs}] )
        """,
        re.VERBOSE | re.IGNORECASE,
    )


_LEXIS = {
    "postgres": _lexis(
        comment=r"--",
        quoted=r"""'[^'\0]*+(?:''[^'\0]*+)*+' | "[^"\0]++" """,
        signs=r"-+*/%<>=!|&^~:.,;()\[\]",
    ),
    "mysql": _lexis(
        comment=r"--(?=[ \t\r\n]|\Z)",
        quoted=r"""'[^'\\\0]*+(?:(?:''|\\[^\0])[^'\\\0]*+)*+'
        | "[^"\\\0]*+(?:(?:""|\\[^\0])[^"\\\0]*+)*+" | `[^`\0]++` """,
        signs=r"-+*/%<>=!|&^~.,;()",
    ),
}
"""How a server divides a text, as far as sqlglot does so alike. Left out are comments that MySQL runs (``/*! .. */``)
or that are hints, and comments in comments; ``--`` that MySQL takes for two signs; texts with something right before
them (E'', U&'', N'', _utf8'') or in dollars; variables (@x)."""

_NOT_OF_A_NAME = re.compile(r"[^\w$#@ ]")
"""What no name is made of that stands without quotation marks. (Types of several words are names to sqlglot.)"""

MAX_TEXT_CHARACTERS = 1_000
"""Longest text that padding may make: a million characters would be a memory bomb that no interrupt stops."""

MAX_GROWING_REPLACEMENTS = 2
"""Calls of REPLACE in one statement that may make a text longer, on a server: MariaDB does not end one under way."""

_STATEMENTS = (exp.Select, exp.SetOperation, exp.Subquery)


def check_text(text: str, dialect: str) -> None:
    """Return if a server divides a text into words, texts and comments just as sqlglot does; a file is not asked.

    What `check_safe` looks at is sqlglot's reading, and what runs is the text.

    Raises:
        StatementError: reason ``refused``; the message has the place.
    """
    lexis = _LEXIS.get(dialect)
    if lexis is None:
        return
    ours, theirs = bytearray(len(text)), bytearray(len(text))
    try:
        tokens = sqlglot.tokenize(text, dialect=dialect)
    except SqlglotError:
        raise StatementError("refused", "it cannot be divided into words") from None
    for token in tokens:
        theirs[token.start : token.end + 1] = b"\1" * (token.end + 1 - token.start)
    quoted = []
    first = ""
    position = 0
    while position < len(text):
        piece = lexis.match(text, position)
        if piece is None:
            raise StatementError("refused", f"the server may read {text[position : position + 20]!a} in another way")
        position = piece.end()
        if piece.lastgroup == "space":
            theirs[piece.start() : position] = bytes(position - piece.start())
        elif piece.lastgroup != "comment":
            ours[piece.start() : position] = b"\1" * (position - piece.start())
            if piece.lastgroup == "quoted":
                quoted.append((piece.start(), position))
            if not first and piece[0] != "(":
                first = piece[0]
    if ours != theirs or quoted != [(t.start, t.end + 1) for t in tokens if text[t.start] in "'\"`"]:
        raise StatementError("refused", "the server may read its texts or comments in another way")
    if first.lower() not in ("select", "with"):
        raise StatementError("refused", f"{first!a} is not a SELECT")


def check_safe(tree: exp.Expr, dialect: str) -> None:
    """Return if the statement is one SELECT (WITH, set operations) made of known-safe parts only.

    Raises:
        StatementError: reason ``refused``; the message names the part.
    """
    if not isinstance(tree.unnest() if isinstance(tree, exp.Subquery) else tree, _STATEMENTS):
        raise StatementError("refused", f"{tree.key.upper()} is not a SELECT")
    if dialect in _SCHEMAS and sum(map(_may_grow, tree.find_all(exp.Replace))) > MAX_GROWING_REPLACEMENTS:
        raise StatementError("refused", f"more than {MAX_GROWING_REPLACEMENTS} calls of REPLACE make a text longer")
    for node in tree.walk(bfs=False):
        name = type(node).__name__
        if isinstance(node, exp.Anonymous):
            if node.name.casefold() not in _FUNCTIONS_BY_NAME.get(dialect, ()):
                raise StatementError("refused", f"the function {node.name} is not known to be safe")
        elif name not in _STRUCTURE and name not in _FUNCTIONS:
            what = "the function" if isinstance(node, exp.Func) else "the syntax"
            raise StatementError("refused", f"{what} {_spelling(node)} is not known to be safe")
        if (
            isinstance(node, (exp.Identifier, exp.Var))
            and not node.args.get("quoted")
            and _NOT_OF_A_NAME.search(node.name)
        ):
            # What one reads as a part of a name another skips: a mark of the byte order, say, or an odd kind of space.
            raise StatementError("refused", f"the name {node.name!a} holds what is not a letter")
        if dialect in _SCHEMAS:
            _check_for_server(node, dialect)
        if isinstance(node, exp.Table):
            _check_table(node, dialect)
        elif _makes_long_text(node):
            raise StatementError(
                "refused", f"{_spelling(node)} makes a text longer than {MAX_TEXT_CHARACTERS} characters"
            )
        elif isinstance(node, exp.Select) and (node.args.get("into") or node.args.get("locks")):
            raise StatementError("refused", "SELECT INTO and locking clauses are not allowed")


def _check_for_server(node: exp.Expr, dialect: str) -> None:
    """Refuse what is harmless in a file, and reaches out on a server."""
    if isinstance(node, exp.Dot):
        # A function of another schema, or PostgreSQL's other way to call one: (x).f
        raise StatementError("refused", f"{node.sql()} may call a function")
    if isinstance(node, exp.DataType) and node.this.name not in _TYPES:
        raise StatementError("refused", f"the type {node.sql(dialect=dialect)} is not known to be safe")
    if isinstance(node, exp.Join) and node.side == "FULL" and dialect == "mysql":
        raise StatementError("refused", "MySQL has no FULL JOIN, and reads FULL as another name of the table before it")
    if isinstance(node, exp.Select) and node.args.get("operation_modifiers"):
        raise StatementError("refused", "words that tell the server how to run a SELECT are not allowed")
    if isinstance(node, (exp.Column, exp.Table)) and isinstance(node.this, exp.Identifier):
        name = node.name.casefold()
        alone = not node.this.quoted and len(node.parts) == 1
        if (alone and name in _SPEAKING_WORDS[dialect]) or (dialect == "postgres" and name in _NOTES):
            raise StatementError("refused", f"{node.name} is not a column of the database")


def _check_table(table: exp.Table, dialect: str) -> None:
    if not isinstance(table.this, exp.Identifier):
        raise StatementError("refused", f"the table function {_spelling(table.this)} is not allowed in FROM")
    alias = table.args.get("alias")
    if alias is not None and alias.columns and not alias.name:
        # sqlglot takes a function that is called like a keyword for a table with names for its columns.
        raise StatementError("refused", f"the table function {table.name} is not allowed in FROM")
    if table.catalog or table.db.casefold() not in _SCHEMAS.get(dialect, ("", "main")):
        raise StatementError("refused", f"{table.sql()} lies outside the database's own schema")
    if table.name.casefold().startswith(_OF_THE_DATABASE.get(dialect, _OF_SQLITE)):
        raise StatementError("refused", f"{table.name} is not a table of the database")


def _may_grow(node: exp.Replace) -> bool:
    """Return whether what is put in may be longer than what it takes the place of."""
    out, into = node.expression, node.args.get("replacement")
    if isinstance(out, exp.Literal) and isinstance(into, exp.Literal):
        return len(into.name) > len(out.name)
    return into is not None


def _makes_long_text(node: exp.Expr) -> bool:
    """Return whether a function that pads or formats is given a width that is large or not a plain number."""
    if isinstance(node, exp.Pad):
        width = node.expression
        return not (isinstance(width, exp.Literal) and width.is_int and int(width.name) <= MAX_TEXT_CHARACTERS)
    is_format = isinstance(node, exp.Format) or (
        isinstance(node, exp.Anonymous) and node.name.casefold() in {"printf", "format", "bar"}
    )
    # %5.2f is a width that somebody reads; four digits, or * for one among the arguments, is not.
    return is_format and any(
        re.search(r"%[^a-zA-Z%]*(\*|\d{4})", part.name) for part in node.find_all(exp.Literal) if part.is_string
    )


def _spelling(node: object) -> str:
    if isinstance(node, exp.Anonymous):
        return str(node.name)
    if isinstance(node, exp.Func):
        return node.sql_name()
    return type(node).__name__ if isinstance(node, exp.Expr) else str(node)
