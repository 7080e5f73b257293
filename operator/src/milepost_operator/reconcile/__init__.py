"""Decisions, pure, and the thin loops that carry them out through ports.

observe → decide(spec, observed, now) → apply: Postgres first, then Kubernetes, then one status patch, then Events.
"""
