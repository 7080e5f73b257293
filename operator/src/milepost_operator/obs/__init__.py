"""What every process tells of itself: metrics and logs."""
