"""Claims of the theory, each measured: `python -m experiments list`."""
