"""The whole graph of a Text, and drawings of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.text.nodes import Aligned, Fill, Leaf, Select, inputs_of
from engine.text.wire import cached_did, did_of, topological

if TYPE_CHECKING:
    from engine.text.strings import Text

LABEL = 40  # characters of a node's text in a drawing


class GraphNode(NamedTuple):
    """One node: `kind` is leaf, cat, fill, select or aligned; `inputs` are dids, in order."""

    did: bytes
    kind: str
    op: str
    params: Mapping[str, Any]
    inputs: tuple[bytes, ...]
    text: Text


class Graph(NamedTuple):
    """Nodes, each derivation once, inputs before users; the last one is the text asked about."""

    nodes: tuple[GraphNode, ...]

    def mermaid(self) -> str:
        """The graph as a Mermaid flowchart, edges pointing from input to user."""
        names = {node.did: f"n{i}" for i, node in enumerate(self.nodes)}
        lines = ["flowchart TD"]
        lines += [f'  {names[n.did]}["{_label(n, _entity)}"]' for n in self.nodes]
        lines += [f"  {names[i]} --> {names[n.did]}" for n in self.nodes for i in n.inputs]
        return "\n".join(lines) + "\n"

    def dot(self) -> str:
        """The graph in Graphviz's language, edges pointing from input to user."""
        names = {node.did: f"n{i}" for i, node in enumerate(self.nodes)}
        lines = ["digraph text {", "  node [shape=box];"]
        lines += [f'  {names[n.did]} [label="{_label(n, _backslash)}"];' for n in self.nodes]
        lines += [f"  {names[i]} -> {names[n.did]};" for n in self.nodes for i in n.inputs]
        return "\n".join([*lines, "}"]) + "\n"

    def _repr_html_(self) -> str:
        from engine.text.painting import graph_html  # for notebooks alone

        return graph_html(self)


def graph_of(text: Text) -> Graph:
    """The graph of everything upstream of `text`, and of `text` itself."""
    did_of(text)
    nodes: dict[bytes, GraphNode] = {}
    for node_text in topological((text,)):
        if node_text._node is None and node_text is not text:
            continue  # a literal, be it a Text or a str, goes just before its first user
        inputs = [type(text)(piece) for piece in inputs_of(node_text)]
        for literal in inputs:
            if literal._node is None:
                nodes.setdefault(cached_did(literal), _graph_node(literal, ()))
        dids = tuple([cached_did(i) for i in inputs])
        nodes.setdefault(cached_did(node_text), _graph_node(node_text, dids))
    return Graph(tuple(nodes.values()))


def _graph_node(text: Text, inputs: tuple[bytes, ...]) -> GraphNode:
    node, did = text._node, cached_did(text)
    match node:
        case None:
            return GraphNode(did, "leaf", "literal", {}, inputs, text)
        case Leaf():
            return GraphNode(did, node.kind, node.op, node.named_params(), inputs, text)
        case Select(recipe=(op, *args), part=part, start=start):
            params = {"args": args, "part": part, "start": start, "stop": start + len(text)}
            return GraphNode(did, node.kind, op, params, inputs, text)
        case Aligned(recipe=(op, *args)):
            return GraphNode(did, node.kind, op, {"args": args}, inputs, text)
        case Fill(form=form):
            return GraphNode(did, node.kind, "fill", {"fields": list(form.fields)}, inputs, text)
        case _:
            return GraphNode(did, node.kind, node.kind, {}, inputs, text)


def _label(node: GraphNode, escape: Any) -> str:
    text = str(node.text)
    shown = text if len(text) <= LABEL else text[: LABEL - 1] + "…"
    op = node.op if node.op == node.kind else f"{node.kind} {node.op}"
    return f"{escape(op[:LABEL])}: {escape(shown)}"


def _visible(char: str) -> str:
    """A control character as its picture; whatever cannot be encoded or seen as a code point."""
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)
    return char if char.isprintable() else f"<U+{code:04X}>"


def _entity(text: str) -> str:
    """For Mermaid: everything but plain words as `#NN;`, for its own syntax cannot be quoted."""
    seen = "".join(map(_visible, text))
    return re.sub(r"[^\w …]|_", lambda m: f"#{ord(m[0])};", seen)


def _backslash(text: str) -> str:
    seen = "".join(map(_visible, text))
    return seen.replace("\\", "\\\\").replace('"', '\\"')
