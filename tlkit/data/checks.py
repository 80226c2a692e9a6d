"""What is checked of domains, classes and values, and how a fault is worded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Sized
from typing import Any, Protocol

import torch
from torch import Tensor

from tlkit.errors import ContractError, DataError, unknown

__all__ = [
    "check_budgets",
    "check_classes",
    "check_domains",
    "check_roles",
    "check_sides",
    "check_sizes",
    "check_values",
    "roles",
]


class _Rows(Sized, Protocol):
    name: str


def check_roles(sources: Sequence[str], targets: Sequence[str], also_test: Sequence[str]) -> None:
    """Refuse roles that contradict each other.

    Raises:
        DataError: If a role is not a list, a domain is named twice or has two roles, or there is none to train on.
    """
    roles = {"sources": sources, "targets": targets, "also_test": also_test}
    taken: dict[str, str] = {}
    for role, names in roles.items():
        if isinstance(names, str):
            raise DataError(f"{role} is a list of domain names, got the string {names!r}: write {role}=[{names!r}]")
        for name in names:
            if not isinstance(name, str):
                raise DataError(f"{role}: the name of a domain is text, got {name!r}: write '{name}', in quotes")
            if name in taken:
                twice = f"twice in {role}" if taken[name] == role else f"both in {taken[name]} and in {role}"
                raise DataError(f"domain {name!r} is {twice}: a domain has one role in a run; remove one of the two")
            taken[name] = role
    if not sources and not targets:
        raise DataError("sources and targets are both empty: name at least one domain to train on")


def roles(data: Any) -> dict[str, list[str]]:
    """Return the domains that a data module has in each role.

    Raises:
        ContractError: If it has none because its own ``__init__`` left out that of the class it extends.
    """
    if not hasattr(data, "budgets"):
        name = type(data).__name__
        raise ContractError(
            f"{name}.__init__ must call super().__init__(sources, targets, ...): roles, splits and loaders start there"
        )
    return {"sources": data.sources, "targets": data.targets, "also_test": data.also_test}


def _nowhere(what: str) -> str:
    return ""


def check_domains(
    roles: Mapping[str, Sequence[str]], domains: Sequence[str], where: Callable[[str], str] = _nowhere
) -> None:
    """Refuse a name that is not among the data module's domains.

    Args:
        roles: Names of the domains in each role.
        domains: All names there are.
        where: Says where ``"domains"`` are read from, in words; asked for a message alone.

    Raises:
        DataError: With the argument, near names, and all names.
    """
    for role, names in roles.items():
        for name in names:
            if name not in domains:
                raise DataError(f"{role}: {unknown('domain', name, domains)}{_read_from('Domains', where)}")


def _read_from(what: str, where: Callable[[str], str]) -> str:
    place = where(what.lower())
    return f" {what} are read from {place}" if place else ""


def check_budgets(budgets: Collection[str], splits: Collection[str], module: str) -> None:
    """Refuse a budget of labels for a domain whose rows were not divided.

    Args:
        budgets: The domains that have one.
        splits: The domains that were divided.
        module: Name of the data module's class.

    Raises:
        DataError: With the first such domain.
    """
    for domain in budgets:
        if domain not in splits:
            raise DataError(
                f"labels_per_class and label_fraction need {module}.dataset to take its rows from "
                f"self.split(domain, y), and it does not for {domain!r}"
            )


def check_sides(sides: Mapping[str, Sequence[_Rows]], batch_size: int, world: int, accumulate: int = 1) -> None:
    """Refuse sides that no step can be drawn from.

    Args:
        sides: The training rows of each role's domains.
        batch_size: Rows a batch, side and rank.
        world: Number of ranks.
        accumulate: Batches a step.

    Raises:
        DataError: If there is no side, or one has fewer rows than a step over all ranks.
    """
    if not sides:
        raise DataError("sources is empty and no adaptation loss uses the target: there is nothing to train on")
    for role, parts in sides.items():
        size = sum(map(len, parts))
        if batch_size * world * accumulate > size:
            ranks = f" on each of {world} ranks" if world > 1 else ""
            ranks += f" and {accumulate} times a step (trainer.accumulate_grad_batches)" if accumulate > 1 else ""
            names = ", ".join(repr(part.name) for part in parts)
            raise DataError(
                f"batch_size {batch_size}{ranks} is larger than the training split of the {role} {names}, which has "
                f"{size} rows: choose at most {size // (world * accumulate)}"
            )


def check_sizes(batch_size: int, num_workers: int) -> None:
    """Refuse a size of batches or a number of worker processes that is out of its range.

    Raises:
        DataError: With the argument and what is allowed.
    """
    if batch_size < 2:
        raise DataError(f"batch_size must be at least 2, one row has no covariance, got {batch_size}")
    if num_workers < 0:
        raise DataError(f"num_workers must be 0 (read in the main process) or more, got {num_workers}")


def check_classes(
    classes: Mapping[str, Sequence[str]], known: Collection[str] = (), where: Callable[[str], str] = _nowhere
) -> None:
    """Refuse domains whose labels would not mean the same, and a run in which nothing says what labels mean.

    Args:
        classes: Class names of each domain of the run that has labels, in label order.
        known: The classes of the run, or its quantities if labels are measured values: looked at if no domain has
            labels.
        where: Says where ``"classes"`` are read from, in words; asked for a message alone.

    Raises:
        DataError: If two domains have no class in common, one lacks classes that another has, or their order differs;
            if there is one class in all; or if there is no domain with labels and nothing else is known of them.
    """
    if not classes:
        if not known:
            raise DataError(
                "no domain of this run has labels, so that its classes are not known: name one that has among sources "
                "or also_test, or start from a trained model that knows them (--start_from; in Python data.start)."
                f"{_read_from('Classes', where)}"
            )
        return
    first, *others = classes
    for other in others:
        a, b = set(classes[first]), set(classes[other])
        if a and b and not a & b:
            raise DataError(
                f"domains {first!r} and {other!r} have no class in common: {_some(classes[first])} against "
                f"{_some(classes[other])}; check that both folders or files hold the same task."
                f"{_read_from('Classes', where)}"
            )
    everything = dict.fromkeys(name for names in classes.values() for name in names)
    if len(everything) == 1:
        raise DataError(
            f"all labels of this run are {next(iter(everything))!r}: there is nothing to tell apart with one class. "
            f"Check what the labels are read from, or name other domains.{_read_from('Classes', where)}"
        )
    lacking = {domain: [name for name in everything if name not in names] for domain, names in classes.items()}
    if any(lacking.values()):
        counts = ", ".join(f"{domain} {len(names)}" for domain, names in classes.items())
        gaps = "; ".join(f"{domain!r} lacks {_some(names)}" for domain, names in lacking.items() if names)
        raise DataError(
            f"the domains of a run must have the same classes, got {counts} classes: {gaps}. Leave out the classes "
            f"that are not in every domain, or the domain.{_read_from('Classes', where)}"
        )
    for other in others:
        if list(classes[other]) != list(classes[first]):
            raise DataError(
                f"domains {first!r} and {other!r} have the same classes in another order: {_some(classes[first])} "
                f"against {_some(classes[other])}; a label must mean the same class in both."
                f"{_read_from('Classes', where)}"
            )


def _some(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def check_values(
    domain: str, split: str, x: Any, y: Tensor | None, num_classes: int, rows: Tensor | None = None
) -> None:
    """Refuse NaN, infinity, what is no tensor, and labels that are not classes.

    Args:
        domain: Name of the domain, for the message.
        split: Name of the split, for the message.
        x: Inputs, a ``(B, ...)`` tensor or a mapping of such tensors.
        y: Labels, or ``None`` when they are sealed.
        num_classes: Number of classes; 0 when labels are not classes.
        rows: ``(B,)`` positions in the split; counted from 0 if not given.

    Raises:
        DataError: With the domain and the position of the first bad row.
    """
    for key, value in x.items() if isinstance(x, Mapping) else [("x", x)]:
        if not isinstance(value, Tensor):
            kinds = f" of {type(value[0]).__name__}" if isinstance(value, list | tuple) and value else ""
            raise DataError(
                f"domain {domain!r}, {split} split: {key} must be a tensor, got a {type(value).__name__}{kinds} for a "
                "batch; let dataset() yield tensors or mappings of tensors: tokenize texts there and pad them alike"
            )
        _check_finite(domain, split, key, value, rows)
    if y is None:
        return
    _check_finite(domain, split, "y", y, rows)
    if not num_classes:
        return
    if y.is_floating_point():
        if y.dim() == 1:
            raise DataError(
                f"domain {domain!r}: labels of {num_classes} classes are integers from 0 to {num_classes - 1}, got "
                f"{y.dtype}; convert them, or let classes be empty for a regression"
            )
        return
    low, high = torch.aminmax(y)
    if low < 0 or high >= num_classes:
        bad = ((y < 0) | (y >= num_classes)).flatten(1).any(1) if y.dim() > 1 else (y < 0) | (y >= num_classes)
        where = int(bad.nonzero()[0])
        raise DataError(
            f"domain {domain!r}, {split} split, index {_position(where, rows)}: the label is {y[where].tolist()}, but "
            f"with {num_classes} classes labels are integers from 0 to {num_classes - 1}; correct the label or classes"
        )


def _check_finite(domain: str, split: str, key: str, value: Tensor, rows: Tensor | None) -> None:
    # A sum is not finite if one value is not: one pass without a mask. It may overflow, so a bad sum is looked into.
    if not value.is_floating_point() or bool(torch.isfinite(value.sum())):
        return
    bad = (~torch.isfinite(value.flatten(1) if value.dim() > 1 else value[:, None])).any(1).nonzero()
    if len(bad):
        raise DataError(
            f"domain {domain!r}, {split} split, index {_position(int(bad[0]), rows)}: {key} holds NaN or infinity "
            f"({len(bad)} of {len(value)} rows looked at do); remove or fill these values in the data"
        )


def _position(where: int, rows: Tensor | None) -> int:
    return where if rows is None else int(rows[where])
