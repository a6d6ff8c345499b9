"""One world and its day; only read."""

import pytest

from reclib.agents import AdAnalyticsTools, AdEnvironment


@pytest.fixture(scope="session")
def environment():
    return AdEnvironment.of(0)


@pytest.fixture(scope="session")
def tools(environment):
    return AdAnalyticsTools(environment)
