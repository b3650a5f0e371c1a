"""The layers: imports go one way, figures never run anything, importing the library changes no setting."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

import experiments
import jaxmaml
from experiments import claims
from jaxmaml import discover

LIBRARY = pathlib.Path(jaxmaml.__file__).parent
EXPERIMENTS = pathlib.Path(experiments.__file__).parent

# A module may import what stands on an earlier line, or beside it in its own package; the experiments may
# import all of the library.
LAYERS = {
    "jaxmaml": [
        {"failures", "paths"},
        {
            "types",
            "version",
            "discover",
            "names",
            "_random",
            "statistics",
            "storage",
            "timing",
            "_trigonometry",
            "configuration",
        },
        {"checks", "identity", "packing", "plotting"},
        {"tree"},
        {"hvp", "data", "models"},
        {"fewshot"},
        {"_inner_gradient"},
        {"inner"},
        {"estimators", "tasks", "theory"},
        {"_meta_gradient", "step_size"},
        {"objective"},
        {"federated"},
        {"measure"},
        {"constants"},
        {"training"},
        {"learner"},
        {"advice"},
        {"command_line"},
        {"__main__"},
    ],
    "experiments": [
        {"results", "run", "program", "executors"},
        {"cells", "judging", "search"},
        {"claim", "keys"},
        {"jobs"},
        {"sweep"},
        {"claims"},
        {"power", "story", "summary"},
        {"report"},
        {"pipeline"},
        {"advice_problems"},
        {"advice", "federated", "head_to_head"},
        {"head_to_head_figures", "benchmarks"},
        {"__main__"},
    ],
}
RANK = {
    house: {name: rank for rank, names in enumerate(layers) for name in names}
    for house, layers in LAYERS.items()
}
MODULES = sorted([*LIBRARY.rglob("*.py"), *EXPERIMENTS.rglob("*.py")])


def imports(path):
    """Dotted names of the project that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from jaxmaml import hvp` imports a module, `from jaxmaml.hvp import exact` does as well.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(LIBRARY.parent)))
def test_imports_go_one_way(path):
    house, own = path.relative_to(LIBRARY.parent).with_suffix("").parts[:2]
    if own == "__init__":
        return
    rank = RANK[house]
    assert own in rank, f"place {own} in LAYERS"
    for name in imports(path):
        parts = name.split(".")
        assert (house, parts[0]) != ("jaxmaml", "experiments"), "the library knows nothing of the experiments"
        # `from jaxmaml import maml` asks the stub where a name is.
        if parts[0] == house and parts[1] != own and (parts[1] in rank or house == "experiments"):
            assert parts[1] in rank, f"{own} imports {name}"
            assert rank[parts[1]] < rank[own], f"{own} imports {name}"


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


SKIPPING = {"sem", "describe", "interpolate"}
"""Statistics of pandas without the values that are missing; those of NumPy are nanmean, nanmax ..."""
AVERAGES = {"mean", "median", "std", "var", "quantile"}
EXTREMES = {"max", "min", "sum"}


def is_column(node):
    """Whether an expression is a column of a table by its form: x.name, x.loc[...], or made of such."""
    match node:
        case ast.Attribute():
            return True
        case ast.Subscript(value=value):
            return is_column(value)
        case ast.BinOp(left=left, right=right):
            return is_column(left) and (is_column(right) or isinstance(right, ast.Constant))
    return False


def drawings(tree):
    """The calls in functions that draw: a figure leaves out what is missing."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and "plotting.finish(" in ast.unparse(node):
            yield from ast.walk(node)


@pytest.mark.parametrize(
    "path",
    [p for p in MODULES if p.name != "statistics.py"],
    ids=lambda p: str(p.relative_to(LIBRARY.parent)),
)
def test_no_value_that_is_missing_is_skipped(path):
    """Means are those of `jaxmaml.statistics`, or of arrays: pandas leaves out what is nan. The extremes of a
    claim's columns are `largest` and `smallest`."""
    tree = ast.parse(path.read_text())
    drawn = set(drawings(tree))
    tables = {"pandas", "pd"} & {
        alias.asname or alias.name
        for n in ast.walk(tree)
        for alias in getattr(n, "names", ())
        if isinstance(alias, ast.alias)
    }
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        name, of = node.func.attr, ast.unparse(node.func.value)
        skips = name in SKIPPING or (
            name.startswith(("nanm", "nans", "nanv", "nanp", "nanq")) and of in ("np", "jnp")
        )
        of_table = (
            tables and name in AVERAGES and not re.match(r"(np|jnp|statistics)\b|.*\.to_numpy\(\)$", of)
        )
        of_column = (
            path.parent.name == "claims"
            and name in EXTREMES
            and is_column(node.func.value)
            and node not in drawn
        )
        assert not of_column, f"{path.name}:{node.lineno}: {of}.{name}"
        assert not skips, f"{path.name}:{node.lineno}: {of}.{name}"
        assert not of_table, f"{path.name}:{node.lineno}: {of}.{name}"


def test_import_changes_no_setting():
    program = "import jax; import jaxmaml; print(jax.config.read('jax_enable_x64'))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_import_is_light():
    """What the library can do without until it is asked for; flax takes longer to import than JAX."""
    program = """
import sys, jaxmaml
heavy = {"pandas", "pyarrow", "scipy", "sklearn", "matplotlib", "tyro", "flax", "orbax", "jax"}
print(*sorted(heavy & set(sys.modules)))
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


def test_names_may_be_asked_for_inside_jit():
    """What their modules make when they are imported does not belong to the program that is traced then."""
    program = """
import jax, jaxmaml

def f(x):
    for name in jaxmaml.__all__:
        getattr(jaxmaml, name)
    return x + len(jaxmaml.__all__)

with jax.checking_leaks():
    assert jax.jit(f)(1) == 1 + len(jaxmaml.__all__) > 20
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_function_is_no_module_of_its_name():
    """Whatever is imported first: importing a module binds its name in the package."""
    for first in ("_meta_gradient", "_inner_gradient", "inner", "estimators.maml"):
        asked = "j.meta_gradient, j.inner_gradient, j.maml"
        program = f"import jaxmaml.{first}, jaxmaml as j; print(*map(callable, ({asked})))"
        found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert found.stdout.split() == ["True"] * 3


def test_misspelt_attribute():
    with pytest.raises(AttributeError, match="No jaxmaml attribute modles"):
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
