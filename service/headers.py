"""Headers of every answer: uvicorn writes them with the date, so no request pays for them."""

from __future__ import annotations

YEAR = 31_536_000  # seconds


def of_answers(tls: bool) -> list[tuple[str, str]]:
    """For browsers: take no answer for something else than it says, show it inside no other site, tell no site where one came from.

    Over TLS also: never ask this host over plain HTTP again.
    """
    always = [
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "frame-ancestors 'none'"),
        ("referrer-policy", "no-referrer"),
    ]
    return [*always, ("strict-transport-security", f"max-age={YEAR}")] if tls else always
