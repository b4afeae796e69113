import shutil
from pathlib import Path

import pytest

from prompt_examples import raw_safetensors, soft_prompt, tensor
from promptreg import artifacts
from promptreg.artifacts import FORMATS, dump_tensors
from promptreg.errors import ConversionError, InvalidArtifactError, UnknownFormatError


def unknown(path: Path) -> str:
    with pytest.raises(UnknownFormatError) as caught:
        artifacts.read(path)
    assert "promptreg reads a PEFT directory" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("format_name", ["peft", "safetensors", "npy"])
def test_a_format_is_told_by_content_not_by_name(tmp_path: Path, format_name: str) -> None:
    prompt = soft_prompt()
    path = tmp_path / "backup.tar.gz"
    artifacts.write(prompt, path, format_name)
    assert artifacts.read(path).tensors == prompt.tensors


def test_the_formats_are_named_with_the_usual_one_first() -> None:
    assert FORMATS == ("peft", "safetensors", "npy", "tensorrt-llm")


def test_an_unknown_format_to_write_names_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="choose from peft, safetensors, npy, tensorrt-llm"):
        artifacts.write(soft_prompt(), tmp_path / "x", "gguf")


class TestWhatIsNoPrompt:
    @pytest.mark.parametrize(
        "data",
        [
            b"hello",
            b"{}",
            b"GGUF\3\0\0\0",
            b"PK\5\6" + bytes(18),
            b"\x1f\x8b\x08",
            b"\x89HDF\r\n\x1a\n",
            b"\0" * 100,
            b"\x93NUMP",
            b"(x)",
        ],
    )
    def test_a_file(self, tmp_path: Path, data: bytes) -> None:
        (tmp_path / "prompt.safetensors").write_bytes(data)
        assert "in no format" in unknown(tmp_path / "prompt.safetensors")

    def test_an_empty_file(self, tmp_path: Path) -> None:
        (tmp_path / "prompt.npy").touch()
        assert "it is empty" in unknown(tmp_path / "prompt.npy")

    def test_an_empty_directory(self, tmp_path: Path) -> None:
        assert "an empty directory" in unknown(tmp_path)

    def test_a_directory_of_other_things(self, tmp_path: Path) -> None:
        for name in ("config.json", "model.safetensors", "\x1b[31mred", "é", "z"):
            (tmp_path / name).touch()
        message = unknown(tmp_path)
        assert "config.json, model.safetensors" in message
        assert message.isprintable(), "a name must not reach the terminal as it is"

    def test_a_directory_of_several_prompts_names_them(self, tmp_path: Path) -> None:
        for name in ("first", "second"):
            artifacts.write(soft_prompt(), tmp_path / name)
        assert "name one of first, second" in unknown(tmp_path)

    def test_an_adapter_of_another_library(self, tmp_path: Path) -> None:
        (tmp_path / "adapter_config.json").write_text('{"architecture": "prompt_tuning"}')
        assert "no peft_type" in unknown(tmp_path)


class TestBareFiles:
    def test_one_tensor_of_any_name_is_a_prompt(self, tmp_path: Path) -> None:
        (tmp_path / "p").write_bytes(dump_tensors({"soft.prompt-1": tensor(3, 5)}))
        prompt = artifacts.read(tmp_path / "p")
        assert (prompt.num_virtual_tokens, prompt.token_dim) == (3, 5)
        assert prompt.tensors == {"prompt_embeddings": tensor(3, 5)}
        assert prompt.source_format == "safetensors"
        assert prompt.source_config == {"tensor": "soft.prompt-1"}

    def test_its_metadata_is_kept(self, tmp_path: Path) -> None:
        metadata = {"task": "sst2"}
        (tmp_path / "p").write_bytes(dump_tensors({"prompt_embeddings": tensor(3, 5)}, metadata))
        assert artifacts.read(tmp_path / "p").source_config == {"metadata": metadata}

    def test_the_three_tensors_of_a_multitask_prompt_are_one(self, tmp_path: Path) -> None:
        tensors = {
            "prompt_embeddings": tensor(3, 5),
            "prefix_task_cols": tensor(2, 3, 1),
            "prefix_task_rows": tensor(2, 1, 5),
        }
        (tmp_path / "p").write_bytes(dump_tensors(tensors))
        prompt = artifacts.read(tmp_path / "p")
        assert prompt.method == "multitask-prompt-tuning"
        assert prompt.tensors == tensors

    def test_several_tensors_are_refused(self, tmp_path: Path) -> None:
        data = dump_tensors({"lora_A.weight": tensor(3, 5), "lora_B.weight": tensor(5, 3)})
        (tmp_path / "p").write_bytes(data)
        with pytest.raises(InvalidArtifactError, match=r"2 tensors \(lora_A\.weight"):
            artifacts.read(tmp_path / "p")

    @pytest.mark.parametrize("shape", [[], [4], [1, 2, 2]])
    def test_another_shape_is_refused(self, tmp_path: Path, shape: list[int]) -> None:
        size = 16 if shape else 4
        header = {"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}
        (tmp_path / "p").write_bytes(raw_safetensors(header, bytes(size)))
        with pytest.raises(InvalidArtifactError, match=r"\[tokens, width\] was expected; save"):
            artifacts.read(tmp_path / "p")

    @pytest.mark.parametrize(
        ("format_name", "file"),
        [("peft", "adapter_model.safetensors"), ("safetensors", "prompt.safetensors")],
    )
    def test_half_of_a_prompt_names_the_directory(
        self, tmp_path: Path, format_name: str, file: str
    ) -> None:
        artifacts.write(soft_prompt(), tmp_path / "p", format_name)
        with pytest.raises(InvalidArtifactError, match=f"name the directory {tmp_path}/p"):
            artifacts.read(tmp_path / "p" / file)
        shutil.copy(tmp_path / "p" / file, tmp_path / file)
        assert artifacts.read(tmp_path / file).num_virtual_tokens == 4
