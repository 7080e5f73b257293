"""Chaos: the real api processes and Postgres under faults, simulated pods, and a checker that trusts neither.

`python -m tests.chaos --seed 1 --minutes 20`; `make chaos SEED=1 MINUTES=20`.
"""
