"""Planted bugs: each must make a named test, or a short chaos run, fail. `python -m tests.mutants [NAME…]`."""
