"""One JSON Schema of pipeline files, with the stages and resources of installed plugins.

It refuses nothing that the engine takes from a file, so that an editor's red lines can be trusted;
what needs more than the file's shape (which fields flow, which names are declared) is left to
`engine validate`. Draft 2020-12, in the form that editors understand best: by if/then, a node's
`use:` chooses the schema of its other keys.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import PydanticSerializationError, to_jsonable_python

from engine.docstrings import attribute_docs, parameter_docs, reflowed
from engine.plugins import Plugins
from engine.resources import ResourceSpec
from engine.rows import RESERVED, row_fields
from engine.settings import map_paths
from engine.shape import PipelineModel
from engine.stages import StageSpec, declared_fields
from engine.typecheck import show

__all__ = ["pipeline_schema", "shown_default"]

Schema = dict[str, Any]
Spec = StageSpec | ResourceSpec

_TEXT = {"type": "string"}
_ENVIRONMENT = _TEXT | {"pattern": r"^\$[A-Za-z_][A-Za-z0-9_]*$"}
_NEW_NAME = _TEXT | {"not": {"enum": sorted(RESERVED)}}
_STAGE_KEY = {"pattern": r"^[^\s\d.:/][^\s.:/]*$"}
_LOCAL = _TEXT | {"pattern": r"^\.{0,2}/.*\.py:[A-Za-z_][A-Za-z0-9_]*$"}


def pipeline_schema(plugins: Plugins, namespaces: Iterable[str]) -> Schema:
    """Return the JSON Schema (draft 2020-12) of pipelines that use these plugins, already loaded.

    Deterministic for the same plugins, and without absolute paths: see `shown_default`.
    """
    names = sorted(namespaces)
    stages = [spec for name in names for spec in plugins.stages(name)]
    resources = [spec for name in names for spec in plugins.resources(name)]
    known, definitions = _types([*stages, *resources])
    root = _yaml(TypeAdapter(PipelineModel).json_schema(schema_generator=_Types))
    parts = root["$defs"]
    stage, resource = parts.pop("StageModel"), parts.pop("ResourceModel")
    root["properties"]["plugins"]["items"] = _or_environment({"enum": names})
    root["properties"]["stages"]["additionalProperties"] = {"$ref": "#/$defs/stage"}
    root["properties"]["resources"]["additionalProperties"] = {"$ref": "#/$defs/resource"}
    join = {"type": ["object", "null"], "additionalProperties": _TEXT}
    stage["properties"]["from"]["anyOf"] = [{"$ref": "#/$defs/from"}, join]
    stage["properties"]["give"]["additionalProperties"] = _NEW_NAME
    root["properties"]["stages"]["propertyNames"] = _STAGE_KEY
    parts["from"] = {"anyOf": _forms()}
    for spec in stages:
        parts[f"stage:{spec.name}"] = _node(spec, known, stage)
    for found in resources:
        parts[f"resource:{found.name}"] = _node(found, known, resource)
    local = _LOCAL | {"description": "A function of a file, beside the pipeline's."}
    parts |= _chosen("stage", stage, stages, [local]) | _chosen("resource", resource, resources)
    root["$defs"] = definitions | parts
    about = {"title": "A pipeline", "description": "A pipeline of `engine`."}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **(root | about)}


def shown_default(hint: Any, default: Any) -> tuple[Any, bool]:
    """Return a parameter's default as YAML would hold it, and whether a file may repeat it.

    An absolute path (of a file that came with the package) is shown by its name alone, and cannot
    be repeated, nor can what no YAML holds: that is shown by its class.
    """
    cut = False

    def name(_: Any, path: Path) -> Path:
        nonlocal cut
        cut = cut or path.is_absolute()
        return Path(path.name) if path.is_absolute() else path

    value = map_paths(hint, default, name)
    if isinstance(value, (set, frozenset)):
        value = sorted(value, key=str)  # else the order would change from run to run
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_defaults=True), not cut
    try:
        plain = to_jsonable_python(value)
    except PydanticSerializationError:
        return f"<{type(value).__name__}>", False
    return (plain, not cut) if _is_json(plain) else (str(value), False)


def _is_json(value: Any) -> bool:
    """Return whether JSON holds it: infinity and NaN it does not."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


