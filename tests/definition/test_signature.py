"""What `@stage` reads from a signature, and what it refuses, with function, file and line."""

import functools
import inspect
import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, Self

import pytest
from pydantic import PositiveInt

from engine import (
    Added,
    Context,
    DefinitionError,
    InputFile,
    OutputPath,
    Reject,
    Resource,
    Row,
    Text,
    resource,
    stage,
)
from engine.resources import Needs
from engine.signature import ResourceNeed, StageSpec
from engine.stages import Read, fields_of, stage_spec

if TYPE_CHECKING:
    from decimal import Decimal


class Question(Row):
    question: Text


class Answer(Row):
    answer: Text
    sure: bool = True


class Chat(Resource):
    @property
    def identity(self) -> str:
        return "chat"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        return None


class Lazy(Row):
    """A row type whose hint does not exist at run time."""

    price: "Decimal"


async def _no_rows() -> AsyncIterator[Row]:
    yield Row.of({})


ROWS = _no_rows()


# --- what is refused ----------------------------------------------------------------------------


async def star_args(*fields: Text) -> Answer: ...


async def star_kwargs(question: Text, **config: int) -> Answer: ...


def synchronous(question: Text) -> Answer: ...


async def no_hint(question) -> Answer: ...  # type: ignore[no-untyped-def]


async def no_return(question: Text): ...  # type: ignore[no-untyped-def]


async def unresolvable(question: "Decimal") -> Answer: ...


async def unresolvable_row(question: Text) -> Lazy: ...


async def forgot_to_yield(question: Text) -> AsyncIterator[Answer]: ...


async def yields_into_a_row(question: Text) -> Answer:  # type: ignore[misc]
    yield Answer(question)


async def yields_texts(question: Text) -> AsyncIterator[Text]:
    yield question


async def yields_bare(question: Text) -> AsyncIterator:  # type: ignore[type-arg]
    yield question


async def reads_nothing() -> Answer: ...


async def returns_text(question: Text) -> Text: ...


async def returns_maybe(question: Text) -> Answer | None: ...


async def returns_reject(question: Text) -> Answer | Reject: ...


async def bare_stream(rows: AsyncIterable) -> None: ...  # type: ignore[type-arg]


async def bare_batch(rows: Sequence) -> list[Answer]: ...  # type: ignore[type-arg]


async def bare_list(rows: Sequence[Question]) -> list: ...  # type: ignore[type-arg]


async def batch_of_texts(rows: Sequence[Question]) -> list[Text]: ...


async def batch_with_more(rows: Sequence[Question], extra: int) -> list[Answer]: ...


async def two_batches(a: Sequence[Question], b: Sequence[Answer]) -> list[Answer]: ...


async def yielding_batch(rows: Sequence[Question]) -> AsyncIterator[Answer]:
    yield Answer(Text())


async def stream_and_field(rows: AsyncIterable[Question], extra: int) -> None: ...


async def stream_of_texts(rows: AsyncIterable[Text]) -> None: ...


async def three_streams(
    a: AsyncIterable[Row], b: AsyncIterable[Row], c: AsyncIterable[Row]
) -> None: ...


async def stream_of_what(rows: AsyncIterable[Question]) -> AsyncIterator[Text]:
    yield Text()


async def returning_stream(rows: AsyncIterable[Question]) -> Answer: ...


async def adding_join(
    a: AsyncIterable[Question], b: AsyncIterable[Answer]
) -> AsyncIterator[Added[Answer]]:
    yield  # type: ignore[misc]


async def row_with_default(row: Question = Question(Text())) -> Answer: ...  # noqa: B008


async def optional_row(row: Question | None) -> Answer: ...


async def stream_with_default(rows: AsyncIterable[Row] = ROWS) -> None: ...


async def positional_resource(question: Text, llm: Chat) -> Answer: ...


async def positional_context(question: Text, ctx: Context) -> Answer: ...


async def two_contexts(question: Text, *, ctx: Context, context: Context) -> Answer: ...


async def resource_with_default(question: Text, *, llm: Chat = Chat()) -> Answer: ...  # noqa: B008


async def optional_resource(question: Text, *, llm: Chat | None) -> Answer: ...


async def reads_twice(question: Text, row: Question) -> Answer: ...


class Holder:
    async def method(self, question: Text) -> Answer: ...

    async def __call__(self, question: Text) -> Answer: ...


