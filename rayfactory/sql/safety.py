"""The first wall: only a SELECT made of known-safe parts is ever run.

The lists below are of what is allowed. Anything that is not on them is refused, and the reason names it, so a new
version of sqlglot or of a database can add nothing silently. The connection is the second wall
(`databases/engine.py`).
"""

from __future__ import annotations

import re

from sqlglot import exp

from rayfactory.errors import StatementError


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_STRUCTURE = _words(
    """
    Add Alias Aliases All And Any Array ArrayAny AtTimeZone Between BitwiseAnd BitwiseLeftShift BitwiseNot
    BitwiseOr BitwiseRightShift BitwiseXor Boolean Bracket CTE Case Cast Collate CollateProperty Column
    ColumnDef Cube DPipe DataType DataTypeParam Distinct Div Dot EQ Escape Except Exists Fetch Filter From GT
    GTE Glob Group GroupingSets Having HexString ILike Identifier IgnoreNulls In IntDiv Intersect Interval Is
    Join Kwarg LT LTE Lambda Lateral Like Limit List Literal Mod Mul NEQ National Neg Not Null NullSafeEQ
    NullSafeNEQ Offset Or Order Ordered Paren Pivot Placeholder PropertyEQ Qualify RawString RespectNulls Rollup
    Select SimilarTo Slice Star Struct Sub Subquery Table TableAlias Tuple Union Values Var Where Window
    WindowSpec With WithinGroup
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
    DatetimeSub DatetimeTrunc Day DayOfMonth DayOfWeek DayOfWeekIso DayOfYear Dayname Degrees DenseRank EndsWith
    Exp Extract Factorial First FirstValue Floor Format Greatest GroupConcat Grouping GroupingId Hex Hour If
    Initcap IsInf IsNan JSONExtract JSONExtractScalar JSONPath JSONPathKey JSONPathRoot JSONPathSubscript
    JSONPathWildcard JSONType Kurtosis Lag Last LastDay LastValue Lead Least Left Length Ln Log LogicalAnd
    LogicalOr Lower MD5 Max Median Min Minute Mode Month Monthname MonthsBetween NthValue Ntile Nullif Nvl2 Pad
    PercentRank PercentileCont PercentileDisc Pi Pow Quantile Quarter Radians Rank RegexpExtract RegexpFullMatch
    RegexpILike RegexpLike RegexpReplace RegrAvgx RegrAvgy RegrCount RegrIntercept RegrR2 RegrSlope RegrSxx
    RegrSxy RegrSyy Replace Reverse Right Round RowNumber SafeDivide Second Sign Sin Sinh Skewness Soundex Split
    SplitPart Sqrt StartsWith Stddev StddevPop StddevSamp StrPosition StrToDate StrToTime StrToUnix String
    Substring SubstringIndex Sum Tan Tanh Time TimeAdd TimeDiff TimeFromParts TimeStrToDate TimeStrToTime
    TimeSub TimeToStr TimeToTimeStr TimeToUnix TimeTrunc Timestamp TimestampAdd TimestampDiff TimestampFromParts
    TimestampSub TimestampTrunc ToChar ToNumber Translate Trim Trunc TryCast TsOrDiToDi TsOrDsAdd TsOrDsDiff
    TsOrDsToDate TsOrDsToDateStr TsOrDsToDatetime TsOrDsToTime TsOrDsToTimestamp Typeof Unicode UnixToStr
    UnixToTime Upper Variance VariancePop Week WeekOfYear WidthBucket Xor Year YearOfWeek YearOfWeekIso
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
}
"""Further functions that sqlglot knows only by name."""

_OF_THE_DATABASE = ("sqlite_", "pragma_", "dbstat")
"""How the names of tables begin in which SQLite tells of itself."""

_NOT_OF_A_NAME = re.compile(r"[^\w$#@ ]")
"""What no name is made of that stands without quotation marks. (Types of several words are names to sqlglot.)"""

MAX_TEXT_CHARACTERS = 1_000
"""Longest text that padding may make: a million characters would be a memory bomb that no interrupt stops."""

_STATEMENTS = (exp.Select, exp.SetOperation, exp.Subquery)


def check_safe(tree: exp.Expr, dialect: str) -> None:
    """Return if the statement is one SELECT (WITH, set operations) made of known-safe parts only.

    Raises:
        StatementError: reason ``refused``; the message names the part.
    """
    if not isinstance(tree.unnest() if isinstance(tree, exp.Subquery) else tree, _STATEMENTS):
        raise StatementError("refused", f"{tree.key.upper()} is not a SELECT")
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
        if isinstance(node, exp.Table):
            _check_table(node)
        elif _makes_long_text(node):
            raise StatementError(
                "refused", f"{_spelling(node)} makes a text longer than {MAX_TEXT_CHARACTERS} characters"
            )
        elif isinstance(node, exp.Select) and (node.args.get("into") or node.args.get("locks")):
            raise StatementError("refused", "SELECT INTO and locking clauses are not allowed")


def _check_table(table: exp.Table) -> None:
    if not isinstance(table.this, exp.Identifier):
        raise StatementError("refused", f"the table function {_spelling(table.this)} is not allowed in FROM")
    alias = table.args.get("alias")
    if alias is not None and alias.columns and not alias.name:
        # sqlglot takes a function that is called like a keyword for a table with names for its columns.
        raise StatementError("refused", f"the table function {table.name} is not allowed in FROM")
    if table.catalog or table.db.casefold() not in {"", "main"}:
        raise StatementError("refused", f"{table.sql()} lies outside the database's own schema")
    if table.name.casefold().startswith(_OF_THE_DATABASE):
        raise StatementError("refused", f"{table.name} is not a table of the database")


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
