"""Attacks on reliability, counted: kills, damage, two of everything, bad input. `make attack` runs them.

An attack is a function that yields one text for each thing it tried: empty where the answer was right, else
what went wrong. It writes into the folder that it is given, and starts no other work than its own.
`attacks.ledger` has them all.
"""
