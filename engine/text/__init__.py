"""A string that remembers how it came to be.

`Text` is a `str` with its computation graph: which characters came from which source, template or
model reply, through which operations. Offsets are code points everywhere.
"""

from engine.text.errors import TextError
from engine.text.loading import from_records, loads
from engine.text.losses import LOSSES
from engine.text.matching import group
from engine.text.nodes import Origin
from engine.text.prompts import Template, load_template, load_templates
from engine.text.strings import Text
from engine.text.structured import find_json, parse_json
from engine.text.tracing import Span
from engine.text.walks import Graph, GraphNode
from engine.text.wire import dumps, to_records

ST = Text

__all__ = [
    "LOSSES",
    "ST",
    "Graph",
    "GraphNode",
    "Origin",
    "Span",
    "Template",
    "Text",
    "TextError",
    "dumps",
    "find_json",
    "from_records",
    "group",
    "load_template",
    "load_templates",
    "loads",
    "parse_json",
    "to_records",
]
