"""Checks every shape annotation of ``reclib`` at run time, in all tests."""

from jaxtyping import install_import_hook

# Has to run before anything imports reclib: the hook rewrites modules as they are loaded.
install_import_hook("reclib", "typechecker.check")
