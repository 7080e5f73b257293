"""Crash at every point: true runners and sidecars that die at a chosen write, on a real api and a real Postgres."""
