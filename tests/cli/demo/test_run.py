import pytest
from click.testing import CliRunner

from promptreg_cli.main import main


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("demo")
    result = CliRunner().invoke(main, ["demo", "--directory", str(folder)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_demo_pushes_two_prompts_and_shows_what_is_typed(shown: str) -> None:
    assert "$ promptreg push reverse --task demo/reverse --base base" in shown
    assert "pushed demo/reverse@1" in shown
    assert "pushed demo/shout@1" in shown


def test_the_prompts_change_what_the_frozen_model_does(shown: str) -> None:
    answers = [line.strip() for line in shown.splitlines() if line.startswith("   garden")]
    assert answers == ["garden -> garden", "garden -> nedrag"]


def test_one_batch_mixes_tasks(shown: str) -> None:
    answers = [line.strip() for line in shown.splitlines() if " -> " in line and "/" in line]
    assert answers[-2:] == ["demo/reverse@1 -> nedrag", "demo/shout@1 -> GARDEN!"]
    assert "   None -> garden" in shown.splitlines()


def test_the_wrong_base_is_refused_by_the_command_and_by_attach(shown: str) -> None:
    assert shown.count("layers.1.mlp.down_proj.weight") >= 2
    assert "(exit 1)" in shown
    assert "IncompatibleModelError" in shown
