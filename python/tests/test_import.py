"""What importing costs and drags in, and whether stubs and README tell the truth."""

import ast
import pathlib
import resource
import statistics
import subprocess
import sys

import memvelope
import pytest
from conftest import clean_env
from memvelope import _native

PACKAGE = pathlib.Path(memvelope.__file__).parent
#: The promise: how much longer `python -c "import memvelope"` takes than bare Python.
IMPORT_MS_MAX = 15


def test_importing_is_cheap():
    def seconds(code):
        """Processor time of a child: what a busy machine does beside it does not count."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], env=clean_env(), check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    seconds("import memvelope")  # compiles and caches the bytecode
    # Interleaved, so that a noisy machine slows both alike.
    pairs = [(seconds("import memvelope"), seconds("pass")) for _ in range(15)]
    ours, bare = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"import memvelope: {(ours - bare) * 1e3:.1f} ms over bare Python ({bare * 1e3:.1f} ms)")
    assert (ours - bare) * 1e3 <= IMPORT_MS_MAX


def test_importing_loads_no_driver_and_no_framework(child):
    code = """
import sys
bare = set(sys.modules)
import memvelope
extra = {name.partition('.')[0] for name in set(sys.modules) - bare}
assert extra <= {'memvelope', '__future__', 'contextvars', '_contextvars'}, extra
maps = open('/proc/self/maps').read()
for library in ('libcuda', 'libcupti', 'libnvidia-ml', 'libtorch'):
    assert library not in maps, library
"""
    child(code)


def test_a_gate_works_without_any_driver(child, tmp_path):
    code = """
import memvelope
gate = memvelope.Gate.from_blocks(10, policy="guaranteed", max_model_len=160)
with gate.admit(100, 60) as lease:
    assert lease.claim_blocks == 10 and gate.try_admit(1, 1) is None
print(gate.usage()['admitted'])
"""
    empty = str(tmp_path)
    assert child(code, LD_LIBRARY_PATH=empty) == "1\n"


def public(names):
    return {name for name in names if not name.startswith("_") or name in ("__version__",)}


def stub_nodes():
    """What the stub of `_native` has, and what it takes from stubs beside it."""
    nodes = []
    for node in ast.parse((PACKAGE / "_native.pyi").read_text()).body:
        if isinstance(node, ast.ImportFrom) and all(name.asname for name in node.names):
            names = {name.name for name in node.names}
            there = ast.parse((PACKAGE / f"{node.module}.pyi").read_text()).body
            nodes += [item for item in there if getattr(item, "name", None) in names]
        else:
            nodes.append(node)
    return nodes


def in_stub():
    top, members = set(), {}
    for node in stub_nodes():
        if isinstance(node, ast.ClassDef):
            top.add(node.name)
            members[node.name] = {
                item.name for item in node.body if isinstance(item, ast.FunctionDef)
            }
        elif isinstance(node, ast.FunctionDef):
            top.add(node.name)
        elif isinstance(node, ast.AnnAssign):
            top.add(node.target.id)
    return top, members


def test_stubs_name_everything_and_nothing_else():
    top, members = in_stub()
    assert public(top) == public(dir(_native))
    for name in top & set(dir(_native)):
        kind = getattr(_native, name)
        if not isinstance(kind, type) or issubclass(kind, Exception):
            continue
        there = {member for member in vars(kind) if not member.startswith("__")}
        stubbed = {member for member in members[name] if not member.startswith("__")}
        assert there == stubbed, name
        for dunder in members[name] - stubbed:
            assert hasattr(kind, dunder), f"{name}.{dunder}"


def test_stubs_have_the_right_parameters():
    inspect = pytest.importorskip("inspect")
    nodes = stub_nodes()
    checked = 0
    for node in nodes:
        if not isinstance(node, ast.ClassDef) or not hasattr(_native, node.name):
            continue
        for item in node.body:
            is_property = any(
                isinstance(d, ast.Name) and d.id == "property"
                for d in getattr(item, "decorator_list", [])
            )
            if not isinstance(item, ast.FunctionDef) or item.name.startswith("__") or is_property:
                continue
            function = getattr(getattr(_native, node.name), item.name)
            parameters = list(inspect.signature(function).parameters)
            arguments = [a.arg for a in item.args.args + item.args.kwonlyargs]
            assert parameters == arguments, f"{node.name}.{item.name}"
            checked += 1
    assert checked > 15
    for node in nodes:
        if isinstance(node, ast.FunctionDef):
            parameters = list(inspect.signature(getattr(_native, node.name)).parameters)
            assert parameters == [a.arg for a in node.args.args + node.args.kwonlyargs], node.name


def test_stubs_list_what_a_star_imports():
    tree = ast.parse((PACKAGE / "_native.pyi").read_text())
    lists = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
    ]
    assert len(lists) == 1 and sorted(lists[0]) == sorted(_native.__all__)


def test_everything_public_is_exported():
    exported = set(memvelope.__all__)
    assert public(dir(_native)) <= exported
    for name in exported:
        assert getattr(memvelope, name) is not None
    assert (PACKAGE / "py.typed").exists()


def python_blocks(path):
    parts = path.read_text().split("```python\n")[1:]
    return [part.partition("```")[0] for part in parts]


@pytest.mark.parametrize("name", ["README.md", "../README.md"])
def test_the_readmes_examples_work_when_pasted(name, child, tmp_path):
    readme = pathlib.Path(__file__).resolve().parents[1] / name
    if not readme.exists():
        pytest.skip(f"ignored: {name} is not here (tests run outside of the repository)")
    blocks = python_blocks(readme)
    if not blocks:
        pytest.skip(f"ignored: {name} has no Python example")
    for block in blocks:
        child(f"import os\nos.chdir({str(tmp_path)!r})\n{block}")
