"""Fails when it is imported."""

LEVELS = {"low": 1}
LEVEL = LEVELS["high"]
