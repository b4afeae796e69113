import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prompt_examples import PEFT_METHODS, base_model, prompt_of, soft_prompt, tensor, tuned_prompt
from promptreg import artifacts
from promptreg.artifacts import dump_tensors
from promptreg.errors import ConversionError, InvalidArtifactError, UnknownFormatError
from promptreg.layouts import without_task_embedding
from promptreg.prompts import Method, Placement, SoftPrompt, TaskType, Tensor

CONFIG: dict[str, Any] = {
    "peft_type": "PROMPT_TUNING",
    "task_type": "CAUSAL_LM",
    "num_virtual_tokens": 4,
    "token_dim": 8,
    "num_transformer_submodules": 1,
    "num_layers": 3,
    "modules_to_save": None,
}


def save(
    directory: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None
) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps(config))
    found = tensors or {"prompt_embeddings": tensor(4, 8)}
    (directory / "adapter_model.safetensors").write_bytes(dump_tensors(found, {"format": "pt"}))
    return directory


def refusal(directory: Path) -> str:
    with pytest.raises(InvalidArtifactError) as caught:
        artifacts.read(directory)
    assert "; " in str(caught.value), "a refusal says what mends it"
    return str(caught.value)


def config_of(directory: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((directory / "adapter_config.json").read_text())
    return config


class TestReading:
    def test_the_configuration_is_kept_whole(self, tmp_path: Path) -> None:
        config = CONFIG | {"a_key_of_tomorrow": {"nested": [1, 2.5, None, True, "é"]}}
        prompt = artifacts.read(save(tmp_path, config))
        assert prompt.source_format == "peft"
        assert prompt.source_config == config

    @pytest.mark.parametrize(
        ("found", "init"),
        [
            ({"prompt_tuning_init": "RANDOM"}, "random"),
            ({"prompt_tuning_init": "SAMPLE_VOCAB"}, "sampled-vocabulary"),
            ({"prompt_tuning_init": "TEXT"}, "text"),
            ({}, None),
            ({"prompt_tuning_init": ["TEXT"]}, None),
        ],
    )
    def test_how_it_was_initialised_is_read(
        self, tmp_path: Path, found: dict[str, Any], init: str | None
    ) -> None:
        assert artifacts.read(save(tmp_path, CONFIG | found)).init == init

    def test_hyperparameters_are_read_by_the_names_of_the_field(self, tmp_path: Path) -> None:
        config = CONFIG | {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "Is it good?"}
        assert artifacts.read(save(tmp_path / "a", config)).hyperparameters == {
            "num_virtual_tokens": 4,
            "init": "text",
            "init_text": "Is it good?",
        }
        config = CONFIG | {
            "peft_type": "P_TUNING",
            "encoder_reparameterization_type": "LSTM",
            "encoder_hidden_size": 128,
            "encoder_num_layers": 2,
            "encoder_dropout": 0.1,
        }
        assert artifacts.read(save(tmp_path / "b", config)).hyperparameters == {
            "num_virtual_tokens": 4,
            "encoder_type": "LSTM",
            "encoder_hidden_size": 128,
            "encoder_num_layers": 2,
            "encoder_dropout": 0.1,
        }

    def test_that_the_encoder_of_p_tuning_is_not_in_the_file_is_said(self, tmp_path: Path) -> None:
        (note,) = artifacts.read(save(tmp_path, CONFIG | {"peft_type": "P_TUNING"})).notes
        assert "not the encoder" in note

    def test_a_plain_prompt_has_nothing_to_be_said(self, tmp_path: Path) -> None:
        assert artifacts.read(save(tmp_path, CONFIG)).notes == ()

    def test_prefix_tuning_is_placed_in_the_layers(self, tmp_path: Path) -> None:
        config = CONFIG | {"peft_type": "PREFIX_TUNING", "prefix_projection": False}
        tensors = {"prompt_embeddings": tensor(4, 3 * 2 * 8)}
        prompt = artifacts.read(save(tmp_path, config, tensors))
        assert prompt.method is Method.PREFIX_TUNING
        assert prompt.placement is Placement.KEY_VALUES
        assert (prompt.num_virtual_tokens, prompt.token_dim, prompt.num_layers) == (4, 8, 3)

    def test_metadata_that_is_not_kept_is_said(self, tmp_path: Path) -> None:
        save(tmp_path, CONFIG)
        data = dump_tensors({"prompt_embeddings": tensor(4, 8)}, {"trained_by": "ada"})
        (tmp_path / "adapter_model.safetensors").write_bytes(data)
        (note,) = artifacts.read(tmp_path).notes
        assert "metadata" in note


BOTH_TENSORS = {"prompt_embeddings": tensor(8, 8)}
BOTH_CONFIG = CONFIG | {"task_type": "SEQ_2_SEQ_LM", "num_transformer_submodules": 2}


class TestEncoderDecoder:
    @pytest.mark.parametrize("peft_type", ["PROMPT_TUNING", "P_TUNING"])
    @pytest.mark.parametrize("submodules", [2, None])
    def test_the_rows_that_nothing_reads_are_left_out_and_that_is_said(
        self, tmp_path: Path, peft_type: str, submodules: int | None
    ) -> None:
        config = BOTH_CONFIG | {
            "peft_type": peft_type,
            "num_transformer_submodules": submodules,
        }
        prompt = artifacts.read(save(tmp_path / "in", config, BOTH_TENSORS))
        first = BOTH_TENSORS["prompt_embeddings"].data[: 4 * 8 * 4]
        assert prompt.tensors["prompt_embeddings"] == Tensor(dtype="F32", shape=(4, 8), data=first)
        assert "rows 4 to 8 are left out" in prompt.notes[0]
        (note,) = artifacts.write(prompt, tmp_path / "out")
        assert "num_transformer_submodules is 1, not 2" in note
        assert config_of(tmp_path / "out")["num_transformer_submodules"] == 1
        again = artifacts.read(tmp_path / "out")
        assert again == prompt
        assert again.source_config == config, "the configuration is kept as it was"

    def test_a_prompt_for_the_encoder_alone_is_read_as_it_is(self, tmp_path: Path) -> None:
        config = BOTH_CONFIG | {"num_transformer_submodules": 1}
        prompt = artifacts.read(save(tmp_path, config))
        assert prompt.num_virtual_tokens == 4
        assert prompt.notes == ()

    @pytest.mark.parametrize("rows", [4, 6, 7, 9])
    def test_halves_that_are_none_are_refused(self, tmp_path: Path, rows: int) -> None:
        tensors = {"prompt_embeddings": tensor(rows, 8)}
        message = refusal(save(tmp_path, BOTH_CONFIG, tensors))
        assert f"'prompt_embeddings' is [{rows}, 8], and 8 tokens were expected" in message

    def test_prefix_tuning_has_one_half_for_both(self, tmp_path: Path) -> None:
        config = BOTH_CONFIG | {"peft_type": "PREFIX_TUNING"}
        tensors = {"prompt_embeddings": tensor(4, 3 * 2 * 8)}
        prompt = artifacts.read(save(tmp_path / "in", config, tensors))
        assert prompt.tensors == tensors
        assert artifacts.write(prompt, tmp_path / "out") == ()
        assert config_of(tmp_path / "out")["num_transformer_submodules"] == 2

    @pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
    def test_the_decoders_half_of_a_multitask_prompt_is_kept(
        self, tmp_path: Path, dtype: str
    ) -> None:
        tensors = {
            "prompt_embeddings": tensor(8, 8, dtype=dtype),
            "prefix_task_cols": tensor(2, 8, 3, dtype=dtype),
            "prefix_task_rows": tensor(2, 3, 8, dtype=dtype),
        }
        config = BOTH_CONFIG | {"peft_type": "MULTITASK_PROMPT_TUNING"}
        prompt = artifacts.read(save(tmp_path / "in", config, tensors))
        assert prompt.tensors["prompt_embeddings"].shape == (4, 8)
        assert prompt.tensors["decoder_prompt_embeddings"].shape == (4, 8)
        assert prompt.tensors["decoder_prefix_task_cols"].shape == (2, 4, 3)
        assert "kept apart" in prompt.notes[0]
        assert artifacts.write(prompt, tmp_path / "out") == ()
        weights = "adapter_model.safetensors"
        assert (tmp_path / "out" / weights).read_bytes() == (tmp_path / "in" / weights).read_bytes()


MODULES_CONFIG = CONFIG | {
    "task_type": "SEQ_CLS",
    "modules_to_save": ["classifier", "score", "score"],
}
MODULES_TENSORS = {
    "prompt_embeddings": tensor(4, 8),
    "base_model.score.weight": tensor(3, 8),
    "base_model.score.bias": tensor(3, dtype="BF16"),
}


class TestTrainedModules:
    def test_their_tensors_are_kept_and_written_by_their_own_names(self, tmp_path: Path) -> None:
        prompt = artifacts.read(save(tmp_path / "in", MODULES_CONFIG, MODULES_TENSORS))
        assert prompt.tensors == {
            "prompt_embeddings": MODULES_TENSORS["prompt_embeddings"],
            "modules_to_save.base_model.score.weight": MODULES_TENSORS["base_model.score.weight"],
            "modules_to_save.base_model.score.bias": MODULES_TENSORS["base_model.score.bias"],
        }
        assert artifacts.write(prompt, tmp_path / "out") == ()
        weights = "adapter_model.safetensors"
        assert (tmp_path / "out" / weights).read_bytes() == (tmp_path / "in" / weights).read_bytes()
        assert artifacts.read(tmp_path / "out") == prompt

    def test_those_that_the_configuration_does_not_name_are_refused(self, tmp_path: Path) -> None:
        tensors = MODULES_TENSORS | {"base_model.embed_tokens.weight": tensor(32, 8)}
        message = refusal(save(tmp_path, MODULES_CONFIG, tensors))
        assert "base_model.embed_tokens.weight" in message
        assert "save_embedding_layers=False" in message

    def test_those_that_are_missing_are_refused(self, tmp_path: Path) -> None:
        assert "holds no tensor of theirs" in refusal(save(tmp_path, MODULES_CONFIG))

    def test_a_name_that_would_be_too_long_to_keep_is_refused(self, tmp_path: Path) -> None:
        tensors = MODULES_TENSORS | {"base_model.score." + "x" * 100: tensor(2)}
        assert "117 characters, and at most 112" in refusal(save(tmp_path, MODULES_CONFIG, tensors))

    @pytest.mark.parametrize("modules", ["score", [1], [""], {"score": 1}])
    def test_names_that_are_none_are_refused(self, tmp_path: Path, modules: object) -> None:
        assert "modules_to_save" in refusal(save(tmp_path, CONFIG | {"modules_to_save": modules}))

    def test_a_prompt_that_peft_never_saw_names_them_for_peft(self, tmp_path: Path) -> None:
        tensors = {
            "prompt_embeddings": tensor(4, 8),
            "modules_to_save.base_model.score.weight": tensor(3, 8),
        }
        prompt = soft_prompt(tensors=tensors, task_type=TaskType.SEQ_CLS)
        artifacts.write(prompt, tmp_path / "p")
        assert config_of(tmp_path / "p")["modules_to_save"] == ["score"]


class TestRefusals:
    @pytest.mark.parametrize(
        "name", ["LORA", "CARTRIDGE", "ADALORA", "IA3", "ENSEMBLE", "prompt_tuning", "", 1]
    )
    def test_another_method_is_refused_by_its_name(self, tmp_path: Path, name: object) -> None:
        message = refusal(save(tmp_path, CONFIG | {"peft_type": name}))
        assert f"its peft_type is {str(name)!r}" in message
        assert message.endswith(
            "those are CPT, MULTITASK_PROMPT_TUNING, PREFIX_TUNING, PROMPT_TUNING, P_TUNING"
        )

    def test_no_method_is_no_peft_directory(self, tmp_path: Path) -> None:
        config = {key: value for key, value in CONFIG.items() if key != "peft_type"}
        with pytest.raises(UnknownFormatError, match="no peft_type"):
            artifacts.read(save(tmp_path, config))
        assert "names no peft_type" in refusal(save(tmp_path, CONFIG | {"peft_type": None}))

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("num_virtual_tokens", 5),
            ("num_virtual_tokens", 2),
            ("token_dim", 16),
            ("num_virtual_tokens", 0),
            ("num_virtual_tokens", -4),
            ("num_virtual_tokens", "4"),
            ("num_virtual_tokens", 4.0),
            ("token_dim", True),
            ("token_dim", [8]),
            ("num_transformer_submodules", 2),
            ("num_transformer_submodules", 3),
            ("num_layers", "3"),
            ("task_type", "DREAMING"),
            ("task_type", 1),
        ],
    )
    def test_a_configuration_that_the_tensors_belie(
        self, tmp_path: Path, key: str, value: object
    ) -> None:
        refusal(save(tmp_path, CONFIG | {key: value}))

    def test_a_width_that_differs_shows_both_and_who_said_it(self, tmp_path: Path) -> None:
        message = refusal(save(tmp_path, CONFIG | {"token_dim": 16}))
        assert "'prompt_embeddings' is [4, 8], and [4, 16] was expected" in message
        assert "adapter_config.json" in message

    @pytest.mark.parametrize(("key", "value"), [("num_tasks", 3), ("num_ranks", 2)])
    def test_a_multitask_configuration_that_the_tensors_belie(
        self, tmp_path: Path, key: str, value: int
    ) -> None:
        config = CONFIG | {"peft_type": "MULTITASK_PROMPT_TUNING", key: value}
        prompt = prompt_of(Method.MULTITASK_PROMPT_TUNING)
        assert f"has {key} {value}" in refusal(save(tmp_path, config, prompt.tensors))

    def test_the_tokens_of_cpt_that_the_tensors_belie(self, tmp_path: Path) -> None:
        config = CONFIG | {"peft_type": "CPT", "cpt_token_ids": [1, 2, 3]}
        assert "cpt_token_ids of 3 entries" in refusal(save(tmp_path, config))

    @pytest.mark.parametrize(
        "tensors",
        [
            {"embeddings": tensor(4, 8)},
            {"prompt_embeddings": tensor(4)},
            {"prompt_embeddings": tensor(4, 8), "prefix_task_rows": tensor(2, 1, 8)},
        ],
    )
    def test_tensors_of_another_method(self, tmp_path: Path, tensors: dict[str, Tensor]) -> None:
        refusal(save(tmp_path, CONFIG, tensors))

    def test_prefix_tuning_without_its_layers(self, tmp_path: Path) -> None:
        config = CONFIG | {"peft_type": "PREFIX_TUNING", "num_layers": None}
        assert "num_layers is None" in refusal(save(tmp_path, config))

    def test_no_tensors_at_all(self, tmp_path: Path) -> None:
        (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
        assert "it has no adapter_model.safetensors" in refusal(tmp_path)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            "null",
            '{"peft_type": "PROMPT_TUNING"',
            '{"peft_type": "PROMPT_TUNING", "peft_type": "CPT"}',
            '{"peft_type": "PROMPT_TUNING", "x": NaN}',
            '{"peft_type": "PROMPT_TUNING", "x": 1e999}',
            '{"peft_type": "PROMPT_TUNING", "x": "\\ud800"}',
            '{"peft_type": "PROMPT_TUNING", "x": ' + "[" * 100 + "]" * 100 + "}",
            '{"peft_type": "PROMPT_TUNING", "x": ' + "[" * 50_000,
            '{"peft_type": "PROMPT_TUNING"}' + " " * 128 * 2**10,
        ],
    )
    def test_a_configuration_that_is_no_plain_json(self, tmp_path: Path, text: str) -> None:
        save(tmp_path, CONFIG)
        (tmp_path / "adapter_config.json").write_text(text)
        assert "adapter_config.json: " in refusal(tmp_path)


