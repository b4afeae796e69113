"""What pages hold: filters, sort keys and cursors, the same on SQLite and on PostgreSQL."""

import base64
import json
import operator
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from engines_sql import PostgresqlServer
from promptreg.database import Database, Page
from promptreg.errors import (
    BaseModelNotFoundError,
    InvalidFilterError,
    InvalidValueError,
    TaskNotFoundError,
)
from promptreg.prompts import Method, PromptVersion, Scalar
from seeding import seed
from version_examples import GEMMA, LLAMA, add_bases, push

LONG = "long " * 50
TEXTS = (
    "adafactor",
    "adamw",
    "",
    "true",
    "3",
    "50% [off]",
    "a_b",
    "a*b",
    'it\'s \\ "it"',
    "größe",
    LONG,
)
NUMBERS = (0, 1, 3, 0.3, -2.5, 1e-3, 2**53, 2**53 + 1, float(2**53), 1e300)


def _fill(database: Database) -> None:
    """Register versions that differ in everything a filter can ask about."""
    add_bases(database)
    scalars: list[dict[str, Scalar]] = [{"x": each} for each in (*TEXTS, *NUMBERS, True, False)]
    scalars += [{"x": 1, "y": each} for each in (0.3, "adamw", True)] + [{}, {"y": 3}]
    for index, hyperparameters in enumerate(scalars):
        version = push(
            database,
            f"content {index}",
            task=("sst2", "acme/mail", "acme/news", "a.b")[index % 4],
            base=(GEMMA, LLAMA)[index % 2],
            method=(Method.PROMPT_TUNING, Method.P_TUNING)[index % 2],
            num_virtual_tokens=index + 1,
            note=(None, "first try", "50% [off]", "why?")[index % 4],
            init=(None, "random")[index % 2],
            by=("ada", "bob")[index % 2],
            parent="sst2@1" if index % 3 == 1 else None,
            hyperparameters=hyperparameters,
            metrics={"x": index / 10} if index % 3 else {},
            aliases=(("prod",), ("best", "old"), ())[index % 3],
        )
        if index % 7 == 3:
            database.yank(version, reason="diverged", by="ada")
    # A metric that was measured again, and one that was a number and is a text now.
    push(database, "content 1", task="acme/mail", base=LLAMA, metrics={"x": 99, "y": 1})
    push(database, "content 1", task="acme/mail", base=LLAMA, metrics={"y": "good"})


@dataclass(frozen=True)
class Library:
    """A filled database and all its versions, the newest first."""

    database: Database
    versions: Sequence[PromptVersion] = field(repr=False)

    def refs(self, **query: Any) -> list[str]:
        return [version.ref for version in self.database.page(limit=1000, **query).versions]

    def page_refs(self, size: int, **query: Any) -> list[str]:
        """Return the references on all pages of ``size``."""
        page = self.database.page(limit=size, **query)
        found = [version.ref for version in page.versions]
        while page.next is not None:
            assert len(page.versions) == size
            page = self.database.page(limit=size, after=page.next, **query)
            found += [version.ref for version in page.versions]
        return found


@pytest.fixture(scope="module")
def sqlite_library(
    upgraded_sqlite: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Library]:
    path = tmp_path_factory.mktemp("library") / "library.db"
    shutil.copyfile(upgraded_sqlite, path)
    yield from _library(str(path))


@pytest.fixture(scope="module")
def postgresql_library(
    postgresql_server: PostgresqlServer, upgraded_template: str
) -> Iterator[Library]:
    with postgresql_server.database(upgraded_template) as url:
        yield from _library(url)


def _library(url: str) -> Iterator[Library]:
    database = Database.open(url)
    _fill(database)
    yield Library(database, database.page(limit=1000, yanked=True).versions)
    database.close()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def library(request: pytest.FixtureRequest) -> Library:
    found: Library = request.getfixturevalue(f"{request.param}_library")
    return found


# An independent reading of filters: trees are made, written as text for the database, and judged in Python.


