"""The operator process: kopf brings objects in, the reconcilers do the rest."""
