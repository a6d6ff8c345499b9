"""reclib: the code of the book *Recommenders That Reason*.

Import the part you need (``from reclib.backbones import SASRec``); this file loads nothing heavy.
"""

__version__ = "0.1.0"
