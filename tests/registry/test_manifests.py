import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompt_examples import prompt_of, soft_prompt, tensor
from promptreg.artifacts import dump_tensors
from promptreg.digests import Digest
from promptreg.errors import InvalidArtifactError
from promptreg.fingerprints import Fingerprint
from promptreg.manifests import MAX_MANIFEST, Manifest, manifest_bytes, read_manifest
from promptreg.prompts import Method, Placement, SoftPrompt, TaskType, Vote

BASE = Fingerprint("bfp1:" + "0123456789abcdef" * 4)
ENSEMBLE = prompt_of(Method.ENSEMBLE)
PROMPT = soft_prompt(
    template="{text} It was",
    labels=("bad", "good"),
    task_type=TaskType.SEQ_CLS,
    placement=Placement.AFTER_BOS,
    init="text",
    hyperparameters={"lr": 0.3, "steps": 100, "tied": True, "optimizer": "adafactor"},
    source_format="peft",
    source_config={"peft_type": "PROMPT_TUNING", "nested": {"a": [1, 2.5, None, "é"]}},
)


def written(prompt: SoftPrompt, base: Fingerprint | None = BASE) -> bytes:
    tensors = dump_tensors(prompt.tensors)
    return manifest_bytes(prompt, base=base, tensors=Digest.of(tensors), size=len(tensors))


def changed(**fields: Any) -> bytes:
    """Return the manifest of PROMPT with some fields changed, or left out where they are ``...``."""
    document = json.loads(written(PROMPT)) | fields
    return json.dumps({k: v for k, v in document.items() if v is not ...}).encode()


def refusal(data: bytes) -> str:
    with pytest.raises(InvalidArtifactError) as caught:
        read_manifest(data, PROMPT.tensors)
    message = str(caught.value)
    assert message.startswith("the manifest: ")
    assert "; " in message, "a refusal says what mends it"
    return message


class TestRoundTrip:
    @pytest.mark.parametrize("method", Method)
    def test_every_method_is_read_back_whole(self, method: Method) -> None:
        fields = {name: getattr(PROMPT, name) for name in ("template", "labels", "task_type")}
        prompt = prompt_of(method, **fields)
        tensors = dump_tensors(prompt.tensors)
        assert read_manifest(written(prompt), prompt.tensors) == Manifest(
            prompt=prompt, base=BASE, tensors=Digest.of(tensors), size=len(tensors)
        )

    def test_nothing_that_a_prompt_says_is_lost(self) -> None:
        assert read_manifest(written(PROMPT), PROMPT.tensors).prompt == PROMPT

    def test_a_base_may_be_unknown(self) -> None:
        assert read_manifest(written(PROMPT, base=None), PROMPT.tensors).base is None

    def test_notes_are_for_the_reader_of_a_file_and_are_not_stored(self) -> None:
        assert written(replace(PROMPT, notes=("rows were left out",))) == written(PROMPT)

    def test_the_same_prompt_has_the_same_bytes(self) -> None:
        shuffled = replace(
            PROMPT,
            hyperparameters=dict(reversed(dict(PROMPT.hyperparameters).items())),
            source_config=dict(reversed(dict(PROMPT.source_config).items())),
        )
        assert written(shuffled) == written(PROMPT)

    def test_the_bytes_never_change(self) -> None:
        # The digest of a manifest stands in every registry: these bytes are for ever.
        prompt = soft_prompt(1, 2, hyperparameters={"lr": 0.3})
        tensors = Digest("sha256:" + "0" * 64)
        assert manifest_bytes(prompt, base=BASE, tensors=tensors, size=88).decode() == (
            '{"base":"bfp1:' + "0123456789abcdef" * 4 + '","format":"promptreg.prompt/1",'
            '"hyperparameters":{"lr":0.3},"init":null,"labels":[],"method":"prompt-tuning",'
            '"num_layers":null,"num_virtual_tokens":1,"placement":"prefix",'
            '"source":{"config":{},"format":null},"task_type":null,"template":null,'
            '"tensors":{"digest":"sha256:' + "0" * 64 + '",'
            '"entries":{"prompt_embeddings":{"dtype":"F32","shape":[1,2]}},"size":88},'
            '"token_dim":2}'
        )

    def test_an_ensemble_has_one_field_that_no_other_prompt_has(self) -> None:
        document = json.loads(written(ENSEMBLE))
        assert document.pop("ensemble") == {"members": ["sst2@3", "sst2@5"], "vote": "majority"}
        assert document.keys() == json.loads(written(PROMPT)).keys()

    @pytest.mark.parametrize("vote", Vote)
    def test_the_members_and_the_vote_of_an_ensemble_come_back(self, vote: Vote) -> None:
        prompt = replace(ENSEMBLE, vote=vote)
        found = read_manifest(written(prompt), prompt.tensors).prompt
        assert (found.members, found.vote) == (("sst2@3", "sst2@5"), vote)

    def test_a_field_of_a_later_release_is_passed_over(self) -> None:
        assert read_manifest(changed(sponsor="acme"), PROMPT.tensors).prompt == PROMPT

    @settings(deadline=None)
    @given(
        hyperparameters=st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
            st.booleans()
            | st.integers(-(2**63), 2**63 - 1)
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
            max_size=5,
        )
    )
    def test_any_hyperparameter_keeps_its_value_and_its_type(
        self, hyperparameters: dict[str, bool | int | float | str]
    ) -> None:
        prompt = replace(PROMPT, hyperparameters=hyperparameters)
        found = read_manifest(written(prompt), prompt.tensors).prompt.hyperparameters
        assert {k: (type(v), v) for k, v in found.items()} == {
            k: (type(v), v) for k, v in hyperparameters.items()
        }


