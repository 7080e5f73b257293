"""What authors of tasks use, re-exported by `milepost`."""
