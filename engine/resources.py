"""Resources: what a run opens once, lazily, and closes in reverse, shielded from cancellation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, get_type_hints

from engine.errors import DefinitionError

if TYPE_CHECKING:
    from engine.context import Context

__all__ = ["Needs", "Resource", "ResourceSpec", "resource", "resource_spec"]


class Resource(Protocol):
    """What a stage may take as a keyword-only parameter: an async context manager with an identity.

    A class that derives from it may use `__init__` keyword-only parameters as configuration; they
    come from the YAML's `with:`. Construction must be cheap: the work is done on opening.
    """

    @property
    def identity(self) -> str:
        """The model and revision (or the weights' digest) and every default that changes a reply.

        Never a URL, key, limit or price. Known before opening; it stands in the fingerprint of
        each stage that takes the resource.
        """
        ...

    async def __aenter__(self) -> Self:
        """Open it; called once a run, when the first stage needs it."""
        ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Close it."""
        ...

    def bind(self, ctx: Context) -> Self:
        """Return the view that one execution of a stage gets; `self` where there is none."""
        return self


class Needs:
    """What a stage needs of a resource: `llm: Annotated[Chat, Needs("grammar")]`.

    The features must be in the resource's `can`; `validate` checks it, before a token is spent.
    """

    def __init__(self, *features: str) -> None:
        self.features = features


@dataclass(frozen=True, slots=True)
class ResourceSpec:
    """A registered resource: its name, class and configuration parameters."""

    name: str
    cls: type[Resource]
    config: Mapping[str, tuple[Any, Any]]
    """Parameter name -> (annotation, default or inspect.Parameter.empty)."""
    doc: str


C = TypeVar("C", bound=type)


def resource(name: str) -> Callable[[C], C]:
    """Register a Resource class under `namespace.name`; tags the class and returns it unchanged.

    Raises DefinitionError for a class that is no Resource or whose constructor takes anything
    but keyword-only parameters.
    """

    def tag(cls: C) -> C:
        if not (isinstance(cls, type) and Resource in cls.__mro__):
            raise DefinitionError(cls, "a resource is a class that derives from engine.Resource")
        if name.count(".") != 1 or not all(part.isidentifier() for part in name.split(".")):
            raise DefinitionError(cls, f"a resource is named `namespace.name`, not {name!r}")
        config = _configuration(cls)
        spec = ResourceSpec(name, cls, config, inspect.getdoc(cls) or "")
        cls.__engine_resource__ = spec  # type: ignore[attr-defined]
        return cls

    return tag


def _configuration(cls: type) -> dict[str, tuple[Any, Any]]:
    """Read the constructor's parameters, inherited or not."""
    owner = next(c for c in cls.__mro__ if "__init__" in vars(c))
    if owner is object or getattr(owner, "_is_protocol", False):
        return {}
    init = vars(owner)["__init__"]
    try:
        hints = get_type_hints(init, include_extras=True)
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        raise DefinitionError(init, f"a type hint cannot be resolved: {error}") from error
    config = {}
    for parameter in list(inspect.signature(init).parameters.values())[1:]:
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.name not in hints:
            raise DefinitionError(
                init, f"parameter {parameter.name!r}: make it keyword-only, with a type hint"
            )
        config[parameter.name] = (hints[parameter.name], parameter.default)
    return config


def resource_spec(cls: object) -> ResourceSpec:
    """Return the spec that `@resource` left on a class; raises DefinitionError without one."""
    spec = getattr(cls, "__engine_resource__", None)
    if not isinstance(spec, ResourceSpec):
        raise DefinitionError(
            cls, "not a resource: decorate the class with @resource('namespace.name')"
        )
    return spec
