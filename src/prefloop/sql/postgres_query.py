"""Which texts may be run on somebody's PostgreSQL server: one query, of nodes, types and functions from a list.

The list is applied to the parsed query (sqlglot), and what runs are the tokens that were parsed: without comments, and
only such as PostgreSQL cuts in the same places. So nothing can hide from the parser that the server would see. It is
one layer of three; the others are the role and the read-only cursor (docs/postgresql.md).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from sqlglot import exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import SqlglotError

LONGEST = 20_000
"""Characters of a query."""
LONGEST_PADDING = 1_000
"""Characters that ``repeat`` and its like may make at a stroke: they end by no time limit."""
CLOCK_WORDS = frozenset(["now", "today", "tomorrow", "yesterday"])
"""Texts that PostgreSQL reads as dates of the day on which they are read."""
SESSION_WORDS = frozenset(["current_role", "system_user", "user"])
"""Words that are functions without brackets, and that the parser takes for columns."""

_WORD = re.compile(r"[^\W\d]\w*(?:[ \t\r\n]+[^\W\d]\w*)*")
_NUMBER = re.compile(r"\d+(\.\d*)?([eE][+-]?\d+)?", re.ASCII)
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")+\"")
_PUNCTUATION = re.compile(r"[-+*/<>=~!@#%^&|?:.,()\[\]]+")

NODES = frozenset(
    """Select Union Except Intersect Subquery Values Table TableAlias With CTE From Join Lateral Where Group
    GroupingSets Cube Rollup Having Order Ordered Limit LimitOptions Offset Fetch Distinct Window WindowSpec Filter
    WithinGroup IgnoreNulls RespectNulls Column Identifier Alias Star Tuple Paren Literal Null Boolean Var Interval
    IntervalSpan DataType DataTypeParam AtTimeZone Bracket Slice Dot Kwarg Any All Add Sub Mul Div IntDiv Mod Neg Not EQ
    NEQ GT GTE LT LTE NullSafeEQ NullSafeNEQ Is In Between Like ILike SimilarTo Escape DPipe BitwiseAnd BitwiseOr
    BitwiseXor BitwiseNot BitwiseLeftShift BitwiseRightShift Overlaps JSONPath JSONPathKey JSONPathRoot
    JSONPathSubscript""".split()
)
"""Parts of a query that are no functions, by sqlglot's names."""

TYPED = frozenset(
    """And Or Case If Cast Coalesce Nullif Greatest Least Exists Collate Count Sum Avg Min Max ArrayAgg GroupConcat
    JSONArrayAgg JSONObjectAgg JSONBObjectAgg LogicalAnd LogicalOr Mode PercentileCont PercentileDisc Stddev
    StddevPop StddevSamp Variance VariancePop Corr CovarPop CovarSamp RegrAvgx RegrAvgy RegrCount RegrIntercept
    RegrR2 RegrSlope RegrSxx RegrSxy RegrSyy BitwiseAndAgg BitwiseOrAgg BitwiseXorAgg Grouping RowNumber Rank
    DenseRank PercentRank CumeDist Ntile Lag Lead FirstValue LastValue NthValue Abs Ceil Floor Round Trunc Sign Sqrt
    Cbrt Pow Exp Ln Log Pi Degrees Radians Sin Cos Tan Cot Asin Acos Atan Atan2 Sinh Cosh Tanh Factorial WidthBucket
    Lower Upper Initcap Length Left Right Substring Trim Pad Repeat Reverse Replace RegexpReplace RegexpLike
    RegexpILike RegexpCount RegexpSplit RegexpInstr RegexpSubstr SplitPart StrPosition StartsWith Concat ConcatWs
    Translate Ascii Chr Overlay MD5 Encode Decode ToNumber ByteLength BitLength Extract TimestampTrunc DateTrunc
    DateBin TimeToStr StrToDate StrToTime UnixToTime Date DateFromParts TimeFromParts TimestampFromParts
    MakeInterval JustifyDays JustifyHours JustifyInterval Array ArraySize ArrayToString StringToArray ArrayPosition
    ArrayConcat ArrayAppend ArrayPrepend ArrayRemove ArrayContainsAll ArrayContainedBy ArrayOverlaps Unnest Explode
    GenerateSeries ExplodingGenerateSeries JSONExtract JSONExtractScalar JSONBExtract JSONBExtractScalar
    JSONBContains JSONBContainsTopKey JSONBContainsAllTopKeys JSONBContainsAnyTopKeys""".split()
)
"""Functions for which sqlglot has a class, by its name."""

OTHERS = frozenset(
    """age bool_and bool_or cardinality date every float4 float8 gcd int2 int4 int8 isfinite json_array_elements
    json_array_elements_text json_array_length json_build_object json_each json_each_text json_object_keys
    json_typeof jsonb_agg jsonb_array_elements jsonb_array_elements_text jsonb_array_length jsonb_build_object
    jsonb_each jsonb_each_text jsonb_object_keys jsonb_typeof lcm make_date make_interval make_time min_scale mod
    numeric num_nonnulls num_nulls octet_length regexp_match regexp_matches regexp_split_to_array
    regexp_split_to_table row row_to_json scale text timestamp timezone to_json to_jsonb trim_scale array_lower
    array_upper array_ndims array_positions array_cat char_length character_length string_agg xor""".split()
)
"""The other functions, by PostgreSQL's names."""

TABLE_PARTS = frozenset("this db catalog alias joins laterals only ordinality".split())
"""What may stand with a table's name."""

