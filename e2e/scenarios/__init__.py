"""What Milepost promises, tried on a real cluster."""
