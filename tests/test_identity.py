"""What is stored depends on all code that is executed, and on no other."""

import importlib
import pathlib
import sys
import textwrap
import types

import jax
import pytest

import experiments
import jaxmaml
from experiments import claims, sweep
from jaxmaml import identity

HOUSES = (jaxmaml.__path__[0], experiments.__path__[0])


def executed(function):
    """The definitions of the project of which a call executes code."""
    found = set()

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(HOUSES):
            name = frame.f_code.co_qualname.split(".")[0]
            if name not in ("<module>", "<lambda>", "<genexpr>", "<listcomp>", "<dictcomp>", "<setcomp>"):
                found.add(f"{frame.f_globals['__name__']}:{name}")

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    return found


def executed_and_found(name):
    claim = claims.get(name)
    grid = claim.grid("smoke")
    cells = [cell for _, cell in grid]
    jax.clear_caches()
    for group in sweep.group(cells):
        cell = cells[group.indices[0]]
        yield executed(lambda cell=cell: jax.eval_shape(cell.execute)), set(identity.code(cell))


@pytest.mark.parametrize(
    "name",
    [
        "assumptions_real_data",
        "worst_step",
        "step_moments",
        "hf_blind",
        *(
            pytest.param(name, marks=pytest.mark.exhaustive)
            for name in claims.names()
            if name not in ("assumptions_real_data", "worst_step", "step_moments", "hf_blind")
        ),
    ],
)
def test_all_that_a_cell_executes_is_found(name):
    for ran, found in executed_and_found(name):
        assert ran
        assert ran <= found


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A package with these files, as a new process would see it."""
    count = iter(range(100))

    def make(**texts):
        for name in [name for name in sys.modules if name.split(".")[0] == "someones"]:
            del sys.modules[name]
        folder = tmp_path / str(next(count)) / "someones"
        folder.mkdir(parents=True)
        for name, text in {"__init__": "", **texts}.items():
            (folder / f"{name}.py").write_text(textwrap.dedent(text))
        monkeypatch.syspath_prepend(folder.parent)
        identity.forget()
        return lambda name: importlib.import_module(f"someones.{name}" if name else "someones")

    return make


MAIN = """
    '''What it is.'''
    from someones import other
    from someones.other import LIMIT as largest
    import numpy as np

    SCALE = 2.0

    class Base:
        def value(self):
            return other.used(1)

    class Model(Base):
        '''A model.'''
        def __call__(self, x: "Unused") -> float:
            # a comment
            return helper(x) * np.minimum(SCALE, largest)

    def helper(x):
        from someones.third import late
        return late(x)

    def root(x):
        return Model()(x)

    def stranger(x):
        return x
"""
OTHER = """
    LIMIT = 3.0

    def used(x):
        return x

    def stranger(x):
        return 2 * x
"""
THIRD = """
    def late(x):
        return x + 1
"""


def sums(project, main=MAIN, other=OTHER, third=THIRD):
    module = project(main=main, other=other, third=third)("main")
    return {name.partition(".")[2]: value for name, value in identity.code(module.root).items()}


class TestDefinitions:
    def test_what_is_reached(self, project):
        assert set(sums(project)) == {
            "main:root",
            "main:Model",
            "main:Base",
            "main:helper",
            "main:SCALE",
            "other:LIMIT",
            "other:used",
            "third:late",
        }

    @pytest.mark.parametrize(
        ("file", "old", "new", "changed"),
        [
            ("main", "x) *", "x) /", ["main:Model"]),
            ("main", "SCALE = 2.0", "SCALE = 2.5", ["main:SCALE"]),
            ("main", "used(1)", "used(2)", ["main:Base"]),
            ("main", "Model()(x)", "Model()(-x)", ["main:root"]),
            ("other", "LIMIT = 3.0", "LIMIT = 4.0", ["other:LIMIT"]),
            ("third", "x + 1", "x + 2", ["third:late"]),
            ("other", "2 * x", "3 * x", []),
            ("main", "# a comment", "# another", []),
            ("main", "A model.", "The model.", []),
            ("main", '"Unused"', '"Used"', ["main:Model"]),
            ("main", "return x\n", "return 5\n", []),
        ],
    )
    def test_what_a_change_changes(self, project, file, old, new, changed):
        texts = {"main": MAIN, "other": OTHER, "third": THIRD}
        assert old in texts[file]
        before = sums(project)
        after = sums(project, **texts | {file: texts[file].replace(old, new)})
        assert identity.changes(before, after) == changed
        assert (identity.summary(before) == identity.summary(after)) == (not changed)

    def test_what_a_module_executes_when_imported(self, project):
        before = sums(project)
        after = sums(project, third=THIRD + "\n    print\n")
        assert identity.changes(before, after) == ["third:"]

    def test_a_registry_is_its_whole_package(self, project):
        load = project(
            __init__="""
                import sys
                from jaxmaml import discover
                def get(name):
                    return discover.modules(sys.modules[__name__])[name]
            """,
            one="def f(): return 1",
            two="def f(): return 2",
        )
        found = identity.code(load("").get)
        assert {name.partition(".")[2] for name in found if "someones" in name} >= {"one:f", "two:f"}

    def test_what_functions_close_over(self, project):
        load = project(
            main="""
                import functools
                def power(x, n): return x**n
                def shifted(x): return x + 1
                def compose(*functions):
                    def composed(x):
                        for function in functions:
                            x = function(x)
                        return x
                    return composed
                made = compose(shifted, functools.partial(power, n=2))
                @functools.lru_cache
                def cached(x): return shifted(x)
            """
        )
        module = load("main")
        names = {name.partition(":")[2] for name in identity.code(module.made)}
        assert names == {"power", "shifted", "compose"}
        assert {name.partition(":")[2] for name in identity.code(module.cached)} == {"cached", "shifted"}

    def test_code_of_no_file_is_refused(self, monkeypatch):
        by_hand = types.ModuleType("by_hand")
        monkeypatch.setitem(sys.modules, "by_hand", by_hand)
        exec("def made(x): return x", vars(by_hand))
        with pytest.raises(ValueError, match="is of no file; allowed"):
            identity.code(by_hand.made)

    def test_a_rule_belongs_to_its_function(self, project):
        text = """
            import jax
            @jax.custom_jvp
            def f(x): return x
            @f.defjvp
            def rule(primals, tangents): return primals[0], 3 * tangents[0]
            def g(x): return f(x)
        """
        before = identity.code(project(main=text)("main").g)
        after = identity.code(project(main=text.replace("3 *", "4 *"))("main").g)
        assert identity.changes(before, after) == ["someones.main:rule"]

    def test_files_that_change_later_are_not_read(self, project):
        """A run that goes on while its code is edited is a run of the code that it began with."""
        module = project(main="def root(x): return x")("main")
        identity.remember()
        pathlib.Path(module.__file__).write_text("def root(x): return -x")
        found = identity.code(module.root)
        assert found == identity.code(project(main="def root(x): return x")("main").root)
        assert found != identity.code(project(main="def root(x): return -x")("main").root)
