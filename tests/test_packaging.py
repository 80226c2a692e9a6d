"""What a user installs: the wheel, the locks, and that the places which name a version or a dependency agree."""

import ast
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import tlkit

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCKS = ["requirements.lock", "requirements-dev.lock"]
PINNED = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+)")


def read_lock(name):
    """Return {package: (version, number of hashes)}."""
    found, package = {}, None
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if pin := PINNED.match(line):
            package = pin[1]
            found[package] = [Version(pin[2]), 0]
        elif line.startswith("    --hash=sha256:"):
            found[package][1] += 1
    return found


def floors(*extras):
    """Yield the requirements of the project with these extras, those that name tlkit itself left out."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    for requirement in map(Requirement, lines):
        if requirement.name != "tlkit":
            yield requirement


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build the sdist, and the wheel from the sdist, as a release does; return both files."""
    from build import ProjectBuilder

    folder = tmp_path_factory.mktemp("built")
    sdist = Path(ProjectBuilder(ROOT).build("sdist", folder))
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    wheel = Path(ProjectBuilder(folder / sdist.name.removesuffix(".tar.gz")).build("wheel", folder))
    return sdist, wheel


def test_the_wheel_holds_the_package_and_the_recipes_and_nothing_else(built):
    names = set(zipfile.ZipFile(built[1]).namelist())
    code = {f.relative_to(ROOT).as_posix() for f in (ROOT / "tlkit").rglob("*.py")}
    recipes = {f"tlkit/{f.relative_to(ROOT).as_posix()}" for f in (ROOT / "recipes").rglob("*") if f.is_file()}
    assert "tlkit/recipes/launch/slurm.sbatch" in recipes
    info = f"tlkit-{tlkit.__version__}.dist-info/"
    assert {name for name in names if not name.startswith(info)} == code | recipes | {"tlkit/py.typed"}
    assert f"{info}licenses/LICENSE" in names


def test_the_recipes_in_the_wheel_are_found(built, tmp_path):
    zipfile.ZipFile(built[1]).extractall(tmp_path)
    code = "import sys; sys.path.insert(0, sys.argv[1]); from tlkit.cli.main import main; main(['recipes', 'mmd'])"
    listed = subprocess.run(
        [sys.executable, "-P", "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert "digits/mnist_to_optdigits_mmd" in listed.stdout


def test_the_wheel_declares_the_command_and_the_version(built):
    archive = zipfile.ZipFile(built[1])
    info = f"tlkit-{tlkit.__version__}.dist-info"
    assert "tlkit = tlkit.cli.main:main" in archive.read(f"{info}/entry_points.txt").decode()
    fields = archive.read(f"{info}/METADATA").decode()
    assert "License-Expression: Apache-2.0" in fields
    assert "Requires-Python: <3.14,>=3.11" in fields


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == tlkit.__version__
    assert citation["license"] == PROJECT["license"]
    assert "version" in PROJECT["dynamic"]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_is_pinned_and_hashed(lock):
    lines = (ROOT / lock).read_text(encoding="utf-8").splitlines()
    unpinned = [line for line in lines if line and not line.startswith((" ", "#")) and not PINNED.match(line)]
    assert not unpinned
    assert not [name for name, (_, hashes) in read_lock(lock).items() if not hashes]


@pytest.mark.parametrize("lock", [*LOCKS, ".ci/requirements-minilm.txt"])
def test_no_lock_names_an_index_or_a_file(lock):
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert not re.search(r"index-url|find-links|trusted-host|https?:|file:| @ ", text)


@pytest.mark.parametrize(("lock", "extras"), [(LOCKS[0], []), (LOCKS[1], list(PROJECT["optional-dependencies"]))])
def test_the_locks_hold_every_dependency_within_its_bounds(lock, extras):
    locked = read_lock(lock)
    for requirement in floors(*extras):
        version, _ = locked[canonicalize_name(requirement.name)]
        assert version in requirement.specifier, f"{lock} has {requirement.name} {version}, not {requirement.specifier}"


def test_the_development_lock_is_the_other_one_and_more():
    core, dev = map(read_lock, LOCKS)
    assert {name: dev.get(name) for name in core} == core


def test_the_dev_extra_asks_for_every_other_extra():
    extras = set(PROJECT["optional-dependencies"]) - {"dev"}
    requirements = map(Requirement, PROJECT["optional-dependencies"]["dev"])
    assert next(r for r in requirements if r.name == "tlkit").extras == extras


@pytest.mark.parametrize("lock", LOCKS)
def test_torch_and_torchvision_are_a_pair_of_one_release(lock):
    """A torchvision of another build fails at import, and timm imports it."""
    locked = read_lock(lock)
    assert (str(locked["torch"][0]), str(locked["torchvision"][0])) == ("2.15.0", "0.29.2")
    assert not {"deepspeed", "aeon"} & set(locked)  # they do not install beside the rest


@pytest.mark.parametrize("name", ["2.6.2", "2.6.3"])
def test_the_malicious_lightning_releases_are_excluded(name):
    lightning = next(requirement for requirement in floors() if requirement.name == "lightning")
    assert Version(name) not in lightning.specifier


def third_party_imports():
    """Return {top-level module: whether some file imports it outside functions and TYPE_CHECKING}."""
    found = {}

    def visit(node, at_import):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            at_import = False
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            at_import = False
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        else:
            names = []
        for name in names:
            top = name.split(".")[0]
            if top != "tlkit" and top not in sys.stdlib_module_names:
                found[top] = found.get(top, False) or at_import
        for child in ast.iter_child_nodes(node):
            visit(child, at_import)

    for file in (ROOT / "tlkit").rglob("*.py"):
        visit(ast.parse(file.read_text(encoding="utf-8")), True)
    return found


def test_what_the_package_imports_is_declared():
    """A module of an extra is imported only where it is used, so that tlkit runs without the extra."""
    extras = [extra for extra in PROJECT["optional-dependencies"] if extra != "dev"]
    core = {canonicalize_name(requirement.name) for requirement in floors()}
    everything = {canonicalize_name(requirement.name) for requirement in floors(*extras)}
    homes = metadata.packages_distributions()
    undeclared = {
        module: "at import" if at_import else "when used"
        for module, at_import in third_party_imports().items()
        if not {canonicalize_name(name) for name in homes.get(module, [])} & (core if at_import else everything)
    }
    assert not undeclared
