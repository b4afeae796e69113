"""Live models: a module in memory, unwrapped, with what must hold before its weights prove anything."""

from typing import TYPE_CHECKING

from promptreg.errors import LossyBaseModelError, MissingDependencyError, UnreadableBaseModelError
from promptreg.models.canonical import walk, walk_modules
from promptreg.models.tensors import HASHED_DTYPES

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

__all__ = ["list_weights", "unwrap"]

_QUANTISERS = {
    "aqlm", "auto_gptq", "awq", "bitsandbytes", "compressed_tensors", "eetq", "fbgemm_gpu", "gptqmodel", "hqq",
    "optimum", "quanto", "quark", "spqr_quant", "torchao", "vptq",
}  # fmt: skip
_QUANTISED_TORCH = ("torch.ao.nn", "torch.nn.quantized", "torch.nn.intrinsic", "torch.nn.qat")
_WHOLE = "load the whole model into memory first: without offloading, and on one process"


def unwrap(model: object) -> "PreTrainedModel":
    """Return the transformers model inside of ``model``, whatever is wrapped around it.

    Seen through are ``torch.compile``, ``DistributedDataParallel`` and its like, and PEFT's models.

    Raises:
        UnreadableBaseModelError: There is none.
        MissingDependencyError: transformers is not installed.
    """
    try:
        import torch
        from transformers import PreTrainedModel
    except ImportError as error:
        raise MissingDependencyError("transformers", "torch", "fingerprinting a model") from error

    inner = model
    while isinstance(inner, torch.nn.Module) and not isinstance(inner, PreTrainedModel):
        children = inner._modules  # noqa: SLF001
        if type(inner).__module__.partition(".")[0] == "peft":
            inner = children.get("base_model", children.get("model"))
        elif "_orig_mod" in children:
            inner = children["_orig_mod"]
        else:
            inner = children["module"] if children.keys() == {"module"} else None
    if isinstance(inner, PreTrainedModel):
        return inner
    kind = type(model).__name__
    reason = f"a {kind} is no transformers model, nor a wrapper around one that promptreg knows"
    raise UnreadableBaseModelError(kind, reason, "give the PreTrainedModel itself")


def list_weights(model: "PreTrainedModel") -> "list[tuple[str, torch.Tensor]]":
    """Return every weight of ``model`` by its name; one that is used twice comes twice.

    Raises:
        LossyBaseModelError: It is quantised.
        UnreadableBaseModelError: Some of its weights are not in memory, or not whole.
    """
    import torch

    config = getattr(model.config, "quantization_config", None)
    if config is not None or getattr(model, "hf_quantizer", None) is not None:
        raise LossyBaseModelError(
            f"quantised (this {type(model).__name__} has a quantisation config)"
        )
    modules = walk_modules(model)
    for kind in dict.fromkeys(type(module) for _, module in modules):
        package = kind.__module__
        if package.partition(".")[0] in _QUANTISERS or package.startswith(_QUANTISED_TORCH):
            raise LossyBaseModelError(f"quantised (it has a {kind.__name__} of {package})")
    weights = list(walk(modules))
    plain = {torch.Tensor, torch.nn.Parameter}
    dtypes = {getattr(torch, name) for name in HASHED_DTYPES}
    for name, tensor in weights:
        whole = type(tensor) in plain and not tensor.is_meta and not hasattr(tensor, "ds_id")
        if not whole or tensor.dtype not in dtypes or tensor.layout is not torch.strided:
            raise _explain(model, name, tensor)
    return weights


def _explain(
    model: "PreTrainedModel", name: str, tensor: "torch.Tensor"
) -> LossyBaseModelError | UnreadableBaseModelError:
    """Return the error for a weight that cannot be hashed."""
    kind = type(tensor).__name__
    source = str(model.name_or_path or type(model).__name__)
    if kind in {"DTensor", "FlatParameter"} or hasattr(tensor, "ds_id"):
        reason = f"{name} is spread over several processes"
        return UnreadableBaseModelError(source, reason, _WHOLE)
    if tensor.is_meta:
        reason = f"{name} is on the meta device: it was offloaded, or never loaded"
        return UnreadableBaseModelError(source, reason, _WHOLE)
    return LossyBaseModelError(f"quantised or packed ({name} is a {kind} of {tensor.dtype})")
