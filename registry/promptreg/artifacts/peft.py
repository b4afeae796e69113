"""A PEFT directory: ``adapter_config.json`` and ``adapter_model.safetensors``.

P is the number of virtual tokens, H the base model's embedding width, T the tasks of a multitask prompt, R its
rank. In an encoder-decoder PEFT saves 2P rows. Prompt tuning and p-tuning never train or read the second half,
so it is left behind; a multitask prompt trains it as the decoder's prompt, so it is kept beside the first.
"""

from collections.abc import Mapping

from promptreg.artifacts.arrays import join_tensors, split_tensor
from promptreg.artifacts.formats import Format, Rendering, checked, refuse_ensemble
from promptreg.artifacts.found import Found
from promptreg.artifacts.peft_config import CONFIG, MAX_CONFIG, SAVE_AGAIN, PeftConfig
from promptreg.artifacts.peft_writing import write_config
from promptreg.artifacts.sidecars import SIDECAR, read_sidecar, write_sidecar
from promptreg.artifacts.tensors import MAX_NAME, dump_tensors, load_metadata, load_tensors
from promptreg.bases import BaseModel
from promptreg.documents import parse_document
from promptreg.errors import InvalidArtifactError
from promptreg.layouts import (
    DECODER_PREFIX,
    MODULES_PREFIX,
    PROMPT_EMBEDDINGS,
    TASK_COLS,
    TASK_EMBEDDING,
    TASK_ROWS,
    without_task_embedding,
)
from promptreg.prompts import Method, Placement, SoftPrompt, Tensor

__all__ = ["PeftFormat"]

_WEIGHTS = "adapter_model.safetensors"
_OLD_WEIGHTS = "adapter_model.bin"
_METADATA = {"format": "pt"}
_OWN = {PROMPT_EMBEDDINGS, TASK_COLS, TASK_ROWS}


class PeftFormat(Format):
    """What ``save_pretrained`` writes, of the methods that train a soft prompt."""

    name = "peft"

    def _detect(self, found: Found) -> bool:
        if CONFIG not in found.names:
            return False
        try:
            return "peft_type" in parse_document(
                found.member(CONFIG, limit=MAX_CONFIG), limit=MAX_CONFIG
            )
        except ValueError:
            return True  # broken; the reader says how

    def _read(self, found: Found) -> SoftPrompt:
        config_bytes = found.member(CONFIG, limit=MAX_CONFIG)
        config = PeftConfig.read(config_bytes, str(found.path / CONFIG))
        weights = _WEIGHTS if _WEIGHTS in found.names else _OLD_WEIGHTS
        if weights not in found.names:
            raise InvalidArtifactError(str(found), f"it has no {_WEIGHTS}", SAVE_AGAIN)
        data = found.member(weights)  # its name says nothing: a pickle is refused by its bytes
        where = str(found.path / weights)
        tensors, notes = _import(config, load_tensors(data, where=where), where)
        if load_metadata(data, where=where) not in ({}, _METADATA):
            notes.append(f"the metadata of {weights} is not kept")
        embeddings = tensors[PROMPT_EMBEDDINGS]
        prefix = config.method is Method.PREFIX_TUNING
        prompt = SoftPrompt(
            method=config.method,
            tensors=tensors,
            num_virtual_tokens=config.num_virtual_tokens or embeddings.shape[0],
            token_dim=config.token_dim or embeddings.shape[-1],
            num_layers=config.num_layers if prefix else None,
            task_type=config.task_type,
            placement=Placement.KEY_VALUES if prefix else Placement.PREFIX,
            init=config.init,
            hyperparameters=config.hyperparameters,
            source_format=self.name,
            source_config=config.document,
            notes=tuple(notes),
        )
        checked(prompt, where, said_by=CONFIG)
        config.check_numbers(prompt, where)
        return read_sidecar(found, config_bytes, prompt)

    def _render(self, prompt: SoftPrompt, base: BaseModel | None, name: str) -> Rendering:
        del name  # PEFT names an adapter when it loads it
        refuse_ensemble(prompt, self.name)
        config, notes = write_config(prompt, base)
        kept = without_task_embedding(prompt)
        files = {
            _WEIGHTS: dump_tensors(_export(kept), _METADATA),
            SIDECAR: write_sidecar(kept, base, config),
            CONFIG: config,
        }
        return Rendering(files=files, notes=(*notes, *_unknown_to_peft(prompt)))


