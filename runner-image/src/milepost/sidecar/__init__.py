"""The sidecar: holds the pod's only credential and stands between the task container and the api.

It keeps the lease, forwards records one after another and answers each only after it is committed. It holds nothing
that is not waiting to be forwarded, so it may be killed and started again at any moment.
"""
