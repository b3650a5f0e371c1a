"""
Reproduce one figure
====================

Every figure of the results is drawn from a table that lies beside it, and the verdicts are computed from the
same table: nothing has to be run. ``make reproduce EXPERIMENT=alpha_range`` makes the table anew.
"""

import pathlib

import matplotlib.pyplot as plt

import experiments
from experiments import claims
from jaxmaml import plotting, storage

results = pathlib.Path(experiments.__file__).parents[1] / "results"
claim = claims.get("alpha_range")  # claims.names() has the others
table = storage.read_table(results / "tables" / "alpha_range.csv")
print(f"{claim.title}: {len(table)} measured rows")

# %%
# The rows of the ledger, judged once more:

for row in claim.judge(table):
    print(f"{row.verdict}: {row.part}")

# %%
# And the figure.

with plotting.style():
    plt.figure(claim.draw(table))
plt.show()
