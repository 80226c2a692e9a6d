"""``tlkit shards``: the domains of a recipe, written as shards."""

from __future__ import annotations

from jsonargparse import ArgumentError, ArgumentParser

from tlkit.cli.check import check_data
from tlkit.cli.request import ShardRequest
from tlkit.data import DomainDataModule, write_shards
from tlkit.data.images.files import ImageDomains
from tlkit.errors import ConfigurationError

__all__ = ["write"]


def write(request: ShardRequest) -> int:
    """Write them, and say how they are read.

    Raises:
        ConfigurationError: If the recipe's data cannot be built.
        DataError: If a domain's folder is there already, or its rows cannot be written.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(DomainDataModule, "data")
    try:
        config = parser.parse_object({"data": check_data(request.recipe["data"])})
        data: DomainDataModule = parser.instantiate(config)["data"]
    except (ArgumentError, TypeError) as error:
        raise ConfigurationError(f"data: {error}") from error
    folders = write_shards(data, request.out, megabytes=request.megabytes)
    for folder in folders:
        print(folder)
    reader = "ImageShardDomains" if isinstance(data, ImageDomains) else "ArrayShardDomains"
    print(
        f"read by: data: {{class_path: {reader}, init_args: {{root: {request.out}, sources: [...], targets: [...]}}}}"
    )
    return 0
