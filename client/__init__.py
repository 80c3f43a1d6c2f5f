"""The offline-first Python client's room. Imports `sync`, never `server`, never NATS.

The room is kept free by DESIGN.md section 3; the client itself is the next piece of work and nothing is exported yet.
"""

__all__: list[str] = []
