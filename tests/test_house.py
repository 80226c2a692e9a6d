"""The rules of the house: who imports whom, how long a file may be, and what a public name owes its reader."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "tlkit"
FILES = sorted(PACKAGE.rglob("*.py"))

FLOORS = {
    "errors": 0, "functional": 0, "notes": 0, "schedules": 0, "types": 0,
    "backbones": 1, "batchnorm": 1, "finetuning": 1, "losses": 1, "metrics": 1, "tasks": 1,
    "combinations": 2, "data": 2, "distributed": 2, "evaluation": 2, "network": 2, "random_state": 2, "sharding": 2,
    "module": 3,
    "callbacks": 4, "report": 4, "start": 4,
    "cli": 5,
}  # fmt: skip
# Within data/: files of any kind; what all data modules share (""); a folder a form of data; shards; published sets.
DATA_FLOORS = {"files": 0, "": 1, "fingerprints": 2, "images": 2, "series": 2, "text": 2, "shards": 3, "sets": 3}
WITH_EXAMPLES = ("backbones", "finetuning", "functional", "losses", "metrics", "schedules", "tasks")
# A contract is nothing by itself: its subclasses show it at work.
CONTRACTS = {"AdaptationLoss", "Encoder", "Schedule", "Task"}


def name_of(file):
    return str(file.relative_to(PACKAGE.parent))


def tree_of(file):
    return ast.parse(file.read_text(encoding="utf-8"))


def part_of(file):
    """Return the part of the house that a file belongs to; "" for the package's own __init__."""
    first = file.relative_to(PACKAGE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imports(tree, file):
    """Yield (line, module, name) for every import of tlkit, those under TYPE_CHECKING and inside functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(file)}:{node.lineno}: relative import"
            found = [(node.module, alias.name) for alias in node.names]
        else:
            continue
        yield from ((node.lineno, module, name) for module, name in found if module.split(".")[0] == "tlkit")


def test_every_part_has_a_floor():
    assert {part_of(file) for file in FILES} - {""} <= set(FLOORS)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_never_go_up(file):
    part = part_of(file)
    if not part:
        return  # the front door shows names of every floor; test_import_is_light holds it
    imported = ((line, f"{module}.{name}".split(".")[1]) for line, module, name in imports(tree_of(file), file))
    up = [
        f"{name_of(file)}:{line} imports {other} (floor {FLOORS[other]}) from floor {FLOORS[part]}"
        for line, other in imported
        if other != "__version__" and FLOORS.get(other, 99) > FLOORS[part]
    ]
    assert not up


@pytest.mark.parametrize("file", sorted((PACKAGE / "data").rglob("*.py")), ids=name_of)
def test_forms_of_data_know_nothing_of_each_other(file):
    data = PACKAGE / "data"
    if file == data / "__init__.py":
        return  # it shows the names of all of them

    folder = str(file.parent.relative_to(data)).removeprefix(".")
    assert folder in DATA_FLOORS
    for line, module, name in imports(tree_of(file), file):
        where = f"{name_of(file)}:{line} imports {module}"
        assert module != "tlkit.data", f"{where}, the front door"
        assert (module, name) != ("tlkit", "data"), f"{where}.data, the front door"
        if module.startswith("tlkit.data."):
            first = module.split(".")[2]
            other = first if (data / first).is_dir() else ""
            lower = DATA_FLOORS[other] < DATA_FLOORS[folder]
            assert other == folder or lower, where


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_size(file):
    limit = 250 if file == PACKAGE / "module.py" else 400
    assert len(file.read_text(encoding="utf-8").splitlines()) < limit


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_an_init_has_few_parameters(file):
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            arguments = node.args
            count = len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs) - 1
            assert count < 9, f"{name_of(file)}:{node.lineno} has {count}"


def test_no_name_that_says_nothing():
    forbidden = {"utils", "common", "helpers", "misc", "core", "engine"}
    paths = [path for path in PACKAGE.rglob("*") if path.is_dir() or path.suffix == ".py"]
    assert not [str(path) for path in paths if path.stem in forbidden]


def test_the_module_names_no_loss_task_or_backbone():
    tree = tree_of(PACKAGE / "module.py")
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    for part in ("backbones", "losses", "tasks"):
        public = set(importlib.import_module(f"tlkit.{part}").__all__) - CONTRACTS
        assert not used & public


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_every_log_call_at_a_batch_says_the_batch_size(file):
    """On a batch of two domains Lightning would guess it."""
    hooks = [node for node in ast.walk(tree_of(file)) if isinstance(node, ast.FunctionDef)]
    for hook in (node for node in hooks if not node.name.endswith("_epoch_end")):
        for call in (node for node in ast.walk(hook) if isinstance(node, ast.Call)):
            if isinstance(call.func, ast.Attribute) and call.func.attr in ("log", "log_dict"):
                of = ast.unparse(call.func.value)
                where = f"{name_of(file)}:{call.lineno}"
                assert of not in ("self", "pl_module") or "batch_size" in {k.arg for k in call.keywords}, where


# What runs code that a file holds, or that a string is; a recipe's class paths are imported by tlkit.cli.names alone.
_RUNS_CODE = {"eval", "exec", "compile", "__import__"}
_UNPICKLES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_no_file_is_run_as_code(file):
    tree = tree_of(file)
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not names & _UNPICKLES
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        called, options = ast.unparse(call.func), {each.arg: ast.unparse(each.value) for each in call.keywords}
        where = f"{name_of(file)}:{call.lineno}"
        assert called not in _RUNS_CODE, where
        assert options.get("allow_pickle", "False") == "False", where
        assert "trust_remote_code" not in options, where
        if called == "torch.load" or called.endswith(("trainer.fit", "trainer.test")):
            assert options["weights_only"] == "True", where
        if called == "yaml.load":
            assert options["Loader"] == "_Loader", where  # a SafeLoader
        assert called not in ("yaml.unsafe_load", "yaml.full_load", "pd.read_pickle", "os.system"), where


def public_definitions():
    """Yield (file, node) of every public class and function: what a file's own __all__ lists and the file defines."""
    for file in FILES:
        tree = tree_of(file)
        listed = {
            name
            for node in tree.body
            if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__all__" for target in node.targets)
            for name in ast.literal_eval(node.value)
        }
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name in listed:
                yield pytest.param(file, node, id=f"{name_of(file)}::{node.name}")


@pytest.mark.parametrize("file", [file for file in FILES if file.name != "__main__.py"], ids=name_of)
def test_every_file_lists_its_public_names(file):
    if len(tree_of(file).body) == 1:
        return  # a docstring and nothing to list
    module = importlib.import_module(".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts))
    missing = [name for name in module.__all__ if not hasattr(module, name)]
    assert not missing


@pytest.mark.parametrize(("file", "node"), list(public_definitions()))
def test_public_names_are_documented(file, node):
    doc = ast.get_docstring(node)
    assert doc, "no docstring"
    part = part_of(file)
    if part in WITH_EXAMPLES and node.name in set(importlib.import_module(f"tlkit.{part}").__all__) - CONTRACTS:
        inside = [ast.get_docstring(child) or "" for child in node.body if isinstance(child, ast.FunctionDef)]
        assert any("Example:" in text and ">>>" in text for text in (doc, *inside)), "no Example that doctest runs"


@pytest.mark.parametrize("module", ["tlkit", "tlkit.errors", "tlkit.schedules", "tlkit.cli.main"])
def test_import_is_light(module):
    heavy = "{'torch', 'lightning', 'torchmetrics', 'timm', 'transformers', 'sklearn', 'jsonargparse'}"
    code = f"import sys, {module}; print(*sorted({heavy} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    assert result.stdout.strip() == ""
