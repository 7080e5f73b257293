"""The engine beside its peers: the same Postgres, one run, a database for each. `make bench-engine`."""
