"""What the core needs from outside, as protocols: the store (Postgres) and the cluster (Kubernetes)."""