class _Types(GenerateJsonSchema):
    """Types as pydantic shows them, with the docstrings of attributes."""

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:
        return {}  # what it takes, the engine will say

    def emit_warning(self, kind: Any, detail: str) -> None:
        pass

    def model_schema(self, schema: Any) -> JsonSchemaValue:
        made, cls = super().model_schema(schema), schema["cls"]
        for name, said in attribute_docs(cls).items():
            info = cls.model_fields.get(name)
            if info and (inner := made.get("properties", {}).get(info.alias or name)) is not None:
                inner.setdefault("description", said)
        return made


def _types(specs: Iterable[Spec]) -> tuple[dict[tuple[str, str], Schema], Schema]:
    """Return the schema of each configuration parameter, and the definitions that they share."""
    inputs: list[Any] = []
    for spec in specs:
        for name, (hint, _) in spec.config.items():
            try:
                inputs.append(((spec.name, name), "validation", TypeAdapter(hint)))
            except PydanticUserError:
                continue  # no YAML gives such a value, so no file may name it
    made, shared = TypeAdapter.json_schemas(inputs, schema_generator=_Types)
    known: Any = {key: _yaml(schema) for (key, _), schema in made.items()}
    return known, _yaml(shared).get("$defs", {})


# --- nodes: a stage or a resource ---------------------------------------------------------------


def _node(spec: Spec, known: Mapping[tuple[str, str], Schema], base: Schema) -> Schema:
    """Return what `use: NAME` says of the node's other keys."""
    docs = parameter_docs(spec)
    parameters: Schema = {}
    required = []
    for name, need in spec.resources.items() if isinstance(spec, StageSpec) else ():
        kind: Any = ["string", "null"] if need.optional else "string"
        said = _described(docs[name], f"the key of a resource, `{need.cls.__name__}`")
        parameters[name] = {"type": kind, "description": said}
        required += [] if need.optional else [name]
    for name, (hint, default) in spec.config.items():
        if (spec.name, name) not in known:
            continue
        if default is inspect.Parameter.empty:
            required.append(name)
            given: Schema = {"description": _described(docs[name], f"`{show(hint)}`, required")}
        else:
            value, repeated = shown_default(hint, default)
            said = f"`{show(hint)}`, by default `{json.dumps(value, ensure_ascii=False)}`"
            given = {"description": _described(docs[name], said)}
            given |= {"default": value} if repeated and value is not None else {}
        parameters[name] = known[spec.name, name] | given
    inner: Schema = {"type": "object", "properties": parameters, "additionalProperties": False}
    node: Schema = {"title": spec.name, "properties": {"with": inner}}
    if required:
        inner["required"], node["required"] = required, ["with"]
    if isinstance(spec, StageSpec):
        node["properties"] |= _wiring(spec)
    for key, schema in node["properties"].items():
        schema["description"] = base["properties"][key]["description"]
    return node


def _described(said: str, what: str) -> str:
    return f"{said}\n\n{what}" if said else what


def _wiring(spec: StageSpec) -> Schema:
    """Return what a stage's signature says of `from`, `take` and `give`."""

    def renamed(fields: Mapping[str, Any], to: Schema = _TEXT) -> Schema:
        known = {name: to | {"description": f"`{show(t)}`"} for name, t in fields.items()}
        return {"type": "object", "properties": known, "additionalProperties": False}

    wiring: Schema = {"from": {"$ref": "#/$defs/from"}}
    if spec.kind == "source":
        wiring["from"] = {"type": "null"}
    elif spec.is_join:
        names = list(spec.row_parameters)
        wiring["from"] = renamed(spec.row_parameters) | {"required": names}
    wiring["take"] = renamed({read.name: read.type for read in spec.reads})
    if spec.kind not in ("source", "stream") or declared_fields(spec.func) is None:
        adds = row_fields(spec.adds) if spec.adds else ()
        wiring["give"] = renamed({field.name: field.type for field in adds}, _NEW_NAME)
    return wiring


