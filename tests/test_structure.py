"""The layers: imports go one way, figures never run anything, importing the library changes no setting."""

import ast
import pathlib
import subprocess
import sys

import pytest

import experiments
import jaxmaml
from experiments import claims
from jaxmaml import discover

LIBRARY = pathlib.Path(jaxmaml.__file__).parent
EXPERIMENTS = pathlib.Path(experiments.__file__).parent

# A module may import what stands on an earlier line, or beside it in its own package.
LAYERS = [
    {"types", "version", "discover", "trigonometry", "random"},
    {"checks"},
    {"tree"},
    {"hvp", "data", "models"},
    {"inner_gradient"},
    {"inner"},
    {"estimators", "tasks", "theory"},
    {"meta_gradient", "step_size"},
    {"objective"},
    {"run", "constants"},
    {"results"},
    {"sweep"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def imports(path):
    """Dotted names of the project that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from jaxmaml import hvp` imports a module, `from jaxmaml.hvp import exact` does as well.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(path):
    return path.relative_to(LIBRARY).with_suffix("").parts[0]


@pytest.mark.parametrize("path", sorted(LIBRARY.rglob("*.py")), ids=lambda p: str(p.relative_to(LIBRARY)))
def test_imports_go_one_way(path):
    own = layer(path)
    if own == "__init__":
        return
    assert own in RANK, f"place {own} in LAYERS"
    for name in imports(path):
        parts = name.split(".")
        assert parts[0] != "experiments", "the library knows nothing of the experiments"
        if parts[0] == "jaxmaml" and parts[1] != own:
            assert parts[1] in RANK, f"{own} imports {name}"
            assert RANK[parts[1]] < RANK[own], f"{own} imports {name}"


@pytest.mark.parametrize("path", sorted((LIBRARY / "theory").glob("*.py")), ids=lambda p: p.name)
def test_theory_is_numpy_only(path):
    roots = {name.split(".")[0] for name in imports(path)}
    assert not roots & {"jax", "optax", "flax", "chex", "pandas", "matplotlib", "experiments"}
    for name in imports(path):
        if name.startswith("jaxmaml."):
            assert name.split(".")[1] in {"theory", "types", "discover"}


@pytest.mark.parametrize("name", sorted(discover.modules(claims)))
def test_figures_read_tables_and_theory_only(name):
    """`figure` neither builds nor runs a cell, nor calls what does."""
    tree = ast.parse((EXPERIMENTS / "claims" / f"{name}.py").read_text())
    figure = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "figure")
    used = {n.id for n in ast.walk(figure) if isinstance(n, ast.Name)}
    assert not used & {"Run", "theorem_run", "sweep", "grid", "measure", "jax", "jnp", "objective"}


def test_no_chains_of_names():
    """Names are found by discovery: the library asks for no method or family by name."""
    names = {"maml", "fo_maml", "hf_maml", "cosine", "digits", "quadratic"}
    allowed = {"shared_quadratic.py"}  # the closed form of a line is known for named methods only
    for path in LIBRARY.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare) and path.name not in allowed:
                constants = {c.value for c in node.comparators if isinstance(c, ast.Constant)}
                assert not constants & names, f"{path.name}:{node.lineno}"


def test_import_changes_no_setting():
    program = "import jax; import jaxmaml; print(jax.config.read('jax_enable_x64'))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_import_is_light():
    """What the library can do without until it is asked for; flax takes longer to import than JAX."""
    program = """
import sys, jaxmaml
heavy = {"pandas", "pyarrow", "scipy", "sklearn", "matplotlib", "tyro", "flax", "orbax", "jaxmaml.results"}
print(*sorted(heavy & set(sys.modules)))
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


@pytest.mark.parametrize("name", jaxmaml.LAZY)
def test_modules_are_attributes(name):
    """Also where they are first asked for inside jit."""
    program = f"""
import jax, jaxmaml
assert {name!r} in dir(jaxmaml)
assert jax.jit(lambda x: x + len(jaxmaml.{name}.__name__))(1) == {len("jaxmaml." + name) + 1}
assert jaxmaml.{name} is __import__("sys").modules["jaxmaml.{name}"]
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_misspelt_attribute():
    with pytest.raises(AttributeError, match="module 'jaxmaml' has no attribute 'modles'"):
        _ = jaxmaml.modles


def test_the_library_needs_no_extras():
    """import jaxmaml and a meta-gradient work without pandas, pyarrow, scikit-learn, tyro, matplotlib."""
    program = """
import sys
for name in ("pandas", "pyarrow", "sklearn", "tyro", "matplotlib", "rich", "PIL"):
    sys.modules[name] = None
import jax.numpy as jnp, jaxmaml
batch = jnp.ones((2, 3, 1))
loss = lambda w, x: jnp.mean((x[:, 0] * w[0] - 1) ** 2)
episodes = jaxmaml.Episode(batch, batch, batch)
print(jaxmaml.meta_gradient(jaxmaml.maml, loss, jnp.zeros(1), episodes, alpha=0.1))
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def test_public_functions_are_documented():
    for name in jaxmaml.__all__:
        if not name.startswith("__"):
            assert getattr(jaxmaml, name).__doc__, name
