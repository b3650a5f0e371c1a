"""The objectives and their gradients, exactly: f, F, and the test-time objective F-hat."""

import jax
import jax.numpy as jnp

from jaxmaml import step_size, tree
from jaxmaml.estimators.maml_same_batch import maml_same_batch
from jaxmaml.inner import adapt
from jaxmaml.types import Episode, Family, PyTree, Scalar


def full_episodes(family: Family) -> Episode:
    """Every task with exact batches; data of a batch is (task, samples)."""
    tasks = jax.tree.map(jnp.asarray, family.tasks)
    exact = (tasks, jax.vmap(family.full)(tasks))
    return Episode(exact, exact, exact)


@jax.jit
def task_loss(family: Family, w: jax.Array, batch: PyTree) -> jax.Array:
    """The family's loss as loss(params, batch), with batch = (task, samples).

    Under jit, so that a program which differentiates it at many places traces it once.
    """
    task, samples = batch
    return family.loss(w, task, samples)


def task_gradients(family: Family, w: jax.Array) -> jax.Array:
    """grad f_i(w) of every task, shape (n, d)."""
    batches = full_episodes(family).inner
    return jax.vmap(lambda b: jax.grad(task_loss, argnums=1)(family, w, b))(batches)


def smoothness_at(family: Family, w: jax.Array, alpha: Scalar, L: Scalar, rho: Scalar) -> jax.Array:
    """L(w) = 4 L + 2 rho alpha E_i ||grad f_i(w)|| (as summarised), unit phi/u^2."""
    norms = jax.vmap(tree.norm)(task_gradients(family, w))
    return step_size.estimated_smoothness(L, rho, alpha, norms)


def F(family: Family, w: jax.Array, alpha: Scalar) -> jax.Array:
    """F(w) = E_i f_i(w - alpha grad f_i(w)), over all tasks and samples."""

    def one(batch: PyTree) -> jax.Array:
        def loss(v: jax.Array, b: PyTree) -> jax.Array:
            return task_loss(family, v, b)

        return loss(adapt(loss, w, batch, alpha), batch)

    return jnp.mean(jax.vmap(one)(full_episodes(family).inner))


def grad_F(family: Family, w: jax.Array, alpha: Scalar) -> jax.Array:
    """grad F(w) = E_i (I - alpha H_i) grad f_i(w - alpha grad f_i(w)), shape (d,)."""

    def one(episode: Episode) -> jax.Array:
        return maml_same_batch(lambda v, b: task_loss(family, v, b), w, episode, alpha=alpha)

    return jnp.mean(jax.vmap(one)(full_episodes(family)), axis=0)


def F_hat(
    family: Family, w: jax.Array, alpha: Scalar, D_test: Scalar, key: jax.Array, draws: int
) -> jax.Array:
    """F-hat(w) = E_i E_D f_i(w - alpha grad f_i(w; D)), |D| = D_test, over `draws` draws a task.

    The test-time objective, with the alpha that its summary lost. The key fixes the sample, so that
    the value is a smooth function of w and may be differentiated.
    """
    n = jax.tree.leaves(family.tasks)[0].shape[0]
    everyone = jnp.repeat(jnp.arange(n), draws)
    tasks = jax.tree.map(lambda x: jnp.asarray(x)[everyone], family.tasks)
    samples = family.sample(key, everyone, jnp.full(n * draws, D_test))

    def one(task: PyTree, drawn: PyTree) -> jax.Array:
        def loss(v: jax.Array, batch: PyTree) -> jax.Array:
            return family.loss(v, task, batch)

        return loss(adapt(loss, w, drawn, alpha), family.full(task))

    return jnp.mean(jax.vmap(one)(tasks, samples))
