"""Milepost for authors of tasks: the SDK, the runner and the sidecar."""
