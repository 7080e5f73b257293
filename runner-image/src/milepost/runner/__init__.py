"""The runner: PID 1 of the task container. Loads the task once, forks a clean process for the attempt, watches it."""
