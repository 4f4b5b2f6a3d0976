"""What a run would do, found before it runs: the executor, over a store that is only read.

Results that the store holds flow on as in a run. A stage whose work is paid by the call, or that is
cheap, is tried with the replies that the store holds; a call that it does not hold ends the try. A
row that nothing is known of stops there, and a signal goes on in its place, so that all others keep
their order. No resource is opened, no call is made, nothing is written.

A pilot is another thing: a small run, whose results the whole one reuses, and an estimate from it.
"""

from engine.planning.pilot import PilotRun, open_pilot
from engine.planning.planner import make_plan
from engine.planning.plans import Plan, StagePlan
from engine.planning.scaling import Estimated, Scaled, scaled

__all__ = [
    "Estimated",
    "PilotRun",
    "Plan",
    "Scaled",
    "StagePlan",
    "make_plan",
    "open_pilot",
    "scaled",
]
