"""A real Kubernetes for tests and demos: on this Linux machine, in kind, or one that already runs."""
