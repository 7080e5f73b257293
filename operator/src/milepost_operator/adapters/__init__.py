"""What speaks to the world outside: Postgres and Kubernetes. Catches their errors and raises those of domain.errors."""
