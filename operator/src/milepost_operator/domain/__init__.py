"""What Milepost means: states, attempts, budgets, failures. Standard library only; no clock, randomness or I/O."""
