from dataclasses import replace

import pytest

from prompt_examples import prompt_of
from promptreg.errors import IncompatibleModelError
from promptreg.fitting import check_shape
from promptreg.prompts import Method, Placement, SoftPrompt, TaskType, Tensor
from samples import base_model, soft_prompt


def prefix(layers: int, width: int) -> SoftPrompt:
    shape = (2, layers * 2 * width)
    data = b"\0" * (shape[0] * shape[1] * 4)
    return SoftPrompt(
        method=Method.PREFIX_TUNING,
        tensors={"prompt_embeddings": Tensor(dtype="F32", shape=shape, data=data)},
        num_virtual_tokens=2,
        token_dim=width,
        num_layers=layers,
        placement=Placement.KEY_VALUES,
        task_type=TaskType.CAUSAL_LM,
    )


def test_a_prompt_as_wide_as_the_base_fits() -> None:
    check_shape(soft_prompt(width=8), base_model(width=8))


def test_a_prompt_of_another_width_does_not() -> None:
    with pytest.raises(IncompatibleModelError, match=r"token_dim 8.*token_dim 16"):
        check_shape(soft_prompt(width=8), base_model(width=16))


def test_a_prefix_needs_the_layers_and_the_width_of_the_keys() -> None:
    base = base_model(width=8, layers=2, key_value_dim=4)
    check_shape(prefix(2, 4), base)
    for wrong in (prefix(3, 4), prefix(2, 8)):
        with pytest.raises(IncompatibleModelError, match="layers"):
            check_shape(wrong, base)


def test_an_ensemble_is_judged_by_where_its_members_stand() -> None:
    ensemble = prompt_of(Method.ENSEMBLE)
    check_shape(ensemble, base_model(width=8))
    with pytest.raises(IncompatibleModelError, match=r"token_dim 8.*token_dim 16"):
        check_shape(ensemble, base_model(width=16))
    in_layers = replace(ensemble, placement=Placement.KEY_VALUES, token_dim=4, num_layers=2)
    check_shape(in_layers, base_model(width=16, layers=2, key_value_dim=4))
    with pytest.raises(IncompatibleModelError, match="3 layers"):
        check_shape(in_layers, base_model(width=16, layers=3, key_value_dim=4))


def test_a_decoder_s_prompt_does_not_fit_an_encoder_decoder() -> None:
    with pytest.raises(IncompatibleModelError, match="an encoder-decoder"):
        check_shape(soft_prompt(width=8), base_model(width=8, encoder_decoder=True))