def _import(
    config: PeftConfig, found: Mapping[str, Tensor], where: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Turn PEFT's tensors into ours; return them and what is worth saying."""
    own = {name: tensor for name, tensor in found.items() if name in _OWN}
    modules = {name: tensor for name, tensor in found.items() if name not in _OWN}
    match own.get(PROMPT_EMBEDDINGS):
        case Tensor(shape=(_, _)):
            pass
        case _:
            reason = f"it has no tensor {PROMPT_EMBEDDINGS!r} [tokens, width]"
            raise InvalidArtifactError(where, reason, SAVE_AGAIN)
    _check_modules(config, modules, where)
    notes = []
    if config.encoder_and_decoder and config.method is not Method.PREFIX_TUNING:
        own, note = _halve(config, own, where)
        notes.append(note)
    if config.method is Method.P_TUNING or config.document.get("prefix_projection") is True:
        notes.append(
            "PEFT saves what the prompt's encoder gives, not the encoder: the prompt works as it is, "
            "and cannot be trained on through its encoder"
        )
    return own | {MODULES_PREFIX + name: tensor for name, tensor in modules.items()}, notes


def _check_modules(config: PeftConfig, modules: Mapping[str, Tensor], where: str) -> None:
    """Refuse tensors that belong to no trained module, and a trained module without tensors."""
    longest = max(map(len, modules), default=0)
    most = MAX_NAME - len(MODULES_PREFIX)
    if longest > most:
        reason = f"it has a tensor with a name of {longest} characters, and at most {most} are kept"
        raise InvalidArtifactError(where, reason, "give the base's module a shorter name")
    strange = [
        key for key in modules if not any(f"{name}." in key for name in config.modules_to_save)
    ]
    if strange:
        raise InvalidArtifactError(
            where,
            f"it holds {', '.join(strange[:3])}, which no name in modules_to_save accounts for",
            "if the base's vocabulary was resized, save with save_embedding_layers=False",
        )
    if config.modules_to_save and not modules:
        raise InvalidArtifactError(
            where,
            f"its modules_to_save names {', '.join(config.modules_to_save)}, and it holds no tensor "
            "of theirs",
            SAVE_AGAIN,
        )


def _halve(
    config: PeftConfig, own: Mapping[str, Tensor], where: str
) -> tuple[dict[str, Tensor], str]:
    """Split what PEFT saved for the encoder, [:P], from what it saved for the decoder, [P:]."""
    total = own[PROMPT_EMBEDDINGS].shape[0]
    tokens = config.num_virtual_tokens or total // 2
    halves = {}
    for name, axis in ((PROMPT_EMBEDDINGS, 0), (TASK_COLS, 1)):
        if name in own:
            if len(own[name].shape) <= axis or own[name].shape[axis] != 2 * tokens:
                raise InvalidArtifactError(
                    where,
                    f"{name!r} is {list(own[name].shape)}, and {2 * tokens} tokens were expected: "
                    f"{tokens} each for encoder and decoder",
                    SAVE_AGAIN,
                )
            halves[name] = split_tensor(own[name], axis)
    first = dict(own) | {name: half for name, (half, _) in halves.items()}
    if config.method is not Method.MULTITASK_PROMPT_TUNING:
        return first, (
            f"rows {tokens} to {2 * tokens} are left out: PEFT saves them for the decoder of an "
            "encoder-decoder, but neither trains nor reads them"
        )
    second = {DECODER_PREFIX + name: half for name, (_, half) in halves.items()}
    return first | second, (
        f"rows {tokens} to {2 * tokens} are the decoder's prompt, which PEFT uses in training and "
        "leaves out of generate; they are kept apart"
    )


def _export(prompt: SoftPrompt) -> dict[str, Tensor]:
    """Turn our tensors into PEFT's."""
    exported = {}
    for name, tensor in prompt.tensors.items():
        if name.startswith(DECODER_PREFIX):
            continue
        decoder = prompt.tensors.get(DECODER_PREFIX + name)
        if decoder is not None:
            exported[name] = join_tensors(tensor, decoder, 1 if name == TASK_COLS else 0)
        else:
            exported[name.removeprefix(MODULES_PREFIX)] = tensor
    return exported


def _unknown_to_peft(prompt: SoftPrompt) -> list[str]:
    notes = []
    if prompt.placement is Placement.AFTER_BOS:
        notes.append(
            "PEFT puts the prompt before the first token, not after it, so it will give other "
            f"outputs there; promptreg reads the placement back from {SIDECAR}"
        )
    if TASK_EMBEDDING in prompt.tensors:
        notes.append(
            "PEFT has no place for the task embedding: it is left out, and a prompt that is pushed "
            "from here is compared with others by what it became; 'safetensors' keeps it"
        )
    unknown = [
        what
        for what, present in (("template", prompt.template), ("labels", prompt.labels))
        if present
    ]
    if unknown:
        notes.append(
            f"PEFT has no place for the {' and the '.join(unknown)}: promptreg reads that back from "
            f"{SIDECAR}, PEFT's caller must put it around the text"
        )
    return notes
