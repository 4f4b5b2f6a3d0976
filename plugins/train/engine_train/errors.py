"""What stops a training for good."""

from __future__ import annotations

__all__ = ["TrainingError"]


class TrainingError(ValueError):
    """A training cannot begin or go on; the message is one sentence that says what to do.

    It is not tried again: the same training would fail in the same way.
    """

    retryable = False
