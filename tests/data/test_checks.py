import pytest
import torch

from tlkit.data.checks import check_classes, check_domains, check_roles, check_values
from tlkit.errors import DataError


def refuses(message):
    return pytest.raises(DataError, match=message)


def test_roles():
    check_roles(["a"], ["b"], ["c"])
    check_roles(["a"], [], [])
    check_roles([], ["b"], [])
    with refuses("domain 'a' is both in sources and in targets"):
        check_roles(["a"], ["a"], [])
    with refuses("domain 'b' is both in targets and in also_test"):
        check_roles(["a"], ["b"], ["b"])
    with refuses("domain 'a' is twice in sources"):
        check_roles(["a", "a"], [], [])
    with refuses(r"targets is a list of domain names, got the string 'usps': write targets=\['usps'\]"):
        check_roles(["mnist"], "usps", [])
    with refuses("sources and targets are both empty"):
        check_roles([], [], ["a"])


def test_unknown_domain_shows_near_names():
    with refuses("targets: unknown domain 'optdigit': did you mean 'optdigits'"):
        check_domains({"sources": ["mnist"], "targets": ["optdigit"]}, ["mnist", "optdigits"])


def test_classes():
    check_classes({"a": ["cat", "dog"], "b": ["cat", "dog"]})
    check_classes({"a": [], "b": []})
    with refuses("domains 'a' and 'b' have no class in common: cat, dog against car, van"):
        check_classes({"a": ["cat", "dog"], "b": ["car", "van"]})
    with refuses(r"got a 2, b 3 classes: 'a' lacks pig\. Leave out"):
        check_classes({"a": ["cat", "dog"], "b": ["cat", "dog", "pig"]})
    with refuses("'a' lacks pig; 'b' lacks dog"):
        check_classes({"a": ["cat", "dog"], "b": ["cat", "pig"]})
    with refuses("same classes in another order: cat, dog against dog, cat"):
        check_classes({"a": ["cat", "dog"], "b": ["dog", "cat"]})
    with refuses("a 20, b 1 classes: 'b' lacks 1, 2, 3, 4, 5, 6, 7, 8 and 11 more"):
        check_classes({"a": [str(i) for i in range(20)], "b": ["0"]})


def test_inputs_that_are_no_tensors():
    with refuses("domain 'a', train split: x must be a tensor, got a list of str for a batch"):
        check_values("a", "train", ["a good book", "a bad one"], None, 0)
    with refuses("train split: text must be a tensor, got a tuple of str"):
        check_values("a", "train", {"text": ("a good book",)}, None, 0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_values_that_are_not_finite(bad, dtype):
    x = torch.zeros(5, 2, 3, dtype=dtype)
    x[3, 1, 1] = bad
    with refuses(r"domain 'a', train split, index 3: x holds NaN or infinity \(1 of 5 rows"):
        check_values("a", "train", x, None, 0)
    with refuses("index 13: x"):
        check_values("a", "train", x, None, 0, torch.arange(10, 15))
    with refuses("index 3: signal holds"):
        check_values("a", "train", {"signal": x}, None, 0)
    with refuses("index 3: y holds"):
        check_values("a", "train", torch.zeros(5), x[:, 1, 1], 0)


def test_a_sum_that_overflows_is_no_fault():
    check_values("a", "train", torch.full((4, 2), 3e38), None, 0)
    check_values("a", "train", torch.full((4, 20000), 100.0, dtype=torch.float16), None, 0)


def test_labels():
    x = torch.zeros(3, 1)
    check_values("a", "test", x, torch.tensor([0, 2, 1]), 3)
    check_values("a", "test", x, torch.tensor([0.5, 2, 1]), 0)
    check_values("a", "test", x, torch.tensor([[0.0, 1], [1, 1], [1, 0]]), 2)
    with refuses("domain 'a', test split, index 1: the label is 3, but with 3 classes labels are integers from 0 to 2"):
        check_values("a", "test", x, torch.tensor([0, 3, 1]), 3)
    with refuses("index 2: the label is -1"):
        check_values("a", "test", x, torch.tensor([0, 2, -1]), 3)
    with refuses("index 0: the label is .0, 2."):
        check_values("a", "test", x, torch.tensor([[0, 2], [0, 0], [1, 1]]), 2)
    with refuses("labels of 3 classes are integers from 0 to 2, got torch.float32"):
        check_values("a", "test", x, torch.zeros(3), 3)