async def good(question: Text) -> Answer:
    return Answer(question.upper())


REFUSED: list[tuple[Any, str]] = [
    (star_args, "`*fields` hides what the stage reads: name each field"),
    (star_kwargs, "`**config` hides what the stage reads: name each field"),
    (synchronous, "a stage is an `async def`"),
    (lambda question: question, "a stage is an `async def`"),
    (Holder, "a stage is a plain `async def`, not a class, method, partial or callable object"),
    (Holder(), "a stage is a plain `async def`, not a class, method, partial or callable object"),
    (Holder().method, "a stage is a plain `async def`, not a class, method, partial or"),
    (Holder.method, "a stage is a plain function, not a method: move it out of the class"),
    (functools.partial(good, Text()), "a stage is a plain `async def`, not a class, method, parti"),
    (no_hint, "parameter 'question' has no type hint"),
    (no_return, "it has no return annotation: name the Row type that it adds, or None"),
    (unresolvable, "a type hint cannot be resolved: name 'Decimal' is not defined (a name import"),
    (forgot_to_yield, "a coroutine annotated as an iterator: did you forget to `yield`?"),
    (yields_into_a_row, "an async generator returns `AsyncIterator[R]`, R a Row type"),
    (yields_texts, "an async generator returns `AsyncIterator[R]`, R a Row type"),
    (yields_bare, "an async generator returns `AsyncIterator[R]`, R a Row type"),
    (reads_nothing, "a coroutine with no positional parameter reads nothing: a source is an async"),
    (returns_text, "a map returns a Row type or None, not Text; to drop a row, raise Reject"),
    (returns_maybe, "a map returns a Row type or None, not "),
    (returns_reject, "a map returns a Row type or None, not "),
    (bare_stream, "parameter 'rows': say what is in it: `AsyncIterable[R]`"),
    (bare_batch, "parameter 'rows': say what is in it: `Sequence[R]`"),
    (bare_list, "a batch is a coroutine that returns `list[S]` or `list[S | Reject]`, S a Row"),
    (batch_of_texts, "a batch is a coroutine that returns `list[S]` or `list[S | Reject]`, S a"),
    (yielding_batch, "a batch is a coroutine that returns `list[S]` or `list[S | Reject]`, S a"),
    (batch_with_more, "a batch takes exactly one positional, `Sequence[R]`"),
    (two_batches, "a batch takes exactly one positional, `Sequence[R]`"),
    (stream_and_field, "one positional is an AsyncIterable: then each must be an AsyncIterable of"),
    (stream_of_texts, "one positional is an AsyncIterable: then each must be an AsyncIterable of"),
    (three_streams, "a stream takes one AsyncIterable, or two as a join"),
    (stream_of_what, "a stream returns `AsyncIterator[R]`, `AsyncIterator[Added[S]]` or, as a sin"),
    (returning_stream, "a stream that passes rows on is an async generator; a sink returns None"),
    (adding_join, "a join makes fresh rows, `AsyncIterator[S]`: it has no one row to add to"),
    (row_with_default, "parameter 'row': a row has no default; give its fields defaults instead"),
    (
        optional_row,
        "parameter 'row': a row is never None; give fields of Question defaults instead",
    ),
    (stream_with_default, "parameter 'rows': a row has no default; give its fields defaults"),
    (positional_resource, "parameter 'llm' is a Chat: make it keyword-only, after `*`"),
    (positional_context, "parameter 'ctx' is a Context: make it keyword-only, after `*`"),
    (two_contexts, "it takes the context twice: ctx and context"),
    (
        resource_with_default,
        "resource 'llm': write `llm: Chat`, or `llm: Chat | None = None` if it",
    ),
    (
        optional_resource,
        "resource 'llm': write `llm: Chat`, or `llm: Chat | None = None` if it may",
    ),
    (reads_twice, "it reads the field 'question' twice"),
]


@pytest.mark.parametrize(
    ("subject", "message"), REFUSED, ids=[getattr(s, "__name__", repr(type(s))) for s, _ in REFUSED]
)
def test_what_is_no_stage_is_refused_with_its_place(subject: Any, message: str) -> None:
    with pytest.raises(DefinitionError) as error:
        stage("test.it")(subject)
    name, line = place(subject)
    assert str(error.value).startswith(f"{name} ({short(__file__)}:{line}): {message}")