@dataclass(frozen=True)
class Leaf:
    key: str
    operator: str
    literal: bool | int | float | str
    pattern: bool = False

    def __str__(self) -> str:
        return f"{self.key} {self.operator} {self._written()}"

    def _written(self) -> str:
        if isinstance(self.literal, bool):
            return str(self.literal).lower()
        if not isinstance(self.literal, str):
            return repr(self.literal)
        special = '"\\' if self.pattern else '"\\*?'
        return '"' + "".join(f"\\{c}" if c in special else c for c in self.literal) + '"'

    def holds(self, version: PromptVersion) -> bool:
        if self.operator == "!=":
            return not Leaf(self.key, "=", self.literal, self.pattern).holds(version)
        return any(self._compare(actual) for actual in _actual(version, self.key))

    def _compare(self, actual: Scalar) -> bool:
        compare: Callable[[Any, Any], bool] = _OPERATORS[self.operator]
        numeric = isinstance(actual, int | float) and not isinstance(actual, bool)
        if isinstance(self.literal, int | float) and not isinstance(self.literal, bool):
            if self.operator != "=":  # large integers are ordered as doubles
                return numeric and compare(float(actual), float(self.literal))
            return numeric and compare(actual, self.literal)
        if numeric:
            return False
        text, literal = _word(actual), _word(self.literal)
        if self.pattern:
            parts = (".*" if c == "*" else "." if c == "?" else re.escape(c) for c in literal)
            return re.fullmatch("".join(parts), text, re.DOTALL) is not None
        return compare(text, literal)


@dataclass(frozen=True)
class Branch:
    word: str
    parts: "tuple[Tree, ...]"

    def __str__(self) -> str:
        if self.word == "not":
            return f"not ({self.parts[0]})"
        return "(" + f" {self.word} ".join(map(str, self.parts)) + ")"

    def holds(self, version: PromptVersion) -> bool:
        if self.word == "not":
            return not self.parts[0].holds(version)
        return (all if self.word == "and" else any)(part.holds(version) for part in self.parts)


