"""
MAML, FO-MAML or HF-MAML for my problem?
========================================

FO-MAML leaves the second derivatives out: a step costs half, and where the tasks are curved alike nothing is
lost. Otherwise it stops too early. ``jaxmaml advise`` measures which is the case; this is the same from
Python. The problem is a function in a file:

.. literalinclude:: /examples/parts/my_problem.py
"""

import matplotlib.pyplot as plt

from jaxmaml import plotting
from jaxmaml.advice import figure, text
from jaxmaml.advice.advise import advise
from jaxmaml.advice.options import Options

# %%
# The methods get equally many gradients (``price="time"``: equal time on this machine).

target = "examples.parts.my_problem:problem"
options = Options(target, alpha=0.1, outer_steps=400, pilot=40, price="gradients", quick=True)
advice = advise(options)
print(text.verdict(advice))

# %%
# The error of each method against the length of the run, its parts, and the loss against the inner rate:

with plotting.style():
    plt.figure(figure.drawn(advice))
plt.show()