def place(subject: Any) -> tuple[str, int]:
    """Return the name and line that an error should give."""
    if isinstance(subject, functools.partial):
        subject = subject.func
    elif not hasattr(subject, "__qualname__"):
        subject = type(subject)
    subject = getattr(subject, "__func__", subject)
    if inspect.isclass(subject):
        return subject.__qualname__, inspect.getsourcelines(subject)[1]
    return subject.__qualname__, subject.__code__.co_firstlineno


def short(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file


def test_a_hint_of_a_row_that_does_not_resolve_names_the_row() -> None:
    with pytest.raises(DefinitionError, match=r"^Lazy \(.*test_signature.py:\d+\): a field's type"):
        stage("test.it")(unresolvable_row)


@pytest.mark.parametrize("name", ["it", "a.b.c", "a.", "a.b-c", ".b", ""])
def test_a_stage_is_named_namespace_name(name: str) -> None:
    message = rf"^good \(.*:\d+\): a stage is named `namespace.name`, not {re.escape(repr(name))}$"
    with pytest.raises(DefinitionError, match=message):
        stage(name)(good)


def test_what_is_not_decorated_is_no_stage() -> None:
    with pytest.raises(DefinitionError, match="not a stage: decorate the function with @stage"):
        stage_spec(place)


# --- what is read -------------------------------------------------------------------------------


def spec_of(func: Callable[..., Any]) -> StageSpec:
    return stage_spec(stage("test.it")(func))


async def source(*, count: int = 1) -> AsyncIterator[Question | Reject]:
    yield Question(Text())


async def generating(*, count: int = 1) -> AsyncGenerator[Question, None]:
    yield Question(Text())


async def expand(question: Text) -> AsyncIterator[Answer]:
    yield Answer(question)


async def gate(question: Text) -> None: ...


async def by_row(row: Question, extra: int = 3) -> Answer: ...


async def annotated(row: Annotated[Question, "the one"], /) -> Annotated[Answer, "x"]: ...


async def two_rows(row: Question, other: Answer) -> Row: ...


async def every_field(row: Row) -> Answer: ...


async def batch(rows: Sequence[Question]) -> list[Answer | Reject]: ...


async def texts(parts: Sequence[Text], more: tuple[Question, ...]) -> Answer: ...


async def keeping(rows: AsyncIterable[Question]) -> AsyncIterator[Question | Reject]:
    yield Question(Text())


async def adding(rows: AsyncIterable[Question]) -> AsyncIterator[Added[Answer] | Reject]:
    yield  # type: ignore[misc]


async def fresh(rows: AsyncIterator[Question]) -> AsyncIterator[Answer]:
    yield Answer(Text())


async def sink(rows: AsyncIterable[Row]) -> None: ...


async def join(a: AsyncIterable[Question], b: AsyncIterable[Question]) -> AsyncIterator[Question]:
    yield Question(Text())


async def both_sink(a: AsyncIterable[Question], b: AsyncIterable[Answer]) -> None: ...


QAS = ["question", "answer", "sure"]


@pytest.mark.parametrize(
    ("func", "kind", "yields", "reads", "rows", "adds"),
    [
        (source, "source", "fresh", [], {}, Question),
        (generating, "source", "fresh", [], {}, Question),
        (expand, "expand", "fresh", ["question"], {}, Answer),
        (good, "map", "added", ["question"], {}, Answer),
        (gate, "map", "added", ["question"], {}, None),
        (by_row, "map", "added", ["question", "extra"], {"row": Question}, Answer),
        (annotated, "map", "added", ["question"], {"row": Question}, Answer),
        (two_rows, "map", "added", QAS, {"row": Question, "other": Answer}, Row),
        (every_field, "map", "added", [], {"row": Row}, Answer),
        (batch, "batch", "added", ["question"], {"rows": Question}, Answer),
        (texts, "map", "added", ["parts", "more"], {}, Answer),
        (keeping, "stream", "rows", ["question"], {"rows": Question}, None),
        (adding, "stream", "added", ["question"], {"rows": Question}, Answer),
        (fresh, "stream", "fresh", ["question"], {"rows": Question}, Answer),
        (sink, "stream", "nothing", [], {"rows": Row}, None),
        (join, "stream", "fresh", ["question"], {"a": Question, "b": Question}, Question),
        (both_sink, "stream", "nothing", QAS, {"a": Question, "b": Answer}, None),
    ],
)  # fmt: skip
def test_the_five_kinds(
    func: Callable[..., Any], kind: str, yields: str, reads: list[str], rows: Any, adds: Any
) -> None:
    spec = spec_of(func)
    assert (spec.kind, spec.yields, [r.name for r in spec.reads]) == (kind, yields, reads)
    assert (dict(spec.row_parameters), spec.adds) == (rows, adds)
    assert spec.is_sink == (func in (sink, both_sink))
    assert spec.is_join == (func in (join, both_sink))
    assert spec.reads_all == (func in (every_field, sink))


def test_keywords_are_resources_context_or_configuration() -> None:
    async def func(
        question: Text,
        note: Text | None = None,
        *,
        llm: Chat,
        judge: Optional[Chat] = None,  # noqa: UP045
        careful: Annotated[Chat, Needs("grammar"), Needs("schema")],
        spare: Annotated[Chat | None, Needs("seed")] = None,
        ctx: Context,
        rounds: PositiveInt = 1,
        file: InputFile,
        out: OutputPath | None = None,
    ) -> Answer: ...

    spec = spec_of(func)
    assert spec.reads == (Read("question", Text), Read("note", Text | None, False, None))
    assert spec.resources == {
        "llm": ResourceNeed(Chat, False),
        "judge": ResourceNeed(Chat, True),
        "careful": ResourceNeed(Chat, False, ("grammar", "schema")),
        "spare": ResourceNeed(Chat, True, ("seed",)),
    }
    assert spec.context == "ctx"
    assert spec.config == {
        "rounds": (PositiveInt, 1),
        "file": (InputFile, inspect.Parameter.empty),
        "out": (OutputPath | None, None),
    }


def test_a_row_type_of_an_enclosing_function_is_found() -> None:
    class Local(Row):
        local: int

    @stage("test.it")
    async def func(row: "Local") -> "Local": ...

    assert stage_spec(func).adds is Local


@pytest.mark.anyio
async def test_the_function_is_returned_unchanged() -> None:
    tagged = stage("test.good", version="2")(good)
    assert tagged is good
    assert (await tagged(Text("yes"))).answer == "YES"
    spec = stage_spec(tagged)
    assert (spec.name, spec.version, spec.func) == ("test.good", "2", good)
    assert (spec.file, spec.line) == (__file__, good.__code__.co_firstlineno)


def test_fields_of_returns_its_function_unchanged() -> None:
    def fields(upstream: Any) -> dict[str, Any]:
        return {}

    assert fields_of(good)(fields) is fields


# --- resources ----------------------------------------------------------------------------------


def test_a_resource_may_inherit_its_constructor() -> None:
    class Base(Chat):
        def __init__(self, *, model: str, n: int = 1) -> None: ...

    class Derived(Base):
        """The first line."""

    tagged = resource("test.derived")(Derived)
    assert tagged is Derived
    spec = Derived.__engine_resource__  # type: ignore[attr-defined]
    assert spec.config == {"model": (str, inspect.Parameter.empty), "n": (int, 1)}
    assert (spec.name, spec.doc) == ("test.derived", "The first line.")


class Positional(Chat):
    def __init__(self, model: str) -> None: ...


class Unhinted(Chat):
    def __init__(self, *, model) -> None: ...  # type: ignore[no-untyped-def]


class Unresolved(Chat):
    def __init__(self, *, price: "Decimal") -> None: ...


@pytest.mark.parametrize(
    ("cls", "name", "message"),
    [
        (Row, "test.it", "a resource is a class that derives from engine.Resource"),
        (good, "test.it", "a resource is a class that derives from engine.Resource"),
        (Chat, "chat", "a resource is named `namespace.name`, not 'chat'"),
        (Positional, "test.it", "parameter 'model': make it keyword-only, with a type hint"),
        (Unhinted, "test.it", "parameter 'model': make it keyword-only, with a type hint"),
        (Unresolved, "test.it", "a type hint cannot be resolved: name 'Decimal' is not defined"),
    ],
)
def test_what_is_no_resource_is_refused(cls: Any, name: str, message: str) -> None:
    with pytest.raises(DefinitionError, match=rf"^[\w.]+ \(.*\.py:\d+\): {re.escape(message)}"):
        resource(name)(cls)