Tree = Leaf | Branch
_OPERATORS = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _word(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _actual(version: PromptVersion, key: str) -> Sequence[Scalar]:
    """Return the values that a version has for ``key``: none, one, or several."""
    kind, dot, name = key.partition(".")
    if dot:
        scalars = version.metrics if kind == "metric" else version.hyperparameters
        return [scalars[name]] if name in scalars else []
    special: dict[str, Sequence[Scalar]] = {
        "alias": version.aliases,
        "base": [version.base_name or "", str(version.base)],
        "tokens": [version.num_virtual_tokens],
        "yanked": [version.yanked is not None],
        "yank_reason": [] if version.yanked is None else [version.yanked.reason],
    }
    if key in special:
        return special[key]
    value = getattr(version, key)
    return [] if value is None else [value if isinstance(value, int) else str(value)]


_ORDER = st.sampled_from(["=", "!=", "<", "<=", ">", ">="])
_EQUAL = st.sampled_from(["=", "!="])
_PATTERNS = st.text(alphabet="ab*?%_[]\\3n", max_size=6) | st.sampled_from(["a*", "*", "acme/*"])
_SCALAR_KEYS = st.sampled_from(["hp.x", "hp.y", "hyperparameter.x", "metric.x", "metric.y", "hp.z"])
_NUMBER_KEYS = st.sampled_from(["version", "tokens", "num_virtual_tokens", "token_dim", "size"])
_TEXT_KEYS = st.sampled_from(
    ["task", "method", "init", "note", "pushed_by", "parent", "alias", "yank_reason", "placement"]
)
_WORDS = st.sampled_from(
    [*TEXTS, "sst2", "acme/mail", "first try", "ada", "prod", "best", "sst2@1", "diverged", "why?"]
)
_LEAVES = st.one_of(
    st.builds(Leaf, _SCALAR_KEYS, _ORDER, st.sampled_from(NUMBERS) | st.integers(-3, 5)),
    st.builds(Leaf, _SCALAR_KEYS, _ORDER, _WORDS),
    st.builds(Leaf, _SCALAR_KEYS, _EQUAL, st.booleans()),
    st.builds(Leaf, _SCALAR_KEYS, _EQUAL, _PATTERNS, st.just(value=True)),
    st.builds(Leaf, _NUMBER_KEYS, _ORDER, st.integers(-1, 40) | st.sampled_from([2.5, 1e3])),
    st.builds(Leaf, _TEXT_KEYS, _ORDER, _WORDS),
    st.builds(Leaf, _TEXT_KEYS, _EQUAL, _PATTERNS, st.just(value=True)),
    st.builds(Leaf, st.just("base"), _EQUAL, st.sampled_from(["gemma", str(LLAMA.fingerprint)])),
    st.builds(
        Leaf, st.just("base"), _EQUAL, st.sampled_from(["g*", "bfp1:*"]), st.just(value=True)
    ),
    st.builds(Leaf, st.just("yanked"), _EQUAL, st.booleans()),
)
_TREES: st.SearchStrategy[Tree] = st.recursive(
    _LEAVES,
    lambda parts: st.one_of(
        st.builds(lambda part: Branch("not", (part,)), parts),
        st.builds(
            lambda word, several: Branch(word, tuple(several)),
            st.sampled_from(["and", "or"]),
            st.lists(parts, min_size=2, max_size=4),
        ),
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tree=_TREES)
def test_a_filter_finds_on_sqlite_what_it_means(sqlite_library: Library, tree: Tree) -> None:
    _check(sqlite_library, tree)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tree=_TREES)
def test_a_filter_finds_on_postgresql_what_it_means(
    postgresql_library: Library, tree: Tree
) -> None:
    _check(postgresql_library, tree)


def _check(library: Library, tree: Tree) -> None:
    expected = [version.ref for version in library.versions if tree.holds(version)]
    assert library.refs(where=str(tree), yanked=True) == expected


@settings(max_examples=50, deadline=None)
@given(
    tree=_TREES,
    key=st.sampled_from(["hp.x", "metric.x", "note", "tokens", "pushed_at", "parent", "yanked"]),
    minus=st.sampled_from(["", "-"]),
    size=st.integers(1, 30),
)
def test_pages_of_any_size_hold_what_one_large_page_holds(
    sqlite_library: Library, tree: Tree, key: str, minus: str, size: int
) -> None:
    query = {"where": str(tree), "sort": minus + key}
    assert sqlite_library.page_refs(size, **query) == sqlite_library.refs(**query)


def _sort_value(version: PromptVersion, key: str) -> Any:
    """Return what ``version`` is sorted by: numbers, then texts, then nothing."""
    values = _actual(version, key)
    if not values:
        return None
    value = values[0]
    if isinstance(value, bool):
        value = _word(value)
    return (0, float(value)) if isinstance(value, int | float) else (1, value[:200])


_SORT_KEYS = ["hp.x", "metric.x", "metric.y", "hp.nothing", "task", "version", "tokens"]
_SORT_KEYS += ["note", "init", "method", "pushed_by", "parent", "base", "digest", "size"]


@pytest.mark.parametrize("key", _SORT_KEYS)
@pytest.mark.parametrize("descending", [False, True])
def test_versions_are_sorted_and_those_that_lack_the_key_are_last(
    library: Library, key: str, descending: bool
) -> None:
    oldest_first = list(reversed(library.versions))
    ordered = [
        version
        for group in (0, 1)
        for version in _sorted(oldest_first, key, group, descending=descending)
    ]
    lacking = [version for version in oldest_first if _sort_value(version, key) is None]
    ordered += reversed(lacking) if descending else lacking
    query = {"sort": f"-{key}" if descending else key, "yanked": True}
    assert library.refs(**query) == [version.ref for version in ordered]
    assert library.page_refs(4, **query) == [version.ref for version in ordered]


def _sorted(
    versions: Sequence[PromptVersion], key: str, group: int, *, descending: bool
) -> list[PromptVersion]:
    keyed = [(_sort_value(version, key), version) for version in versions]
    chosen = [(value[1], version) for value, version in keyed if value and value[0] == group]
    # reversed() before and after a stable sort puts the newer of equal ones first.
    chosen = list(reversed(chosen)) if descending else chosen
    chosen.sort(key=lambda pair: pair[0], reverse=descending)
    return [version for _, version in chosen]


def test_versions_can_be_sorted_by_when_they_were_pushed_and_yanked(library: Library) -> None:
    oldest_first = [version.ref for version in reversed(library.versions)]
    assert library.refs(sort="pushed_at", yanked=True) == oldest_first
    yanked = [version.ref for version in reversed(library.versions) if version.yanked]
    assert library.page_refs(3, sort="yanked_at", yanked=True)[: len(yanked)] == yanked
    assert library.page_refs(3, sort="yanked", where="yanked = true") == yanked


def test_the_newest_are_first_and_yanked_ones_are_left_out(library: Library) -> None:
    expected = [version.ref for version in library.versions if version.yanked is None]
    assert library.refs() == expected
    assert library.page_refs(5) == expected


def test_a_filter_that_asks_about_yanking_sees_yanked_versions(library: Library) -> None:
    yanked = [version.ref for version in library.versions if version.yanked]
    assert library.refs(where="yanked = true") == yanked
    assert library.refs(where="yank_reason = div*") == []
    assert library.refs(where="yank_reason = div*", yanked=True) == yanked


def test_a_task_may_have_wildcards(library: Library) -> None:
    def of(*tasks: str) -> list[str]:
        return [version.ref for version in library.versions if version.task in tasks]

    assert library.refs(task="sst2", yanked=True) == of("sst2")
    assert library.refs(task="acme/*", yanked=True) == of("acme/mail", "acme/news")
    assert library.refs(task="ss?2", yanked=True) == of("sst2")
    assert library.refs(task="a?b", yanked=True) == of("a.b")
    assert library.refs(task="nothing/*", yanked=True) == []
    assert library.refs(task="acme/*", sort="task", yanked=True)[0].startswith("acme/mail")


def test_an_unknown_task_is_an_error(library: Library) -> None:
    with pytest.raises(TaskNotFoundError, match="did you mean acme/mail"):
        library.refs(task="acme/mial")


def test_a_base_or_digest_may_be_given_by_its_first_digits(library: Library) -> None:
    version = library.versions[0]
    assert version.ref in library.refs(where=f"base = {version.base.short}")
    assert library.refs(where=f"digest = {str(version.digest)[:20]}") == [version.ref]
    assert library.refs(where=f"manifest = {version.manifest}") == [version.ref]
    assert version.ref not in library.refs(where=f"digest != {str(version.digest)[:20]}")
    assert library.refs(where="canary = sha256:00000000") == []


def test_a_moment_is_compared_with_a_whole_day_or_minute(library: Library) -> None:
    everything = library.refs()
    moment = library.versions[0].pushed_at
    day, minute = moment.strftime("%Y-%m-%d"), moment.strftime("%Y-%m-%dT%H:%M")
    assert library.refs(where="pushed_at > 2026-01-31") == everything
    assert library.refs(where="pushed_at < 2026-01-31") == []
    assert library.refs(where=f"pushed_at > {day} and pushed_at < {day}") == []
    for expression in (f"pushed_at <= {day}", f"pushed_at >= {minute} or pushed_at < {minute}"):
        assert library.refs(where=expression) == everything
    exact = moment.isoformat()
    assert library.refs(where=f'pushed_at = "{exact}"') == [library.versions[0].ref]
    west = moment.astimezone(timezone(timedelta(hours=-7))).isoformat()
    assert library.refs(where=f"pushed_at = {west}") == [library.versions[0].ref]
    second = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert library.versions[0].ref in library.refs(where=f"pushed_at = {second}")


@pytest.mark.parametrize(
    ("where", "reason", "position"),
    [
        ("metrc.accuracy > 1", "there is no key 'metrc.accuracy'", 0),
        ("a=1 or hp. = 2", "there is no key 'a'", 0),
        ("tokens = many", "tokens is a number", 9),
        ('tokens = "3"', "tokens is a number", 9),
        ("tokens = 1*", "tokens is a number", 9),
        ("task > 3", "task is a text, which is neither less nor greater than a number", 7),
        ("alias < 3", "alias is a text", 8),
        ("task > acme/*", "a pattern is compared with = or != only", 7),
        ("hp.x >= *", "a pattern is compared with = or != only", 8),
        ("pushed_at > yesterday", "pushed_at is a time: write 2026-01-31", 12),
        ("pushed_at > 2026-02-31", "pushed_at is a time", 12),
        ("pushed_at <= 9999-12-31", "pushed_at is a time", 13),
        ("pushed_at = 0001-01-01T00:00+14:00", "pushed_at is a time", 12),
        ("yanked = maybe", "yanked is = true or = false", 9),
        ("yanked > true", "yanked is = true or = false", 9),
        ("hp.x = 1e999", "this number is too large", 7),
        ("hp.x = 1" + "0" * 400, "this number is too large", 7),
    ],
)
def test_what_cannot_be_compared_says_where_and_why(
    library: Library, where: str, reason: str, position: int
) -> None:
    with pytest.raises(InvalidFilterError) as caught:
        library.refs(where=where)
    assert caught.value.reason.startswith(reason)
    assert caught.value.position == position


def test_an_unknown_key_lists_those_that_are_known(library: Library) -> None:
    with pytest.raises(InvalidFilterError, match=r"did you mean 'pushed_by'.*alias, hp.NAME"):
        library.refs(where="pushed_bye = ada")
    for key in ("accuracy", "-hp.", "alias", "", "--version"):
        with pytest.raises(InvalidFilterError, match="there is no key"):
            library.refs(sort=key)


_ATTACKS = [
    "'; DROP TABLE prompts; --",
    '" OR 1=1 --',
    "x' UNION SELECT * FROM tasks --",
    "%",
    "\\' OR ''='",
    "):) DELETE",
    ":x",
    "%(x)s",
    "?",
]


@pytest.mark.parametrize("attack", _ATTACKS)
def test_what_a_filter_says_is_never_run(library: Library, attack: str) -> None:
    written = '"' + "".join(f"\\{c}" if c in '"\\*?' else c for c in attack) + '"'
    for key in ("task", "note", "hp.x", "alias", "base", "digest", "parent"):
        assert library.refs(where=f"{key} = {written}", yanked=True) == []
    with pytest.raises(InvalidFilterError):
        library.refs(sort=f"hp{attack}")
    assert library.refs(sort=f"hp.{attack}", yanked=True)
    with pytest.raises((TaskNotFoundError, AssertionError)):
        assert library.refs(task=attack)
    assert len(library.refs(yanked=True)) == len(library.versions)


@pytest.mark.parametrize(
    "after", ["", "x", "é", "bnVsbA", "W10", "WyJhIiwwLG51bGwsMV0", "W" * 5000, "=="]
)
def test_what_is_no_cursor_is_refused(library: Library, after: str) -> None:
    with pytest.raises(InvalidFilterError, match=r"no page's 'next'|another query"):
        library.refs(after=after)


@pytest.mark.parametrize(
    ("sort", "changes"),
    [
        ("task", {1: -1}),
        ("task", {1: 7}),
        ("task", {1: "0"}),
        ("task", {2: "a\0b"}),
        ("tokens", {2: "many"}),
        ("tokens", {2: [1]}),
        ("pushed_at", {2: 3}),
        ("pushed_at", {2: "yesterday"}),
        ("task", {3: 0}),
        ("task", {3: 10**30}),
        ("task", {3: None}),
        ("task", {3: 1.5}),
    ],
)
def test_a_cursor_that_was_tampered_with_is_refused(
    library: Library, sort: str, changes: dict[int, object]
) -> None:
    cursor = library.database.page(limit=1, sort=sort).next or ""
    fields = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    for index, value in changes.items():
        fields[index] = value
    tampered = base64.urlsafe_b64encode(json.dumps(fields).encode()).decode()
    with pytest.raises(InvalidFilterError, match="no page's 'next'"):
        library.database.page(limit=1, sort=sort, after=tampered)


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_what_no_text_holds_is_refused(library: Library, text: str) -> None:
    for query in ({"task": text}, {"where": f'note = "{text}"'}, {"sort": f"hp.{text}"}):
        with pytest.raises(InvalidValueError, match="NUL or a lone surrogate"):
            library.refs(**query)
    with pytest.raises(BaseModelNotFoundError):
        library.database.base(text)


def test_a_cursor_of_another_query_is_refused(library: Library) -> None:
    page = library.database.page(limit=1, sort="task")
    with pytest.raises(InvalidFilterError, match="that page belongs to another query"):
        library.database.page(limit=1, sort="-task", after=page.next)


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_a_page_has_a_size(library: Library, limit: int) -> None:
    with pytest.raises(InvalidValueError, match="a page has 1 to 1000 versions"):
        library.database.page(limit=limit)


def test_a_page_that_is_just_full_is_the_last_one(library: Library) -> None:
    count = len(library.versions)
    assert library.database.page(limit=count, yanked=True).next is None
    assert library.database.page(limit=count - 1, yanked=True).next is not None
    assert library.database.page(where="task = nothing") == Page(versions=())


def test_an_empty_filter_is_none(library: Library) -> None:
    assert library.refs(where="  ") == library.refs()


def test_a_page_takes_as_many_statements_however_long_it_is(library: Library) -> None:
    def statements(limit: int) -> int:
        run: list[str] = []
        engine = library.database._transactions._engine

        def count(*arguments: Any) -> None:
            run.append(arguments[2])

        event.listen(engine, "before_cursor_execute", count)
        library.database.page(limit=limit, where="tokens > 0")
        event.remove(engine, "before_cursor_execute", count)
        return len(run)

    assert statements(1) == statements(20)


def test_what_is_pushed_between_two_pages_neither_repeats_nor_hides_any(
    upgraded_url: str, open_database: Callable[[str], Database]
) -> None:
    database = open_database(upgraded_url)
    add_bases(database)
    for content in "abcd":
        push(database, content)
    first = database.page(limit=2)
    push(database, "e")
    second = database.page(limit=2, after=first.next)
    refs = [version.ref for page in (first, second) for version in page.versions]
    assert refs == ["sst2@4", "sst2@3", "sst2@2", "sst2@1"]


def test_the_few_that_pass_a_filter_are_found_though_sorted(
    upgraded_sqlite_url: str, open_database: Callable[[str], Database]
) -> None:
    # More than 500 versions pass the first part of the filter, and few the second.
    seed(upgraded_sqlite_url, versions=6_000, tasks=3)
    database = open_database(upgraded_sqlite_url)
    where = "hp.optimizer = adamw and metric.accuracy > 0.99"
    page = database.page(where=where, sort="-hp.lr", limit=1000)
    passing = [
        version
        for version in _all(database)
        if version.hyperparameters["optimizer"] == "adamw"
        and float(version.metrics["accuracy"]) > 0.99
    ]
    # The newest first among equals: a stable sort keeps the order of the listing.
    passing.sort(key=lambda version: -float(version.hyperparameters["lr"]))
    assert page.versions == tuple(passing)
    assert passing


def _all(database: Database) -> list[PromptVersion]:
    page = database.page(limit=1000)
    found = [*page.versions]
    while page.next is not None:
        page = database.page(limit=1000, after=page.next)
        found += page.versions
    return found
