"""The api process: HTTP for users (`/v1`) and for sidecars (`/pod/v1`), and the duties that keep runs moving.

Knows the ports of the store and no database; everything a handler needs is handed to `app.build_app`.
"""
