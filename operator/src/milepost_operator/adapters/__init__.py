"""The edges: Postgres and Kubernetes. Each translates its library's errors into the family of `domain.errors`."""
