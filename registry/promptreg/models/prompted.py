"""A frozen base model with a soft prompt in front of it."""

import weakref
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, SupportsIndex

import torch
from torch import Tensor, nn

from promptreg.errors import AttachError
from promptreg.models.anatomy import Anatomy, Kind
from promptreg.models.batches import past_length, read_batch
from promptreg.models.encoding import seq2seq_arguments, seq2seq_generation
from promptreg.models.freezing import freeze, thaw
from promptreg.models.generating import (
    Settings,
    decoder_generation,
    finish,
    read_generation_batch,
    refuse_unsupported,
)
from promptreg.models.inputs import forward_arguments
from promptreg.models.outputs import without_virtual
from promptreg.models.prefilling import check_read
from promptreg.models.reports import AttachReport
from promptreg.models.views import with_parameters
from promptreg.models.virtual import VirtualTokens
from promptreg.models.watching import Watch

if TYPE_CHECKING:
    from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

__all__ = ["PromptedModel"]


class PromptedModel:
    """A frozen base model with a soft prompt in front of it; ``promptreg.attach`` makes one.

    It is called, and generates, as the base model does. It takes text and gives outputs for text: the virtual
    tokens are added on the way in, beside each row's own text whatever the padding, and taken out on the way
    out. Encoder outputs of an encoder-decoder keep them, because its decoder looks at them.

    The base model is frozen and otherwise untouched: it can be used bare at any time, and further prompts can
    be attached to it, each of which is a view of its own. While one is attached, a call is refused if a module
    of the base model is in training mode, or if one of its parameters requires a gradient or was changed since
    (but for a write through ``.data``, which leaves no trace). The last ``detach`` gives modules and
    parameters back what attaching took.

    It cannot be copied or pickled: only one attached by ``attach`` was proved to fit.

    Attributes:
        report: What was checked when the prompt was attached.
    """

    def __init__(self, anatomy: Anatomy, virtual: VirtualTokens, report: AttachReport) -> None:
        self.report = report
        self._anatomy = anatomy
        self._virtual = virtual
        self._model: Any = anatomy.model  # transformers' own types lose generate's
        self._call: nn.Module = anatomy.call
        if virtual.modules:
            # A compiled form would still run the base model's own classifier.
            self._model = self._call = with_parameters(anatomy.model, virtual.modules)
        freeze(anatomy.model)
        # So that a prompted model that is merely dropped lets go of its base model too.
        self._thaw = weakref.finalize(self, thaw, anatomy.model)
        self._watch = Watch(anatomy.model)

    @property
    def model(self) -> "PreTrainedModel":
        """The base model."""
        return self._anatomy.model

    @property
    def config(self) -> "PretrainedConfig":
        """The base model's configuration."""
        return self._anatomy.model.config

    @property
    def generation_config(self) -> "GenerationConfig":
        """The base model's defaults for ``generate``."""
        return self._anatomy.model.generation_config

    @property
    def device(self) -> torch.device:
        """Where the base model is."""
        return self._anatomy.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the base model's embedding, and so of the prompt."""
        return self._anatomy.dtype

    @property
    def attached(self) -> bool:
        """Whether the prompt is attached still."""
        return self._thaw.alive

    def __call__(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **arguments: Any,
    ) -> Any:
        """Run the base model on the prompted input.

        Args:
            input_ids: [B, T] The text; or pass ``inputs_embeds`` [B, T, H].
            attention_mask: [B, T] Which tokens are real; None if all are. With ``past_key_values`` of an
                earlier output, the mask is for the text in the cache too.
            arguments: Whatever the base model's forward pass takes, for the text. With ``labels`` [B, T] the
                loss is over the text's tokens alone.

        Returns:
            The base model's output for the text: logits [B, T, V], hidden states [B, T, H]; attentions
            [B, heads, T, S] look at the virtual tokens too. At padding, it is undefined.

        Raises:
            AttachError: The prompt is detached, the base model is not frozen any more or has other weights,
                text and prompt do not fit into its window, or an argument does not fit the text.
        """
        self._check()
        arguments.update(input_ids=input_ids, attention_mask=attention_mask)
        as_dict = arguments.pop("return_dict", None)
        if as_dict is None:
            as_dict = self.config.return_dict
        problem_type = getattr(self.config, "problem_type", None)
        try:
            if self._anatomy.kind is Kind.ENCODER_DECODER:
                output = self._run_seq2seq(arguments)
            else:
                output = self._run(arguments)
        finally:
            # transformers' classifiers write down in the config what the first labels looked like.
            if getattr(self.config, "problem_type", None) != problem_type:
                self.config.problem_type = problem_type
        return output if as_dict else output.to_tuple()

    def generate(self, inputs: Tensor | None = None, **arguments: Any) -> Any:
        """Continue the prompted input, as the base model's ``generate`` does.

        Args:
            inputs: [B, T] The text; or pass ``input_ids``, or ``inputs_embeds`` [B, T, H]. Rows may be padded
                on either side.
            arguments: Whatever the base model's ``generate`` takes. Lengths, logits processors and streamers
                count and see the text and the new tokens.

        Returns:
            [B, T + new] The token ids of text and continuation (an encoder-decoder's: of the continuation), or
            transformers' output object if the settings ask for it.

        Raises:
            AttachError: As in a call; or the base model cannot generate, or not in the way asked for.
        """
        self._check()
        if not self._model.can_generate():
            raise AttachError(
                f"a {type(self._model).__name__} has no output head to generate with",
                "load the base model with AutoModelForCausalLM or AutoModelForSeq2SeqLM",
            )
        settings = Settings(self._anatomy, {**arguments, "inputs": inputs})
        refuse_unsupported(settings)
        if self._anatomy.kind is Kind.ENCODER_DECODER:
            return self._generate_seq2seq(settings)
        batch = read_generation_batch(self._anatomy, settings)
        rows = self._virtual.rows(batch.rows)
        ready, layout = decoder_generation(self._anatomy, rows, batch, settings)
        output = self._model.generate(**ready)
        check_read(ready.get("past_key_values"))
        return finish(output, batch, layout, cached=rows.key_values is not None)

    def detach(self) -> None:
        """Let go of the base model, which is as it was before. Doing it again changes nothing."""
        self._thaw()

    def eval(self) -> Self:
        """Return itself: the base model is in evaluation mode as long as a prompt is attached."""
        return self

    def train(self, mode: bool = True) -> Self:
        """Refuse to be trained.

        Raises:
            AttachError: ``mode`` is True.
        """
        if mode:
            raise AttachError(
                "an attached base model is frozen, and its prompt is for use",
                "train prompts with promptreg tune, or detach the prompt to train the base model",
            )
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.detach()

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        # Both copy and pickle come here. A copy would hold on to a base model that nobody froze for it.
        raise AttachError(
            "an attached prompt cannot be copied or pickled",
            "attach the prompt again, in the other process if there is one",
        )

    def __repr__(self) -> str:
        state = "attached to" if self.attached else "detached from"
        prompt = self.report.reference or "an unregistered prompt"
        return f"<PromptedModel: {prompt} {state} a {type(self._model).__name__}>"

    def _check(self) -> None:
        if not self.attached:
            raise AttachError("the prompt was detached", "attach it again")
        self._watch.check()

    def _run(self, arguments: dict[str, Any]) -> Any:
        """Run a decoder or an encoder."""
        given = [
            arguments.pop(name, None) for name in ("input_ids", "inputs_embeds", "attention_mask")
        ]
        past = past_length(arguments.get("past_key_values"), self._virtual.length)
        batch = read_batch(*given, past=past or 0)
        rows = self._virtual.rows(batch.rows)
        ready, layout = forward_arguments(self._anatomy, rows, batch, arguments)
        output = self._call(**ready, return_dict=True)
        check_read(ready.get("past_key_values"))
        if layout is not None:
            cached = rows.key_values is not None
            without_virtual(output, layout, cached=cached, pooled=self._anatomy.pooled)
        return output

    def _run_seq2seq(self, arguments: dict[str, Any]) -> Any:
        """Run an encoder-decoder."""
        rows = self._virtual.rows(_count_rows(arguments))
        ready = seq2seq_arguments(self._anatomy, rows, arguments)
        output = self._call(**ready, return_dict=True)
        check_read(ready.get("past_key_values"))
        return output

    def _generate_seq2seq(self, settings: Settings) -> Any:
        """Generate with an encoder-decoder."""
        rows = self._virtual.rows(_count_rows(settings.arguments))
        ready = seq2seq_generation(self._anatomy, rows, settings)
        output = self._model.generate(**ready)
        check_read(ready.get("past_key_values"))
        return output


def _count_rows(arguments: dict[str, Any]) -> int:
    """Return B, which the encoder's input tells."""
    outputs = arguments.get("encoder_outputs")
    candidates = [
        arguments.get("inputs"),
        arguments.get("input_ids"),
        arguments.get("inputs_embeds"),
    ]
    for given in (*candidates, None if outputs is None else outputs[0]):
        if given is not None:
            return len(given)
    raise AttachError("there is no text: input_ids is None", "pass input_ids or inputs_embeds")
