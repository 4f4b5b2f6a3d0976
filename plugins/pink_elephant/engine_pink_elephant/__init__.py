"""The Pink Elephant problem: preference data for "keep to this, and do not talk about that"."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from engine import hookimpl


@hookimpl
def engine_stages() -> Sequence[Callable[..., Any]]:
    """Return the stages of this plugin, in the order of the pipeline."""
    from engine_pink_elephant import (
        browse,
        card,
        dedup,
        judging,
        outputs,
        pairs,
        plans,
        registry,
        revising,
        splits,
        topics,
        writing,
    )

    return [
        topics.topics,
        pairs.pairs,
        pairs.aliases,
        registry.unique_pairs,
        splits.split,
        plans.plans,
        writing.dialogue,
        revising.critique,
        revising.revision,
        revising.critique_revision,
        revising.contrast,
        judging.audit,
        outputs.principle,
        dedup.dedup,
        outputs.preference,
        outputs.sft,
        outputs.kto,
        card.card,
        browse.browse,
    ]
