"""A frozen base model with soft prompts in front of it, one for each row of a batch."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from promptreg.errors import AttachError, NonFiniteError
from promptreg.models.anatomy import Anatomy, Kind
from promptreg.models.attached import AttachedPrompt, AttachedPrompts
from promptreg.models.batches import past_length, read_batch
from promptreg.models.encoding import seq2seq_arguments, seq2seq_generation
from promptreg.models.frozen import FrozenModel
from promptreg.models.generating import (
    Settings,
    can_prefill,
    check_generates,
    decoder_generation,
    finish,
    read_generation_batch,
    refuse_unsupported,
    rows_to_continue,
)
from promptreg.models.guarding import FiniteGuard
from promptreg.models.heads import with_heads
from promptreg.models.inputs import forward_arguments
from promptreg.models.mixing import MixedRows
from promptreg.models.outputs import without_virtual
from promptreg.models.prefilling import StaticCaches, begins_prefilled, check_read
from promptreg.models.proving import prove, read_policy
from promptreg.models.reports import AttachReport, Policy
from promptreg.models.virtual import VirtualTokens
from promptreg.prompts import PulledPrompt, SoftPrompt

if TYPE_CHECKING:
    from transformers import (
        PreTrainedTokenizerBase,
    )

    from promptreg.answers import Answer

__all__ = ["PromptedModel"]

_UNREGISTERED = "unregistered"


class PromptedModel(FrozenModel):
    """A frozen base model with soft prompts in front of it; ``promptreg.attach`` makes one.

    It is called, and generates, as the base model does. It takes text and gives outputs for text: each row's
    virtual tokens are added on the way in, beside its own text whatever the padding, and taken out on the way
    out. Encoder outputs of an encoder-decoder keep them, because its decoder looks at them.

    Each row of a batch may name a prompt of its own, of any length and method, and gets what it would get
    alone. What a decoder makes of a prompt does not depend on the text, so its keys and values are computed
    once, when the prompt is added or first used.

    The base model is frozen and otherwise untouched: it can be used bare at any time, and other prompted models
    can be made of it. While it is attached, a call is refused if a module of the base model is in training
    mode, or if one of its parameters requires a gradient or was changed since (but for a write through
    ``.data``, which leaves no trace). The last ``detach`` gives modules and parameters back what attaching
    took.

    Prompts may be added and removed by any thread, while batches run: each batch goes on with those that it
    began with. It cannot be copied or pickled: only prompts attached by ``attach`` and ``add`` were proved to
    fit.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        *,
        policy: Policy = Policy.EXACT,
        cache: bool = True,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
        key_value_bytes: int = 2**31,
        prompts: Sequence[AttachedPrompt] = (),
    ) -> None:
        super().__init__(anatomy, cache=cache, tokenizer=tokenizer)
        self._policy = policy
        self._prompts = AttachedPrompts(anatomy, key_value_bytes)
        self._static = StaticCaches()
        self._begun: WeakKeyDictionary[Any, MixedRows] = WeakKeyDictionary()
        for prompt in prompts:
            self._prompts.put(prompt)

    @property
    def prompts(self) -> Mapping[str, AttachedPrompt]:
        """The attached prompts, by the names that rows name them by."""
        return self._prompts

    @property
    def report(self) -> AttachReport:
        """What was checked when the one prompt was attached; of several, ``prompts`` tells.

        Raises:
            AttachError: There are several, or none.
        """
        held = list(self._prompts.values())
        if len(held) != 1:
            raise AttachError(
                f"{len(held)} prompts are attached, and each has a report of its own",
                "look at prompted.prompts[NAME].report",
            )
        return held[0].report

    def add(
        self,
        prompt: PulledPrompt | SoftPrompt,
        *,
        name: str | None = None,
        policy: Policy | str | None = None,
        task_id: int | None = None,
        replace: bool = False,
        warm: bool = True,
    ) -> str:
        """Attach one more prompt, after proving that it belongs to the base model.

        Args:
            prompt: What ``Registry.pull`` gives; or a bare soft prompt, under the policy ``unchecked``.
            name: What rows will name it by; its reference (``sst2@3``) if None. Where nothing else is meant,
                rows may also name it by its task alone, or by an alias that it had when it was pulled.
            policy: What the base model must prove; what ``attach`` was given if None.
            task_id: Which task of a multitask prompt; not needed if it has one alone.
            replace: Whether it takes the place of the prompt of that name, if there is one: at once, so that
                each batch gets the old one or the new one.
            warm: Whether to compute a decoder's keys and values of it first, so that the first batch need not;
                one of which they are not finite is refused then.

        Returns:
            Its name.

        Raises:
            IncompatibleModelError, CanaryError, AttachError: As ``attach`` says; nothing changed.
            ConflictError: Another prompt has that name.
        """
        self._check()
        if name is not None and (not isinstance(name, str) or not name.strip()):
            raise AttachError(f"the name is {name!r}", "pass a text, or leave name out")
        tokens, report = prove(
            self._anatomy,
            prompt,
            policy=self._policy if policy is None else read_policy(policy),
            task_id=task_id,
            at_hand=lambda: self.base,
        )
        soft = prompt if isinstance(prompt, SoftPrompt) else prompt.prompt
        attached = AttachedPrompt(
            name=name or report.reference or self._free_name(),
            version=prompt.version if isinstance(prompt, PulledPrompt) else None,
            task_type=soft.task_type,
            template=soft.template,
            labels=soft.labels,
            vote=soft.vote,
            report=report,
            tokens=tokens,
        )
        self._prompts.put(attached, replace=replace, warm=warm)
        return attached.name

    def put_back(self, prompt: AttachedPrompt) -> None:
        """Attach again, under its name, a prompt that was attached to this very model and replaced."""
        self._check()
        self._prompts.put(prompt, replace=True)

    def remove(self, name: str) -> None:
        """Let go of a prompt. A batch that runs with it goes on.

        Raises:
            AttachError: None has that name.
        """
        self._prompts.pop(name)

    def __call__(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        prompts: Sequence[str | None] | None = None,
        **arguments: Any,
    ) -> Any:
        """Run the base model on the prompted input.

        Args:
            input_ids: [B, T] The text; or pass ``inputs_embeds`` [B, T, H].
            attention_mask: [B, T] Which tokens are real; None if all are. With ``past_key_values`` of an
                earlier output, the mask is for the text in the cache too.
            prompts: [B] The name of each row's prompt, None for the bare base model. Not needed where one
                prompt is attached: it is for all rows.
            arguments: Whatever the base model's forward pass takes, for the text. With ``labels`` [B, T] the
                loss is over the text's tokens alone.

        Returns:
            The base model's output for the text: logits [B, T, V], hidden states [B, T, H]; attentions
            [B, heads, T, S] look at the virtual tokens too. At padding, it is undefined.

        Raises:
            AttachError: The prompts are detached, the base model is not frozen any more or has other weights,
                a row's prompt is unknown, text and prompt do not fit into its window, or an argument does not
                fit the text.
        """
        arguments.update(input_ids=input_ids, attention_mask=attention_mask)
        self._check()
        if input_ids is not None and arguments.get("inputs_embeds") is not None:
            raise AttachError("input_ids and inputs_embeds were passed", "pass one of them")
        chosen = self._chosen(prompts, _count_rows(arguments))
        cache = arguments.get("past_key_values")
        # A text's first token is predicted from the last virtual one, which must then go through the model.
        predicts = arguments.get("labels") is not None and self._model.can_generate()
        through = not begins_prefilled(cache) or (predicts and cache is None)
        return self.run(self._rows(chosen, cache, as_embeddings=through), arguments)

    def generate(
        self,
        inputs: Tensor | None = None,
        *,
        prompts: Sequence[str | None] | None = None,
        **arguments: Any,
    ) -> Any:
        """Continue the prompted input, as the base model's ``generate`` does.

        Args:
            inputs: [B, T] The text; or pass ``input_ids``, or ``inputs_embeds`` [B, T, H]. Rows may be padded
                on either side.
            prompts: [B] The name of each row's prompt, as in a call.
            arguments: Whatever the base model's ``generate`` takes. Lengths, logits processors and streamers
                count and see the text and the new tokens.

        Returns:
            [B, T + new] The token ids of text and continuation (an encoder-decoder's: of the continuation), or
            transformers' output object if the settings ask for it.

        Raises:
            AttachError: As in a call; or the base model cannot generate, or not in the way asked for.
            NonFiniteError: Some rows got no numbers; the others' output is in the error.
        """
        self._check()
        check_generates(self._anatomy)
        settings = Settings(self._anatomy, {**arguments, "inputs": inputs})
        if self._anatomy.kind is Kind.ENCODER_DECODER:
            count = _count_rows(settings.arguments)
        else:
            count = rows_to_continue(settings)
        cache = settings.arguments.get("past_key_values")
        decoder = self._anatomy.kind is not Kind.ENCODER_DECODER
        through = decoder and not can_prefill(settings)
        rows = self._rows(self._chosen(prompts, count), cache, as_embeddings=through)
        return self._continue(rows, settings)

    def generate_rows(self, rows: MixedRows, arguments: dict[str, Any]) -> Any:
        """Continue a batch with these virtual tokens, as ``generate`` does."""
        return self._continue(rows, Settings(self._anatomy, arguments))

    def _continue(self, rows: MixedRows, settings: Settings) -> Any:
        check_generates(self._anatomy)
        refuse_unsupported(settings, self.config.model_type)
        if self._anatomy.kind is Kind.ENCODER_DECODER:
            return self._generate(rows, seq2seq_generation(self._anatomy, rows, settings))
        batch = read_generation_batch(self._anatomy, settings)
        ready, layouts = decoder_generation(self._anatomy, rows, batch, settings, self._static)
        try:
            output = self._generate(rows, ready)
        except NonFiniteError as error:
            error.output = finish(error.output, batch, rows, layouts)
            raise
        if isinstance(output, Tensor):  # an output object may hold the cache
            self._static.give_back(ready.get("past_key_values"))
        else:
            self._remember(output.get("past_key_values"), rows)
        return finish(output, batch, rows, layouts)

    def answer(
        self,
        texts: Sequence[str],
        *,
        prompts: Sequence[str | None] | None = None,
        max_new_tokens: int = 64,
        batch_size: int = 64,
        **arguments: Any,
    ) -> "list[Answer]":
        """Answer texts: each is put into its prompt's template, and a label chosen or a continuation written.

        A prompt with label words answers with one of them: each is as likely as all its tokens are behind the
        text. A model that classifies answers with its classes. Others continue the text. An ensemble's members
        all answer, in the same batch, and vote.

        Args:
            texts: [N] The texts.
            prompts: [N] The name of each text's prompt, None for the bare base model, which continues the bare
                text. Not needed where one prompt is attached.
            max_new_tokens: How long a continuation gets at most, in tokens.
            batch_size: How many rows go through the base model at once.
            arguments: What ``generate`` takes besides, for continuations.

        Returns:
            [N] The answers.

        Raises:
            AttachError: As in a call; a text is too long, or the base model came without its tokenizer.
            NonFiniteError: Some texts got no numbers; the others' answers are in the error.
        """
        from promptreg.models.answering import answer_texts

        self._check()
        chosen = self._prompts.chosen(prompts, len(texts))
        return answer_texts(
            self,
            texts,
            chosen,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            arguments=arguments,
        )

    def detach(self) -> None:
        """Let go of the prompts and of the base model, which is as it was before. Again changes nothing."""
        super().detach()
        self._prompts.clear()
        self._static = StaticCaches()

    def __repr__(self) -> str:
        state = "attached to" if self.attached else "detached from"
        held = list(self._prompts)
        what = held[0] if len(held) == 1 else f"{len(held)} prompts"
        return f"<PromptedModel: {what} {state} a {type(self._model).__name__}>"

    def _check(self) -> None:
        try:
            super()._check()
        except AttachError:
            # Other weights make other keys and values of a prompt.
            self._prompts.tables.clear()
            raise

    def _free_name(self) -> str:
        number = 1
        while (name := f"{_UNREGISTERED}-{number}") in self._prompts:
            number += 1
        return name

    def _chosen(
        self, names: Sequence[str | None] | None, count: int
    ) -> list[AttachedPrompt | None]:
        """Return each row's prompt."""
        if not count:
            raise AttachError("the batch is empty", "pass input_ids with at least one row")
        chosen = self._prompts.chosen(names, count)
        for prompt in chosen:
            if prompt is not None and prompt.vote is not None:
                raise AttachError(
                    f"{prompt.name} is an ensemble of {len(prompt.tokens)} prompts, which vote on answers",
                    "call answer(), or name one of its members for each row",
                )
        return chosen

    def _rows(
        self, chosen: Sequence[AttachedPrompt | None], cache: Any, *, as_embeddings: bool
    ) -> MixedRows:
        """Return the virtual tokens of a batch; those that a cache began with, if it goes on from one.

        Raises:
            AttachError: The cache began with other prompts.
        """
        names = [None if prompt is None else prompt.name for prompt in chosen]
        begun = None if cache is None else self._begun.get(cache)
        if begun is None or begun.count != len(names) or not int(cache.get_seq_length()):
            owners = [None if prompt is None else prompt.tokens[0] for prompt in chosen]
            return self._prompts.rows(owners, names, as_embeddings=as_embeddings)
        if begun.names and list(begun.names) != names:
            raise AttachError(
                f"past_key_values began with the prompts {_listed(begun.names)}, and {_listed(names)} were "
                "named",
                "name those that it began with: they are in it",
            )
        return begun

    def _remember(self, cache: Any, rows: MixedRows) -> None:
        """Keep what ``cache`` began with, as long as it is there: a pass that goes on must count as it did."""
        if cache is not None and cache not in self._begun:
            self._begun[cache] = rows.select(range(rows.count))

    def _generate(self, rows: MixedRows, ready: dict[str, Any]) -> Any:
        """Run the base model's ``generate``.

        Raises:
            NonFiniteError: Some rows got no numbers.
        """
        guard = FiniteGuard()
        processors = [*(ready.get("logits_processor") or ()), guard]
        output = with_heads(self._model, rows.owners).generate(
            **{**ready, "logits_processor": processors}
        )
        check_read(ready.get("past_key_values"))
        if failed := guard.failed_rows(rows.count):
            names = rows.names or [None] * rows.count
            raise NonFiniteError(failed, [names[row] for row in failed], output)
        return output

    def mix(
        self, owners: Sequence[VirtualTokens | None], names: Sequence[str | None] = ()
    ) -> MixedRows:
        """Return the virtual tokens of a batch, ready to ``run``.

        Args:
            owners: [B] Each row's; None for the bare base model.
            names: [B] What the prompts are called in an error.
        """
        return self._prompts.rows(owners, names)

    def run(self, rows: MixedRows, arguments: dict[str, Any]) -> Any:
        """Run the base model on a batch with these virtual tokens, as a call does."""
        as_dict = arguments.pop("return_dict", None)
        if as_dict is None:
            as_dict = self.config.return_dict
        problem_type = getattr(self.config, "problem_type", None)
        try:
            if self._anatomy.kind is Kind.ENCODER_DECODER:
                output = self._run_seq2seq(rows, arguments)
            else:
                output = self._run(rows, arguments)
        finally:
            # transformers' classifiers write down in the config what the first labels looked like.
            if getattr(self.config, "problem_type", None) != problem_type:
                self.config.problem_type = problem_type
        return output if as_dict else output.to_tuple()

    def _call(self, owners: Sequence[VirtualTokens | None]) -> nn.Module:
        """Return what a forward pass goes through."""
        view = with_heads(self._anatomy.model, owners)
        # A compiled form would still run the base model's own classifier.
        return self._anatomy.call if view is self._anatomy.model else view

    def _run(self, rows: MixedRows, arguments: dict[str, Any]) -> Any:
        """Run a decoder or an encoder."""
        given = [
            arguments.pop(name, None) for name in ("input_ids", "inputs_embeds", "attention_mask")
        ]
        past = past_length(arguments.get("past_key_values"), rows.length)
        batch = read_batch(*given, past=past or 0)
        ready, layouts = forward_arguments(self._anatomy, rows, batch, arguments)
        output = self._call(rows.owners)(**ready, return_dict=True)
        check_read(ready.get("past_key_values"))
        self._remember(output.get("past_key_values"), rows)
        for part, layout in reversed(list(zip(rows.parts, layouts, strict=False))):
            cached = part.key_values is not None
            without_virtual(output, layout, cached=cached, pooled=self._anatomy.pooled)
        return output

    def _run_seq2seq(self, rows: MixedRows, arguments: dict[str, Any]) -> Any:
        """Run an encoder-decoder."""
        ready = seq2seq_arguments(self._anatomy, rows, arguments)
        output = self._call(rows.owners)(**ready, return_dict=True)
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


def _listed(names: Sequence[str | None]) -> str:
    return ", ".join(str(name) for name in names)