class TestWriting:
    @pytest.mark.parametrize("method", PEFT_METHODS)
    def test_every_method_is_read_back_whole(self, tmp_path: Path, method: Method) -> None:
        prompt = prompt_of(method, template="{text}!", labels=("a", "b"), init="text")
        artifacts.write(prompt, tmp_path / "p", base=base_model())
        assert artifacts.read(tmp_path / "p") == prompt

    def test_an_ensemble_is_refused_and_its_members_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConversionError, match=r"members instead \(sst2@3, sst2@5\)"):
            artifacts.write(prompt_of(Method.ENSEMBLE), tmp_path / "p", base=base_model())
        assert not list(tmp_path.iterdir())

    def test_a_prompt_that_peft_never_saw_gets_a_whole_configuration(self, tmp_path: Path) -> None:
        assert artifacts.write(soft_prompt(), tmp_path / "p", base=base_model()) == ()
        assert config_of(tmp_path / "p") == {
            "auto_mapping": None,
            "base_model_name_or_path": "acme/tiny-llama",
            "inference_mode": True,
            "modules_to_save": None,
            "num_attention_heads": None,
            "num_layers": 3,
            "num_transformer_submodules": 1,
            "num_virtual_tokens": 4,
            "peft_type": "PROMPT_TUNING",
            "peft_version": None,
            "prompt_tuning_init": "RANDOM",
            "prompt_tuning_init_text": None,
            "revision": "main",
            "task_type": "CAUSAL_LM",
            "token_dim": 8,
            "tokenizer_kwargs": None,
            "tokenizer_name_or_path": None,
        }

    @pytest.mark.parametrize(
        ("base", "task_type"),
        [
            (base_model(), "CAUSAL_LM"),
            (base_model(encoder_decoder=True, architecture="T5Model"), "SEQ_2_SEQ_LM"),
            (base_model(architecture="BertModel"), None),
            (None, None),
        ],
    )
    def test_a_task_type_is_taken_from_the_base_or_missed_aloud(
        self, tmp_path: Path, base: Any, task_type: str | None
    ) -> None:
        notes = artifacts.write(soft_prompt(), tmp_path / "p", base=base)
        assert config_of(tmp_path / "p")["task_type"] == task_type
        assert any("set task_type" in note for note in notes) is (task_type is None)

    def test_the_original_name_of_the_base_is_kept(self, tmp_path: Path) -> None:
        config = CONFIG | {"base_model_name_or_path": "/home/ada/llama"}
        prompt = artifacts.read(save(tmp_path / "in", config))
        artifacts.write(prompt, tmp_path / "out", base=base_model())
        assert config_of(tmp_path / "out") == config

    def test_a_base_that_the_original_did_not_name_is_named(self, tmp_path: Path) -> None:
        prompt = artifacts.read(save(tmp_path / "in", CONFIG | {"base_model_name_or_path": None}))
        artifacts.write(prompt, tmp_path / "out", base=base_model())
        assert config_of(tmp_path / "out")["base_model_name_or_path"] == "acme/tiny-llama"

    def test_a_task_type_that_was_decided_later_is_written(self, tmp_path: Path) -> None:
        prompt = artifacts.read(save(tmp_path / "in", CONFIG | {"task_type": None}))
        artifacts.write(replace(prompt, task_type=TaskType.SEQ_CLS), tmp_path / "out")
        assert config_of(tmp_path / "out")["task_type"] == "SEQ_CLS"

    def test_a_source_prompt_that_peft_would_load_again_is_forgotten(self, tmp_path: Path) -> None:
        config = CONFIG | {
            "peft_type": "MULTITASK_PROMPT_TUNING",
            "prompt_tuning_init": "EXACT_SOURCE_TASK",
            "prompt_tuning_init_state_dict_path": "/etc/secret.bin",
        }
        tensors = prompt_of(Method.MULTITASK_PROMPT_TUNING).tensors
        prompt = artifacts.read(save(tmp_path / "in", config, tensors))
        assert prompt.init == "exact-source-task"
        (note,) = artifacts.write(prompt, tmp_path / "out")
        assert "prompt_tuning_init is RANDOM, not EXACT_SOURCE_TASK" in note
        assert config_of(tmp_path / "out")["prompt_tuning_init_state_dict_path"] is None
        assert artifacts.read(tmp_path / "out") == prompt

    def test_what_peft_cannot_say_is_said(self, tmp_path: Path) -> None:
        prompt = soft_prompt(
            template="{text} It was",
            labels=("bad", "good"),
            placement=Placement.AFTER_BOS,
            task_type=TaskType.CAUSAL_LM,
        )
        placement, words = artifacts.write(prompt, tmp_path / "p")
        assert "before the first token" in placement
        assert "the template and the labels" in words

    def test_a_task_embedding_is_left_out_and_that_is_said(self, tmp_path: Path) -> None:
        prompt = tuned_prompt(template="{text} It was", task_type=TaskType.CAUSAL_LM)
        embedding, words = artifacts.write(prompt, tmp_path / "p")
        assert "no place for the task embedding" in embedding
        assert "the template" in words
        found = artifacts.read(tmp_path / "p")
        assert found == without_task_embedding(prompt), "the sidecar is that of what was written"
        assert found.notes == ()

    def test_a_prompt_that_contradicts_itself_is_not_written(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidArtifactError, match=r"is \[4, 8\], and \[5, 8\] was expected"):
            artifacts.write(replace(soft_prompt(), num_virtual_tokens=5), tmp_path / "p")


