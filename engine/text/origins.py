"""Where characters were made, in a sentence: for `engine trace`, and for notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.text.nodes import Aligned, is_text

if TYPE_CHECKING:
    from engine.text.strings import Text


def is_literal(leaf: Text) -> bool:
    """Whether these characters stand in the code: they have no source but that."""
    return leaf.origin is not None and leaf.origin.op == "literal"


def describe(leaf: Text) -> str:
    """One sentence on where a leaf's characters were made: by whom, in which stage, in what file.

    `leaf` is that of a span.
    """
    if isinstance(node := leaf._node, Aligned):
        return _operated(node)
    origin = leaf.origin
    if origin is None:
        return "made by operations on other texts"
    params = origin.params
    match origin.op:
        case "literal":
            return "written in the code"
        case "call":
            stage = f" in stage {params['stage']}" if params.get("stage") else ""
            model = params.get("name") or str(params.get("model", "?")).partition(", ")[0]
            return (
                f"reply of {model}{stage} (sample {params.get('sample')}, "
                f"finish {params.get('finish')}, call {str(params.get('call', ''))[:12]})"
            )
        case "template":
            version = f" version {params['version']}" if params.get("version") else ""
            return f"prompt template {params.get('id') or '(unnamed)'}{version}"
    where = ", ".join(f"{name} {value}" for name, value in params.items())
    return origin.op.replace(":", " ", 1) + (f" ({where})" if where else "")


def _operated(node: Aligned) -> str:
    """Name the operation that made characters of its own, and what it read, if that is one leaf."""
    read = node.inputs[0] if node.inputs else ""
    leaves = {s.leaf.did: s.leaf for s in read.spans()} if is_text(read) else {}
    known = [leaf for leaf in leaves.values() if leaf.origin and not is_literal(leaf)]
    out_of = f" out of {describe(known[0])}" if len(known) == len(leaves) == 1 else ""
    return f"made by the operation {node.recipe[0]!r}{out_of}"
