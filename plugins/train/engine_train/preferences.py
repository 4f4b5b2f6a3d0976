"""The stages around a reward model: pairs made of votes, and how often it agrees with them."""

from __future__ import annotations

from engine import Artifact, Context, Reject, Row, stage
from engine.rows import Dialogue, Message
from engine.text import Text
from engine_train.bases import Base
from engine_train.evaluating import Evaluation
from engine_train.stages import call
from engine_train.workers import Trainer

__all__ = ["assign", "evaluate", "preference"]


class Assigned(Row):
    """`set` is what a pair is counted under when a model is evaluated, `split` what it is for."""

    set: str
    split: str


class Preference(Row):
    """A pair in TRL's conversational preference format, and where it belongs."""

    prompt: Dialogue
    chosen: Dialogue
    rejected: Dialogue
    set: str
    split: str


@stage("train.assign", version="1")
async def assign(chosen: Dialogue | Text, *, set: str, split: str = "test") -> Assigned:
    """Say which set a pair belongs to, and whether it is for training or held out.

    - `set`: the name of the set, for `train.evaluate`.
    - `split`: what the pair is for, as `splits` of `dataset.pack` says: `train`, `test`, ...
    """
    return Assigned(set=set, split=split)


@stage("train.preference", version="1")
async def preference(
    instruction: Text,
    first: Text,
    second: Text,
    vote: int,
    vote_2: int | None = None,
    vote_3: int | None = None,
    context: Text | None = None,
    *,
    set: str,
    split: str = "test",
) -> Preference:
    """Make a preference of two answers to an instruction and up to three votes for one of them.

    A vote is 1 (`first` is better), 2 (`second` is), or 0 for neither. The answer that more than
    half of the votes are for is chosen. Rejects pairs without one (`tie`), and equal answers.

    - `set`: the name of the set, for `train.evaluate`.
    - `split`: what the pair is for, as `splits` of `dataset.pack` says: `train`, `test`, ...
    """
    votes = [v for v in (vote, vote_2, vote_3) if v is not None]
    if odd := [v for v in votes if v not in (0, 1, 2)]:
        raise Reject("a vote is none of 0, 1 and 2", span=str(odd[0]))
    better = next((i for i in (1, 2) if votes.count(i) * 2 > len(votes)), None)
    if better is None:
        raise Reject("tie")
    if first == second:
        raise Reject("the answers are equal")
    asked = instruction + "\n\n" + context if context else instruction
    answers = [(Message(role="assistant", content=text),) for text in (first, second)]
    return Preference(
        prompt=(Message(role="user", content=asked),),
        chosen=answers[better - 1],
        rejected=answers[2 - better],
        set=set,
        split=split,
    )


class Evaluated(Row):
    """`accuracy` has for each set, and for `all`, the figures that `train.evaluate` lists."""

    accuracy: dict[str, dict[str, float]]


@stage("train.evaluate", version="1")
async def evaluate(
    model: Artifact,
    held_out: Artifact,
    baseline: Artifact | None = None,
    *,
    trainer: Trainer | None = None,
    ctx: Context,
) -> Evaluated:
    """Count how often a reward model prefers what was chosen, by the `set` of each held-out pair.

    `held_out` is what `dataset.pack` makes of pairs. For each set and for `all`: `n`, `accuracy`
    (ties count half) with its 95% interval `low` to `high`, `ties`, `reward` (the mean), `margin`
    (chosen minus rejected); with a `baseline`, another reward model, its accuracy as `baseline`
    and the `difference` with `difference_low` to `difference_high`, paired.

    - `trainer`: the workers to compute in; left out, one of its own.
    """
    blobs = ctx.blobs
    asked = Evaluation(
        model=Base.of(None, model, blobs),
        baseline=Base.of(None, baseline, blobs) if baseline else None,
        held_out=blobs.path(held_out),
        workdir=ctx.workdir,
    )
    answer = await call("engine_train.evaluating:evaluate", asked, trainer, ctx)
    return Evaluated(accuracy=answer["accuracy"])