class TestSidecar:
    @pytest.fixture
    def prompt(self) -> SoftPrompt:
        return soft_prompt(
            template="{text} It was",
            labels=("bad", "good"),
            placement=Placement.AFTER_BOS,
            task_type=TaskType.CAUSAL_LM,
            hyperparameters={"lr": 0.3},
        )

    @pytest.fixture
    def directory(self, tmp_path: Path, prompt: SoftPrompt) -> Path:
        artifacts.write(prompt, tmp_path / "p", base=base_model())
        return tmp_path / "p"

    def test_brings_back_what_peft_cannot_say(self, directory: Path, prompt: SoftPrompt) -> None:
        assert artifacts.read(directory) == prompt
        assert artifacts.read(directory).notes == ()

    def test_does_not_speak_for_tensors_that_were_trained_on(self, directory: Path) -> None:
        data = dump_tensors({"prompt_embeddings": tensor(4, 8, seed=9)})
        (directory / "adapter_model.safetensors").write_bytes(data)
        prompt = artifacts.read(directory)
        assert prompt.template is None
        assert prompt.tensors == {"prompt_embeddings": tensor(4, 8, seed=9)}
        assert "written for other files" in prompt.notes[0]

    def test_does_not_speak_for_a_configuration_that_was_edited(self, directory: Path) -> None:
        config = config_of(directory) | {"task_type": "SEQ_CLS"}
        (directory / "adapter_config.json").write_text(json.dumps(config))
        prompt = artifacts.read(directory)
        assert prompt.task_type is TaskType.SEQ_CLS
        assert prompt.template is None
        assert "written for other files" in prompt.notes[0]

    def test_may_be_removed(self, directory: Path) -> None:
        (directory / "promptreg.json").unlink()
        assert artifacts.read(directory).template is None
        assert artifacts.read(directory).notes == ()

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{}",
            "[]",
            '{"format":"promptreg.sidecar/2","manifest":{"tensors":{}}}',
            '{"format":',
        ],
    )
    def test_that_is_broken_is_refused_with_the_way_around(
        self, directory: Path, text: str
    ) -> None:
        (directory / "promptreg.json").write_text(text)
        message = refusal(directory)
        assert message.startswith(f"{directory}/promptreg.json: ")
        assert "remove promptreg.json" in message

    def test_with_a_manifest_that_lies_is_refused(self, directory: Path) -> None:
        text = (directory / "promptreg.json").read_text()
        for true, false in (('"token_dim":8', '"token_dim":9'), ('"prefix"', '"nowhere"')):
            changed = text.replace(true, false).replace('"after-bos"', '"nowhere"')
            (directory / "promptreg.json").write_text(changed)
            refusal(directory)
