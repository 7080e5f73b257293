"""What scenarios, demo and benchmarks share: kubectl, waiting, the release, faults, and the checks after each fault."""
