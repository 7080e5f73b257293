"""`milepost manifest`: the Kubernetes objects that code declares."""
