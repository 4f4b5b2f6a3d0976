"""Synthetic activations whose true features are known: what a fit must recover."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio.to_thread
from pydantic import PositiveInt

from engine import Artifact, Context, Row, stage

__all__ = ["Planted", "planted"]


class Planted(Row):
    """`activations` is a safetensors file of `activations` and the `dictionary` behind them."""

    activations: Artifact
    features: int
    width: int


@stage("sae.planted")
async def planted(
    *,
    ctx: Context,
    samples: PositiveInt = 4096,
    width: PositiveInt = 64,
    features: PositiveInt = 128,
    active: PositiveInt = 4,
) -> AsyncIterator[Planted]:
    """Draw `samples` sums of `active` out of `features` unit vectors, as Sharkey et al. (2022).

    Gives one row with an Artifact of two fp32 tensors: `activations` (samples, width) and
    `dictionary` (features, width), rows of unit norm in `width` dimensions. Raises ValueError if
    active > features.
    """
    if active > features:
        raise ValueError(f"active ({active}) must not exceed features ({features})")
    with ctx.blobs.new("application/x-safetensors") as blob:
        await anyio.to_thread.run_sync(
            _write, blob.path, ctx.rng.getrandbits(63), samples, width, features, active
        )
    yield Planted(blob.artifact, features, width).keyed("planted")


def _write(path: Path, seed: int, samples: int, width: int, features: int, active: int) -> None:
    import torch
    from safetensors.torch import save_file

    draw = torch.Generator().manual_seed(seed)
    dictionary = torch.nn.functional.normalize(torch.randn(features, width, generator=draw), dim=1)
    chosen = torch.rand(samples, features, generator=draw).topk(active, dim=1).indices
    strengths = torch.rand(samples, active, generator=draw) + 0.5
    codes = torch.zeros(samples, features).scatter_(1, chosen, strengths)
    save_file({"activations": codes @ dictionary, "dictionary": dictionary}, path)
