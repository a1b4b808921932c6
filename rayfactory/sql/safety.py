"""The first wall: only a SELECT made of known-safe parts is ever run.

The lists below are of what is allowed. Anything that is not on them is refused, and the reason names it, so a new
version of sqlglot or of a database can add nothing silently. The connection is the second wall
(`databases/engine.py`).
"""

from __future__ import annotations

from sqlglot import exp

from rayfactory.errors import StatementError

_STRUCTURE = frozenset(
    """
    Add Alias Aliases All And Any Between Between Boolean Bracket CTE Case Cast Collate Column ColumnDef Cube DPipe DataType
    DataTypeParam Distinct Div Dot EQ Escape Except Exists Filter From GT GTE Glob Group GroupingSets Having HexString
    ILike Identifier IgnoreNulls In Intersect IntDiv Interval Is Join LT LTE Lateral Like Limit List Literal Mod Mul NEQ
    Neg Not Null NullSafeEQ NullSafeNEQ Offset Or Order Ordered Paren Placeholder PropertyEQ Qualify RespectNulls Rollup
    Select Slice Star Struct Sub Subquery Table TableAlias Tuple Union Values Var Where Window WindowSpec With
    WithinGroup Fetch BitwiseAnd BitwiseOr BitwiseXor BitwiseNot BitwiseLeftShift BitwiseRightShift SimilarTo Pivot
    Lambda Kwarg Array ArrayAny AtTimeZone CollateProperty National RawString
    """.split()
)
"""Syntax that only combines other parts. (`Placeholder` never runs: the database asks for its value.)"""

_FUNCTIONS = frozenset(
    """
    Abs Acos Acosh AddMonths AnyValue ApproxDistinct ApproxQuantile ArgMax ArgMin ArrayAgg ArrayConcat ArrayContains
    ArrayDistinct ArrayLength ArrayMax ArrayMin ArrayOverlaps ArrayPosition ArraySize ArraySlice ArraySort ArraySum ArrayToString Ascii Asin Asinh
    Atan Atan2 Atanh Avg BitwiseAndAgg BitwiseCount BitwiseOrAgg BitwiseXorAgg Cbrt Ceil Chr Coalesce Concat ConcatWs Contains Corr
    Cos Cosh Cot Count CountIf CovarPop CovarSamp CumeDist CurrentDate CurrentDatetime CurrentTime CurrentTimestamp
    Date DateAdd DateBin DateDiff DateFromParts DateStrToDate DateSub DateToDateStr DateTrunc Datetime DatetimeAdd
    DatetimeDiff DatetimeSub DatetimeTrunc Day DayOfMonth DayOfWeek DayOfWeekIso DayOfYear Dayname Degrees DenseRank
    EndsWith Exp Extract Factorial First FirstValue Floor Format Greatest GroupConcat Grouping GroupingId Hex Hour If Initcap IsInf
    IsNan JSONExtract JSONExtractScalar JSONType JarowinklerSimilarity Kurtosis Lag Last LastDay LastValue Lead Least Left
    Length Levenshtein Ln Log LogicalAnd LogicalOr Lower MD5 Max Median Min Minute Mode Month Monthname MonthsBetween
    NthValue Ntile Nullif Nvl2 Overlay Pad PercentRank PercentileCont PercentileDisc Pi Pow Quantile Quarter Radians Rank
    RegexpExtract RegexpFullMatch RegexpILike RegexpLike RegexpReplace RegrAvgx RegrAvgy RegrCount RegrIntercept RegrR2 RegrSlope
    RegrSxx RegrSxy RegrSyy Replace Reverse Right Round RowNumber Second Sign Sin Sinh Skewness SafeDivide Soundex Split SplitPart
    Sqrt StartsWith Stddev StddevPop StddevSamp StrPosition StrToDate StrToTime StrToUnix String Substring
    SubstringIndex Sum Tan Tanh Time TimeAdd TimeDiff TimeFromParts TimeStrToDate TimeStrToTime TimeSub TimeToStr
    TimeToTimeStr TimeToUnix TimeTrunc Timestamp TimestampAdd TimestampDiff TimestampFromParts TimestampSub
    TimestampTrunc ToChar ToNumber Translate Trim Trunc TryCast TsOrDsAdd TsOrDsDiff TsOrDsToDate TsOrDsToDateStr
    TsOrDsToDatetime TsOrDsToTime TsOrDsToTimestamp TsOrDiToDi Typeof Unicode UnixToStr UnixToTime Upper Variance VariancePop Week
    WeekOfYear WidthBucket Xor Year YearOfWeek YearOfWeekIso
    """.split()
)
"""Functions that read nothing but their arguments (and the clock), by sqlglot's class."""

_FUNCTIONS_BY_NAME: dict[str, frozenset[str]] = {
    "sqlite": frozenset(
        """
        julianday date time datetime strftime unixepoch timediff total instr printf format char hex ifnull iif nullif
        typeof unicode quote likelihood likely unlikely glob like substr ltrim rtrim min max changes_never sign
        group_concat string_agg ceiling degrees radians mod log2 log10 trunc acosh octet_length concat concat_ws
        """.split()
    ),
    "duckdb": frozenset(
        """
        ceiling list_value list_sum list_avg list_sort list_distinct list_contains list_aggregate len array_length
        bit_count gcd lcm even isfinite printf format bar position strpos instr contains prefix suffix starts_with ends_with ltrim
        rtrim list_extract array_extract histogram bool_and bool_or fsum sumkahan favg product geomean entropy mad kurtosis_pop sem
        regr_slope quantile_cont quantile_disc approx_quantile arg_min arg_max min_by max_by
        datepart date_part datesub date_sub datetrunc dayname monthname last_day make_date make_timestamp make_time century decade
        millennium era weekday isodow isoyear yearweek epoch epoch_ms julian strip_accents damerau_levenshtein hamming jaccard
        jaro_similarity nfc_normalize bit_length octet_length ord add subtract multiply divide fdiv fmod
        """.split()
    ),
}
"""Further functions that sqlglot knows only by name."""

_STATEMENTS = (exp.Select, exp.SetOperation, exp.Subquery)


def check_safe(tree: exp.Expression, dialect: str) -> None:
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
        if isinstance(node, exp.Table):
            _check_table(node)
        elif isinstance(node, exp.Select) and (node.args.get("into") or node.args.get("locks")):
            raise StatementError("refused", "SELECT INTO and locking clauses are not allowed")


def _check_table(table: exp.Table) -> None:
    if not isinstance(table.this, exp.Identifier):
        raise StatementError("refused", f"the table function {_spelling(table.this)} is not allowed in FROM")
    if table.catalog or table.db.casefold() not in {"", "main"}:
        raise StatementError("refused", f"{table.sql()} lies outside the database's own schema")
    name = table.name.casefold()
    if name.startswith(("sqlite_", "duckdb_", "pg_", "pragma_")) or "/" in name or name.endswith((".csv", ".parquet")):
        raise StatementError("refused", f"{table.name} is not a table of the database")


def _spelling(node: object) -> str:
    if isinstance(node, exp.Anonymous):
        return str(node.name)
    if isinstance(node, exp.Func):
        return node.sql_name()
    return type(node).__name__ if isinstance(node, exp.Expression) else str(node)
