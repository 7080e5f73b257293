"""What crosses a process boundary: the pod protocol (sidecar to api), the local protocol (task container to sidecar).

Standard library only, and no input or output here: both ends import it, and so does the control plane.
"""
