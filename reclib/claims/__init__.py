"""The claims of the book as data: `chNN.py` holds the tuple `CLAIMS` of chapter NN.

Write a claim and its threshold before its experiment runs, and never move a threshold afterwards: `reclib.ledger` says
how. A claim that fails stays in the ledger.
"""
