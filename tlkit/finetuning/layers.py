"""How a backbone is cut into layers, from the input to the features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from tlkit.errors import BackboneError
from tlkit.finetuning.base import ParameterGroup

__all__ = ["layers_of"]

_Named = list[tuple[str, list[Any]]]
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def layers_of(backbone: nn.Module) -> list[ParameterGroup]:
    """Cut a backbone into layers, the one nearest to the input first.

    A backbone says how by a method ``layer_groups()`` that returns ``[(name, members), ...]``, where members are its
    modules or parameters; those of timm and transformers do. Otherwise the layers are its children, or those of its
    only child with parameters, with the entries of a list or sequence of modules one by one. A child that only
    normalises belongs to the layer before it.

    Args:
        backbone: The backbone.

    Returns:
        A group for each layer that has trainable parameters. Each trainable parameter is in one of them. Their modules
        cover the backbone; a module without parameters, such as dropout, goes with the module registered before it.

    Raises:
        BackboneError: If ``layer_groups()`` leaves out a trainable parameter or has it twice.

    Example:
        >>> backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
        >>> [(layer.name, len(layer.parameters), len(layer.modules)) for layer in layers_of(backbone)]
        [('backbone.0', 4, 4), ('backbone.4', 2, 1)]
    """
    own = getattr(backbone, "layer_groups", None)
    named: _Named = (own() if own is not None else None) or _children(backbone)
    parameters = [_parameters(members) for _, members in named]
    _check(backbone, parameters)
    modules = _modules(backbone, parameters)
    layers = []
    for (name, _), inside, owners in zip(named, parameters, modules, strict=True):
        if trainable := [parameter for parameter in inside if parameter.requires_grad]:
            layers.append(ParameterGroup(f"backbone.{name}", trainable, modules=owners))
    return layers


def _children(backbone: nn.Module) -> _Named:
    module, prefix = backbone, ""
    while True:
        own = list(module.parameters(recurse=False))
        inside = [(name, child) for name, child in module.named_children() if any(True for _ in child.parameters())]
        if len(inside) != 1 or own:
            break
        name, module = inside[0]
        prefix += f"{name}."
    groups: _Named = []
    for name, child in _entries(module):
        if groups and all(isinstance(each, _NORMS) for each in child.modules() if list(each.parameters(recurse=False))):
            groups[-1][1].append(child)
        else:
            groups.append((prefix + name, [child]))
    if own and groups:  # a class token, an embedding of positions: what is added to the input
        groups[0][1].extend(own)
    return groups or [(prefix.rstrip(".") or "all", own)]


def _entries(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the children that have parameters, and for a list or sequence of modules its entries."""
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from ((f"{name}.{inner}", entry) for inner, entry in _entries(child))
        elif any(True for _ in child.parameters()):
            yield name, child


def _parameters(members: Sequence[nn.Module | nn.Parameter]) -> list[nn.Parameter]:
    found: dict[nn.Parameter, None] = {}
    for member in members:
        found.update(dict.fromkeys(member.parameters() if isinstance(member, nn.Module) else [member]))
    return list(found)


def _check(backbone: nn.Module, groups: list[list[nn.Parameter]]) -> None:
    count: dict[nn.Parameter, int] = {}
    for parameter in (parameter for group in groups for parameter in group):
        count[parameter] = count.get(parameter, 0) + 1
    for problem, wrong in (
        ("leaves out", [name for name, p in backbone.named_parameters() if p.requires_grad and p not in count]),
        ("has in several groups", [name for name, p in backbone.named_parameters() if count.get(p, 0) > 1]),
    ):
        if wrong:
            raise BackboneError(
                f"{type(backbone).__name__}.layer_groups() {problem} {len(wrong)} parameters, {', '.join(wrong[:3])} "
                "among them: return [(name, modules or parameters), ...] with each parameter in one group"
            )


def _modules(backbone: nn.Module, groups: list[list[nn.Parameter]]) -> list[list[nn.Module]]:
    """Return for each group the largest modules whose parameters are all in it."""
    number = {parameter: n for n, group in enumerate(groups) for parameter in group}
    modules: list[list[nn.Module]] = [[] for _ in groups]
    last = 0

    def visit(module: nn.Module) -> None:
        nonlocal last
        inside = {number[parameter] for parameter in module.parameters() if parameter in number}
        if len(inside) > 1:
            for child in module.children():
                visit(child)
        else:
            last = inside.pop() if inside else last
            modules[last].append(module)

    visit(backbone)
    return modules
