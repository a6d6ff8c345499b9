"""Checks of sizes that nearly every configuration makes, with the same words everywhere."""

from __future__ import annotations


def check_at_least(least: int, **sizes: int) -> None:
    """Refuse the first size below `least`.

    Raises:
        ValueError: it names the size.
    """
    for name, value in sizes.items():
        if value < least:
            raise ValueError(f"{name}: must be at least {least}, got {value}")


def check_heads(dim: int, heads: int) -> None:
    """Refuse heads that do not share a width evenly.

    Raises:
        ValueError: `dim` is no multiple of `heads`.
    """
    if heads < 1 or dim % heads:
        raise ValueError(f"heads: {heads} must divide dim = {dim}")
