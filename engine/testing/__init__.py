"""What a plugin's author tests with; nothing here needs pytest, so a notebook may use it, too.

`run_stage` runs one stage as a pipeline would, `FakeChat` answers in a model's place, `Blob` is
an Artifact's bytes, `collect` makes a list of what is iterated, and a plugin's tests inherit
`PluginContract`.
"""

from engine.testing.blobs import Blob
from engine.testing.contract import Example, PluginContract
from engine.testing.fakes import FakeChat
from engine.testing.running import StageRows, collect, run_stage

__all__ = ["Blob", "Example", "FakeChat", "PluginContract", "StageRows", "collect", "run_stage"]
