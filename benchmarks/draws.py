"""Latencies: lognormal, mean 50 ms, sigma 1, the same for every run of a seed."""

from __future__ import annotations

import math
import random
from functools import lru_cache

MOST, MEAN, SIGMA = 20_000, 0.050, 1.0


@lru_cache(maxsize=4)
def latencies(seed: int, stage: str) -> tuple[float, ...]:
    """Return the latency of each row in a stage."""
    rng = random.Random(f"{seed}/{stage}")
    mu = math.log(MEAN) - SIGMA**2 / 2
    return tuple(rng.lognormvariate(mu, SIGMA) for _ in range(MOST))
