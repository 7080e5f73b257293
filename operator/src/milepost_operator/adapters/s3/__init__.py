"""Object storage by S3's interface: the operations that we need, over aiohttp, which is here anyway.

A library for all of it would hold parts of several megabytes for each upload, or bring a runtime of its own; an object
of ours goes up in one request, as it comes.
"""
