"""The edges: each decodes, calls one method of the core, and encodes."""
