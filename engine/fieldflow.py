"""The flow of fields: every field that a stage reads is made upstream, with a type that fits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Union

from engine.errors import EngineError, nearest
from engine.rows import RESERVED, Read, row_fields
from engine.stages import declared_fields
from engine.typecheck import fits, show
from engine.wiring import Fields, WiredStage

__all__ = ["FieldFlow"]


class FieldFlow:
    """Follows the fields of rows from stage to stage; call `follow` on each, upstream first."""

    def __init__(self, stages: Mapping[str, WiredStage]) -> None:
        self.stages = stages
        self.notes: list[str] = []
        """What is not wrong but worth a look: optional fields that nothing makes."""

    def follow(self, wired: WiredStage) -> None:
        """Fill in what a stage reads and passes on. Raises PipelineError for what does not fit."""
        spec = wired.spec
        if (
            wired.source is None and spec.kind != "source"
        ):  # its output is given: see `read_pipeline`
            wired.inputs, wired.ids = {}, wired.key
            wired.writers = dict.fromkeys(wired.fields, wired.key)
            return
        ups = [self.stages[name] for name in wired.upstream]
        writers = self._merge(wired, ups)
        merged: Fields = {}
        for fields in wired.inputs.values():
            merged |= fields
        if ups:
            self._check_reads(wired)
        added = self._added(wired, merged)
        if not ups or (spec.kind == "stream" and spec.yields == "fresh"):
            wired.fields, wired.writers, wired.ids = (
                added,
                dict.fromkeys(added, wired.key),
                wired.key,
            )
            return
        self._check_overwrites(wired, merged, added, writers)
        wired.fields = merged | added
        wired.writers = writers | dict.fromkeys(added, wired.key)
        wired.ids = wired.key if spec.kind == "expand" else _ids(wired, ups)

    # --- what comes in ------------------------------------------------------------------------

    def _merge(self, wired: WiredStage, ups: Sequence[WiredStage]) -> dict[str, str]:
        """Set the stage's inputs; return who wrote each field."""
        source = wired.source
        if source is None:
            return {}
        if source.form == "join":
            wired.inputs = {name: up.fields for name, up in zip(source.names, ups, strict=True)}
            return {}
        if source.form == "all":
            return self._unite(wired, ups)
        shared = [n for n in ups[0].fields if all(n in up.fields for up in ups)]
        wired.inputs = {"": {name: _union([up.fields[name] for up in ups]) for name in shared}}
        return ups[0].writers if source.form == "one" else dict.fromkeys(shared, _list(wired))

    def _unite(self, wired: WiredStage, ups: Sequence[WiredStage]) -> dict[str, str]:
        """Unite the fields of branches: of each field the version that descends from the others."""
        if len({up.ids for up in ups}) > 1:
            origins = ", ".join(f"those of {up.key} are made by {up.ids}" for up in ups)
            raise (wired.place / "from").error(
                f"{wired.label}: the row ids of these branches cannot meet: {origins}; branches "
                "must begin at one stage and keep its rows"
            )
        fields: Fields = {}
        writers: dict[str, str] = {}
        for up in ups:
            for name, hint in up.fields.items():
                new, known = up.writers[name], writers.get(name)
                if known is None or known in self._ancestors(new):
                    fields[name], writers[name] = hint, new
                elif new not in self._ancestors(known):
                    raise (wired.place / "from").error(
                        f"{wired.label}: the field {name!r} is written by both {known!r} and "
                        f"{new!r}: rename one with `give: {{{name}: NEW_NAME}}`"
                    )
        wired.inputs = {"": fields}
        return writers

    def _ancestors(self, key: str) -> set[str]:
        """Return what wrote a field, and all that it descends from: stages, and lists of them."""
        found, todo = {key}, [key]
        while todo:
            wired = self.stages.get(todo.pop())
            if wired is None or wired.source is None:
                continue
            new = {*wired.upstream, *([_list(wired)] if wired.source.form == "concat" else [])}
            todo += new - found
            found |= new
        return found

    # --- what is read -------------------------------------------------------------------------

    def _check_reads(self, wired: WiredStage) -> None:
        spec = wired.spec
        for name in wired.model.take:
            if name not in (known := [read.name for read in spec.reads]):
                raise (wired.place / "take" / name).error(
                    f"{wired.label} reads no field {name!r}{_nearest(name, known, 'it reads')}",
                    key=True,
                )
        if spec.is_join:
            reads = [
                (read, wired.inputs[parameter])
                for parameter, cls in spec.row_parameters.items()
                for read in row_fields(cls)
            ]
        else:
            reads = [(read, wired.inputs[""]) for read in spec.reads]
        absent = [said for read, fields in reads if (said := self._absent(wired, read, fields))]
        if absent:
            are = "field {} is" if len(absent) == 1 else "fields {} are"
            said = are.format(", ".join(absent))
            self.notes.append(f"{wired.label}: the optional {said} made by nothing upstream")

    def _absent(self, wired: WiredStage, read: Read, fields: Fields) -> str | None:
        """Check a field that a stage reads; return its name if it is not there and need not be."""
        name, renamed = wired.taken(read.name), read.name in wired.model.take
        place = wired.place / "take" / read.name if renamed else wired.place
        if name in fields:
            if not fits(fields[name], read.type):
                raise place.error(
                    f"{wired.label} reads {name!r} as {show(read.type)}, but upstream makes it "
                    f"{show(fields[name])}",
                    key=not renamed,
                )
        elif read.required or renamed:
            raise place.error(self._lacking(wired, name, fields, renamed), key=not renamed)
        else:
            return repr(name) + nearest(name, fields, say=" (did you mean {!r}?)")
        return None

    def _lacking(self, wired: WiredStage, name: str, fields: Fields, renamed: bool) -> str:
        """Say that a field is not there, and what may help."""
        assert wired.source is not None
        ups = [self.stages[key] for key in wired.upstream]
        makers = [up.key for up in ups if name in up.fields]
        if makers and wired.source.form == "concat":
            return (
                f"{wired.label} reads {name!r}, which only {', '.join(makers)} makes: "
                "a list passes on the fields that all of its stages have"
            )
        message = f"{wired.label} reads {name!r}, which nothing upstream makes"
        if makers:
            message = (
                f"{wired.label} reads {name!r} from the other stream than {makers[0]}, "
                "which makes it"
            )
        elif renamed and name in self.stages:
            message += f": {name!r} is a stage, and `take:` names a field"
        elif not fields:
            return f"{message}: the rows of {', '.join(wired.upstream)} declare no fields"
        near = nearest(name, fields, say="{}")
        if renamed:
            message += f"; did you mean {near!r}?" if near else ""
        else:
            message += f"; if it has another name, `take: {{{name}: {near or 'FIELD'}}}`"
        return f"{message} (there are: {', '.join(fields)})"

    # --- what is added ------------------------------------------------------------------------

    def _added(self, wired: WiredStage, merged: Fields) -> Fields:
        """Return the fields that a stage adds, under their names in the pipeline."""
        spec, place = wired.spec, wired.place
        declared = {r.name: r.type for r in row_fields(spec.adds)} if spec.adds else {}
        dynamic = declared_fields(spec.func)
        if dynamic is not None:
            try:
                renamed = wired.model.take.items()
                taken = {own: merged[name] for own, name in renamed if name in merged}
                declared |= dynamic(merged | taken, **wired.config)
            except (EngineError, ValueError, OSError) as error:
                raise (place / "with").error(f"{wired.label}: {error}", key=True) from error
            except Exception as error:
                raise place.error(
                    f"{wired.label}: its declaration of fields failed: "
                    f"{type(error).__name__}: {error}",
                    key=True,
                ) from error
        for name in wired.model.give:
            if name not in declared:
                raise (place / "give" / name).error(
                    f"{wired.label} adds no field {name!r}{_nearest(name, declared, 'it adds')}",
                    key=True,
                )
        added: Fields = {}
        for name, hint in declared.items():
            given = wired.given(name)
            here = place / "give" / name if name in wired.model.give else place
            if given in RESERVED:
                raise here.error(
                    f"{wired.label}: no field can be named {given!r}: "
                    f"write `give: {{{name}: NEW_NAME}}`",
                    key=here is place,
                )
            if given in added:
                raise here.error(
                    f"{wired.label}: two of its fields would be named {given!r}: rename one",
                    key=here is place,
                )
            added[given] = hint
        return added

    def _check_overwrites(
        self, wired: WiredStage, base: Fields, added: Fields, writers: Mapping[str, str]
    ) -> None:
        if wired.spec.reads_all:
            return
        meant = {wired.taken(read.name) for read in wired.spec.reads} | {*wired.model.give.values()}
        for name in added:
            if name in base and name not in meant:
                raise wired.place.error(
                    f"{wired.label} adds {name!r}, which {writers.get(name, 'upstream')!r} made "
                    f"already: write `give: {{{name}: NEW_NAME}}`, or `give: {{{name}: {name}}}` "
                    "to replace it",
                    key=True,
                )


def _ids(wired: WiredStage, ups: Sequence[WiredStage]) -> str:
    """Return what made the ids of rows that a stage passes on unchanged."""
    assert wired.source is not None
    if wired.source.form == "concat":  # each id is made anew from the row's and its branch
        return _list(wired)
    return ups[0].ids


def _list(wired: WiredStage) -> str:
    """Return the name of a list of stages: lists of the same stages give the same rows."""
    return f"the list {', '.join(sorted(wired.upstream))}"


def _nearest(name: str, known: Iterable[str], having: str) -> str:
    known = list(known)
    listed = ", ".join(known) or "none"
    return f"{nearest(name, known, say='; did you mean {!r}?')} ({having}: {listed})"


def _union(hints: Sequence[Any]) -> Any:
    return hints[0] if all(h == hints[0] for h in hints) else Union[tuple(hints)]  # noqa: UP007
