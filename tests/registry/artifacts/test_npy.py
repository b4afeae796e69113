import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompt_examples import prompt_of, soft_prompt, tensor, tuned_prompt
from promptreg import artifacts
from promptreg.errors import ConversionError, InvalidArtifactError, PickleRefusedError
from promptreg.prompts import Method, Placement, TaskType

PUBLISHED = Path(__file__).parents[4] / "shared" / "data" / "t5_1_1_lm100k_base"


def npy_bytes(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=version, allow_pickle=True)
    return file.getvalue()


def with_header(text: str, body: bytes = bytes(32), version: bytes = b"\1\0") -> bytes:
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text.encode() + body


def refusal(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(InvalidArtifactError) as caught:
        artifacts.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "; " in message, "a refusal says what mends it"
    return message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "encoder.prompt.prompt.prompt"  # as T5X names it, without an extension


class TestReading:
    def test_an_array_is_a_prompt_of_prompt_tuning(self, path: Path) -> None:
        array = np.arange(12, dtype="<f4").reshape(3, 4)
        path.write_bytes(npy_bytes(array))
        prompt = artifacts.read(path)
        assert prompt.method is Method.PROMPT_TUNING
        assert (prompt.num_virtual_tokens, prompt.token_dim) == (3, 4)
        assert prompt.tensors["prompt_embeddings"].data == array.tobytes()
        assert prompt.placement is Placement.PREFIX
        assert prompt.task_type is None
        assert prompt.source_format == "npy"

    @pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", ">f2"])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_byte_order_and_layout_make_no_difference(
        self, path: Path, dtype: str, order: str
    ) -> None:
        array = np.arange(12).reshape(3, 4).astype(dtype)
        path.write_bytes(npy_bytes(np.asarray(array, order="F" if order == "F" else "C")))
        found = artifacts.read(path).tensors["prompt_embeddings"]
        assert found.dtype == {"4": "F32", "2": "F16"}[dtype[-1]]
        assert found.data == array.astype("<" + dtype[1:]).tobytes()

    @pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
    def test_every_version_of_the_format_is_read(
        self, path: Path, version: tuple[int, int]
    ) -> None:
        path.write_bytes(npy_bytes(np.ones((3, 4), "<f4"), version))
        assert artifacts.read(path).num_virtual_tokens == 3

    @pytest.mark.parametrize(
        "header",
        [
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4), }\n",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4)}",
            "{'shape':(2,4),'fortran_order':False,'descr':'<f4'}",
            "{ 'descr' : 'f4' , 'shape' : ( 2L , 4L , ) , 'fortran_order' : False , }  \n",
        ],
    )
    def test_a_header_may_be_written_by_others_than_numpy(self, path: Path, header: str) -> None:
        path.write_bytes(with_header(header))
        assert artifacts.read(path).token_dim == 4

    @pytest.mark.parametrize("name", ["mrpc.npy", "sst2.npy"])
    def test_published_prompts_go_in_and_out_unchanged(self, tmp_path: Path, name: str) -> None:
        if not (PUBLISHED / name).exists():
            pytest.skip(f"{PUBLISHED.name}/{name} is not beside this checkout")
        prompt = artifacts.read(PUBLISHED / name)
        assert (prompt.num_virtual_tokens, prompt.token_dim) == (100, 768)
        assert artifacts.write(prompt, tmp_path / name, "npy") == ()
        assert (tmp_path / name).read_bytes() == (PUBLISHED / name).read_bytes()


class TestRefusals:
    @pytest.mark.parametrize("shape", [(), (4,), (2, 2, 4), (2, 0), (0, 4), (1, 1, 1, 1)])
    def test_a_shape_that_is_no_prompt(self, path: Path, shape: tuple[int, ...]) -> None:
        assert f"shape is {list(shape)}" in refusal(path, npy_bytes(np.ones(shape, "<f4")))

    @pytest.mark.parametrize(
        "dtype", ["<f8", "<i4", "<c8", "|b1", "<U3", "|S2", "<M8[s]", "<f4, <i4"]
    )
    def test_a_dtype_that_no_prompt_has(self, path: Path, dtype: str) -> None:
        message = refusal(path, npy_bytes(np.zeros((2, 4), dtype)))
        assert "dtype" in message or "header" in message
        assert "float32" in message

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_a_number_that_is_none(self, path: Path, bad: float) -> None:
        array = np.ones((3, 4), "<f4")
        array[1, 2] = bad
        value = "NaN" if np.isnan(bad) else "infinity"
        assert f"holds {value} at [1, 2]" in refusal(path, npy_bytes(array))

    def test_a_file_cut_short_at_any_byte(self, path: Path) -> None:
        data = npy_bytes(np.ones((2, 4), "<f4"))
        for length in range(6, len(data)):
            refusal(path, data[:length])

    def test_bytes_after_the_numbers(self, path: Path) -> None:
        assert "33 bytes follow" in refusal(path, npy_bytes(np.ones((2, 4), "<f4")) + b"\0")

    def test_an_array_of_python_objects_is_a_pickle(self, path: Path) -> None:
        for array in (np.array([[{}, {}]], dtype=object), np.zeros(2, [("a", "O"), ("b", "f4")])):
            path.write_bytes(npy_bytes(array))
            with pytest.raises(PickleRefusedError, match="Python objects"):
                artifacts.read(path)

    @pytest.mark.parametrize(
        "header",
        [
            "",
            "{}",
            "{'descr': '<f4', 'fortran_order': False}",
            "{'descr': '<f4', 'descr': '<f4', 'shape': (2, 4)}",
            "{'descr': '<f4', 'fortran_order': 0, 'shape': (2, 4)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4), 'more': 1}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2, -4)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2 4)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (,2, 4)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': [2, 4]}",
            "{'descr': '<f4', 'fortran_order': (2, 4), 'shape': False}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999, 4)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2, __import__('os').getpid())}",
            "(" * 4000,
            "{'descr': '<f4'," + " " * 4000,
        ],
    )
    def test_a_header_that_says_something_else(self, path: Path, header: str) -> None:
        refusal(path, with_header(header))

    def test_a_shape_whose_product_wraps_around(self, path: Path) -> None:
        header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1073741824, 4294967296)}"
        assert "its shape says 18446744073709551616" in refusal(path, with_header(header, b""))

    def test_a_header_longer_than_any_array_needs(self, path: Path) -> None:
        text = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4)}".ljust(5000)
        assert "5,000 bytes" in refusal(path, with_header(text))

    def test_an_unknown_version(self, path: Path) -> None:
        assert "version" in refusal(path, with_header("{}", version=b"\4\0"))


