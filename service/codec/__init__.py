"""Bytes on the wire to arrays and back."""
