"""Benchmarks on the real cluster. Each prints lines `bar <name> <value> <unit> <target> ok|short`."""
