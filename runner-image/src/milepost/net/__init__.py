"""HTTP/1.1 and nothing else: a small server, a keep-alive client, a blocking client over a unix socket."""
