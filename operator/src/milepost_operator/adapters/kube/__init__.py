"""Kubernetes by plain HTTP and raw objects (dicts): client, TokenReview, informer, lease."""
