"""What the engine costs, each figure as a ratio to a baseline of the same run, in CPU time.

Run `python -m benchmarks` (`--short` in CI) from the root of the repository; each script also runs
alone: `python -m benchmarks.handoff`.
"""
