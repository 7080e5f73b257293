"""The SDK against its bars, beside DBOS, absurd and Restate where they do the same work. `make bench-sdk`."""
