"""Attaching prompts: prove that the base model at hand fits, freeze it, place the virtual tokens, report."""

from typing import TYPE_CHECKING

from promptreg.errors import ConfigurationError, MissingDependencyError
from promptreg.models.reports import Policy
from promptreg.prompts import PulledPrompt, SoftPrompt

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from promptreg.models.prompted import PromptedModel

__all__ = ["attach"]

_KEY_VALUE_BYTES = 2 * 2**30


def attach(
    model: "nn.Module",
    *prompts: PulledPrompt | SoftPrompt,
    policy: Policy | str = Policy.EXACT,
    task_id: int | None = None,
    cache: bool = True,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    key_value_bytes: int = _KEY_VALUE_BYTES,
) -> "PromptedModel":
    """Put soft prompts in front of a frozen base model, after proving that each belongs to it.

    Args:
        model: The base model, as transformers loads it; it may be compiled or data-parallel.
        prompts: What ``Registry.pull`` gives, any number of them; or bare soft prompts, which name no base
            model and so need ``policy="unchecked"``. ``PromptedModel.add`` attaches more.
        policy: What the base model must prove.
        task_id: Which task of a multitask prompt; not needed if it has one alone.
        cache: Whether to believe the fingerprint that was taken of this model before, while no weight was seen
            to change; if not, all weights are read.
        tokenizer: The base model's, for ``PromptedModel.answer``; the one in its directory if None.
        key_value_bytes: How many bytes the keys and values may take that a decoder makes of its prompts. Those
            used last are kept; others are computed anew when a batch needs them.

    Returns:
        The prompted model. Its ``prompts`` say what was checked. As a context manager, it detaches at the end.

    Raises:
        IncompatibleModelError: The base model is not the one that a prompt was trained on, as far as the
            policy asks; or its shape is another, which no policy overrides. None is attached then.
        CanaryError: The policy is ``canary``, and the recorded outputs did not come back, or there are none.
        AttachError: Prompt and base model fit, but not for use in that way; or ``prompts`` holds no prompt.
        BaseModelError: The base model's weights cannot be fingerprinted (it is quantised, say).
        ConfigurationError: There is no such policy, or ``key_value_bytes`` is no number of bytes.
        ConflictError: Two of the prompts have one name.
        MissingDependencyError: torch or transformers is not installed.
    """
    try:
        from promptreg.models.anatomy import examine
        from promptreg.models.prompted import PromptedModel
        from promptreg.models.proving import read_policy
    except ImportError as error:
        raise MissingDependencyError("transformers", "torch", "attaching a prompt") from error
    if isinstance(key_value_bytes, bool | str) or key_value_bytes < 0:
        raise ConfigurationError(
            "key_value_bytes", str(key_value_bytes), "it is no number of bytes", "pass 2 * 2**30"
        )
    prompted = PromptedModel(
        examine(model),
        policy=read_policy(policy),
        cache=cache,
        tokenizer=tokenizer,
        key_value_bytes=key_value_bytes,
    )
    try:
        for prompt in prompts:
            # Many prompts are best warmed by the first batch, which does it for all of its own at once.
            prompted.add(prompt, task_id=task_id, warm=False)
    except BaseException:
        prompted.detach()
        raise
    return prompted
