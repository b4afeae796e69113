"""Loading a base model from its directory, as the class that a prompt's task needs."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptreg.errors import AttachError, MissingDependencyError, UnreadableBaseModelError
from promptreg.prompts import SoftPrompt, TaskType

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["find_tokenizer", "load_base", "load_to_train"]

_CLASSES = {
    TaskType.CAUSAL_LM: "AutoModelForCausalLM",
    TaskType.SEQ_2_SEQ_LM: "AutoModelForSeq2SeqLM",
    TaskType.SEQ_CLS: "AutoModelForSequenceClassification",
    TaskType.TOKEN_CLS: "AutoModelForTokenClassification",
    TaskType.QUESTION_ANS: "AutoModelForQuestionAnswering",
    TaskType.FEATURE_EXTRACTION: "AutoModel",
}


def load_base(
    directory: Path, prompt: SoftPrompt | None, *, dtype: str = "auto"
) -> "PreTrainedModel":
    """Load the base model in ``directory``, in evaluation mode.

    Args:
        directory: A transformers directory with safetensors weights. No code in it is run.
        prompt: What the base model is wanted for: its task decides the class; None for writing text.
        dtype: What its numbers are to be, such as ``bfloat16``; ``auto`` for what is stored.

    Raises:
        UnreadableBaseModelError: transformers cannot load it as that class.
        MissingDependencyError: transformers is not installed.
    """
    classes = None if prompt is None else _label_count(prompt)
    return _load(directory, lambda: _task_type(directory, prompt), classes, dtype)


def load_to_train(
    directory: Path, *, classes: int | None, device: str = "cpu", dtype: str = "auto"
) -> "PreTrainedModel":
    """Load the base model in ``directory`` to train prompts for it, in evaluation mode, on ``device``.

    A model that writes text is loaded as that; an encoder as a classifier, with a new head if it has none.

    Args:
        directory: A transformers directory with safetensors weights.
        classes: How many labels there are to choose from; None if the answers are texts.
        device: Where it is to run.
        dtype: What its numbers are to be. ``auto`` is what is stored, but float32 where that cannot be trained
            through: few CPUs have bfloat16 arithmetic, and gradients run out of float16. The wider numbers
            are the same.

    Raises:
        UnreadableBaseModelError: transformers cannot load it so.
        MissingDependencyError: transformers is not installed.
    """
    task, own = _trained_task(directory)
    if task is TaskType.SEQ_CLS and classes is None:
        raise UnreadableBaseModelError(
            str(directory),
            "it answers with classes, and the answers are texts",
            "write {text, label} lines, or name a model that writes text",
        )
    if own is not None and own != classes:
        raise UnreadableBaseModelError(
            str(directory),
            f"it tells {own} classes apart, and there are {classes} labels",
            "name all labels with --label, or name a base model without a classifier of its own",
        )
    count = classes if task is TaskType.SEQ_CLS else None
    model: Any = _load(directory, lambda: task, count, dtype)
    narrow = ("torch.bfloat16", "torch.float16") if device == "cpu" else ("torch.float16",)
    if dtype == "auto" and str(model.dtype) in narrow:
        model = model.float()
    loaded: PreTrainedModel = model.to(device)
    return loaded


def _load(
    directory: Path, task: Callable[[], TaskType], classes: int | None, dtype: str
) -> "PreTrainedModel":
    try:
        import transformers
    except ImportError as error:
        raise MissingDependencyError("transformers", "torch", "loading a base model") from error
    options: dict[str, Any] = {} if classes is None else {"num_labels": classes}
    name = "a model"
    try:
        name = _CLASSES[task()]
        model: Any = getattr(transformers, name).from_pretrained(
            directory,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            **options,
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = f"transformers cannot load it as {name} ({_first_line(error)})"
        remedy = "name the directory of the base model that the prompt was trained on"
        raise UnreadableBaseModelError(str(directory), reason, remedy) from error
    loaded: PreTrainedModel = model.eval()
    return loaded


def _trained_task(directory: Path) -> tuple[TaskType, int | None]:
    """Return what a prompt for this base model is trained to do, and how many classes it has, if any."""
    try:
        from transformers import AutoConfig
    except ImportError as error:
        raise MissingDependencyError("transformers", "torch", "training a prompt") from error
    try:
        config = AutoConfig.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        reason = f"transformers cannot read its config.json ({_first_line(error)})"
        raise UnreadableBaseModelError(
            str(directory), reason, "name the directory of a transformers model"
        ) from error
    if config.is_encoder_decoder:
        return TaskType.SEQ_2_SEQ_LM, None
    names = config.architectures or [""]
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        return TaskType.CAUSAL_LM, None
    classifies = any(name.endswith("ForSequenceClassification") for name in names)
    return TaskType.SEQ_CLS, config.num_labels if classifies else None


def find_tokenizer(model: "PreTrainedModel") -> "PreTrainedTokenizerBase":
    """Return the tokenizer in the directory that ``model`` was loaded from.

    Raises:
        AttachError: There is none.
    """
    from transformers import AutoTokenizer

    directory = Path(model.name_or_path or "")
    remedy = "pass attach(model, …, tokenizer=AutoTokenizer.from_pretrained(DIRECTORY))"
    if not model.name_or_path or not directory.is_dir():
        raise AttachError(
            "answers want a tokenizer, and the base model does not say where its own lies", remedy
        )
    try:
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise AttachError(
            f"there is no tokenizer in {directory} ({_first_line(error)})", remedy
        ) from error
    return found


def _task_type(directory: Path, prompt: SoftPrompt | None) -> TaskType:
    if prompt is not None:
        return prompt.task_type or TaskType.CAUSAL_LM
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    return TaskType.SEQ_2_SEQ_LM if config.is_encoder_decoder else TaskType.CAUSAL_LM


def _label_count(prompt: SoftPrompt) -> int | None:
    """Return how many labels the prompt's own classifier tells apart, if it brings one.

    A classifier's last weight is [labels, H] and its bias [labels], so any tensor's first dimension tells.
    """
    if prompt.task_type not in {TaskType.SEQ_CLS, TaskType.TOKEN_CLS}:
        return None
    trained = [name for name in prompt.tensors if name.startswith("modules_to_save.")]
    outputs = [
        name
        for name in trained
        if name.endswith(("out_proj.weight", "classifier.weight", "score.weight"))
    ]
    return prompt.tensors[outputs[0]].shape[0] if outputs else None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
