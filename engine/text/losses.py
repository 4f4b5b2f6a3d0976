"""What Python hides from a `str` subclass."""

from collections.abc import Mapping
from types import MappingProxyType

LOSSES: Mapping[str, str] = MappingProxyType(
    {
        "str(t)": "the explicit way out",
        "t.encode()": "bytes have no origin",
        'f"a {t} b"': "use a Template, or +; f'{t}' alone keeps the graph",
        '"a {}".format(t)': "make the left side a Text: Text('a {}').format(t)",
        '"%s %s" % (t, u)': "make the left side a Text; with one Text on the right it is kept",
        '", ".join([t, u])': "make the separator a Text: Text(', ').join([t, u])",
        "re.sub(p, r, t)": "t.sub(p, r)",
        "match.group(i)": "group(match, i)",
        "re.split(p, t)": "cut at the matches' offsets: t[a:b]",
        "json.loads(t)": "parse_json(t)",
    }
)
"""The idioms that give a plain `str` (or bytes), each with what to write instead."""
