r"""
A new claim
===========

A claim says what is run, what is measured, which rows of the ledger follow, and how it is drawn. Its file
lies in ``experiments/claims/``, where it is found by its place; this one is only an example. It claims that
one inner step pays at least what the descent lemma says, on average over the tasks and from every point:

.. math:: F(w)\le f(w)-\alpha\,(1-\tfrac12\alpha L)\,\mathbb E\lVert\nabla f_i(w)\rVert^2

.. literalinclude:: /examples/parts/descent_lemma.py
"""

import pathlib
import tempfile

import jax
import matplotlib.pyplot as plt

from examples.parts.descent_lemma import claim
from experiments.sweep import sweep
from jaxmaml import plotting

jax.config.update("jax_enable_x64", True)  # as every run of the suite

# %%
# In its place, ``make reproduce EXPERIMENT=descent_lemma SCALE=smoke`` does all that follows. What is run and
# measured, at the smallest scale:

with tempfile.TemporaryDirectory() as folder:
    grid = claim.grid("smoke")
    table = claim.measure(sweep(grid, pathlib.Path(folder), quiet=True)[0], grid)
print(table)

# %%
# The rows of the ledger, and the figure:

for row in claim.judge(table):
    print(f"{row.verdict}: {row.part}, {row.measured:.3f} >= {row.bound:g}")

with plotting.style():
    plt.figure(claim.draw(table))
plt.show()