class TestWhatCannotBeWritten:
    @pytest.mark.parametrize(
        "prompt",
        [
            replace(PROMPT, num_virtual_tokens=5),
            replace(PROMPT, hyperparameters={"lr": float("nan")}),
            replace(PROMPT, hyperparameters={"lr": float("inf")}),
            replace(PROMPT, hyperparameters={"lr": 10**30}),
            replace(PROMPT, source_config={"x": {1, 2}}),
            replace(PROMPT, source_config={"x": "\ud800"}),
            replace(PROMPT, template="x" * MAX_MANIFEST),
            replace(PROMPT, members=("sst2@3", "sst2@5"), vote=Vote.MEAN),
            replace(ENSEMBLE, vote=None),
            replace(ENSEMBLE, members=("sst2@3", "sst2@prod")),
        ],
    )
    def test_is_refused_with_the_reason(self, prompt: SoftPrompt) -> None:
        with pytest.raises(InvalidArtifactError, match=r"^the manifest: .+; "):
            written(prompt)


class TestWhatIsRefused:
    @pytest.mark.parametrize("version", ["promptreg.prompt/2", "promptreg.prompt/10"])
    def test_a_newer_format(self, version: str) -> None:
        message = refusal(changed(format=version))
        assert version in message
        assert message.endswith("; upgrade promptreg")

    @pytest.mark.parametrize("version", ["", "promptreg.canary/1", "1", 1, None, ..., []])
    def test_another_document(self, version: object) -> None:
        assert "it is no manifest" in refusal(changed(format=version))

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("method", "mind-reading"),
            ("placement", "sideways"),
            ("task_type", "DREAMING"),
        ],
    )
    def test_a_word_of_a_later_release(self, field: str, value: str) -> None:
        message = refusal(changed(**{field: value}))
        assert repr(value) in message
        assert message.endswith("; upgrade promptreg")

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("method", ...),
            ("method", None),
            ("method", 1),
            ("placement", None),
            ("num_virtual_tokens", "4"),
            ("num_virtual_tokens", 4.0),
            ("num_virtual_tokens", True),
            ("num_virtual_tokens", None),
            ("num_virtual_tokens", 5),
            ("token_dim", 0),
            ("token_dim", -8),
            ("num_layers", "3"),
            ("template", 1),
            ("template", ...),
            ("labels", "good"),
            ("labels", [1]),
            ("labels", None),
            ("init", ["text"]),
            ("hyperparameters", []),
            ("hyperparameters", {"lr": None}),
            ("hyperparameters", {"lr": [1]}),
            ("hyperparameters", {"lr": {}}),
            ("source", None),
            ("source", {}),
            ("source", {"format": "peft", "config": []}),
            ("source", {"format": 1, "config": {}}),
            ("base", "llama"),
            ("base", "bfp1:../../etc/passwd"),
            ("base", 1),
            ("tensors", None),
            ("tensors", {}),
        ],
    )
    def test_a_field_of_another_kind(self, field: str, value: object) -> None:
        refusal(changed(**{field: value}))

    @pytest.mark.parametrize(
        "change",
        [
            {"digest": "sha256:../../x"},
            {"digest": None},
            {"size": "1"},
            {"size": 1.5},
            {"entries": {}},
            {"entries": {"prompt_embeddings": {"dtype": "F16", "shape": [4, 8]}}},
            {"entries": {"prompt_embeddings": {"dtype": "F32", "shape": [8, 4]}}},
            {"entries": {"other": {"dtype": "F32", "shape": [4, 8]}}},
        ],
    )
    def test_a_description_of_other_tensors(self, change: dict[str, object]) -> None:
        refusal(changed(tensors=json.loads(written(PROMPT))["tensors"] | change))

    @pytest.mark.parametrize(
        "ensemble",
        [
            ...,
            None,
            [],
            {},
            {"members": ["sst2@3", "sst2@5"]},
            {"members": ["sst2@3", "sst2@5"], "vote": None},
            {"vote": "mean"},
            {"members": "sst2@3", "vote": "mean"},
            {"members": ["sst2@3", 5], "vote": "mean"},
            {"members": ["sst2@3"], "vote": "mean"},
            {"members": ["sst2@3", "sst2@3"], "vote": "mean"},
            {"members": ["sst2@3", "\x1b[2Jsst2@5"], "vote": "mean"},
        ],
    )
    def test_an_ensemble_without_its_members_or_its_vote(self, ensemble: object) -> None:
        document = json.loads(written(ENSEMBLE)) | {"ensemble": ensemble}
        data = json.dumps({k: v for k, v in document.items() if v is not ...}).encode()
        with pytest.raises(InvalidArtifactError, match=r"^the manifest: .+; pull the prompt again"):
            read_manifest(data, ENSEMBLE.tensors)

    def test_a_vote_of_a_later_release(self) -> None:
        ensemble = {"members": ["sst2@3", "sst2@5"], "vote": "borda"}
        data = json.dumps(json.loads(written(ENSEMBLE)) | {"ensemble": ensemble}).encode()
        with pytest.raises(InvalidArtifactError, match=r"'borda'.*; upgrade promptreg"):
            read_manifest(data, ENSEMBLE.tensors)

    def test_members_of_what_is_no_ensemble(self) -> None:
        ensemble = {"members": ["sst2@3", "sst2@5"], "vote": "mean"}
        assert "only an ensemble has members" in refusal(changed(ensemble=ensemble))

    def test_tensors_that_are_not_those_described(self) -> None:
        with pytest.raises(InvalidArtifactError, match="other names, dtypes or shapes"):
            read_manifest(written(PROMPT), {"prompt_embeddings": tensor(4, 9)})

    @pytest.mark.parametrize(
        "data", [b"", b"[]", b'{"format":', b"\xff", b" " * (MAX_MANIFEST + 1)]
    )
    def test_bytes_that_are_no_document(self, data: bytes) -> None:
        refusal(data)

    @settings(deadline=None)
    @given(
        edits=st.lists(
            st.tuples(st.integers(0, 900), st.binary(min_size=1, max_size=2)), min_size=1
        )
    )
    def test_mutated_bytes_are_refused_or_are_a_manifest(
        self, edits: list[tuple[int, bytes]]
    ) -> None:
        data = written(PROMPT)
        for at, new in edits:
            data = data[:at] + new + data[at + len(new) :]
        try:
            found = read_manifest(data, PROMPT.tensors)
        except InvalidArtifactError:
            return
        assert found.prompt.tensors == PROMPT.tensors
