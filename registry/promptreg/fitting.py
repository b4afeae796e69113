"""Whether a prompt's shape fits a base model: what can be told without any weights."""

from dataclasses import replace

from promptreg.bases import BaseModel
from promptreg.errors import IncompatibleModelError
from promptreg.prompts import Placement, SoftPrompt, TaskType

__all__ = ["check_shape", "for_base"]


def check_shape(prompt: SoftPrompt, base: BaseModel) -> None:
    """Return if ``prompt`` is as wide (and, where it stands in every layer, as deep) as ``base``.

    Raises:
        IncompatibleModelError: It is not, or one is for an encoder-decoder and the other is none.
    """
    if prompt.placement is Placement.KEY_VALUES:
        wanted = f"{prompt.num_layers} layers and keys {prompt.token_dim} wide"
        found = f"{base.num_layers} layers and keys {base.key_value_dim} wide"
    else:
        wanted, found = f"token_dim {prompt.token_dim}", f"token_dim {base.token_dim}"
    if prompt.task_type in _ONE_KIND:
        wanted += _KINDS[prompt.task_type is TaskType.SEQ_2_SEQ_LM]
        found += _KINDS[base.encoder_decoder]
    if wanted != found:
        raise IncompatibleModelError(
            f"a base model with {wanted}", f"{base} with {found}", "incompatible"
        )


def for_base(prompt: SoftPrompt, base: BaseModel) -> SoftPrompt:
    """Return ``prompt`` with its task, which the base model's kind tells where the file did not."""
    if prompt.task_type is not None:
        return prompt
    told = TaskType.SEQ_2_SEQ_LM if base.encoder_decoder else TaskType.CAUSAL_LM
    return replace(prompt, task_type=told)


_ONE_KIND = {TaskType.CAUSAL_LM, TaskType.SEQ_2_SEQ_LM}
_KINDS = {True: ", an encoder-decoder", False: ", a decoder alone"}