def _forms() -> list[Schema]:
    """Return the forms of `from:` but for a join's, whose names are the stage's own."""
    several = {"type": "array", "items": _TEXT, "uniqueItems": True}
    united = several | {"minItems": 2, "description": "One row for each id, fields united."}
    return [
        _TEXT,
        several | {"minItems": 1, "description": "All rows of each, in turn."},
        {
            "type": "object",
            "properties": {"all": united},
            "required": ["all"],
            "additionalProperties": False,
        },
        {"type": "null"},
    ]


def _chosen(
    sort: str, base: Schema, specs: Sequence[Spec], others: Sequence[Schema] = ()
) -> Schema:
    """Let `use:` choose one of the names, and by it what the node's other keys may hold.

    The keys that a choice describes are open in the base, or editors would offer them twice.
    """
    names = [{"const": spec.name, "description": reflowed(spec.doc)} for spec in specs]
    rules: list[Schema] = [
        {
            "if": {"properties": {"use": {"const": spec.name}}, "required": ["use"]},
            "then": {"$ref": f"#/$defs/{sort}:{spec.name}"},
        }
        for spec in specs
    ]
    unknown = {"properties": {"use": {"pattern": "[/$]"}}, "required": ["use"]}
    rules.append({"if": unknown, "then": {"$ref": f"#/$defs/{sort}:other"}})
    keys = [key for key in ("with", "from", "take", "give") if key in base["properties"]]
    other = {"properties": {key: base["properties"][key] for key in keys}}
    environment = _ENVIRONMENT | {"description": "A name from the environment."}
    use = base["properties"]["use"] | {"anyOf": [*names, *others, environment]}
    properties = base["properties"] | dict.fromkeys(keys, True) | {"use": use}
    return {sort: base | {"properties": properties, "allOf": rules}, f"{sort}:other": other}


# --- types as YAML gives them -------------------------------------------------------------------

_WORDS = {"integer": "an integer", "number": "a number", "boolean": "true or false"}
_SCHEMAS = ("items", "additionalProperties")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "$defs")
_DROPPED = ("title", "uniqueItems")  # titles are class names; a set may be given a thing twice


def _yaml(schema: Schema) -> Schema:
    """Return pydantic's schema of a type as the loader reads it: `$NAME` stands for any scalar."""
    made = {key: value for key, value in schema.items() if key not in _DROPPED}
    for key, value in made.items():
        if key in _SCHEMAS and isinstance(value, dict):
            made[key] = _yaml(value)
        elif key in _LISTS:
            made[key] = [_yaml(inner) for inner in value]
        elif key in _NAMED:
            made[key] = {name: _yaml(inner) for name, inner in value.items()}
    if made.get("format") == "path":
        del made["format"]  # it checks nothing
        if Path(made.get("default") or "").is_absolute():
            del made["default"]
    if "default" in made and (made["default"] is None or not _is_json(made["default"])):
        del made["default"]  # null is what editors would write out
    return _or_environment(_flat(made))


def _flat(schema: Schema) -> Schema:
    """Join `X | None` to one schema of several types, which editors explain better."""
    match schema.get("anyOf"):
        case [{"type": str() | list() as kinds} as inner, {"type": "null"}] if "enum" not in inner:
            outer = {key: value for key, value in schema.items() if key != "anyOf"}
            several = [kinds] if isinstance(kinds, str) else kinds
            return {**inner, "type": [*several, "null"], **outer}
    return schema


def _or_environment(schema: Schema) -> Schema:
    """Let a scalar be `$NAME`: what that holds, only a run can know."""
    kind = schema.get("type")
    if isinstance(kind, str) and kind in _WORDS and not schema.keys() & {"enum", "const"}:
        said = f"it should be {_WORDS[kind]}, or $NAME for a value of the environment"
        return schema | _ENVIRONMENT | {"type": [kind, "string"], "patternErrorMessage": said}
    if schema.keys() & {"enum", "const", "pattern", "format", "minLength", "maxLength"}:
        outer = {key: schema[key] for key in ("default", "description") if key in schema}
        inner = {key: value for key, value in schema.items() if key not in outer}
        return outer | {"anyOf": [inner, _ENVIRONMENT]}
    return schema