TYPES = frozenset(
    """ARRAY BIGINT BOOLEAN BPCHAR CHAR DATE DECIMAL DOUBLE FLOAT INT INTERVAL JSON JSONB NCHAR NVARCHAR SMALLINT TEXT
    TIME TIMESTAMP TIMESTAMPNTZ TIMESTAMPTZ TIMETZ UUID VARBINARY VARCHAR""".split()
)
"""What a value may be cast to: among others not to ``regclass``, which reads the catalogue."""


class RefusedError(ValueError):
    """Why a text is not run, its error class, and the function that is not on the lists."""

    def __init__(self, status: str, reason: str, function: str = "") -> None:
        super().__init__(reason)
        self.status, self.function = status, function


@lru_cache(maxsize=1)
def _dialect() -> Any:
    return Dialect.get_or_raise("postgres")


def checked_query(sql: str) -> str:
    """The tokens of a query that may be run, as text.

    >>> checked_query("SELECT a/* by hand */+1, 'x' FROM t -- all")
    "SELECT a +1, 'x' FROM t"

    Raises:
        RefusedError: it is not one query, or has something in it that is not on the lists.
    """
    if len(sql) > LONGEST:
        raise RefusedError("syntax", f"more than {LONGEST:,} characters")
    try:
        tokens = _dialect().tokenize(sql)
        statements = [tree for tree in _dialect().parser().parse(tokens, sql) if tree is not None]
    except (SqlglotError, RecursionError) as error:
        raise RefusedError("syntax", str(error).splitlines()[0] if str(error) else "nested too deeply") from error
    if not statements:
        raise RefusedError("syntax", "no query")
    if len(statements) > 1:
        raise RefusedError("denied", "one statement at a time")
    if not isinstance(statements[0], exp.Query | exp.Values):
        raise RefusedError("denied", f"a query is wanted, not {statements[0].key}")
    try:
        for node in statements[0].walk():
            _check(node)
    except RecursionError as error:
        raise RefusedError("syntax", "nested too deeply") from error
    return _text(sql, tokens)


def _check(node: Any) -> None:
    """Refuse a part of a query that is not on the lists."""
    name = type(node).__name__
    match node:
        case exp.Anonymous():
            called = str(node.name).lower()
            if called not in OTHERS or (called == "age" and len(node.expressions) < 2):  # of one date: until today
                raise RefusedError("denied", f"function {called[:80]} is not allowed", called)
        case exp.Repeat() | exp.Pad():
            count = node.args.get("times") or node.args.get("expression")
            if not (isinstance(count, exp.Literal) and count.name.isdigit() and int(count.name) <= LONGEST_PADDING):
                raise RefusedError("denied", f"{name.lower()} needs a number of at most {LONGEST_PADDING:,}")
        case exp.Func():
            if name not in TYPED:
                raise RefusedError("denied", f"function {node.sql_name().lower()} is not allowed")
        case exp.Table():
            _check_table(node)
        case exp.Column():
            if not node.table and not node.this.args.get("quoted") and node.name.lower() in SESSION_WORDS:
                raise RefusedError("denied", f"{node.name.lower()} is not allowed")
        case exp.Literal():
            if node.is_string and CLOCK_WORDS & _elements(node.name.lower()):
                raise RefusedError("denied", f"'{node.name.strip()[:80]}' may be read as a date of today")
        case exp.DataType():
            kind = getattr(node.this, "name", str(node.this))
            if kind not in TYPES:
                raise RefusedError("denied", f"a cast to {node.sql('postgres')[:80]} is not allowed")
        case exp.Dot():
            if isinstance(node.expression, exp.Func):
                raise RefusedError("denied", "a function of a schema is not allowed")
    if not isinstance(node, exp.Func) and name not in NODES:
        raise RefusedError("denied", f"{name} is not allowed")


def _elements(text: str) -> set[str]:
    """A text, or what an array, a range or a row in it holds."""
    return set(re.split(r'[\s{}\[\](),"]+', text)) if text.lstrip()[:1] in ("{", "[", "(") else {text.strip()}


def _check_table(table: exp.Table) -> None:
    schema, name = table.db.lower(), table.name.lower()
    if schema.startswith("pg_") or schema == "information_schema" or name.startswith("pg_"):
        raise RefusedError("denied", f"table {f'{schema}.' if schema else ''}{name} is the system's")
    if beyond := {part for part, value in table.args.items() if value} - TABLE_PARTS:
        raise RefusedError("denied", f"table {name} with {min(beyond)} is not allowed")


def _text(sql: str, tokens: list[Any]) -> str:
    """The tokens with a space or new line where there was a gap, and between all words, numbers and quoted texts."""
    found: list[str] = []
    bare: list[str] = []  # the same with nothing inside of quotes
    before, joins = None, False
    for token in tokens:
        piece = sql[token.start : token.end + 1]
        if piece == ";":
            continue
        punctuation = _PUNCTUATION.fullmatch(piece) is not None
        quoted = _QUOTED.fullmatch(piece) is not None
        if not (punctuation or quoted or _WORD.fullmatch(piece) or _NUMBER.fullmatch(piece)) or "\x00" in piece:
            raise RefusedError("denied", f"{piece[:20]!r} is a way of writing that is not read")
        adjacent = before == token.start - 1 and (punctuation or joins)
        gap = "" if adjacent or before is None else "\n" if "\n" in sql[before + 1 : token.start] else " "
        found += [gap, piece]
        bare += [gap, "''" if quoted else piece]
        before, joins = token.end, punctuation
    skeleton = "".join(bare)
    if "--" in skeleton or "/*" in skeleton:
        raise RefusedError("denied", "a comment inside of an operator")
    return "".join(found)
