"""What comes out of the base model, without the virtual tokens."""

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from transformers.utils.generic import ModelOutput

    from promptreg.models.placing import Layout

__all__ = ["without_virtual"]

_BY_TOKEN = ("logits", "start_logits", "end_logits", "last_hidden_state")


def without_virtual(output: "ModelOutput", layout: "Layout", *, cached: bool, pooled: bool) -> None:
    """Leave in ``output`` what it says of the text's tokens.

    Logits and hidden states become [B, T, ...]. Attentions become [B, heads, T, S]: the virtual tokens are gone
    from what looks, not from what is looked at. What stands at padding is undefined.

    Args:
        output: The base model's output, changed in place.
        layout: How the prompted input was laid out.
        cached: That the virtual tokens were keys and values, which take no columns of the output.
        pooled: That the logits are for whole rows.
    """
    width = layout.width - layout.virtual if cached else layout.width

    def text_of(tensor: Tensor, dim: int = 1) -> Tensor:
        # Some layers leave their attentions out, and logits may have been asked for the last tokens alone.
        if tensor is None or tensor.shape[dim] != width:
            return tensor
        return layout.text_of(tensor, dim=dim, without_virtual=cached)

    for name in _BY_TOKEN:
        if output.get(name) is not None and not (pooled and name == "logits"):
            output[name] = text_of(output[name])
    if output.get("hidden_states") is not None:
        output["hidden_states"] = tuple(text_of(states) for states in output["hidden_states"])
    if output.get("attentions") is not None:
        output["attentions"] = tuple(text_of(weights, 2) for weights in output["attentions"])
