"""Few-shot tasks from your own data: arrays, a dict of arrays, a folder of images.

    from_arrays(x, y, ways=5, support=1, query=15)    N-way K-shot tasks from labelled samples
    from_tasks({name: (x, y)}, support=5, query=10)   tasks or clients that are there, of unequal size
    from_folder(path, size=84, ways=5, ...)           images, a subfolder a class
    partition(labels, (0.8, 0.2), seed=0)             labels, or names, for training and for tests

What the first three return has `episodes(key, tasks)`, which draws inside jit; docs/data.md shows it in use.
"""

from jaxmaml.data.ragged import ClassTasks, Tasks
from jaxmaml.fewshot._labels import partition
from jaxmaml.fewshot.arrays import from_arrays
from jaxmaml.fewshot.folder import from_folder, read_folder
from jaxmaml.fewshot.tasks import from_tasks

__all__ = ["ClassTasks", "Tasks", "from_arrays", "from_folder", "from_tasks", "partition", "read_folder"]
