"""Checks every shape annotation of ``reclib`` at run time, and draws the same examples every time."""

from hypothesis import settings
from jaxtyping import install_import_hook

# Has to run before anything imports reclib: the hook rewrites modules as they are loaded.
install_import_hook("reclib", "typechecker.check")

# What passes here passes elsewhere: no fresh draw, and no stop-watch, which a busy machine would trip.
# To look for new counterexamples: `pytest --hypothesis-profile=search`.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("search", max_examples=2000, deadline=None)
settings.load_profile("repeatable")
