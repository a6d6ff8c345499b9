"""Worlds that several tests look at. They are only read, never changed."""

import pytest

from reclib.world import AdWorld, AdWorldConfig


@pytest.fixture(scope="session")
def tiny():
    return AdWorld(AdWorldConfig.preset("tiny"))


@pytest.fixture(scope="session")
def book():
    """The world of the chapters, with fewer users: 50,000 events."""
    return AdWorld(AdWorldConfig.preset("book", n_users=1000))


@pytest.fixture(scope="session")
def lifelong():
    """Long histories, with fewer users: 48,000 events."""
    return AdWorld(AdWorldConfig.preset("lifelong", n_users=40))
