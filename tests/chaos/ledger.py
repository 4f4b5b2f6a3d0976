"""What a server was asked, what it billed for, and what it delivered."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["GROUP", "Call", "Ledger", "paid_twice"]

Outcome = Literal["pending", "delivered", "fault", "unanswered", "left"]
"""How an arrival ended: `left` is a client that was gone before the last byte was written."""

GROUP = 0.05
"""Seconds in which what a client read must be durable: the store gathers 20 ms, then syncs."""


@dataclass(slots=True)
class Call:
    """One arrival of a request. Times are of CLOCK_MONOTONIC, which processes share."""

    request: str
    """A digest of the body: one call, one sample."""
    arrived: float
    billed: bool = False
    ended: float | None = None
    """When the last byte was handed to the kernel, or the call was given up."""
    outcome: Outcome = "pending"
    fault: str | None = None

    @property
    def broken(self) -> bool:
        """Whether the server took the money and then did not deliver."""
        return self.billed and self.outcome == "fault"

    def in_flight(self, since: float, until: float) -> bool:
        """Return whether it was open at some moment between two times."""
        return self.arrived <= until and (self.ended is None or self.ended >= since)

    def just_ended(self, at: float) -> bool:
        """Return whether it ended so shortly before a moment that it may not be durable."""
        return self.ended is not None and at - GROUP <= self.ended < at


class Ledger:
    """All calls, in the order in which they arrived."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._arrivals: Counter[str] = Counter()

    def arrived(self, request: str, now: float) -> tuple[Call, int]:
        """Return the new entry, and how often the same request has arrived before."""
        call = Call(request, now)
        before = self._arrivals[request]
        self._arrivals[request] += 1
        self.calls.append(call)
        return call, before

    @property
    def billed(self) -> int:
        """How many completions were paid."""
        return sum(call.billed for call in self.calls)

    @property
    def in_flight(self) -> int:
        """How many calls are open now."""
        return sum(call.ended is None for call in self.calls)

    def dump(self) -> list[dict[str, Any]]:
        """Return it as plain JSON."""
        return [asdict(call) for call in self.calls]


def paid_twice(calls: Iterable[Call], *, broken: bool = True) -> int:
    """Return how many completions were paid although the same one had been: sum of billed - 1.

    Without `broken`, those that the server billed and then did not deliver are left out: what
    remains was lost by the client.
    """
    paid = Counter(c.request for c in calls if c.billed and (broken or not c.broken))
    return sum(times - 1 for times in paid.values())