class TestWriting:
    def test_the_file_is_what_numpy_saves(self, tmp_path: Path) -> None:
        prompt = soft_prompt(3, 4)
        artifacts.write(prompt, tmp_path / "ours.npy", "npy")
        array = np.frombuffer(prompt.tensors["prompt_embeddings"].data, "<f4").reshape(3, 4)
        np.save(tmp_path / "theirs.npy", array)
        assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "theirs.npy").read_bytes()

    def test_float16_stays_float16(self, tmp_path: Path) -> None:
        prompt = soft_prompt(tensors={"prompt_embeddings": tensor(4, 8, dtype="F16")})
        assert artifacts.write(prompt, tmp_path / "p.npy", "npy") == ()
        assert artifacts.read(tmp_path / "p.npy").tensors == prompt.tensors

    def test_bfloat16_is_widened_without_loss_and_that_is_said(self, tmp_path: Path) -> None:
        prompt = soft_prompt(tensors={"prompt_embeddings": tensor(4, 8, dtype="BF16")})
        (note,) = artifacts.write(prompt, tmp_path / "p.npy", "npy")
        assert "bfloat16" in note
        wide = np.load(tmp_path / "p.npy", allow_pickle=False)
        narrow = (wide.view("<u4") >> np.uint32(16)).astype("<u2")
        assert narrow.tobytes() == prompt.tensors["prompt_embeddings"].data
        assert not (wide.view("<u4") & np.uint32(0xFFFF)).any()

    def test_what_is_left_out_is_said(self, tmp_path: Path) -> None:
        prompt = tuned_prompt(
            template="{text} It was",
            labels=("bad", "good"),
            task_type=TaskType.CAUSAL_LM,
            init="text",
            placement=Placement.AFTER_BOS,
            hyperparameters={"lr": 0.3, "steps": 100},
        )
        (note,) = artifacts.write(prompt, tmp_path / "p.npy", "npy")
        for what in ("template", "labels", "CAUSAL_LM", "initialised", "after-bos", "lr, steps"):
            assert what in note
        assert "the task embedding" in note
        read = artifacts.read(tmp_path / "p.npy")
        assert read.tensors == {"prompt_embeddings": prompt.tensors["prompt_embeddings"]}

    @pytest.mark.parametrize("method", [Method.PREFIX_TUNING, Method.MULTITASK_PROMPT_TUNING])
    def test_more_than_rows_is_refused(self, tmp_path: Path, method: Method) -> None:
        with pytest.raises(ConversionError, match="write it as 'peft' or 'safetensors'"):
            artifacts.write(prompt_of(method), tmp_path / "p.npy", "npy")
        assert not list(tmp_path.iterdir())

    def test_an_ensemble_is_refused_and_its_members_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConversionError, match=r"members instead \(sst2@3, sst2@5\)"):
            artifacts.write(prompt_of(Method.ENSEMBLE), tmp_path / "p.npy", "npy")
        assert not list(tmp_path.iterdir())

    def test_a_trained_classifier_is_not_dropped(self, tmp_path: Path) -> None:
        tensors = {
            "prompt_embeddings": tensor(4, 8),
            "modules_to_save.base_model.score.weight": tensor(2, 8),
        }
        with pytest.raises(ConversionError, match=r"base_model\.score\.weight"):
            artifacts.write(soft_prompt(tensors=tensors), tmp_path / "p.npy", "npy")


@settings(deadline=None)
@given(
    at=st.integers(6, 127),
    new=st.binary(min_size=1, max_size=3) | st.sampled_from([b"'", b"(", b"9", b"L", b","]),
)
def test_a_mutated_file_is_refused_or_read_as_numpy_reads_it(at: int, new: bytes) -> None:
    from promptreg.artifacts.npy import _read_array
    from promptreg.artifacts.pickles import name_pickle

    data = npy_bytes(np.arange(8, dtype="<f4").reshape(2, 4))
    mutated = data[:at] + new + data[at + len(new) :]
    if name_pickle(mutated, mutated):
        return
    try:
        found = _read_array(mutated)
    except ValueError:
        return
    theirs = np.load(io.BytesIO(mutated), allow_pickle=False)
    assert theirs.shape == found.shape
    assert theirs.astype(theirs.dtype.newbyteorder("<")).tobytes() == found.data
